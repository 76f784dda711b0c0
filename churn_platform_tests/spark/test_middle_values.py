"""The median by counts of parts is the median of all values, whatever the parts and the bounds."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from churn_platform.spark.middle_values import EVERYTHING, Bounds, count_part, middle_values

VALUES = st.lists(st.integers(-9, 9).map(float) | st.floats(-1e6, 1e6), min_size=1, max_size=60)


def by_parts(values: list[float], bounds: Bounds, parts: int) -> tuple[int, Counter[float]]:
    """Return the sums of what each part counts."""
    below, within = 0, Counter[float]()
    for part in np.array_split(np.array(values), parts):
        counted = count_part(part, bounds)
        below += counted.below
        within.update(counted.within)
    return below, within


@given(values=VALUES, parts=st.integers(1, 7))
def test_it_is_the_median_of_all_values(values: list[float], parts: int) -> None:
    ordered = sorted(values)
    middle = (ordered[(len(values) - 1) // 2], ordered[len(values) // 2])

    assert middle_values(len(values), *by_parts(values, EVERYTHING, parts)) == middle
    assert middle_values(len(values), *by_parts(values, Bounds(*middle), parts)) == middle


@pytest.mark.parametrize("bounds", [Bounds(0, 4), Bounds(6, 9), Bounds(20, 30), Bounds(-3, -1)])
def test_bounds_beside_the_median_are_noticed(bounds: Bounds) -> None:
    with pytest.raises(LookupError):
        middle_values(11, *by_parts([*map(float, range(11))], bounds, 3))
