"""The services of docker-compose.yaml as processes: the platform's from the image, the servers from embedded ones."""

import os
import secrets
import signal
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from churn_platform.local import jars, postgres
from churn_platform.local.java import find_java
from churn_platform.local.kafka import JVM_OPTIONS
from churn_platform_tests.image import buildah
from churn_platform_tests.image.compose import Service
from churn_platform_tests.waiting import wait_until

IMAGE_USER = 10001
HEALTHY_SECONDS = 120
FAST_SHUTDOWN = signal.SIGINT


@dataclass
class Running:
    """A running service, with its process, log and stop signal."""

    service: Service
    process: subprocess.Popen[bytes]
    log: Path
    stop_signal: signal.Signals = signal.SIGTERM
    first: psutil.Process | None = field(default=None, init=False)

    def stop(self, timeout: float) -> int:
        """Stop the service as `docker stop` does, by a signal to its first process, and return the exit code."""
        target = self.first or psutil.Process(self.process.pid)
        target.send_signal(self.stop_signal)
        return self.process.wait(timeout)


class Composed:
    """The services of docker-compose.yaml, started one by one. As a context manager it stops those that are running."""

    def __init__(self, services: Mapping[str, Service], *, container: str, folder: Path) -> None:
        """Create the services without starting any.

        Args:
            services: the services as compose reads them.
            container: container of the image, in which the platform's services run.
            folder: folder for logs and volumes, traversable for other users.
        """
        self.services = services
        self.running: dict[str, Running] = {}
        self._container = container
        self._folder = folder
        self._servers: Mapping[str, Callable[[Service, Path], Running]] = {
            "postgres": self._postgres,
            "kafka": self._kafka,
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for name in reversed(list(self.running)):
            self.stop(name)

    def start(self, name: str) -> Running:
        """Start a service whose dependencies are running, and wait until its health check passes."""
        service = self.services[name]
        for needed, condition in service.needs.items():
            assert condition == "service_completed_successfully" or needed in self.running, f"{name} needs {needed}"
        log = self._folder / f"{name}.log"
        launch = self._servers.get(name, self._platform_service)
        running = self.running[name] = launch(service, log)
        wait_until(lambda: self._is_healthy(running), HEALTHY_SECONDS, f"{name} to be healthy: {log}")
        return running

    def run(self, name: str, *command: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        """Run a service's command, or another one instead, and wait until it ends."""
        service = self.services[name]
        changed = replace(
            service, command=command or service.command, environment={**service.environment, **environment}
        )
        return subprocess.run(self.command(changed), capture_output=True, text=True, check=False, timeout=300)

    def stop(self, name: str) -> int:
        """Stop a service within its grace period, and return its exit code."""
        running = self.running.pop(name)
        grace = str(running.service.definition.get("stop_grace_period", "10s"))
        minutes, _, seconds = grace.removesuffix("s").rpartition("m")
        return running.stop(int(minutes or 0) * 60 + float(seconds))

    def command(self, service: Service, *, bare: bool = False) -> list[str]:
        """Return the command line that a container of the service would run.

        Args:
            service: the service.
            bare: whether to leave out the image's entrypoint, as for a health check.
        """
        image = buildah.configuration()
        arguments = [] if bare else list(image["Entrypoint"])
        arguments += service.command or image["Cmd"]
        given = [f"--env={name}={value}" for name, value in service.environment.items()]
        mounted = [f"--volume={self._volume_folder(source)}:{target}" for target, source in service.volumes.items()]
        options = ("--isolation", "chroot", "--user", image["User"], *given, *mounted)
        return buildah.command("run", *options, self._container, "--", *arguments)

    def _volume_folder(self, source: str) -> str:
        """Return the local folder of a volume, with the owner that a new volume of the image has."""
        if source.startswith("/"):
            return source
        folder = self._folder / "volumes" / source
        if not folder.exists():
            folder.mkdir(parents=True, mode=0o700)
            os.chown(folder, IMAGE_USER, IMAGE_USER)
        return str(folder)

    def _is_healthy(self, running: Running) -> bool:
        assert running.process.poll() is None, f"{running.service.name} ended:\n{running.log.read_text()[-3000:]}"
        service = running.service
        if service.name in self._servers:
            command = [str(postgres.binaries() / "pg_isready"), *service.health[1:]]
            command = command if service.name == "postgres" else list(service.health)
        else:
            running.first = running.first or buildah.first_process(psutil.Process(running.process.pid))
            command = self.command(replace(service, command=service.health), bare=True)
        return running.first is not None and subprocess.run(command, capture_output=True, check=False).returncode == 0

    def _platform_service(self, service: Service, log: Path) -> Running:
        with log.open("wb") as output:
            process = subprocess.Popen(self.command(service), stdout=output, stderr=output, stdin=subprocess.DEVNULL)
        return Running(service, process, log)

    def _postgres(self, service: Service, log: Path) -> Running:
        folder = self._folder / "postgres"
        server = postgres.part(folder=folder, port=5432, password=service.environment["POSTGRES_PASSWORD"])
        server.prepare(lambda _: None)
        with log.open("wb") as output:
            process = subprocess.Popen(
                [str(server.command[0]), "-D", str(folder), "-clisten_addresses=*", *service.command[1:]],
                user=server.user,
                cwd=folder,
                stdout=output,
                stderr=output,
            )
        running = Running(service, process, log, FAST_SHUTDOWN)
        running.first = psutil.Process(process.pid)
        wait_until(lambda: server.ready(0), HEALTHY_SECONDS, "PostgreSQL to answer")
        server.complete()
        return running

    def _kafka(self, service: Service, log: Path) -> Running:
        """Start Kafka as its image does: write properties from variables, format the storage, start the broker."""
        folder = self._folder / "kafka"
        folder.mkdir()
        properties = {
            name.removeprefix("KAFKA_").lower().replace("_", "."): value
            for name, value in service.environment.items()
            if name != "KAFKA_HEAP_OPTS"
        } | {"log.dirs": str(folder / "data")}
        file = folder / "server.properties"
        file.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
        options = [option for option in JVM_OPTIONS if not option.startswith("-Xmx")]
        java = [
            *(str(find_java()), *options, service.environment["KAFKA_HEAP_OPTS"]),
            *("-cp", os.pathsep.join(map(str, jars.class_path()))),
        ]
        cluster = secrets.token_urlsafe(16)
        subprocess.run(
            [*java, "kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", "-c", str(file)],
            check=True,
            capture_output=True,
        )
        with log.open("wb") as output:
            process = subprocess.Popen([*java, "kafka.Kafka", str(file)], stdout=output, stderr=output)
        running = Running(service, process, log)
        running.first = psutil.Process(process.pid)
        return running
