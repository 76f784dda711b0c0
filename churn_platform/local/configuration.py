"""Which servers a stack consists of: embedded ones and the user's own, their addresses, logins and environment."""

from collections.abc import Collection, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from churn_platform.deployment.dagster_home import write_dagster_home
from churn_platform.files.artifacts import MLFLOW, in_s3, join
from churn_platform.local import api, bucket, dagster_servers, dashboard, kafka, mlflow, postgres, user_servers, worker
from churn_platform.local import environment as env
from churn_platform.local.errors import StackError
from churn_platform.local.folder import PORTS_FILE
from churn_platform.local.part import Part
from churn_platform.local.ports import HOST, Ports
from churn_platform.local.supervision import runtime_folder
from churn_platform.settings import load_settings, require_readable

if TYPE_CHECKING:  # Kafka's client is slow to import
    from churn_platform.stream.config import StreamConfig

SERVICES = ("kafka", "postgres", "mlflow")
PLATFORM = ("code", "webserver", "daemon", worker.NAME, dashboard.NAME, api.NAME)
"""What uses the services: Dagster, the worker, the dashboard and the API. `churn up --services-only` leaves it out."""


class StackConfiguration:
    """The parts of one stack and how to reach them. It starts nothing."""

    def __init__(
        self,
        folder: Path,
        *,
        services_only: bool,
        only: Collection[str] | None,
        usual_ports: Mapping[str, int],
        given: Mapping[str, str],
        env_file: Path,
        user_server_deadline: float,
    ) -> None:
        """Find the user's servers and the ports of the embedded ones.

        Args:
            folder: the stack's folder.
            services_only: without Dagster, the worker, the dashboard and the API.
            only: only these of the embedded parts; None: all of them.
            usual_ports: ports to try first; 0 is any free one.
            given: environment to build on, without the variables of an earlier stack.
            env_file: the user's `.env`.
            user_server_deadline: seconds that a server of the user may take to answer.

        Raises:
            SettingsError: a connection string of the user's PostgreSQL cannot be read.
        """
        self.folder = folder
        self.services_only = services_only
        self.only = only
        self.yours: Mapping[str, str] = env.your_servers(given, env_file)
        self.owner_of_yours = env.your_database_owner(given, env_file)
        self.artifacts_root = env.your_artifacts(given, env_file) or ""
        self.s3_access = env.your_s3(given, env_file)
        self._usual_ports = usual_ports
        self._given = given
        self._user_server_deadline = user_server_deadline
        for variable, dsn in (
            (env.SERVERS["postgres"], self.yours.get("postgres")),
            (env.OWNER_VARIABLE, self.owner_of_yours),
        ):
            if dsn is not None:
                require_readable(variable, dsn)

    @cached_property
    def ports(self) -> Ports:
        """Ports of the embedded servers. They are chosen at the first start."""
        return Ports(self.folder / PORTS_FILE, self._usual_ports)

    @property
    def embedded(self) -> set[str]:
        """Services that are embedded and not the user's own."""
        return set(SERVICES) - set(self.yours)

    @property
    def uses_s3(self) -> bool:
        """Whether files go to S3."""
        return in_s3(self.artifacts_root)

    @property
    def wanted(self) -> list[str]:
        """Names of the parts to start."""
        buckets = (bucket.NAME,) if self.uses_s3 else ()
        names = [*SERVICES, *buckets, *(() if self.services_only else PLATFORM)]
        return [name for name in names if self.only is None or name in self.only]

    @property
    def was_started(self) -> bool:
        """Whether the stack was ever started. Only then does it have ports."""
        return self.folder.exists() and "dagster" in self.ports

    def require_started(self) -> None:
        """Raise an error if the stack was never started.

        Raises:
            StackError: it was not.
        """
        if "dagster" not in self.ports:
            raise StackError(f"The stack in {self.folder} was never started.", remedy="Run 'churn up'.")

    @property
    def code_server_socket(self) -> Path:
        """Where Dagster's code server listens."""
        return runtime_folder(self.folder) / "code.sock"

    @cached_property
    def passwords(self) -> dict[postgres.Login, str]:
        """Passwords of the embedded PostgreSQL, by login."""
        return {login: postgres.password(self.folder / login.password_file) for login in postgres.LOGINS}

    def _embedded_dsn(self, login: postgres.Login) -> str:
        return postgres.dsn(login, port=self.ports["postgres"], password=self.passwords[login])

    @property
    def owner_dsn(self) -> str:
        """Connection string, with its password, of the login that owns the tables and may migrate them."""
        if "postgres" in self.yours:
            return self.owner_of_yours or self.yours["postgres"]
        self.require_started()
        return self._embedded_dsn(postgres.OWNER)

    @property
    def addresses(self) -> dict[str, str]:
        """Address of each service, in the form of its setting, of the Dagster UI, the dashboard and the API.

        The database's is that of the platform's own login, with its password.
        """
        self.require_started()
        embedded = {
            "kafka": f"{HOST}:{self.ports['kafka']}",
            "postgres": self._embedded_dsn(postgres.WRITER),
            "mlflow": f"http://{HOST}:{self.ports['mlflow']}",
        }
        pages = {name: f"http://{HOST}:{self.ports[name]}" for name in ("dagster", dashboard.NAME, api.NAME)}
        return {**embedded, **self.yours, **pages}

    @property
    def shell_environment(self) -> dict[str, str]:
        """Variables that a process outside the stack needs to use it."""
        found = env.shell_environment(local=self.folder, addresses=self.addresses, embedded=self.embedded)
        if "postgres" in self.embedded:
            found[env.READER_VARIABLE] = self._embedded_dsn(postgres.READER)
            found[env.RETENTION_VARIABLE] = self._embedded_dsn(postgres.RETENTION)
        return found

    @property
    def process_environment(self) -> dict[str, str]:
        """Variables of the stack's own processes."""
        given = {**self._given, **(bucket.environment(self.s3_access) if self.uses_s3 else {})}
        return env.process_environment(given, local=self.folder, addresses=self.addresses, embedded=self.embedded)

    def stream_config(self) -> "StreamConfig":
        """Return the stream's configuration with this stack's addresses."""
        from churn_platform.stream.config import StreamConfig

        current = load_settings().with_servers(kafka=self.addresses["kafka"], postgres=self.addresses["postgres"])
        return StreamConfig.from_settings(current)

    def write_dagster_home(self) -> None:
        """Write DAGSTER_HOME."""
        write_dagster_home(
            self.folder / "dagster",
            code_server={"socket": str(self.code_server_socket)},
            artifacts_root=self.artifacts_root,
            s3_access=self.s3_access,
            lanes=load_settings().stream.lanes,
        )

    def check(self) -> None:
        """Check that the settings of the user's servers fit together.

        Raises:
            StackError: they do not.
        """
        if self.owner_of_yours is not None and "postgres" in self.embedded:
            raise StackError(
                f"{env.OWNER_VARIABLE} is set, but {env.SERVERS['postgres']} is not.",
                remedy=f"Set {env.SERVERS['postgres']} to your own PostgreSQL, or unset {env.OWNER_VARIABLE}.",
            )
        protocol = load_settings().kafka.security_protocol
        if "kafka" in self.embedded and protocol != "PLAINTEXT":
            raise StackError(
                f"KAFKA_SECURITY_PROTOCOL is {protocol}, but the embedded Kafka supports only PLAINTEXT, on localhost.",
                remedy="Set KAFKA_BOOTSTRAP_SERVERS to your own Kafka, or unset KAFKA_SECURITY_PROTOCOL.",
            )
        if self.uses_s3 and bucket.NAME in self.wanted:
            bucket.require(self.artifacts_root, self.s3_access)

    def parts(self) -> list[Part]:
        """Return every part, those of the user as parts without a command."""
        servers = {
            "kafka": lambda: kafka.part(
                folder=self.folder / "kafka",
                port=self.ports["kafka"],
                controller_port=self.ports["kafka-controller"],
            ),
            "postgres": lambda: postgres.part(
                folder=self.folder / "postgres",
                port=self.ports["postgres"],
                password=self.passwords[postgres.OWNER],
            ),
            "mlflow": lambda: mlflow.part(
                artifacts=join(self.artifacts_root, MLFLOW)
                if self.uses_s3
                else str(self.folder / "mlflow" / "artifacts"),
                port=self.ports["mlflow"],
                needs=("postgres",),
            ),
        }
        services = [self._user_part(name) if name in self.yours else servers[name]() for name in SERVICES]
        buckets = [bucket.part(self.artifacts_root, self.s3_access, self.folder)] if self.uses_s3 else []
        dagster = dagster_servers.parts(
            folder=self.folder / "dagster", socket=self.code_server_socket, port=self.ports["dagster"]
        )
        return [
            *services,
            *buckets,
            *dagster,
            worker.part(
                folder=self.folder,
                metrics_port=self.ports["worker-metrics"] if load_settings().operators.metrics_port else None,
            ),
            dashboard.part(
                url=self.addresses[dashboard.NAME],
                dagster_url=self.addresses["dagster"],
                api_url=self.addresses[api.NAME],
            ),
            api.part(url=self.addresses[api.NAME]),
        ]

    def wanted_parts(self) -> list[Part]:
        """Return the parts to start."""
        wanted = self.wanted
        return [part for part in self.parts() if part.name in wanted]

    def _user_part(self, name: str) -> Part:
        return user_servers.part(
            name,
            self.yours,
            owner_dsn=self.owner_of_yours,
            folder=self.folder,
            deadline=self._user_server_deadline,
        )
