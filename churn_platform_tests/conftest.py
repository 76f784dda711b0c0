"""Fixtures that the tests share: one set of real servers for the session, and what tests create on them."""

import gc
import itertools
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import psycopg
import pytest
from hypothesis import settings as hypothesis_settings
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from churn_platform.database.connections import ignore_environment
from churn_platform.database.migrations import upgrade
from churn_platform.files import s3 as object_store
from churn_platform.local.environment import ARTIFACTS_VARIABLE, OWNER_VARIABLE, RETENTION_VARIABLE, SERVERS
from churn_platform.local.ports import ANY_FREE_PORTS
from churn_platform.local.stack import Stack
from churn_platform.local.supervision import left_over
from churn_platform.model_store import save_bundle
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.schema.toml_file import load_schema
from churn_platform.settings import PROJECT_ROOT, settings
from churn_platform.stream import run_session
from churn_platform_tests.databases import Databases
from churn_platform_tests.examples import REPEATABLE
from churn_platform_tests.files.s3_server import BUCKET, Moto, Server, Versitygw, settings_of
from churn_platform_tests.scoring.bundles import small_bundle
from churn_platform_tests.stream.streams import Stream, new_stream
from churn_platform_tests.waiting import wait_until

__all__ = ["wait_until"]

# The same examples in each run, so that `make test` fails only for what a change broke. `make test-all` draws new ones.
hypothesis_settings.register_profile(REPEATABLE, derandomize=True)
hypothesis_settings.load_profile(REPEATABLE)


@pytest.fixture(scope="session")
def embedded_only(local_folder: Path) -> dict[str, str]:
    """This environment without the developer's servers and files, which tests never touch."""
    kept = {name: value for name, value in os.environ.items() if name not in {*SERVERS.values(), OWNER_VARIABLE}}
    return {**kept, ARTIFACTS_VARIABLE: str(local_folder / "artifacts")}


