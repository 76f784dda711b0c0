"""The conditions that operators are told about, each defined once: name, meaning, what to do, and how it is found.

The worker's duty in operator_duty.py compares them with what was found before. The commands and the reference page
show the same definitions.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, TypeAlias

from churn_platform.alerts.evidence import Evidence
from churn_platform.database import alert_outbox, challengers, dagster_tables, model_versions, stream_batches

# A failed run is reported for at least this long, even if the next one works at once.
FAILED_RUN_SECONDS: Final = 600.0
# The share of dead letters is that of the batches opened within this time.
DEAD_LETTER_MINUTES: Final = 15
# With fewer, one bad event of five would be a share of 20 %.
LEAST_DEAD_LETTERS: Final = 10
# A message that is being sent for longer has a sender that hangs: the longest time-outs are two minutes.
SENDING_SECONDS: Final = 600.0
# A daemon that is started together with the worker has this long until its first heartbeat. Until then, the latest
# heartbeat is that of the daemon before, so each start after a longer stop would be an alarm.
DAEMON_START_SECONDS: Final = 120.0
# A canary that was rolled back is reported for this long, unless another one is started.
CANARY_HOURS: Final = 24.0


Severity: TypeAlias = Literal["critical", "warning"]


@dataclass(frozen=True)
class Finding:
    """One thing that has the problem, such as a job or a disk, and the measurement."""

    subject: str
    details: str


@dataclass(frozen=True, kw_only=True)
class Condition:
    """A problem of the platform that operators are told about.

    Attributes:
        name: short, in lower case with hyphens.
        meaning: what is wrong, in a sentence.
        remedy: what to do, in full sentences.
        setting: variable of the setting that is its bound; empty if it has none.
        severity: "critical" if events or messages do not get through meanwhile, else "warning".
        every: seconds between two evaluations.
        after: seconds from the start of the worker to the first evaluation. Until then, it neither begins nor ends.
        find: returns what has the problem now; nothing if all is well.
    """

    name: str
    meaning: str
    remedy: str
    setting: str = ""
    severity: Severity = "warning"
    every: float = 10.0
    after: float = 0.0
    find: Callable[[Evidence], Iterable[Finding]]


def _stalled(evidence: Evidence) -> Iterator[Finding]:
    lag = evidence.stream.lag
    for lane, seconds in evidence.stream.stalled.items():
        if lag is not None and seconds >= evidence.bounds.stalled_seconds:
            yield Finding(
                lag.topic.name if lane.of == 1 else f"{lag.topic.name}, {lane}",
                f"{lag.waiting_of(lane):,} events wait, and none was read for {seconds:.0f} s.",
            )


def _lagging(evidence: Evidence) -> Iterator[Finding]:
    lag = evidence.stream.lag
    if lag is not None and lag.waiting > evidence.bounds.max_lag:
        yield Finding(lag.topic.name, f"{lag.waiting:,} events wait; the bound is {evidence.bounds.max_lag:,}.")


def _kafka_unreachable(evidence: Evidence) -> Iterator[Finding]:
    reading = evidence.stream
    if reading.problem and reading.unreachable_seconds >= evidence.bounds.stalled_seconds:
        yield Finding("", f"No answer for {reading.unreachable_seconds:.0f} s. {reading.problem}")


def _failed_runs(evidence: Evidence) -> Iterator[Finding]:
    if evidence.has_dagster:
        for run in dagster_tables.failed_runs(evidence.connection, recent_seconds=FAILED_RUN_SECONDS):
            yield Finding(run.job, f"Run {run.run_id} failed. {run.reason}".rstrip())


def _failed_checks(evidence: Evidence) -> Iterator[Finding]:
    if evidence.has_dagster:
        for check in evidence.checks.failed(evidence.connection):
            asset = "/".join(json.loads(check.asset_key))
            yield Finding(f"{check.check_name} of {asset}", f"It failed in run {check.run_id}.")


def _daemon_silent(evidence: Evidence) -> Iterator[Finding]:
    seconds = dagster_tables.seconds_since_heartbeat(evidence.connection) if evidence.has_dagster else None
    if seconds is not None and seconds > evidence.bounds.daemon_silent_seconds:
        yield Finding("", f"The latest heartbeat was {_duration(seconds)} ago.")


def _dead_letters(evidence: Evidence) -> Iterator[Finding]:
    now = datetime.now(UTC)
    events, dead = stream_batches.count_events_between(
        evidence.connection, now - timedelta(minutes=DEAD_LETTER_MINUTES), now + timedelta(minutes=1)
    )
    if dead >= LEAST_DEAD_LETTERS and dead / events > evidence.bounds.max_dead_letters:
        yield Finding(
            "",
            f"{dead:,} of {events:,} events in the batches of the last {DEAD_LETTER_MINUTES} minutes are dead letters, "
            f"{dead / events:.1%}; the bound is {evidence.bounds.max_dead_letters:.1%}.",
        )


def _old_champion(evidence: Evidence) -> Iterator[Finding]:
    champion = model_versions.champion(evidence.connection)
    if champion is not None:
        days = (datetime.now(UTC) - champion.registered_at).total_seconds() / 86_400
        if days > evidence.bounds.champion_max_days:
            yield Finding(
                "",
                f"Model version {champion.version} was trained {days:.0f} days ago; the bound is "
                f"{evidence.bounds.champion_max_days:g} days.",
            )


def _canary_rolled_back(evidence: Evidence) -> Iterator[Finding]:
    canary = challengers.rolled_back(evidence.connection, hours=CANARY_HOURS)
    if canary is not None:
        yield Finding(f"version {canary.model_version}", canary.reason or "")


def _full_disks(evidence: Evidence) -> Iterator[Finding]:
    for setting, share in evidence.free_shares.items():
        if share < evidence.bounds.disk_min_free:
            yield Finding(
                f"disk of {setting}", f"{share:.1%} of it is free; the bound is {evidence.bounds.disk_min_free:.1%}."
            )


def _unsettled_messages(evidence: Evidence) -> Iterator[Finding]:
    for each in alert_outbox.unsettled(evidence.connection, sending_seconds=SENDING_SECONDS):
        counts = ((each.failed, "failed"), (each.in_doubt, "in doubt"), (each.sending, "being sent for too long"))
        yield Finding(f"target {each.target}", ", ".join(f"{count:,} {what}" for count, what in counts if count) + ".")


# Kafka last: the others are decided before its time-outs.
CONDITIONS: Final = (
    Condition(
        name="daemon-silent",
        meaning="Dagster's daemon has no heartbeat, so no run is launched: no replay, no metrics, no successor of the "
        "streaming run.",
        remedy="Start it: 'churn status' shows the state of the embedded one, 'churn logs daemon' its log.",
        setting="DAEMON_SILENT_SECONDS",
        severity="critical",
        after=DAEMON_START_SECONDS,
        find=_daemon_silent,
    ),
    Condition(
        name="run-failed",
        meaning="The latest run of a job failed, or was ended because it lasted too long, and none has worked since.",
        remedy="Open the run in Dagster's UI: its last error names the cause. Correct it and run the job again.",
        find=_failed_runs,
    ),
    Condition(
        name="check-failed",
        meaning="The latest execution of an asset check failed as an error: data that breaks a rule or has drifted far "
        "from the training data, or low live performance.",
        remedy="Open the check on its asset's page in Dagster's UI. Its metadata shows what was expected and found.",
        find=_failed_checks,
    ),
    Condition(
        name="dead-letters",
        meaning="A large share of the latest events cannot be scored.",
        remedy="'churn dlq list --since 1h' counts them by reason. Correct their producer, then 'churn dlq retry'.",
        setting="DEAD_LETTER_MAX_SHARE",
        every=60.0,
        find=_dead_letters,
    ),
    Condition(
        name="champion-old",
        meaning="The champion was trained long ago.",
        remedy="Run training_job on a current customers file, or turn on its schedule.",
        setting="CHAMPION_MAX_DAYS",
        every=60.0,
        find=_old_champion,
    ),
    Condition(
        name="canary-rolled-back",
        meaning="The latest canary was ended within the last day, because it left a bound or could not be used. The "
        "champion scores all customers.",
        remedy="Its reason names the bound: CANARY_MAX_ERRORS or CANARY_MAX_PSI. 'churn model compare' shows how the "
        "version scores. Start another canary when it is corrected.",
        find=_canary_rolled_back,
    ),
    Condition(
        name="disk-full",
        meaning="A disk of the platform fills up. PostgreSQL and Kafka stop when theirs is full.",
        remedy="Free space, or enlarge the disk. RETENTION_DAYS and ARCHIVE_DAYS decide how much is kept. The disks of "
        "your own servers are not watched.",
        setting="DISK_MIN_FREE",
        severity="critical",
        every=60.0,
        find=_full_disks,
    ),
    Condition(
        name="messages-unsettled",
        meaning="Messages of a target failed, or may or may not have arrived.",
        remedy="'churn alerts list' shows them. Then 'churn alerts retry', 'confirm' or 'dismiss'.",
        find=_unsettled_messages,
    ),
    Condition(
        name="stream-stalled",
        meaning="Events wait, and none is read.",
        remedy="'churn status' shows whether a run is live and whether there is a champion, and names other causes.",
        setting="STREAM_STALLED_SECONDS",
        severity="critical",
        find=_stalled,
    ),
    Condition(
        name="stream-lag",
        meaning="Many events wait: the stream cannot keep up, was paused, or has just started.",
        remedy="'churn status' shows the rate and the lag. Resume a paused stream, or wait until it has caught up.",
        setting="STREAM_MAX_LAG",
        find=_lagging,
    ),
    Condition(
        name="kafka-unreachable",
        meaning="Kafka does not answer, so nothing is read.",
        remedy="Start Kafka, or correct its address and login: 'churn status' shows the reason.",
        setting="STREAM_STALLED_SECONDS",
        severity="critical",
        find=_kafka_unreachable,
    ),
)


def _duration(seconds: float) -> str:
    return (
        f"{seconds / 3600:.0f} h"
        if seconds >= 7200
        else f"{seconds / 60:.0f} min"
        if seconds >= 120
        else f"{seconds:.0f} s"
    )
