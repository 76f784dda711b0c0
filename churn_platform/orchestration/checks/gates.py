"""Gates: rules that stop a training on data that no useful model can be made of."""

from typing import Final

from churn_platform.files.stored_frame import Frame
from churn_platform.modeling.file_attributes import FILE_ROWS, QUARANTINED_ROWS
from churn_platform.modeling.splitting import MIN_CUSTOMERS_OF_EACH_OUTCOME
from churn_platform.orchestration.checks.frames import Rule
from churn_platform.schema.customer_schema import CustomerSchema

# Of 50 customers ten are test. The metrics of fewer say nothing: the standard error of a share of ten is 16 points.
MIN_ROWS: Final = 50
# With a rarer outcome, predicting the other one for everybody is right in more than 99.5 %.
MIN_SHARE_OF_EACH_OUTCOME: Final = 0.005
# Few businesses lose every second customer in one period, but many files spell "left" the other way round.
MAX_CHURN_RATE: Final = 0.5


def quarantine_rule(schema: CustomerSchema) -> Rule:
    """Return the rule that no larger share of the file's rows is quarantined than the schema allows."""
    largest = schema.largest_quarantined_share

    def violations(frame: Frame) -> list[str]:
        rows, quarantined = int(frame.attrs.get(FILE_ROWS, len(frame))), int(frame.attrs.get(QUARANTINED_ROWS, 0))
        if quarantined <= largest * rows:
            return []
        return [
            f"{quarantined:,} of {rows:,} rows ({_percent(quarantined / rows)}) break a rule: quarantined_customers "
            f"lists them with the reasons"
        ]

    return Rule("quarantined_share", f"at most {_percent(largest)} of the rows are quarantined", violations)


def rows_rule() -> Rule:
    """Return the rule that there are enough customers to train and evaluate a model."""

    def violations(frame: Frame) -> list[str]:
        return [] if len(frame) >= MIN_ROWS else [f"{len(frame):,} customers"]

    return Rule("row_count", f"{MIN_ROWS:,} or more customers", violations)


def class_balance_rule(schema: CustomerSchema) -> Rule:
    """Return the rule that neither outcome is too rare."""

    def violations(frame: Frame) -> list[str]:
        left = int(frame[schema.target].sum())
        stayed = len(frame) - left
        rarer = min(left, stayed)
        if rarer >= MIN_CUSTOMERS_OF_EACH_OUTCOME and rarer >= MIN_SHARE_OF_EACH_OUTCOME * len(frame):
            return []
        return [f"{left:,} customers left ({schema.target} {schema.left}) and {stayed:,} stayed"]

    return Rule(
        "class_balance",
        f"{MIN_CUSTOMERS_OF_EACH_OUTCOME} or more customers of either outcome, and "
        f"{_percent(MIN_SHARE_OF_EACH_OUTCOME)} or more of all",
        violations,
    )


def churn_rate_rule(schema: CustomerSchema) -> Rule:
    """Return the rule that more customers stayed than left. It only warns: `left` of the schema may be wrong."""

    def violations(frame: Frame) -> list[str]:
        rate = float(frame[schema.target].mean()) if len(frame) else 0.0
        if rate <= MAX_CHURN_RATE:
            return []
        return [f"{_percent(rate)} left: check that {schema.target} {schema.left} means that a customer left"]

    return Rule("churn_rate", f"at most {_percent(MAX_CHURN_RATE)} of the customers left", violations, blocking=False)


def _percent(share: float) -> str:
    return f"{100 * share:.4g} %"
