"""Files of outcomes are checked by the customer schema."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from churn_platform.operations.outcome_sender import read_file
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform_tests.features.customers import BANK, SUBSCRIBERS

FROM = datetime(2026, 1, 1, tzinfo=UTC)
NOW = datetime.now(UTC).isoformat()


@pytest.mark.parametrize(
    ("schema", "good", "bad", "reason"),
    [
        (BANK, "15600001", "S-1", "expected a whole number from 0 to"),
        (SUBSCRIBERS, "15600001", "S-" + "1" * 30, "expected text of 1 to 20 characters"),
    ],
    ids=["bank", "subscribers"],
)
def test_ids_in_a_csv_file_have_the_kind_of_the_schema(
    schema: CustomerSchema, good: str, bad: str, reason: str, tmp_path: Path
) -> None:
    file = tmp_path / "outcomes.csv"
    file.write_text(f"{schema.id},true_churn_label,outcome_timestamp\n{good},1,{NOW}\n{bad},0,{NOW}\n")

    lines, wrong = read_file(file, schema, accepts_from=FROM)

    assert [line.key for line in lines] == [good]
    assert [line.number for line in wrong] == [3]
    assert reason in wrong[0].reason
