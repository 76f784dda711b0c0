"""The platform on ECS, as deploy/ecs describes it: its stack in moto, its runs as tasks, its services as processes.

The services are processes with the environment of their task definitions, other ports and a short path for the code
server's address. They share no folder with the tasks of runs.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, LiteralString

import boto3
import httpx
import psycopg
from cfnlint.decode import cfn_yaml
from dagster_graphql import DagsterGraphQLClient

from churn_platform.deployment.health import code_server_serves, daemons_have_heartbeats, http_server_answers
from churn_platform.local.ports import HOST, Ports
from churn_platform.settings import PROJECT_ROOT
from churn_platform.stream.config import StreamConfig
from churn_platform_tests.ecs.cloud import Cloud
from churn_platform_tests.ecs.runner import TaskRunner
from churn_platform_tests.files.s3_server import ANYBODY, connection
from churn_platform_tests.waiting import wait_until

TEMPLATE: Final = PROJECT_ROOT / "deploy/ecs/platform.yaml"
STACK: Final = "churn-tests"
BUCKET: Final = "churn-deployment"
PREFIX: Final = "churn"
TIMEOUT: Final = 600.0  # seconds; long, because the machine may be busy with something else


@dataclass(frozen=True)
class Servers:
    """The servers of a deployment that exist already.

    Attributes:
        database: connection string of the platform's login.
        dagster_database: the same, in the schema of Dagster.
        kafka: brokers.
        mlflow: address of MLflow.
    """

    database: str
    dagster_database: str
    kafka: str
    mlflow: str


def create_stack(cloud: Cloud, servers: Servers, *, name: str = STACK, customers: str = "") -> None:
    """Create the stack of deploy/ecs/platform.yaml.

    Args:
        cloud: where.
        servers: existing servers.
        name: of the stack.
        customers: address of the customers file.
    """
    parameters = {
        "Image": "churn-platform:test",
        "VpcId": cloud.vpc(),
        "TaskSubnets": cloud.subnet(),
        "LoadBalancerSubnets": ",".join(cloud.subnets()[:2]),
        "ClientCidr": "10.0.0.0/8",
        "CertificateArn": cloud.certificate(),
        "KafkaBootstrapServers": servers.kafka,
        "KafkaSecurityProtocol": "PLAINTEXT",
        "KafkaSaslMechanism": "",
        "MlflowTrackingUri": servers.mlflow,
        "ArtifactsBucket": BUCKET,
        "ArtifactsPrefix": PREFIX,
        "CustomersFile": customers,
        "DatabaseUrl": servers.database,
        "DagsterDatabaseUrl": servers.dagster_database,
        "OwnerUrl": servers.database,
        "ReaderUrl": servers.database,
        "RetentionUrl": servers.database,
        "DashboardUsers": "nobody",
        "ApiTokens": "nobody",
        "DashboardApiToken": "nobody",
    }
    with closing(boto3.client("cloudformation", **connection(cloud.url, key=ANYBODY, secret=ANYBODY))) as client:
        client.create_stack(
            StackName=name,
            TemplateBody=json.dumps(_for_moto(cloud, name, parameters)),
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
            Capabilities=["CAPABILITY_IAM"],
        )


def _for_moto(cloud: Cloud, stack: str, parameters: Mapping[str, str]) -> dict[str, Any]:
    """Return the template without the kinds of resources that moto's CloudFormation does not support.

    It creates no secrets, so they are created here and the template gets their ARNs. It has no namespaces of Cloud Map.
    """
    template: dict[str, Any] = json.loads(json.dumps(cfn_yaml.load(str(TEMPLATE))))
    resources: dict[str, Any] = template["Resources"]
    with closing(boto3.client("secretsmanager", **connection(cloud.url, key=ANYBODY, secret=ANYBODY))) as client:
        for logical, resource in list(resources.items()):
            properties = resource["Properties"]
            if resource["Type"].startswith("AWS::ServiceDiscovery::"):
                del resources[logical]
            elif resource["Type"] == "AWS::SecretsManager::Secret":
                del resources[logical]
                arn = client.create_secret(
                    Name=properties["Name"]["Fn::Sub"].replace("${AWS::StackName}", stack),
                    SecretString=parameters[properties["SecretString"]["Ref"]],
                )["ARN"]
                template["Parameters"][logical] = {"Type": "String", "Default": arn}
            properties.pop("ServiceRegistries", None)
            for container in properties.get("ContainerDefinitions", []):
                container["Memory"] = int(properties["Memory"])  # optional on Fargate, but not for moto
    return template


def task_names() -> list[str]:
    """Return the names of the template's task definitions, without that of the stack."""
    resources = cfn_yaml.load(str(TEMPLATE))["Resources"].values()
    families = [
        each["Properties"]["Family"]["Fn::Sub"] for each in resources if each["Type"].endswith("TaskDefinition")
    ]
    return [str(family).removeprefix("${AWS::StackName}-") for family in families]


