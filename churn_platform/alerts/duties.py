"""The duties of the resident worker that belong to this package, as the settings describe them."""

from pathlib import Path

from churn_platform.alerts.evidence import Bounds, Evidence, StreamWatch
from churn_platform.alerts.operator_duty import OperatorConditions
from churn_platform.alerts.outbox import AlertOutbox, CallList
from churn_platform.alerts.policy import AlertPolicy, RetryPolicy
from churn_platform.alerts.sending import AlertSending
from churn_platform.alerts.targets import targets_of
from churn_platform.settings import Settings


def alert_duties(settings: Settings, call_list: CallList) -> list[AlertOutbox | AlertSending | OperatorConditions]:
    """Return the duties: one that fills the outbox, one for each target, and one for operator conditions.

    Args:
        settings: of this environment.
        call_list: reads whom the team should call.

    Raises:
        TargetError: the address of a target cannot be used.
        SettingsError: Kafka is neither configured nor up.
    """
    targets, policy = targets_of(settings), AlertPolicy.from_settings(settings)
    retries = RetryPolicy(attempts=settings.alerts.attempts)
    keep_days = settings.lifecycle.archive_days
    return [
        AlertOutbox(targets.team, policy, call_list, keep_days=keep_days),
        *(AlertSending(target, policy, retries) for target in targets.by_name.values()),
        OperatorConditions(
            evidence_of(settings),
            targets.operators,
            environment=settings.platform.environment_name,
            keep_days=keep_days,
        ),
    ]


def evidence_of(settings: Settings) -> Evidence:
    """Return what operator conditions look at.

    Raises:
        SettingsError: Kafka is neither configured nor up.
    """
    folders = {"CHURN_LOCAL": settings.platform.local}
    if "://" not in settings.platform.artifacts_root:
        folders["CHURN_ARTIFACTS"] = Path(settings.platform.artifacts_root)
    stream = StreamWatch(
        settings.kafka_client,
        settings.topics.events,
        group=settings.stream.group,
        outcomes_topic=settings.topics.outcomes,
    )
    return Evidence(Bounds.from_settings(settings), stream, folders)
