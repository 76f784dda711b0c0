"""Executes the tasks that ECS is asked for: each as a process of its own, without a disk that it shares with another.

moto answers RunTask and starts nothing. This runner looks for new tasks, waits as long as a test says, and starts the
task's command with the environment and the secrets of its task definition, and with nothing of the test's own
environment. It records the state of the process as the state of the task.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import boto3
from moto.ecs.models import Task

from churn_platform_tests.ecs.cloud import Cloud
from churn_platform_tests.files.s3_server import ANYBODY, connection

POLL_SECONDS: Final = 0.05
OVERRIDES_LIMIT: Final = 8192  # characters of the overrides of RunTask; ECS refuses more, moto does not


@dataclass
class Execution:
    """What the runner knows about a task."""

    task: Task
    requested: float
    folder: Path
    process: subprocess.Popen[bytes] | None = None
    exit_code: int | None = None
    settled: bool = False
    released: bool = False


@dataclass
class TaskRunner:
    """Executes the tasks of a cluster while its context lasts.

    Attributes:
        cloud: where tasks are requested.
        cluster: the name of the cluster.
        folder: each task gets its own folder in it.
        start_seconds: how long a task stays PENDING. With math.inf it stays so until `release`.
    """

    cloud: Cloud
    cluster: str
    folder: Path
    start_seconds: float = 0.0
    executions: dict[str, Execution] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="ECS tasks")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        for each in self.executions.values():
            if each.process is not None and each.process.poll() is None:
                each.process.kill()
                each.process.wait()

    # What a test does

    def of_run(self, run_id: str) -> list[Execution]:
        """Return the tasks that were requested for a run."""
        with self._lock:
            return [each for each in self.executions.values() if _tag(each.task, "dagster/run_id") == run_id]

    def of_job(self, job: str) -> list[Execution]:
        """Return the tasks that were requested for runs of a job."""
        with self._lock:
            return [each for each in self.executions.values() if _tag(each.task, "dagster/job_name") == job]

    def release(self, execution: Execution) -> None:
        """Let a pending task start now."""
        execution.released = True

    def fail_pending(self, execution: Execution, reason: str) -> None:
        """Stop a task that is still pending, as ECS does when it cannot start it."""
        with self._lock:
            self._settle(execution, None, reason)

    def kill(self, execution: Execution) -> None:
        """Kill the process of a task, as the kernel does when memory runs out."""
        assert execution.process is not None
        execution.process.kill()

    def output(self, execution: Execution) -> str:
        """Return what a task has written to its standard output and error."""
        log = execution.folder / "output.log"
        return log.read_text(errors="replace") if log.exists() else ""

    # Its work

    def _work(self) -> None:
        while not self._ended.wait(POLL_SECONDS):
            with self._lock:
                for arn, task in list(self.cloud.ecs.tasks.get(self.cluster, {}).items()):
                    if arn not in self.executions:
                        self._accept(arn, task)
                for each in self.executions.values():
                    if not each.settled:
                        self._advance(each)

    def _accept(self, arn: str, task: Task) -> None:
        folder = self.folder / arn.rpartition("/")[2]
        folder.mkdir(parents=True)
        task.last_status = "PENDING"
        self.executions[arn] = Execution(task, time.monotonic(), folder)

    def _advance(self, each: Execution) -> None:
        if each.process is None:
            if each.task.desired_status == "STOPPED":
                self._settle(each, None, each.task.stopped_reason)
            elif each.released or time.monotonic() - each.requested >= self.start_seconds:
                self._start(each)
            return
        code = each.process.poll()
        if code is not None:
            self._settle(each, code, "Essential container in task exited")
        elif each.task.desired_status == "STOPPED" and each.task.last_status == "STOPPED":
            each.task.last_status = "STOPPING"  # moto considers it stopped at once
            each.process.send_signal(signal.SIGTERM)

    def _start(self, each: Execution) -> None:
        override = each.task.overrides["containerOverrides"][0]
        environment = self.environment_of(each.task.task_definition_arn, override["name"])
        environment |= {one["name"]: one["value"] for one in override.get("environment", [])}
        each.process = subprocess.Popen(
            override["command"],
            cwd=each.folder,
            env=environment | _own_disk(each.folder),  # a container has nothing of the launcher's environment
            stdout=(each.folder / "output.log").open("wb"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        each.task.last_status = "RUNNING"

    def environment_of(self, definition: str, name: str) -> dict[str, str]:
        """Return the environment of a container, with the values of its secrets.

        Args:
            definition: ARN or family of its task definition.
            name: of the container.
        """
        found: Any = self.cloud.ecs.describe_task_definition(definition)
        (container,) = (each for each in found.container_definitions if each["name"] == name)
        environment = {each["name"]: each["value"] for each in container.get("environment", [])}
        return environment | {each["name"]: self._secret(each["valueFrom"]) for each in container.get("secrets", [])}

    def _settle(self, each: Execution, code: int | None, reason: str) -> None:
        each.exit_code, each.settled = code, True
        container: Any
        (container,) = each.task.containers
        container.exitCode, container.last_status = code, "STOPPED"
        each.task.stopped_reason, each.task.desired_status, each.task.last_status = reason, "STOPPED", "STOPPED"

    def _secret(self, source: str) -> str:
        # arn:aws:secretsmanager:region:account:secret:name[:key:stage:version]
        parts = source.split(":")
        with closing(
            boto3.client("secretsmanager", **connection(self.cloud.url, key=ANYBODY, secret=ANYBODY))
        ) as client:
            return str(client.get_secret_value(SecretId=":".join(parts[:7]))["SecretString"])


def _own_disk(folder: Path) -> dict[str, str]:
    """Return the variables of a container: paths on its own disk, and the programs of its image."""
    for name in ("home", "local", "dagster", "tmp"):
        (folder / name).mkdir(exist_ok=True)
    return {
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.defpath)),
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "CHURN_LOCAL": str(folder / "local"),
        "DAGSTER_HOME": str(folder / "dagster"),
        "COMPUTE_LOGS_FOLDER": str(folder / "compute_logs"),
    }


def _tag(task: Task, name: str) -> Any:
    return next((tag["value"] for tag in task.tags if tag["key"] == name), None)
