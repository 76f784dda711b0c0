"""A run of churn_predictions counts as alive until its process ends, and reports its batch at most once."""

import threading
from collections.abc import Callable

import dagster as dg
import psycopg
import pytest

from churn_platform.database import advisory_locks, stream_batches
from churn_platform.definitions import defs
from churn_platform.lanes import WHOLE
from churn_platform.orchestration.run_liveness import DEAD_SECONDS, STREAM_TAG
from churn_platform.stream import faults
from churn_platform.stream.faults import FaultPoint
from churn_platform_tests.orchestration.assets.graph import Assets
from churn_platform_tests.orchestration.test_stream_sensors import Ticks
from churn_platform_tests.stream.streams import event
from churn_platform_tests.waiting import wait_until

RISKY = {"NumOfProducts": 4, "Age": 60, "Geography": "Germany", "Gender": "Female"}


class Running:
    """A streaming run in a thread, which calls a function once when it reaches a fault point."""

    def __init__(self, assets: Assets, key: str, point: FaultPoint, at_point: Callable[[], None]) -> None:
        self.reached = threading.Event()
        self._assets, self._key, self._point, self._at_point = assets, key, point, at_point
        self._thread = threading.Thread(target=self._run)

    def _hook(self, point: FaultPoint) -> None:
        if point is self._point and not self.reached.is_set():
            self._at_point()
            self.reached.set()

    def _run(self) -> None:
        defs.resolve_job_def("prediction_stream_job").execute_in_process(
            instance=self._assets.instance,
            partition_key=self._key,
            tags={STREAM_TAG: "live"},
            raise_on_error=False,
        )

    def __enter__(self) -> "Running":
        faults.install(self._hook)
        self._thread.start()
        assert self.reached.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        faults.install(None)
        self._thread.join(120)
        assert not self._thread.is_alive()


def _record(assets: Assets) -> dg.DagsterRun:
    (run,) = assets.instance.get_runs(dg.RunsFilter(tags={STREAM_TAG: "live"}))
    return run


def _materializations(assets: Assets, key: str) -> int:
    wanted = dg.AssetRecordsFilter(asset_key=dg.AssetKey("churn_predictions"), asset_partitions=[key])
    return len(assets.instance.fetch_materializations(wanted, limit=10).records)


def _report(assets: Assets, result: dg.SensorResult) -> None:
    """Store what a tick reports, as the daemon does."""
    for each in result.asset_events:
        assets.instance.report_runless_asset_event(each)


@pytest.fixture
def ticks(assets: Assets, platform: str) -> Ticks:
    return Ticks(assets.instance, platform)


@pytest.mark.slow
def test_a_run_that_still_explains_predictions_after_closing_its_batch_is_alive(
    assets: Assets, ticks: Ticks, platform: str
) -> None:
    assets.send(*(event(number, **RISKY) for number in range(10)))
    key = assets.plan()
    with psycopg.connect(platform) as slow:

        def block_explaining() -> None:
            slow.execute("update high_risk_customers set reasons = null")  # no prediction is explained yet
            slow.commit()
            slow.execute("lock table high_risk_customers in access exclusive mode")

        with Running(assets, key, FaultPoint.AFTER_CLOSING, block_explaining):
            with ticks.connect() as connection:
                waiting = "select exists (select from pg_locks where not granted and locktype = 'relation')"
                wait_until(lambda: connection.execute(waiting).fetchone() == (True,), what="it to explain predictions")
            assets.send(event(100))
            launched = ticks.tick()
            ticks.age_what_is_missing(seconds=DEAD_SECONDS + 1)
            again = ticks.tick()
            assert _record(assets).status == dg.DagsterRunStatus.STARTED
            _report(assets, launched)
            _report(assets, again)
            slow.commit()

    assert len(launched.run_requests or []) == 1  # the lock is free, so another run can stream
    assert _record(assets).status == dg.DagsterRunStatus.SUCCESS
    _report(assets, ticks.tick())
    assert _materializations(assets, key) == 1
    with ticks.connect() as connection:
        left = connection.execute("select count(*) from high_risk_customers where reasons is null").fetchone()
    assert left == (0,)


@pytest.mark.slow
def test_a_run_is_alive_after_its_asset_until_its_process_ends(assets: Assets, ticks: Ticks) -> None:
    assets.send(event(1))

    _, result = assets.stream()

    with ticks.connect() as connection:
        assert result.run_id in advisory_locks.streaming_sessions(connection)
        with advisory_locks.run_is_dead(connection, result.run_id) as is_dead:
            assert not is_dead


@pytest.mark.slow
def test_a_run_that_was_marked_as_failed_without_a_session_never_succeeds_and_reports_nothing(
    assets: Assets, platform: str
) -> None:
    assets.send(*(event(number) for number in range(10)))
    key = assets.plan()

    def lose_sessions_and_be_marked_as_failed() -> None:
        """Simulate a process frozen beyond its lease: PostgreSQL ends its sessions, and a tick marks it as failed."""
        run = _record(assets)
        with psycopg.connect(platform, autocommit=True) as connection:

            def is_failed() -> bool:
                connection.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity where application_name like '%%' || %s",
                    (run.run_id,),
                )
                with advisory_locks.run_is_dead(connection, run.run_id) as is_dead:
                    if is_dead:
                        assets.instance.report_run_failed(run, "Its process is gone.")
                    return is_dead

            wait_until(is_failed, what="its sessions to end")

    with Running(assets, key, FaultPoint.BEFORE_CLOSING, lose_sessions_and_be_marked_as_failed):
        pass

    assert _record(assets).status == dg.DagsterRunStatus.FAILURE
    assert _materializations(assets, key) == 0
    failed = [each for each in assets.instance.all_logs(_record(assets).run_id) if "was declared dead" in str(each)]
    assert failed


@pytest.mark.slow
def test_a_batch_that_another_run_closed_is_reported_once(assets: Assets, ticks: Ticks, platform: str) -> None:
    assets.send(*(event(number) for number in range(10)))
    key = assets.plan()

    def lose_the_stream() -> None:
        """Simulate a process that is frozen while its standby takes over, and is not marked as failed."""
        with psycopg.connect(platform, autocommit=True) as connection:
            connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where application_name = %s",
                (advisory_locks.session_name(_record(assets).run_id),),
            )
            stream_batches.take_over(connection, batch="of the standby", run_id="standby", lane=WHOLE)

    with Running(assets, key, FaultPoint.BEFORE_CLOSING, lose_the_stream):
        pass

    assert _record(assets).status == dg.DagsterRunStatus.SUCCESS
    assert _materializations(assets, key) == 0
    _report(assets, ticks.tick())
    assert _materializations(assets, key) == 1
    _report(assets, ticks.tick())
    assert _materializations(assets, key) == 1
