"""The work of a run: stream into a planned or open batch, or replay closed ones."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from churn_platform.database import stream_batches
from churn_platform.database.connections import connect
from churn_platform.database.stream_batches import Batch
from churn_platform.kafka import clients
from churn_platform.kafka.clients import translate_kafka_errors
from churn_platform.stream.backlog_run import BacklogResult, BacklogRun
from churn_platform.stream.config import StreamConfig
from churn_platform.stream.exceptions import ReplayError, UnknownBatchError
from churn_platform.stream.explaining import explain_batch
from churn_platform.stream.external_scoring import ScoringEngine
from churn_platform.stream.limits import DEFAULT_LIMITS, Limits
from churn_platform.stream.replay import replay
from churn_platform.stream.result import Ending, StreamResult
from churn_platform.stream.run_context import RunContext
from churn_platform.stream.streaming_run import StreamingRun


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run.

    Attributes:
        materialized: whether its keys are to be reported as materialized.
        note: what the run did; without a materialization, why there is none.
        metadata: metrics of the run.
    """

    materialized: bool
    note: str
    metadata: dict[str, str | int | float] = field(default_factory=dict)


def materialize(
    config: StreamConfig,
    keys: Sequence[str],
    *,
    run_id: str,
    log: Callable[[str], None],
    confirm: Callable[[], None],
    limits: Limits = DEFAULT_LIMITS,
    make_producer: clients.ProducerFactory = clients.producer,
    engine: ScoringEngine | None = None,
) -> Outcome:
    """Stream into a planned or open batch, replay closed ones.

    Args:
        config: the stream.
        keys: one batch key, or several closed ones (a backfill).
        run_id: Dagster's id of this run. The name of its session in PostgreSQL contains it.
        log: writes a line to the run's log.
        confirm: RunSession.confirm() of this run.
        limits: times and sizes that bound a streaming run.
        make_producer: creates the Kafka producer that publishes.
        engine: scores elsewhere what is replayed, or a backlog into a batch that is not closed; None: this process
            does, and streams into such a batch.

    Raises:
        RunEndedError: the end of this run was recorded; nothing more is written.
        UnknownBatchError: the ledger does not know a key.
        ReplayError: several keys, of which one is not closed; or events that Kafka no longer holds.
        StreamError: see StreamingRun.run().
    """
    batches = _find(config, keys)
    if all(batch.closed is not None for batch in batches):
        if len(keys) == 1 and batches[0].opened is None:
            # The sensor launched this run before the number of lanes changed, and it starts after that.
            log(f"Batch {keys[0]} was closed before its first event, because LANES had changed. Nothing is left to do.")
            return Outcome(False, str(Ending.LANES))
        outcome = _replay_all(config, keys, log, engine)
        confirm()
        return outcome
    batch = _require_one(batches)
    run = RunContext(
        config=config,
        batch=batch.batch,
        run_id=run_id,
        log=log,
        lane=batch.reads,
        limits=limits,
        make_producer=make_producer,
    )
    return _fill(run, engine, confirm)


def _find(config: StreamConfig, keys: Sequence[str]) -> list[Batch]:
    """Return the batches with these keys, in the same order.

    Raises:
        UnknownBatchError: the ledger does not know a key.
    """
    with connect(config.dsn, application_name="churn plan") as connection:
        found = {key: stream_batches.find_batch(connection, key) for key in keys}
    unknown = [key for key, batch in found.items() if batch is None]
    if unknown:
        raise UnknownBatchError(
            f"Not in the ledger: {', '.join(unknown)}. Batch keys are planned by the sensor; a key typed by hand holds "
            f"no offsets. Choose a partition that is listed."
        )
    return [batch for batch in found.values() if batch is not None]


def _require_one(batches: Sequence[Batch]) -> Batch:
    """Return the only one of these batches, of which at least one is not closed.

    Raises:
        ReplayError: there are several.
    """
    if len(batches) > 1:
        unclosed = [batch.batch for batch in batches if batch.closed is None]
        raise ReplayError(
            f"Still open or never opened: {', '.join(unclosed)}. A run over several batches replays closed ones only; "
            f"leave these out. Nothing was changed."
        )
    return batches[0]


def _fill(run: RunContext, engine: ScoringEngine | None, confirm: Callable[[], None]) -> Outcome:
    """Stream into the batch of the run, or let the engine score the backlog into it."""
    with translate_kafka_errors(run.config.kafka.client):
        result = StreamingRun(run, confirm=confirm).run() if engine is None else BacklogRun(run, engine).run()
    # The lock is free by now: the next run streams while this one explains the rest of its own batch.
    late = explain_batch(run.config, run.batch, run.log)
    confirm()
    return _backlog(result, run.log) if isinstance(result, BacklogResult) else _stream(result, late, run.log)


def _replay_all(
    config: StreamConfig, keys: Sequence[str], log: Callable[[str], None], engine: ScoringEngine | None
) -> Outcome:
    replaced = 0
    for key in keys:
        result = replay(config, key, log, engine=engine)
        replaced += result.replaced
        explain_batch(config, key, log)
        log(f"Replayed {key}: {result}.")
    return Outcome(True, "replayed", {"mode": "replay", "rows_replaced": replaced})


def _backlog(result: BacklogResult, log: Callable[[str], None]) -> Outcome:
    if result.ending is not None or result.events == 0:
        note = "no events are waiting" if result.ending in (None, Ending.IDLE) else str(result.ending)
        log(f"Nothing was scored: {note}.")
        return Outcome(False, note)
    log(f"Scored {result.events:,} events of the backlog, and published {result.published:,} predictions.")
    return Outcome(True, "scored a backlog", {"mode": "backlog", "published": result.published})


def _stream(result: StreamResult, explained_late: int, log: Callable[[str], None]) -> Outcome:
    log(
        f"Ended by {result.ending}: {result.commits} commits, {result.published} predictions published, "
        f"{result.recovered} published for a predecessor, waited {result.waited_seconds:.1f} s for the lock."
    )
    # The sensor materializes a batch that another run closed, once, however much of it this run has committed.
    if result.commits == 0 or result.ending is Ending.CLOSED:
        note = "no events arrived" if result.ending is Ending.IDLE else str(result.ending)
        return Outcome(False, note)
    metadata: dict[str, str | int | float] = {}
    for percent in (50, 99):
        seconds = result.latency(percent)
        if seconds is not None:
            metadata[f"event_to_row_p{percent}_ms"] = round(seconds * 1000, 1)
    metadata |= {
        "mode": "stream",
        "ended_by": str(result.ending),
        "published": result.published,
        "published_for_predecessor": result.recovered,
        "explained_after_closing": explained_late,
    }
    return Outcome(True, "streamed", metadata)
