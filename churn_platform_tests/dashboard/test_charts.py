"""The axes of charts: those over time show the whole time, and no tick twice."""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from churn_platform.dashboard.charts import Axis, Heading, Series, line_chart

NOW = datetime(2026, 11, 24, 9, 20, tzinfo=UTC)
HEADING = Heading("rate", "Events", "A few.")


def axis_of(x: Sequence[date], values: Sequence[float | None]) -> Mapping[str, Any]:
    """Return the layout of the x axis."""
    chart = line_chart(HEADING, x, [Series("Events", values)], x_title="Time", y=Axis("events"))
    layout: Any = chart.figure["layout"]
    axis: Mapping[str, Any] = layout["xaxis"]
    return axis


def test_an_axis_shows_the_times_without_a_value_as_well() -> None:
    minutes = [NOW + timedelta(minutes=number) for number in range(60)]

    axis = axis_of(minutes, [None] * 59 + [5.0])

    first, last = map(datetime.fromisoformat, axis["range"])
    assert timedelta(0) < minutes[0] - first == last - minutes[-1] < timedelta(minutes=2)


@pytest.mark.parametrize("seconds", [0, 1, 30])
def test_an_axis_of_moments_shows_several_minutes(seconds: int) -> None:
    axis = axis_of([NOW, NOW + timedelta(seconds=seconds)], [1.0, 2.0])

    first, last = map(datetime.fromisoformat, axis["range"])
    assert last - first == timedelta(minutes=10)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_few_days_have_one_tick_each(count: int) -> None:
    days = [NOW.date() + timedelta(days=number) for number in range(count)]

    axis = axis_of(days, [1.0] * count)

    assert axis["dtick"] == timedelta(days=1) / timedelta(milliseconds=1)
    first, last = map(datetime.fromisoformat, axis["range"])
    assert first.date() < days[0]
    assert last.date() >= days[-1]


def test_many_days_leave_the_ticks_to_plotly() -> None:
    axis = axis_of([NOW.date() + timedelta(days=number) for number in range(30)], [1.0] * 30)

    assert "dtick" not in axis


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([8.0, None, 70.0], [1, 2, 5, 10, 20, 50, 100, 200, 500]),
        ([30.0, 4e6], [1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7]),
        ([0.0, None], [1, 2, 5]),
    ],
)
def test_a_logarithmic_axis_has_as_many_ticks_as_there_is_room_for(
    values: Sequence[float | None], expected: Sequence[float]
) -> None:
    axis = Axis("ms", ticks=",", is_logarithmic=True)
    chart = line_chart(HEADING, range(len(values)), [Series("Latency", values)], x_title="Place", y=axis)
    layout: Any = chart.figure["layout"]
    assert layout["yaxis"]["tickvals"] == expected
