"""Times and sizes that bound a streaming run. Tests pass shorter ones; what a user may choose is in config.py."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of one streaming run. Times are in seconds."""

    # The lock is a lease. An idle session sends a heartbeat this often, ...
    heartbeat_seconds: float = 3.0
    # ... and PostgreSQL ends a session that has been silent for this long, and so frees its lock: the process is frozen
    # or disconnected.
    lease_seconds: int = 15
    # The same for a process that is frozen in the middle of a statement. No statement of a commit takes as long.
    statement_seconds: int = 60
    # A live run checks this often whether another environment has taken over. A check costs 6 ms. The command that
    # takes over is refused within a minute of the last prediction, so a run that misses one check still ends in time.
    guard_seconds: float = 5.0

    # A consumer that has returned nothing for this long, while the topic holds more, is replaced.
    stalled_seconds: float = 15.0

    # Bytes of events in one commit: 10,000 events of a megabyte each would not fit into memory.
    commit_bytes: int = 32 * 1024 * 1024
    # After this long without an event, positions move past the transaction markers after the last event.
    quiet_seconds: float = 1.0
    # A failed tenure waits this long for its writer, then leaves the connection to the lease.
    writer_stop_seconds: float = 5.0

    # Time-out of a call to Kafka that publishes.
    kafka_seconds: float = 15.0
    # librdkafka may never return from a call: if the coordinator goes away at the wrong moment,
    # send_offsets_to_transaction() waits forever. A call is given up this long after its time-out.
    kafka_grace_seconds: float = 5.0
    # Maximum number of predictions queued for Kafka. Beyond it, the next commit waits, so that memory stays bounded.
    queued_predictions: int = 200_000
    # Queued commits are published together, in transactions of about this many predictions.
    transaction_predictions: int = 50_000

    # High-risk predictions are collected for this long before they are explained. Otherwise each commit would be
    # followed by a second one.
    explain_gather_seconds: float = 1.0
    # The explainer checks this often for rows that other runs left, and whether PostgreSQL is back.
    explain_poll_seconds: float = 5.0
    explain_stop_seconds: float = 2.0

    # Pauses before a run tries again after a transient fault: each is twice the one before.
    first_pause_seconds: float = 0.5
    longest_pause_seconds: float = 3.0
    # After this long without a commit, a run that keeps failing ends: Dagster shows it as failed, and the sensor
    # launches another one.
    give_up_seconds: float = 600.0
    # After holding the lock this long, reset the retry budget.
    healthy_tenure_seconds: float = 60.0


DEFAULT_LIMITS: Final = Limits()
