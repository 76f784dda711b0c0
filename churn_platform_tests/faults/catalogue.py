"""The catalogue of faults. Each breaks one thing under traffic and repairs what does not recover by itself."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

import psutil
import psycopg
from confluent_kafka.admin import NewPartitions

from churn_platform.database import model_versions
from churn_platform.environments import created_topics
from churn_platform.kafka import topics
from churn_platform.kafka.exceptions import TopicMissingError
from churn_platform.stream.faults import FaultPoint
from churn_platform_tests.faults.injection import Action
from churn_platform_tests.faults.platform import TIMEOUT, FaultyPlatform, ended, kill
from churn_platform_tests.waiting import wait_until

OUTAGE_SECONDS: Final = 60
# Points that a run reaches when its batch ends or begins.
AT_HANDOVER: Final = (FaultPoint.AFTER_LOCK, FaultPoint.BEFORE_CLOSING, FaultPoint.AFTER_CLOSING)


@dataclass(frozen=True)
class InjectedFault:
    """A fault whose cause is over. Times are in seconds since 1970.

    Attributes:
        at: when it was injected. Events sent later reached the broken platform.
        repaired: when its cause was over.
        aftermath: waits for what must happen after the recovery.
    """

    at: float
    repaired: float
    aftermath: Callable[[], None] = lambda: None


Inject = Callable[[FaultyPlatform], InjectedFault]


@dataclass(frozen=True)
class Fault:
    """A kind of fault.

    Attributes:
        name: for -k and the soak's --only.
        title: human-readable description.
        inject: injects it on a platform that is streaming traffic, and returns once the cause is over.
        quick: whether `make test-all` runs it.
        long: whether it lasts a minute or more, so that short soaks leave it out.
    """

    name: str
    title: str
    inject: Inject
    quick: bool = False
    long: bool = False


CATALOGUE: Final[dict[str, Fault]] = {}


def _fault(title: str, *, quick: bool = False, long: bool = False) -> Callable[[Inject], Inject]:
    """Add a function to the catalogue, under its own name."""

    def add(inject: Inject) -> Inject:
        name = inject.__name__
        CATALOGUE[name] = Fault(name, title, inject, quick=quick, long=long)
        return inject

    return add


def _at_once(moment: float) -> InjectedFault:
    return InjectedFault(moment, moment)


# Runs


def _kill_at(platform: FaultyPlatform, point: FaultPoint) -> InjectedFault:
    platform.standby()
    platform.injector.arm(point, Action.KILL)
    if point in AT_HANDOVER:
        platform.fill_batch()
    return _at_once(platform.injector.wait_for_hit(point).at)


for _point in FaultPoint:
    CATALOGUE[f"kill_{_point.name.lower()}"] = Fault(
        f"kill_{_point.name.lower()}",
        f"kill -9 of a run {_point}",
        partial(_kill_at, point=_point),
        quick=_point in (FaultPoint.AFTER_DATABASE_COMMIT, FaultPoint.BEFORE_KAFKA_COMMIT),
    )


@_fault("kill -9 of a run after the PostgreSQL commit, and loss of the published offsets")
def kill_and_lose_published_offsets(platform: FaultyPlatform) -> InjectedFault:
    platform.standby()
    with _stopped_at(platform, FaultPoint.AFTER_DATABASE_COMMIT) as victim:
        # The lock is still held, so the successor is sure to be stopped before it publishes.
        platform.injector.arm(FaultPoint.AFTER_LOCK, Action.STOP)
        at = kill(victim)
    successor = platform.injector.wait_for_hit(FaultPoint.AFTER_LOCK).pid
    try:
        for deleted in platform.admin.delete_consumer_groups([platform.config.kafka.group]).values():
            deleted.result()
    finally:
        _continue(successor)
    return InjectedFault(at, time.time())


@_fault("An error that no code expects, in a run's transaction")
def raise_in_transaction(platform: FaultyPlatform) -> InjectedFault:
    platform.standby()
    platform.injector.arm(FaultPoint.BEFORE_DATABASE_COMMIT, Action.RAISE)
    return _at_once(platform.injector.wait_for_hit(FaultPoint.BEFORE_DATABASE_COMMIT).at)


@_fault("kill -9 of the live run, with a standby waiting", quick=True)
def kill_live_run(platform: FaultyPlatform) -> InjectedFault:
    platform.standby()
    return _at_once(kill(platform.live().pid))


@_fault("kill -9 of the standby")
def kill_standby(platform: FaultyPlatform) -> InjectedFault:
    at = kill(platform.standby().pid)
    platform.fill_batch()
    return _at_once(at)


@_fault("kill -9 of the live run and its standby at once")
def kill_live_run_and_standby(platform: FaultyPlatform) -> InjectedFault:
    platform.standby()
    return _at_once([kill(session.pid) for session in platform.sessions()][-1])


@_fault("The live run is frozen (SIGSTOP) and continues after its successor took over")
def freeze_live_run(platform: FaultyPlatform) -> InjectedFault:
    platform.standby()
    frozen = platform.live().pid
    os.kill(frozen, signal.SIGSTOP)
    at = time.time()
    try:
        platform.wait_for_row_after(at)
    finally:
        _continue(frozen)

    def ends() -> None:
        wait_until(lambda: ended(frozen), TIMEOUT, "the frozen run to find its batch closed and to end")

    return InjectedFault(at, at, ends)


@_fault("Two runs at once: a second one of the same batch, launched by hand")
def second_run_by_hand(platform: FaultyPlatform) -> InjectedFault:
    live = platform.live()
    batch = platform.value("select max(batch) from stream_batches where run_id = %s", live.run_id)
    at = time.time()
    run = platform.dagster.submit_job_execution("prediction_stream_job", tags={"dagster/partition": batch})

    def ends() -> None:
        wait_until(lambda: any(run == session.run_id for session in platform.sessions()), TIMEOUT, "it to wait")
        platform.fill_batch()
        wait_until(lambda: platform.dagster.get_run_status(run).value in ("SUCCESS", "FAILURE"), TIMEOUT, "its end")
        assert platform.dagster.get_run_status(run).value == "SUCCESS"

    return InjectedFault(at, at, ends)


# Dagster


@_fault("kill -9 of the daemon")
def kill_daemon(platform: FaultyPlatform) -> InjectedFault:
    return _part_killed(platform, "daemon")


@_fault("kill -9 of the daemon while a tick of its sensor submits a run")
def kill_daemon_while_it_submits(platform: FaultyPlatform) -> InjectedFault:
    platform.standby()
    began = time.time()
    platform.fill_batch()  # the standby continues with the next batch, and a tick requests another standby
    wait_until(
        lambda: platform.value("select exists (select from stream_batches where planned > to_timestamp(%s))", began),
        TIMEOUT,
        "a tick to plan a batch",
    )
    return _part_killed(platform, "daemon")


@_fault("kill -9 of the web server")
def kill_webserver(platform: FaultyPlatform) -> InjectedFault:
    platform.stack.kill_part("webserver")
    return _at_once(time.time())


@_fault("kill -9 of the code server; its runs continue")
def kill_code_server(platform: FaultyPlatform) -> InjectedFault:
    return _part_killed(platform, "code")


@_fault("kill -9 of the code server and all its runs")
def kill_code_server_and_runs(platform: FaultyPlatform) -> InjectedFault:
    platform.standby()
    server = psutil.Process(platform.stack.pid("code"))
    at = [kill(process.pid) for process in (server, *server.children(recursive=True))][-1]
    return _at_once(at)


@_fault("kill -9 of the process that runs are forked from; they continue, and new ones start")
def kill_fork_server(platform: FaultyPlatform) -> InjectedFault:
    platform.standby()
    children = psutil.Process(platform.stack.pid("code")).children()
    (fork_server,) = [each for each in children if any("multiprocessing.forkserver" in part for part in each.cmdline())]
    at = kill(fork_server.pid)
    return InjectedFault(at, at, platform.get_a_new_run)


@_fault("Two daemons at once")
def second_daemon(platform: FaultyPlatform) -> InjectedFault:
    daemon = psutil.Process(platform.stack.pid("daemon"))
    at = time.time()
    with subprocess.Popen(
        daemon.cmdline(),
        env=daemon.environ(),
        cwd=daemon.cwd(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as second:
        try:
            for _ in range(3):
                platform.get_a_new_run()
        finally:
            second.terminate()
    return InjectedFault(at, time.time())


# Servers


@_fault("kill -9 of everything at once, including Kafka and PostgreSQL, and a restart of the machine")
def kill_everything(platform: FaultyPlatform) -> InjectedFault:
    platform.standby()
    platform.kill_everything()
    at = time.time()
    platform.stack.start()
    return InjectedFault(at, time.time())


@_fault("kill -9 of Kafka; its supervisor restarts it", quick=True)
def kill_kafka(platform: FaultyPlatform) -> InjectedFault:
    platform.live()
    platform.stack.kill_part("kafka")
    at = time.time()
    wait_until(partial(platform.stack.is_ready, "kafka"), TIMEOUT, "Kafka to answer")
    return InjectedFault(at, time.time())


@_fault("Kafka is restarted")
def restart_kafka(platform: FaultyPlatform) -> InjectedFault:
    platform.live()
    with _down(platform, "kafka") as at:
        pass
    return InjectedFault(at, time.time())


@_fault("Kafka is down for a minute", long=True)
def kafka_down_for_a_minute(platform: FaultyPlatform) -> InjectedFault:
    platform.live()
    with _down(platform, "kafka") as at:
        _wait_until_time(at + OUTAGE_SECONDS)
    return InjectedFault(at, time.time())


@_fault("PostgreSQL is restarted in the middle of a transaction", quick=True)
def restart_postgres(platform: FaultyPlatform) -> InjectedFault:
    with _stopped_at(platform, FaultPoint.BEFORE_DATABASE_COMMIT), _down(platform, "postgres") as at:
        pass
    return InjectedFault(at, time.time())


@_fault("kill -9 of PostgreSQL in the middle of a transaction; its supervisor restarts it")
def kill_postgres(platform: FaultyPlatform) -> InjectedFault:
    with _stopped_at(platform, FaultPoint.BEFORE_DATABASE_COMMIT):
        platform.stack.kill_part("postgres")
        at = time.time()
        wait_until(partial(platform.stack.is_ready, "postgres"), TIMEOUT, "PostgreSQL to answer")
    return InjectedFault(at, time.time())


@_fault("PostgreSQL is down for a minute", long=True)
def postgres_down_for_a_minute(platform: FaultyPlatform) -> InjectedFault:
    platform.live()
    with _down(platform, "postgres") as at:
        _wait_until_time(at + OUTAGE_SECONDS)
    return InjectedFault(at, time.time())


@_fault("The database's disk is full")
def disk_full(platform: FaultyPlatform) -> InjectedFault:
    """Raise PostgreSQL's own error for a full disk on each insert, in every session, until the trigger is dropped.

    Really filling a disk would need a file system of its own, which only root may mount.
    """
    platform.live()
    with psycopg.connect(platform.stack.owner_dsn, autocommit=True) as owner:
        owner.execute(
            """
            create function no_space_left() returns trigger language plpgsql as $$ begin
                raise exception 'could not extend file: No space left on device' using errcode = 'disk_full';
            end $$
            """
        )
        owner.execute(
            "create trigger no_space_left before insert on churn_predictions execute function no_space_left()"
        )
        at = time.time()
        try:
            wait_until(
                lambda: any("No space left on device" in line for line in platform.stack.logs("postgres")),
                TIMEOUT,
                "a commit to fail",
            )
            _wait_until_time(at + 5)
        finally:
            owner.execute("drop function no_space_left() cascade")
    return InjectedFault(at, time.time())


# Models


@_fault("The champion's bundle is missing when runs start, and comes back", long=True)
def bundle_missing(platform: FaultyPlatform) -> InjectedFault:
    bundle = platform.bundle(_champion(platform))
    away = bundle.with_suffix(".away")
    bundle.rename(away)
    try:
        at = _let_a_run_fail(platform)
    finally:
        away.rename(bundle)
    return InjectedFault(at, time.time())


@_fault("A part of the champion's bundle is corrupt when runs start, and is restored", long=True)
def bundle_corrupt(platform: FaultyPlatform) -> InjectedFault:
    model = platform.bundle(_champion(platform)) / "model.ubj"
    whole = model.with_suffix(".whole")
    shutil.copyfile(model, whole)
    model.write_bytes(whole.read_bytes()[:-1])
    try:
        at = _let_a_run_fail(platform)
    finally:
        whole.rename(model)
    return InjectedFault(at, time.time())


@_fault("Another champion is promoted while the stream runs")
def champion_swapped(platform: FaultyPlatform) -> InjectedFault:
    platform.live()
    other = 3 - _champion(platform)
    model_versions.promote(platform.connection, other)
    at = time.time()
    wait_until(
        lambda: platform.value(
            """
            select exists (
                select from churn_predictions where model_version = %s and event_timestamp > to_timestamp(%s)
            )
            """,
            other,
            at,
        ),
        TIMEOUT,
        "the new champion to score",
    )
    return _at_once(at)


# Topics


@_fault("The events topic gets another partition")
def partition_added(platform: FaultyPlatform) -> InjectedFault:
    platform.live()
    topic = topics.describe(platform.admin, platform.config.events_topic)
    added = len(topic.partitions)
    for created in platform.admin.create_partitions([NewPartitions(topic.name, added + 1)]).values():
        created.result()
    at = time.time()
    platform.traffic.stop()  # a running producer learns of the partition only minutes later
    platform.traffic.start()
    wait_until(
        lambda: platform.value(
            """
            select exists (
                select from stream_positions where kafka_partition = %s and topic_id = %s and next_offset > 0
            )
            """,
            added,
            topic.topic_id,
        ),
        TIMEOUT,
        "the new partition to be read",
    )
    return _at_once(at)


@_fault("The events topic is deleted and created again")
def topic_created_again(platform: FaultyPlatform) -> InjectedFault:
    platform.live()
    platform.traffic.stop()
    # Unread events are deleted with the topic.
    wait_until(lambda: platform.lag() == 0, TIMEOUT, "everything to be read")
    name = platform.config.events_topic
    old = topics.describe(platform.admin, name).topic_id
    for deleted in platform.admin.delete_topics([name]).values():
        deleted.result()

    def is_new() -> bool:
        created_topics.create_missing(platform.admin, platform.config)
        try:
            return topics.describe(platform.admin, name).topic_id != old
        except TopicMissingError:
            return False

    wait_until(is_new, TIMEOUT, "the topic to be created again")
    at = time.time()
    platform.traffic.start()
    return _at_once(at)


# Breaking and repairing


def _part_killed(platform: FaultyPlatform, name: str) -> InjectedFault:
    """Kill a part that requests or launches runs (kill -9). In the end it must do so again."""
    platform.stack.kill_part(name)
    at = time.time()

    def launches_again() -> None:
        wait_until(platform.ready, TIMEOUT, f"{name} to answer")
        platform.get_a_new_run()

    return InjectedFault(at, at, launches_again)


@contextmanager
def _stopped_at(platform: FaultyPlatform, point: FaultPoint) -> Iterator[int]:
    """Freeze the live run at this point while the context lasts, and yield its process id."""
    platform.live()
    platform.injector.arm(point, Action.STOP)
    pid = platform.injector.wait_for_hit(point).pid
    try:
        yield pid
    finally:
        _continue(pid)


def _continue(pid: int) -> None:
    """Let a frozen process continue, if it still exists."""
    if not ended(pid):
        os.kill(pid, signal.SIGCONT)


@contextmanager
def _down(platform: FaultyPlatform, name: str) -> Iterator[float]:
    """Stop a part cleanly while the context lasts, and yield when it was stopped."""
    platform.stack.stop_part(name)
    try:
        yield time.time()
    finally:
        platform.stack.start_part(name)


def _wait_until_time(moment: float) -> None:
    """Wait until this time. An outage has a fixed length, so there is no condition to wait for."""
    wait_until(lambda: time.time() >= moment, OUTAGE_SECONDS + 10, "an outage to be over")


def _champion(platform: FaultyPlatform) -> int:
    champion = model_versions.champion(platform.connection)
    assert champion is not None
    return champion.version


def _let_a_run_fail(platform: FaultyPlatform) -> float:
    """Kill the runs that have loaded the model, wait until a run that must load it fails, and return when they died."""
    platform.live()
    before = {run["runId"] for run in platform.runs("prediction_stream_job")}
    at = [kill(session.pid) for session in platform.sessions()][-1]

    def one_has_failed() -> bool:
        runs = platform.runs("prediction_stream_job")
        return any(run["status"] == "FAILURE" for run in runs if run["runId"] not in before)

    wait_until(one_has_failed, TIMEOUT, "a run without its model to fail")
    return at
