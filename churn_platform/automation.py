"""The sensors of watching: one looks what is due to be judged, one whether the judgement asks for a new model."""

from datetime import UTC, datetime, timedelta
from typing import Final

import dagster as dg

from churn_platform.assets.training_inputs import changes
from churn_platform.jobs import daily_watching_job, hourly_watching_job, outcomes_job, retraining_job
from churn_platform.partitions import day_key, hour_key
from churn_platform.resources.kafka import KafkaResource
from churn_platform.resources.mlflow import code_version
from churn_platform.resources.postgres import PostgresResource
from churn_platform.sensors import is_active, is_another_starting, window_request
from churn_platform.settings import settings

TICK_SECONDS: Final = 29  # the loop of the daemon turns every 5 s
RETRAINING_TICK_SECONDS: Final = 299
# The figures of a day change slowly, and its page is for people.
DAYS_PER_HOURS: Final = 6
SESSION: Final = "churn watching sensor"
WHY_TAG: Final = "churn/retraining"
LONGEST_TAG: Final = 500


@dg.sensor(
    jobs=[hourly_watching_job, daily_watching_job, outcomes_job],
    minimum_interval_seconds=TICK_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Launches the watching of hours and days that have changed, and the reading of outcomes that wait.",
)
def watching_sensor(
    context: dg.SensorEvaluationContext, postgres: PostgresResource, kafka: KafkaResource
) -> dg.SensorResult | dg.SkipReason:
    """Ask for what is due: level-triggered, so that nothing is missed by a run that failed.

    One run at a tick, and none while another process starts: watching is in no hurry, and the stream is.
    """
    from confluent_kafka import KafkaException

    from churn_platform.storage.metrics import midnight, windows
    from churn_platform.streaming.exceptions import StreamError
    from churn_platform.watching import lookups, outcomes

    every, since = settings().watching_seconds, _kept_since()
    today = datetime.now(UTC).date()
    with postgres.connect(SESSION) as connection:
        connection.autocommit = True
        hours = lookups.hours_to_judge(connection, at_most_every=every, since=since)
        days = set(lookups.days_to_judge(connection, at_most_every=DAYS_PER_HOURS * every, since=since))
        known = datetime.fromisoformat(context.cursor) if context.cursor else None
        newest = lookups.new_outcomes(connection, today, known=known)
        if newest is not None:
            days.add(today)
        waiting, problem = 0, ""
        try:
            waiting = outcomes.waiting(connection, kafka.admin(), settings().outcomes_topic)
        except (StreamError, KafkaException) as error:  # drift is judged all the same
            problem = f"; the topic {settings().outcomes_topic} cannot be read: {error}"
            context.log.warning(problem)
        wanted: list[dg.RunRequest] = []
        if waiting:
            wanted.append(dg.RunRequest(job_name=outcomes_job.name))
        for job_name, starts, joined_within, key in (
            (hourly_watching_job.name, hours, timedelta(hours=12), hour_key),
            (daily_watching_job.name, midnight(sorted(days)), timedelta(days=7), day_key),
        ):
            wanted += [
                window_request(job_name, key(first), key(last))
                for first, last in windows(starts, joined_within=joined_within)
            ]
        due = [request for request in wanted if not is_active(context.instance, str(request.job_name))]
        seen = f"{len(hours)} hours and {len(days)} days are due, {waiting} outcomes wait{problem}"
        if not due:
            return dg.SkipReason(f"{seen}{'; their runs are under way' if wanted else ''}.")
        if is_another_starting(context.instance, connection):
            return dg.SkipReason(f"{seen}. Another run is starting; theirs follow at the next tick.")
    days_follow = due[0].job_name == daily_watching_job.name
    cursor = newest.isoformat() if newest is not None and days_follow else context.cursor
    return dg.SensorResult(run_requests=due[:1], cursor=cursor)


@dg.sensor(
    job=retraining_job,
    minimum_interval_seconds=RETRAINING_TICK_SECONDS,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Asks for a new model when a feature is far off, or live performance too low; never while nothing "
    "has changed that it could learn from. Off until turned on.",
)
def retraining_sensor(
    context: dg.SensorEvaluationContext, postgres: PostgresResource
) -> dg.SensorResult | dg.SkipReason:
    """Ask once a day for each cause, by the run key; the run's tags say why."""
    from churn_platform.customers.reader import fingerprint
    from churn_platform.watching import lookups

    with postgres.connect(SESSION) as connection:
        crossings = lookups.crossings(
            connection, since=datetime.now(UTC).date() - timedelta(days=1), auc_loss=settings().live_auc_loss
        )
    if not crossings:
        return dg.SkipReason("No feature of the champion is far off, and its live performance is as expected.")
    why = "; ".join(crossing.words for crossing in crossings)
    path = settings().churn_raw_csv
    if not path.is_file():
        return dg.SkipReason(f"{why}. There is no customers file to train on: {path} (CHURN_RAW_CSV).")
    changed = changes(context.instance, revision=code_version(), file=fingerprint(path))
    if not changed:
        return dg.SkipReason(
            f"{why}. The customers file, the settings and the code are those of the latest model: training again would "
            f"make the same one. Put newer customers into {path}."
        )
    if is_active(context.instance, retraining_job.name):
        return dg.SkipReason(f"{why}. A training is under way.")
    first = crossings[0]
    return dg.SensorResult(
        run_requests=[
            dg.RunRequest(
                run_key=f"{first.day} {first.cause}",
                tags={WHY_TAG: why[:LONGEST_TAG], "churn/changed": "; ".join(changed)[:LONGEST_TAG]},
            )
        ]
    )


def _kept_since() -> datetime:
    """Hours before this have no drift any more: see maintenance."""
    return datetime.now(UTC) - timedelta(days=settings().archive_days)
