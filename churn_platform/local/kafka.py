"""The embedded Kafka: one broker on localhost that is its own controller (KRaft)."""

import logging
import os
import shutil
import subprocess
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from churn_platform.local.errors import StackError
from churn_platform.local.java import JAVA_VARIABLES, find_java
from churn_platform.local.part import Part, Problem, Report
from churn_platform.local.ports import HOST

_SILENT_LOGGER = logging.getLogger(f"{__name__}.probe")
_SILENT_LOGGER.addHandler(logging.NullHandler())
_SILENT_LOGGER.propagate = False

ANSWER_SECONDS = 5

JVM_OPTIONS = (
    "-Xmx384m",
    "-XX:+UseSerialGC",  # one node on few cores: less memory and a quicker start than G1
    "-Djava.awt.headless=true",
)
LOGGING = "log4j2.xml"
LOCALE = {"LC_ALL": "C.UTF-8"}  # a JVM in another locale cannot open a file whose path is not ASCII


ONE_NODE: Mapping[str, str | int] = {
    # One broker cannot hold the default of three replicas of the internal topics.
    "offsets.topic.replication.factor": 1,
    "transaction.state.log.replication.factor": 1,
    "transaction.state.log.min.isr": 1,
    "share.coordinator.state.topic.replication.factor": 1,
    "share.coordinator.state.topic.min.isr": 1,
    # Each partition of these takes files and start-up time. The default of 50 is for large clusters.
    "offsets.topic.num.partitions": 4,
    "transaction.state.log.num.partitions": 4,
    "group.initial.rebalance.delay.ms": 0,
    "auto.create.topics.enable": "false",  # a misspelled topic is an error and not a new topic
}
"""Broker properties of a single-node cluster, here and in docker-compose.yaml."""


def _properties(folder: Path, port: int, controller_port: int, extra: Mapping[str, str | int]) -> str:
    settings: dict[str, object] = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@{HOST}:{controller_port}",
        "controller.listener.names": "CONTROLLER",
        "listeners": f"PLAINTEXT://{HOST}:{port},CONTROLLER://{HOST}:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://{HOST}:{port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "PLAINTEXT",
        # Relative to the working directory, because this is a list: a comma in the path would start another folder.
        "log.dirs": f"{folder.name}/data",
        **ONE_NODE,
        "metadata.max.idle.interval.ms": 10_000,  # the default of 500 ms writes to the disk even when idle
        "num.network.threads": 2,
        "num.io.threads": 4,
        "log.cleaner.dedupe.buffer.size": 16 * 1024 * 1024,  # the default of 128 MB is a third of this heap
        **extra,
    }
    return "".join(f"{name}={value}\n" for name, value in settings.items())


def part(
    *,
    folder: Path,
    port: int,
    controller_port: int,
    extra: Mapping[str, str | int] = MappingProxyType({}),
    users: Mapping[str, str] = MappingProxyType({}),
    java_options: tuple[str, ...] = (),
) -> Part:
    """Return the broker.

    Args:
        folder: folder of its configuration and data.
        port: where clients connect.
        controller_port: port between broker and controller.
        extra: broker properties to add or replace, such as listeners with TLS.
        users: passwords of SCRAM-SHA-512 users, by name.
        java_options: options of the JVM to add.
    """
    from churn_platform.local import jars

    java = find_java()
    configuration = folder / "server.properties"
    java_command = (
        str(java),
        *JVM_OPTIONS,
        *java_options,
        f"-Dlog4j2.configurationFile={folder.name}/{LOGGING}",  # relative, because this is a list too
        "-cp",
        os.pathsep.join(map(str, jars.class_path())),
    )

    def prepare(report: Report) -> None:
        jars.fetch(report)
        folder.mkdir(mode=0o700, exist_ok=True)
        shutil.copyfile(Path(__file__).with_name(LOGGING), folder / LOGGING)
        configuration.write_text(_properties(folder, port, controller_port, extra))
        if not (folder / "data" / "meta.properties").exists():
            report("formatting storage")
            _format(java_command, configuration, users)

    return Part(
        name="kafka",
        title="Kafka",
        command=(*java_command, "kafka.Kafka", str(configuration)),
        address=f"{HOST}:{port}",
        folder=folder.parent,
        prepare=prepare,
        environment=LOCALE,
        ready=lambda _: answers({"bootstrap.servers": f"{HOST}:{port}"}),
        listens_at=(port, controller_port),
        stop_seconds=20,
        stop_stage=2,
    )


def _format(java_command: tuple[str, ...], configuration: Path, users: Mapping[str, str]) -> None:
    cluster_id = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    # One argument: an id in 64 begins with a dash, and would be read as an option by itself.
    identity = f"--cluster-id={cluster_id}"
    command = (*java_command, "kafka.tools.StorageTool", "format", identity, "-c", str(configuration))
    for name, password in users.items():
        command += ("--add-scram", f"SCRAM-SHA-512=[name={name},password={password}]")
    environment = {name: value for name, value in os.environ.items() if name not in JAVA_VARIABLES}
    outcome = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env=environment | LOCALE,
        cwd=configuration.parent.parent,
    )
    if outcome.returncode != 0:
        raise StackError(
            f"Kafka's storage tool could not format {configuration.parent / 'data'} (exit code {outcome.returncode}).",
            remedy=f"Free the folder's disk or remove {configuration.parent / 'data'}, then run the command again.",
            details="\n".join((outcome.stdout + outcome.stderr).splitlines()[-10:]),
        )


def problem(client: Mapping[str, str | int | float | bool]) -> Problem | None:
    """Return why the brokers do not list their topics; None if they do.

    Args:
        client: librdkafka settings.
    """
    from churn_platform.kafka import clients
    from churn_platform.kafka.exceptions import KafkaAccessError

    try:
        admin = clients.admin(client)
        with clients.translate_kafka_errors(admin):
            admin.list_topics(timeout=ANSWER_SECONDS)
    except KafkaAccessError as error:
        return Problem(str(error), lasting=False)
    return None


def answers(client: Mapping[str, str | int | float | bool]) -> bool:
    """Return whether the brokers list their topics.

    Args:
        client: librdkafka settings.
    """
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    # Only for a broker without a login. While it is starting, the client would log its failed connections to the
    # terminal.
    quick = {"log_level": 0, "reconnect.backoff.ms": 100, "reconnect.backoff.max.ms": 200}
    admin = AdminClient({**client, **quick}, logger=_SILENT_LOGGER)
    try:
        admin.list_topics(timeout=2)
    except KafkaException:
        return False
    return True
