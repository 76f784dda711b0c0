"""What the process imports that runs are forked from. In any other process, importing this module does nothing.

When it is imported, no module here starts a thread that outlives a fork, connects to a server or reads settings. Polars
is left out with the modules of the stream that use it: it cannot be used in a process that was forked after its import.
`definitions` is left out because it reads the settings, which each run reads again.
"""

import atexit
import gc
import importlib
import os
import pkgutil
import signal
import sys
from contextlib import suppress
from multiprocessing import forkserver
from pathlib import Path
from typing import Final

from dagster._core.instance import InstanceRef

from churn_platform import orchestration
from churn_platform.scoring.booster import import_xgboost

FORK_SERVER: Final = "multiprocessing.forkserver"  # in its command line
# Not imported: no run needs it, and its libraries are large.
ECS_LAUNCHER: Final = "churn_platform.orchestration.ecs_run_launcher"
# What modules of orchestration/ import when a run needs it, because the code server can do without it.
MODULES: Final = (
    "churn_platform.database.customer_schemas",
    "churn_platform.decoding.events",
    "churn_platform.kafka.following",
    "churn_platform.kafka.transactions",
    "churn_platform.monitoring.outcomes",
    "churn_platform.monitoring.report",
    "churn_platform.positions.backlog",
    "churn_platform.scoring.high_risk",
    "churn_platform.stream.batch_progress",
    "churn_platform.stream.canary",
    "churn_platform.stream.erasure",
    "churn_platform.stream.explaining",
    "churn_platform.stream.faults",
    "churn_platform.stream.lease",
    "churn_platform.stream.result",
    "churn_platform.stream.scoring",
    "churn_platform.stream.topic_identity",
    "churn_platform.stream.writer_thread",
    "churn_platform.transience",
    # What Dagster imports when a run needs it: its storage, the executor, the logs of stdout and stderr.
    "dagster._core.definitions.repository_definition.repository_data_builder",
    "dagster._core.execution.plan.active",
    "dagster._core.executor.in_process",
    "dagster._core.instance.factory",
    "dagster._core.secrets.env_file",
    "dagster._core.storage.local_compute_log_manager",
    "dagster._core.storage.root",
    "psycopg2.extras",
    "upath.implementations.local",
    "jinja2",
)


def _prepare() -> None:
    """Import everything, and set what a forked process starts with."""
    _import()
    gc.collect()
    gc.freeze()  # the garbage collections of a run would write to all objects, and so copy their memory
    # Outlive the runs when the process group of the code server is stopped: this process reports their ends. It ends
    # once the code server and all runs have ended.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    atexit.register(_remove_socket, os.getpid())


def _import() -> None:
    # Arrow's allocator would start a thread, which a forked process would lack.
    os.environ["JE_ARROW_MALLOC_CONF"] = "background_thread:false"
    for module in pkgutil.walk_packages(orchestration.__path__, f"{orchestration.__name__}."):
        if module.name not in (__name__, ECS_LAUNCHER):
            importlib.import_module(module.name)
    for name in MODULES:
        importlib.import_module(name)
    if home := os.environ.get("DAGSTER_HOME"):
        compute_logs = InstanceRef.from_dir(home).compute_logs_data  # with logs in S3, that imports boto3
        importlib.import_module(compute_logs.module_name)
    import_xgboost()


def _remove_socket(owner: int) -> None:
    """Remove the socket of this process, unless the code server has done so. It cannot if it was killed."""
    address = forkserver._forkserver._forkserver_address  # type: ignore[attr-defined]  # it has no public name
    if os.getpid() == owner and address:  # runs end with the same functions
        with suppress(OSError):
            Path(address).unlink(missing_ok=True)
            Path(address).parent.rmdir()


if FORK_SERVER in sys.orig_argv[-1]:
    _prepare()