class Deployment:
    """A running deployment. Actions go through Dagster's web server, as those of people do."""

    def __init__(
        self, *, runner: TaskRunner, url: str, config: StreamConfig, folder: Path, environment: Mapping[str, str]
    ) -> None:
        """Create it.

        Args:
            runner: executes its tasks.
            url: of Dagster's web server.
            config: of its stream.
            folder: of its services.
            environment: of its daemon.
        """
        self.runner = runner
        self.url = url
        self.folder = folder
        self.config = config
        self._daemon_environment = dict(environment)
        self.connection = psycopg.connect(config.dsn, autocommit=True)
        host, _, port = url.removeprefix("http://").partition(":")
        self.dagster = DagsterGraphQLClient(host, port_number=int(port))

    def launch(self, job: str, *, tags: Mapping[str, str] | None = None) -> str:
        """Launch a job and return the id of its run."""
        return self.dagster.submit_job_execution(job, tags=dict(tags or {}))

    def status(self, run_id: str) -> str:
        """Return the status of a run."""
        return str(self.dagster.get_run_status(run_id).value)

    def wait_for(self, run_id: str, *, timeout: float = TIMEOUT) -> str:
        """Wait for the end of a run and return its status."""
        wait_until(lambda: self.status(run_id) in ("SUCCESS", "FAILURE", "CANCELED"), timeout, f"run {run_id} to end")
        return self.status(run_id)

    def succeed(self, job: str, *, tags: Mapping[str, str] | None = None) -> str:
        """Launch a job, wait until it has succeeded, and return the id of its run."""
        run_id = self.launch(job, tags=tags)
        assert self.wait_for(run_id) == "SUCCESS", self.explain(run_id)
        return run_id

    def fail(self, run_id: str) -> None:
        """Record a run as failed, as run monitoring does."""
        code = "import sys, dagster as dg\nwith dg.DagsterInstance.get() as instance:\n"
        code += "    instance.report_run_failed(instance.get_run_by_id(sys.argv[1]), 'It took too long to start.')\n"
        subprocess.run([sys.executable, "-c", code, run_id], env=self._daemon_environment, cwd=PROJECT_ROOT, check=True)

    def explain(self, run_id: str) -> str:
        """Return what the tasks of a run and the services have written, for the error of a test."""
        tasks = "\n".join(self.runner.output(each)[-6000:] for each in self.runner.of_run(run_id))
        services = "\n".join(
            f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}" for log in self.folder.glob("*.log")
        )
        return f"{tasks}\n{services}"

    def runs(self, job: str) -> list[dict[str, Any]]:
        """Return the runs of a job, newest first."""
        query = """query ($filter: RunsFilter!) { runsOrError(filter: $filter) { ... on Runs {
            results { runId status tags { key value } } } } }"""
        body = {"query": query, "variables": {"filter": {"pipelineName": job}}}
        answer = httpx.post(f"{self.url}/graphql", json=body, timeout=60, trust_env=False).json()
        results: list[dict[str, Any]] = answer["data"]["runsOrError"]["results"]
        return results

    def rows(self, query: LiteralString, *parameters: object) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        return self.connection.execute(query, parameters).fetchall()

    def value(self, query: LiteralString, *parameters: object) -> Any:
        """Return the single value of a query."""
        ((value,),) = self.rows(query, *parameters)
        return value

    def events_read(self) -> int:
        """Return the number of events that the ledger has counted."""
        return int(self.value("select coalesce(sum(events), 0) from stream_batches"))