@pytest.fixture(scope="session")
def local_folder() -> Iterator[Path]:
    """A folder with a short path. Unlike pytest's own folders, it is traversable for PostgreSQL's user under root."""
    folder = Path(tempfile.mkdtemp(prefix="churn-tests-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def stack(embedded_only: dict[str, str], local_folder: Path) -> Iterator[Stack]:
    """Kafka, PostgreSQL (migrated) and MLflow for the whole session. `settings()` and new processes use them."""
    stack = Stack(
        local_folder, services_only=True, usual_ports=ANY_FREE_PORTS, given=embedded_only, env_file=Path(os.devnull)
    )
    with stack, pytest.MonkeyPatch.context() as environment:
        for name, value in {**stack.environment, ARTIFACTS_VARIABLE: embedded_only[ARTIFACTS_VARIABLE]}.items():
            environment.setenv(name, value)
        settings.cache_clear()
        # Hundreds of databases are copied. No test stops the machine, and only that would lose what is not on disk yet.
        with psycopg.connect(stack.owner_dsn, autocommit=True) as owner:
            owner.execute("alter system set fsync = off")
            owner.execute("alter system set full_page_writes = off")
            owner.execute("select pg_reload_conf()")
        yield stack
        discard(stack)
    settings.cache_clear()


def discard(stack: Stack) -> None:
    """Kill the servers. After hundreds of topics and databases, most of a minute passes until they have stopped."""
    pid = int((stack.local / "postgres" / "postmaster.pid").read_text().split()[0])
    of_postgres: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):  # PostgreSQL may have ended already
        postmaster = psutil.Process(pid)
        of_postgres = [postmaster, *postmaster.children(recursive=True)]
    for process in left_over(stack.local):  # the supervisor is one of them, so nothing is started again
        with suppress(psutil.NoSuchProcess):
            process.kill()
    with suppress(psutil.NoSuchProcess):
        for postmaster in of_postgres[:1]:  # an immediate shutdown, which leaves no shared memory
            postmaster.send_signal(signal.SIGQUIT)
    psutil.wait_procs(of_postgres, timeout=30)


# Tests run in the order that the data flows.
FLOW = (
    "schema",
    "features",
    "decoding",
    "scoring",
    "modeling",
    "decoding",
    "local",
    "files",
    "database",
    "kafka",
    "environments",
    "positions",
    "retention",
    "worker",
    "stream",
    "spark",
    "file_scoring",
    "test_archive",
    "monitoring",
    "challengers",
    "alerts",
    "observability",
    "dashboard",
    "api",
    "simulation",
    "orchestration",
    "test_definitions",
    "end_to_end",  # its first file takes longest, so the files after it keep the other processes busy meanwhile
    "ecs",
    "kubernetes",
    "operations",
    "commands",
    "benchmarks",
    "image",
    "ui",
    "faults",
    # Short files last, so that all processes end at about the same time.
    "documentation",
    "test_settings",
    "test_setting_names",
    "test_secret_sources",
    "test_logs",
    "test_conftest",
    "test_databases",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of `make test-s3` (its server), `make test-dashboard` and `make docs-examples`."""
    parser.addoption("--s3-server", choices=("moto", "versitygw"), default="moto", help="S3 server for the tests")
    parser.addoption("--require-browser", action="store_true", help="fail without Chromium instead of skipping tests")
    parser.addoption("--require-prometheus", action="store_true", help="fail without Prometheus and Alertmanager")
    parser.addoption("--spark-events", type=int, default=50_000, help="events of the backlog that Spark scores")
    parser.addoption("--rewrite-docs", action="store_true", help="rewrite output and generated pages of the docs")


def pytest_configure() -> None:
    """Handle SIGTERM like Ctrl-C, so that fixtures stop their servers, and ignore libpq's environment variables."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    ignore_environment()


def pytest_collection() -> None:
    """Collect no garbage while thousands of modules and tests are loaded, none of which is garbage."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Exempt the modules and tests from garbage collections, each of which would take 0.4 s otherwise."""
    gc.freeze()
    gc.enable()


def pytest_xdist_auto_num_workers() -> int:
    """Start one worker more than there are processors, because the tests wait for servers about half of their time."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the tests by FLOW. Folders that it does not name are last."""
    places = {name: place for place, name in enumerate(FLOW)}
    root = Path(__file__).parent
    items.sort(key=lambda item: places.get(item.path.relative_to(root).with_suffix("").parts[0], len(FLOW)))


_number = itertools.count(1)


@pytest.fixture(scope="session")
def bank_schema() -> CustomerSchema:
    """The schema of the default data set."""
    return load_schema(PROJECT_ROOT / "data/bank/schema.toml")


@pytest.fixture(scope="session")
def template_database(stack: Stack, bank_schema: CustomerSchema) -> str:
    """A migrated database that tests copy theirs from."""
    return new_template(stack, bank_schema)


def new_template(stack: Stack, schema: CustomerSchema) -> str:
    """Create a migrated database for customers of a schema; return its name."""
    assert stack.is_up
    name = f"template_of_{schema.name}"
    with psycopg.connect(stack.owner_dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    upgrade(make_conninfo(stack.owner_dsn, dbname=name), schema)
    return name


@pytest.fixture(scope="session")
def databases(stack: Stack) -> Databases:
    """Copies of templates."""
    return Databases(stack.owner_dsn)


@pytest.fixture
def database(stack: Stack, databases: Databases, template_database: str) -> Iterator[str]:
    """Connection string of a migrated database that nobody else uses, for the platform's own login."""
    name = databases.copy(template_database)
    yield make_conninfo(stack.addresses["postgres"], dbname=name)
    run_session.end_kept()  # a run in this process leaves its session open until the process ends
    databases.give_back(name, template_database)


def copy_database(stack: Stack, template: str) -> str:
    """Return the connection string of a new copy of a database, which stays. The original must have no connections."""
    name = f"copy_{next(_number)}"
    with psycopg.connect(stack.owner_dsn, autocommit=True) as connection:
        connection.execute(
            sql.SQL("create database {} template {}").format(sql.Identifier(name), sql.Identifier(template))
        )
    return make_conninfo(stack.addresses["postgres"], dbname=name)


@pytest.fixture
def platform(stack: Stack, database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The connection string of a database that this process' settings name, with separate topics and a group."""
    number = next(_number)
    monkeypatch.setenv("DATABASE_URL", database)
    name = str(conninfo_to_dict(database)["dbname"])
    monkeypatch.setenv(RETENTION_VARIABLE, make_conninfo(stack.environment[RETENTION_VARIABLE], dbname=name))
    monkeypatch.setenv("EVENTS_TOPIC", f"platform-events-{number}")
    monkeypatch.setenv("PREDICTIONS_TOPIC", f"platform-predictions-{number}")
    monkeypatch.setenv("OUTCOMES_TOPIC", f"platform-outcomes-{number}")
    monkeypatch.setenv("STREAM_GROUP", f"platform-{number}")
    settings.cache_clear()
    yield database
    monkeypatch.undo()
    settings.cache_clear()


@pytest.fixture(scope="session")
def bundle_uri(local_folder: Path) -> str:
    """A saved bundle."""
    uri = str(local_folder / "bundle")
    save_bundle(small_bundle(), uri)
    return uri


@pytest.fixture
def stream(database: str, bundle_uri: str) -> Iterator[Stream]:
    """A stream with a champion and empty topics of three partitions."""
    with new_stream(database, bundle_uri) as stream:
        yield stream


@pytest.fixture(scope="session")
def s3(request: pytest.FixtureRequest, local_folder: Path) -> Iterator[Server]:
    """An S3 server for the whole session. AWS's libraries use it, and none of the developer's credentials."""
    server = Versitygw(local_folder / "s3") if request.config.getoption("--s3-server") == "versitygw" else Moto()
    with pytest.MonkeyPatch.context() as environment:
        for name, value in settings_of(server).items():
            environment.setenv(name, value)
        forget_settings()
        yield server
    server.stop()


@pytest.fixture
def s3_root(s3: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An artifacts root in S3 that nobody else uses. The settings of this process name it."""
    assert s3.url
    root = f"s3://{BUCKET}/prefix-{next(_number)}"
    monkeypatch.setenv(ARTIFACTS_VARIABLE, root)
    forget_settings()
    yield root
    monkeypatch.undo()
    forget_settings()


def forget_settings() -> None:
    """Make this process read its settings again and reconnect to S3."""
    settings.cache_clear()
    object_store.store.cache_clear()
