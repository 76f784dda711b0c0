"""Which field a reason is about."""

import pytest

from churn_platform.decoding.reasons import named_field


@pytest.mark.parametrize(
    ("reason", "field"),
    [
        ("Age: expected a number from 18 to 120 or null, got 17.", "Age"),
        ("Age in data: expected a number from 18 to 120 or null, got 5.", "Age"),
        ("Age of account is missing. Names are case-sensitive; found: Age.", "Age of account"),
        ("Age holds U+0000, which PostgreSQL cannot store as text.", "Age"),
        ("Ages: expected a number.", None),
        ("Not JSON: invalid character at byte 0, near 'hello'.", None),
        ("The value is a number. An event is a JSON object.", None),
        (r"a\u0000b: expected 0 or 1, got 2.", "a\0b"),
    ],
)
def test_a_reason_begins_with_the_field(reason: str, field: str | None) -> None:
    assert named_field(reason, ("Age", "Age of account", "a\0b")) == field
