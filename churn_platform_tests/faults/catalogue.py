"""What may fail: each fault breaks one thing on a platform under traffic, and mends what does not mend by itself."""

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
from confluent_kafka.admin import NewPartitions  # type: ignore[attr-defined]  # re-exported

from churn_platform.database import model_versions
from churn_platform.environments import created_topics
from churn_platform.kafka import topics
from churn_platform.kafka.exceptions import TopicMissingError
from churn_platform.stream.faults import FaultPoint
from churn_platform_tests.faults.orders import Order
from churn_platform_tests.faults.platform import LONGEST_WAIT, FaultyPlatform, ended, kill
from churn_platform_tests.waiting import wait_until

OUTAGE_SECONDS: Final = 60
# Points that a run reaches when its batch ends or begins.
AT_HAND_OVER: Final = (FaultPoint.AFTER_LOCK, FaultPoint.BEFORE_CLOSING, FaultPoint.AFTER_CLOSING)


@dataclass(frozen=True)
class Struck:
    """A fault that is over. Moments in seconds since 1970.

    `at` is when it had struck: an event sent later has met the broken platform. `mended` is when its cause was gone.
    `aftermath` waits for what has to come in the end, after the recovery.
    """

    at: float
    mended: float
    aftermath: Callable[[], None] = lambda: None


Strike = Callable[[FaultyPlatform], Struck]


@dataclass(frozen=True)
class Fault:
    """Something that fails.

    Attributes:
        name: for -k and the soak's --only.
        title: in words.
        strike: breaks it, on a platform that streams with traffic on it, and returns once the cause is gone.
        quick: is tried by every `make test`.
        long: lasts a minute or more, so that a soak leaves it out unless it has the time.
    """

    name: str
    title: str
    strike: Strike
    quick: bool = False
    long: bool = False


CATALOGUE: Final[dict[str, Fault]] = {}


def _fault(title: str, *, quick: bool = False, long: bool = False) -> Callable[[Strike], Strike]:
    """Enter a function into the catalogue, under its own name."""

    def enter(strike: Strike) -> Strike:
        name = strike.__name__
        CATALOGUE[name] = Fault(name, title, strike, quick=quick, long=long)
        return strike

    return enter


def _at_once(moment: float) -> Struck:
    return Struck(moment, moment)


# Runs


def _kill_at(platform: FaultyPlatform, point: FaultPoint) -> Struck:
    platform.standby()
    platform.orders.give(point, Order.KILL)
    if point in AT_HAND_OVER:
        platform.fill_batch()
    return _at_once(platform.orders.wait_for_hit(point).at)


for _point in FaultPoint:
    CATALOGUE[f"kill_{_point.name.lower()}"] = Fault(
        f"kill_{_point.name.lower()}",
        f"kill -9 of a run {_point}",
        partial(_kill_at, point=_point),
        quick=_point in (FaultPoint.AFTER_DATABASE_COMMIT, FaultPoint.BEFORE_KAFKA_COMMIT),
    )


@_fault("kill -9 of a run after the PostgreSQL commit, and the markers of what is published gone too")
def kill_and_lose_the_markers(platform: FaultyPlatform) -> Struck:
    platform.standby()
    with _stopped_at(platform, FaultPoint.AFTER_DATABASE_COMMIT) as victim:
        # Nobody else can take the lock as yet: the successor is stopped before it publishes.
        platform.orders.give(FaultPoint.AFTER_LOCK, Order.STOP)
        at = kill(victim)
    successor = platform.orders.wait_for_hit(FaultPoint.AFTER_LOCK).pid
    try:
        for deleted in platform.admin.delete_consumer_groups([platform.config.kafka.group]).values():
            deleted.result()
    finally:
        _continue(successor)
    return Struck(at, time.time())


@_fault("An error that no code expects, in a run's transaction")
def raise_in_transaction(platform: FaultyPlatform) -> Struck:
    platform.standby()
    platform.orders.give(FaultPoint.IN_TRANSACTION, Order.RAISE)
    return _at_once(platform.orders.wait_for_hit(FaultPoint.IN_TRANSACTION).at)


@_fault("kill -9 of the live run, with a standby waiting", quick=True)
def kill_live_run(platform: FaultyPlatform) -> Struck:
    platform.standby()
    return _at_once(kill(platform.live().pid))


@_fault("kill -9 of the standby")
def kill_standby(platform: FaultyPlatform) -> Struck:
    at = kill(platform.standby().pid)
    platform.fill_batch()
    return _at_once(at)


@_fault("kill -9 of the live run and its standby at once")
def kill_live_run_and_standby(platform: FaultyPlatform) -> Struck:
    platform.standby()
    return _at_once([kill(session.pid) for session in platform.sessions()][-1])


