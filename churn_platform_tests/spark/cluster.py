"""A standalone cluster of Spark on this machine: a master and two workers, which are started again when they die."""

import os
import random
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from churn_platform.settings import settings
from churn_platform.spark.submit import SparkConfig, environment
from churn_platform_tests.waiting import wait_until

HOST = "127.0.0.1"
CHECK_SECONDS = 1.0
# Memory for a machine that runs Kafka and PostgreSQL beside it.
PROPERTIES: Mapping[str, str] = {
    "spark.driver.host": HOST,
    "spark.driver.bindAddress": HOST,
    "spark.driver.memory": "512m",
    "spark.executor.memory": "512m",
    "spark.executor.cores": "1",
    "spark.ui.enabled": "false",
}


@dataclass
class Cluster:
    """The processes of a cluster.

    Attributes:
        folder: for logs and the workers' files.
        port: of the master.
        daemons: the running processes, by name.
        starts: how often each was started.
    """

    folder: Path
    port: int
    daemons: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)
    starts: dict[str, int] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Address of the master."""
        return f"spark://{HOST}:{self.port}"

    @property
    def config(self) -> SparkConfig:
        """How jobs are submitted to this cluster."""
        given = vars(SparkConfig.from_settings(settings()))
        return SparkConfig(**{**given, "master": self.url, "conf": PROPERTIES})

    def ensure(self) -> None:
        """Start what does not run."""
        for name in ("master", "worker-1", "worker-2"):
            if name not in self.daemons or self.daemons[name].poll() is not None:
                self.daemons[name] = self._start(name)
                self.starts[name] = self.starts.get(name, 0) + 1

    def executors(self) -> list[psutil.Process]:
        """Return the executors of the workers."""
        return [
            process
            for name, worker in self.daemons.items()
            if name != "master"
            for process in _descendants(worker.pid)
            if _runs(process, "CoarseGrainedExecutorBackend")
        ]

    def stop(self) -> None:
        """Kill everything."""
        for daemon in self.daemons.values():
            for process in _descendants(daemon.pid):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            daemon.kill()
            daemon.wait()

    def log(self) -> str:
        """Return the end of each log."""
        return "\n".join(f"{file.name}: {file.read_text()[-2_000:]}" for file in sorted(self.folder.glob("*.log")))

    def _start(self, name: str) -> "subprocess.Popen[bytes]":
        config = self.config
        program = [str(config.environment / "bin" / "spark-class")]
        if name == "master":
            arguments = ["org.apache.spark.deploy.master.Master", "--host", HOST, "--port", str(self.port)]
        else:
            arguments = ["org.apache.spark.deploy.worker.Worker", "--host", HOST, "--cores", "1", "--memory", "1g"]
            arguments += ["--work-dir", str(self.folder / name)]
        arguments += ["--webui-port", "0", *(() if name == "master" else (self.url,))]
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [*program, *arguments],
                env={**os.environ, **environment(config), "SPARK_LOCAL_IP": HOST, "SPARK_DAEMON_MEMORY": "256m"},
                stdout=log,
                stderr=subprocess.STDOUT,
            )


@contextmanager
def running_cluster(folder: Path) -> Iterator[Cluster]:
    """Run a cluster within the block, and start again what dies."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        cluster, stopped = Cluster(folder, probe.getsockname()[1]), threading.Event()

    def supervise() -> None:
        while not stopped.wait(CHECK_SECONDS):
            cluster.ensure()

    cluster.ensure()
    thread = threading.Thread(target=supervise, name="cluster", daemon=True)
    thread.start()
    try:
        wait_until(lambda: cluster.log().count("Successfully registered with master") >= 2, timeout=180)
        yield cluster
    finally:
        stopped.set()
        thread.join()
        cluster.stop()


class Killer:
    """Kills executors, drivers and the master of a cluster at random moments, a number of times."""

    def __init__(self, cluster: Cluster, *, kills: int, seed: int, longest_pause: float) -> None:
        """Kill nothing yet.

        Args:
            cluster: whose processes are killed.
            kills: how many.
            seed: of the moments and the order.
            longest_pause: seconds between two of them, at most.
        """
        self._cluster = cluster
        self._random = random.Random(seed)  # noqa: S311  moments of a test, no secrets
        self._pause = longest_pause
        self._left = [("executor", "driver", "master")[number % 3] for number in range(kills)]
        self._random.shuffle(self._left)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="killer", daemon=True)
        self.killed: list[str] = []

    def __enter__(self) -> "Killer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to kill."""
        return not self._left

    def _run(self) -> None:
        while self._left and not self._stopped.wait(self._random.uniform(0, self._pause)):
            found = self._processes(self._left[0])
            if found and self._cluster.executors():  # a job is running
                with suppress(psutil.NoSuchProcess):
                    self._random.choice(found).kill()
                    self.killed.append(self._left.pop(0))

    def _processes(self, kind: str) -> list[psutil.Process]:
        if kind == "executor":
            return self._cluster.executors()
        if kind == "master":
            return [psutil.Process(self._cluster.daemons["master"].pid)]
        return [process for process in _descendants(os.getpid()) if _runs(process, "deploy.SparkSubmit")]


def _descendants(pid: int) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []


def _runs(process: psutil.Process, name: str) -> bool:
    with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
        return any(name in argument for argument in process.cmdline())
    return False
