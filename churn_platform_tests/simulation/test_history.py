"""Events of the two weeks before a demonstration: valid, in order, on every day, with a rising share of leavers."""

import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import msgspec
import pytest

from churn_platform.database.metrics import windows
from churn_platform.decoding.events import event_decoder
from churn_platform.schema.reader import load_customers
from churn_platform.schema.toml_file import customers_file, load_schema
from churn_platform.settings import PROJECT_ROOT
from churn_platform.simulation.history import DAYS, event_times, events
from churn_platform.simulation.producer import rows_of
from churn_platform_tests.decoding.test_events import message

NOW = datetime(2026, 11, 24, 9, 20, tzinfo=UTC)
COUNT = 20_000


@pytest.mark.parametrize("now", [NOW, NOW.replace(hour=0, minute=0), NOW.replace(hour=23, minute=59)])
def test_every_day_has_events_and_none_is_of_the_last_hour(now: datetime) -> None:
    times = event_times(now, count=COUNT, chance=random.Random(1))  # noqa: S311  no secret

    assert len(times) == COUNT
    assert times == sorted(times)
    assert times[-1] <= now - timedelta(hours=1)
    days = Counter(moment.date() for moment in times if moment.date() < now.date())
    assert sorted(days) == [now.date() - timedelta(days=ago) for ago in range(DAYS, 0, -1)]
    assert min(days.values()) > COUNT / DAYS / 4


def test_the_metrics_of_all_hours_are_one_run() -> None:
    hours = sorted(
        {
            moment.replace(minute=0, second=0, microsecond=0)
            for moment in event_times(NOW, count=COUNT, chance=random.Random(1))  # noqa: S311  no secret
        }
    )

    assert windows(hours, joined_within=timedelta(hours=12)) == [(hours[0], hours[-1])]


@pytest.mark.parametrize("name", ["bank", "subscribers"])
def test_events_are_valid_and_more_customers_leave_later(name: str) -> None:
    file = PROJECT_ROOT / "data" / name / "schema.toml"
    schema = load_schema(file)
    rows = rows_of(load_customers(customers_file(file), schema).customers, schema)

    found = list(events(rows, schema, now=NOW, count=COUNT, chance=random.Random(1)))  # noqa: S311  no secret

    valid, dead_letters = event_decoder(schema).decode(
        [message(value, offset=number) for number, (_, value) in enumerate(found)],
        topic_id="topic",
        accepts_from=NOW - timedelta(days=DAYS + 1),
        accepts_until=NOW,
    )
    assert (len(valid), len(dead_letters)) == (COUNT, 0)
    decoded = [msgspec.json.decode(value) for _, value in found]
    assert [key for key, _ in found] == [str(event[schema.id]) for event in decoded]
    assert all(one["event_timestamp"] <= other["event_timestamp"] for one, other in pairwise(decoded))
    half = COUNT // 2
    before, after = (sum(event["true_churn_label"] for event in part) for part in (decoded[:half], decoded[half:]))
    assert 0 < before < after