@_fault("The live run is frozen (SIGSTOP) and goes on after its successor took over")
def freeze_live_run(platform: FaultyPlatform) -> Struck:
    platform.standby()
    frozen = platform.live().pid
    os.kill(frozen, signal.SIGSTOP)
    at = time.time()
    try:
        platform.wait_for_row_after(at)
    finally:
        _continue(frozen)

    def ends() -> None:
        wait_until(lambda: ended(frozen), LONGEST_WAIT, "the frozen run to find its batch closed and to end")

    return Struck(at, at, ends)


@_fault("Two runs at once: a second one of the same batch, launched by hand")
def second_run_by_hand(platform: FaultyPlatform) -> Struck:
    live = platform.live()
    batch = platform.value("select max(batch) from stream_batches where run_id = %s", live.run_id)
    at = time.time()
    run = platform.dagster.submit_job_execution("prediction_stream_job", tags={"dagster/partition": batch})

    def ends() -> None:
        wait_until(lambda: any(run == session.run_id for session in platform.sessions()), LONGEST_WAIT, "it to wait")
        platform.fill_batch()
        wait_until(
            lambda: platform.dagster.get_run_status(run).value in ("SUCCESS", "FAILURE"), LONGEST_WAIT, "its end"
        )
        assert platform.dagster.get_run_status(run).value == "SUCCESS"

    return Struck(at, at, ends)


# Dagster


@_fault("kill -9 of the daemon")
def kill_daemon(platform: FaultyPlatform) -> Struck:
    return _part_killed(platform, "daemon")


@_fault("kill -9 of the daemon while a tick of its sensor submits a run")
def kill_daemon_while_it_submits(platform: FaultyPlatform) -> Struck:
    platform.standby()
    began = time.time()
    platform.fill_batch()  # the standby goes on with the next batch, and a tick asks for another standby
    wait_until(
        lambda: platform.value("select exists (select from stream_batches where planned > to_timestamp(%s))", began),
        LONGEST_WAIT,
        "a tick to plan a batch",
    )
    return _part_killed(platform, "daemon")


@_fault("kill -9 of the web server")
def kill_webserver(platform: FaultyPlatform) -> Struck:
    platform.stack.kill_part("webserver")
    return _at_once(time.time())


@_fault("kill -9 of the code server; its runs go on")
def kill_code_server(platform: FaultyPlatform) -> Struck:
    return _part_killed(platform, "code")


@_fault("kill -9 of the code server and all its runs")
def kill_code_server_and_runs(platform: FaultyPlatform) -> Struck:
    platform.standby()
    server = psutil.Process(platform.stack.pid("code"))
    at = [kill(process.pid) for process in (server, *server.children(recursive=True))][-1]
    return _at_once(at)


@_fault("Two daemons at once")
def second_daemon(platform: FaultyPlatform) -> Struck:
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
    return Struck(at, time.time())


# Servers


@_fault("kill -9 of everything at once, Kafka and PostgreSQL included, and the machine comes up again")
def kill_everything(platform: FaultyPlatform) -> Struck:
    platform.standby()
    platform.kill_everything()
    at = time.time()
    platform.stack.start()
    return Struck(at, time.time())


@_fault("kill -9 of Kafka; its supervisor starts it again", quick=True)
def kill_kafka(platform: FaultyPlatform) -> Struck:
    platform.live()
    platform.stack.kill_part("kafka")
    at = time.time()
    wait_until(partial(platform.stack.is_ready, "kafka"), LONGEST_WAIT, "Kafka to answer")
    return Struck(at, time.time())


@_fault("Kafka is restarted")
def restart_kafka(platform: FaultyPlatform) -> Struck:
    platform.live()
    with _down(platform, "kafka") as at:
        pass
    return Struck(at, time.time())


@_fault("Kafka is down for a minute", long=True)
def kafka_down_for_a_minute(platform: FaultyPlatform) -> Struck:
    platform.live()
    with _down(platform, "kafka") as at:
        _let_pass(at + OUTAGE_SECONDS)
    return Struck(at, time.time())


@_fault("PostgreSQL is restarted in the middle of a transaction", quick=True)
def restart_postgres(platform: FaultyPlatform) -> Struck:
    with _stopped_at(platform, FaultPoint.IN_TRANSACTION), _down(platform, "postgres") as at:
        pass
    return Struck(at, time.time())


@_fault("kill -9 of PostgreSQL in the middle of a transaction; its supervisor starts it again")
def kill_postgres(platform: FaultyPlatform) -> Struck:
    with _stopped_at(platform, FaultPoint.IN_TRANSACTION):
        platform.stack.kill_part("postgres")
        at = time.time()
        wait_until(partial(platform.stack.is_ready, "postgres"), LONGEST_WAIT, "PostgreSQL to answer")
    return Struck(at, time.time())


@_fault("PostgreSQL is down for a minute", long=True)
def postgres_down_for_a_minute(platform: FaultyPlatform) -> Struck:
    platform.live()
    with _down(platform, "postgres") as at:
        _let_pass(at + OUTAGE_SECONDS)
    return Struck(at, time.time())