@contextmanager
def deployed(
    cloud: Cloud,
    servers: Servers,
    folder: Path,
    *,
    config: StreamConfig,
    settings: Mapping[str, str],
    customers: str,
    start_seconds: float,
) -> Iterator[Deployment]:
    """Create the stack, start its services, and execute its tasks while the context lasts.

    Args:
        cloud: where.
        servers: existing servers.
        folder: of the services and the tasks.
        config: of the stream.
        settings: further settings of all services and runs, as a settings file would have them.
        customers: address of the customers file.
        start_seconds: how long each task stays PENDING.
    """
    create_stack(cloud, servers, customers=customers)
    everywhere = {**cloud.environment, **settings}
    for name in ("run", "code", "daemon", "webserver"):
        definition: Any = cloud.ecs.describe_task_definition(f"{STACK}-{name}")
        (container,) = definition.container_definitions
        kept = [each for each in container["environment"] if each["name"] not in everywhere]
        container["environment"] = [*kept, *({"name": key, "value": value} for key, value in everywhere.items())]
    home = folder / "services"
    home.mkdir(parents=True)
    ports = Ports(home / "ports.json", {"code": 0, "webserver": 0})
    ports.choose()
    ports.release()
    url = f"http://{HOST}:{ports['webserver']}"
    with TaskRunner(cloud, STACK, folder / "tasks", start_seconds=start_seconds) as runner, ExitStack() as started:
        services = _Services(runner, home, ports["code"])
        workspace = ("--workspace", str(services.dagster_home / "workspace.yaml"))
        code = ("dagster", "api", "grpc", "--host", HOST, "--port", str(ports["code"]))
        module = ("--module-name", "churn_platform.definitions", "--location-name", "churn_platform")
        started.enter_context(services.running("code", *code, *module, "--use-python-environment-entry-point"))
        wait_until(lambda: code_server_serves(f"{HOST}:{ports['code']}"), TIMEOUT, "the code server")
        web = ("dagster-webserver", *workspace, "--host", HOST, "--port", str(ports["webserver"]))
        started.enter_context(services.running("webserver", *web))
        wait_until(lambda: http_server_answers(f"{url}/server_info"), TIMEOUT, "the web server")
        started.enter_context(services.running("daemon", "dagster-daemon", "run", *workspace))
        wait_until(lambda: daemons_have_heartbeats(url), TIMEOUT, "the daemon")
        yield Deployment(runner=runner, url=url, config=config, folder=home, environment=services.environment("daemon"))


class _Services:
    """Starts services as processes with the environment of their task definitions."""

    def __init__(self, runner: TaskRunner, folder: Path, code_port: int) -> None:
        self._runner = runner
        self._folder = folder
        self.dagster_home = folder / "dagster"
        self.dagster_home.mkdir()
        shutil.copy(PROJECT_ROOT / "deploy/ecs/dagster.yaml", self.dagster_home)
        workspace = (PROJECT_ROOT / "deploy/ecs/workspace.yaml").read_text().replace("port: 4000", f"port: {code_port}")
        (self.dagster_home / "workspace.yaml").write_text(workspace)

    def environment(self, name: str) -> dict[str, str]:
        """Return the environment of a service."""
        return self._runner.environment_of(f"{STACK}-{name}", name) | {
            "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.defpath)),
            "HOME": str(self._folder),
            "CHURN_LOCAL": str(self._folder / "local"),
            "DAGSTER_HOME": str(self.dagster_home),
            "COMPUTE_LOGS_FOLDER": str(self._folder / "compute_logs"),
            "CODE_SERVER_HOST": HOST,
        }

    @contextmanager
    def running(self, name: str, *command: str) -> Iterator[None]:
        """Run a service while the context lasts."""
        environment = self.environment(name)
        with (self._folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command, cwd=PROJECT_ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