@_fault("The database's disk is full")
def disk_full(platform: FaultyPlatform) -> Struck:
    """PostgreSQL's own error for it, at the place where it comes from a disk, in every session until there is room.

    A disk that is really full would need a file system of its own, which only root may mount.
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
                LONGEST_WAIT,
                "a commit to fail",
            )
            _let_pass(at + 5)
        finally:
            owner.execute("drop function no_space_left() cascade")
    return Struck(at, time.time())


# Models


@_fault("The champion's bundle is missing when runs start, and comes back", long=True)
def bundle_missing(platform: FaultyPlatform) -> Struck:
    bundle = platform.bundle(_champion(platform))
    away = bundle.with_suffix(".away")
    bundle.rename(away)
    try:
        at = _let_a_run_fail(platform)
    finally:
        away.rename(bundle)
    return Struck(at, time.time())


@_fault("A part of the champion's bundle is corrupt when runs start, and is restored", long=True)
def bundle_corrupt(platform: FaultyPlatform) -> Struck:
    model = platform.bundle(_champion(platform)) / "model.ubj"
    whole = model.with_suffix(".whole")
    shutil.copyfile(model, whole)
    model.write_bytes(whole.read_bytes()[:-1])
    try:
        at = _let_a_run_fail(platform)
    finally:
        whole.rename(model)
    return Struck(at, time.time())


@_fault("Another champion is promoted in mid-stream")
def champion_swapped(platform: FaultyPlatform) -> Struck:
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
        LONGEST_WAIT,
        "the new champion to score",
    )
    return _at_once(at)


# Topics


@_fault("The events topic gets another partition")
def partition_added(platform: FaultyPlatform) -> Struck:
    platform.live()
    topic = topics.describe(platform.admin, platform.config.events_topic)
    added = len(topic.partitions)
    for created in platform.admin.create_partitions([NewPartitions(topic.name, added + 1)]).values():
        created.result()
    at = time.time()
    platform.traffic.stop()  # a producer learns of the partition when it starts, or minutes later
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
        LONGEST_WAIT,
        "the new partition to be read",
    )
    return _at_once(at)


@_fault("The events topic is deleted and made anew")
def topic_made_anew(platform: FaultyPlatform) -> Struck:
    platform.live()
    platform.traffic.stop()
    # What nobody has read goes with the topic.
    wait_until(lambda: platform.waiting() == 0, LONGEST_WAIT, "everything to be read")
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

    wait_until(is_new, LONGEST_WAIT, "the topic to be made anew")
    at = time.time()
    platform.traffic.start()
    return _at_once(at)


# How things are broken and mended


def _part_killed(platform: FaultyPlatform, name: str) -> Struck:
    """kill -9 of a part that runs are asked for and launched by; in the end it has to do so again."""
    platform.stack.kill_part(name)
    at = time.time()

    def works() -> None:
        wait_until(platform.ready, LONGEST_WAIT, f"{name} to answer")
        platform.get_a_new_run()

    return Struck(at, at, works)


@contextmanager
def _stopped_at(platform: FaultyPlatform, point: FaultPoint) -> Iterator[int]:
    """The live run, frozen at this point while the context lasts: its process id."""
    platform.live()
    platform.orders.give(point, Order.STOP)
    pid = platform.orders.wait_for_hit(point).pid
    try:
        yield pid
    finally:
        _continue(pid)


def _continue(pid: int) -> None:
    """Let a frozen process go on, if it still exists."""
    if not ended(pid):
        os.kill(pid, signal.SIGCONT)


@contextmanager
def _down(platform: FaultyPlatform, name: str) -> Iterator[float]:
    """A part that is stopped in good order while the context lasts: since when."""
    platform.stack.stop_part(name)
    try:
        yield time.time()
    finally:
        platform.stack.start_part(name)


def _let_pass(moment: float) -> None:
    """Let the time pass until then: an outage has a length, and nothing tells its end."""
    wait_until(lambda: time.time() >= moment, OUTAGE_SECONDS + 10, "an outage to be over")


def _champion(platform: FaultyPlatform) -> int:
    champion = model_versions.champion(platform.connection)
    assert champion is not None
    return champion.version


def _let_a_run_fail(platform: FaultyPlatform) -> float:
    """Kill the runs that have the model in memory and wait until one that must load it fails; when they were killed."""
    platform.live()
    before = {run["runId"] for run in platform.runs("prediction_stream_job")}
    at = [kill(session.pid) for session in platform.sessions()][-1]

    def one_has_failed() -> bool:
        runs = platform.runs("prediction_stream_job")
        return any(run["status"] == "FAILURE" for run in runs if run["runId"] not in before)

    wait_until(one_has_failed, LONGEST_WAIT, "a run without its model to fail")
    return at
