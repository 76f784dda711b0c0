"""When a run tries again after transient faults, and when it gives up."""

from dataclasses import replace

from churn_platform.stream.limits import DEFAULT_LIMITS
from churn_platform.stream.streaming_run import RetryBudget

LIMITS = replace(DEFAULT_LIMITS, first_pause_seconds=0.5, longest_pause_seconds=3.0, give_up_seconds=600.0)


def test_pauses_double_up_to_the_longest() -> None:
    budget = RetryBudget(LIMITS)

    pauses = [budget.next_pause(float(now), has_progressed=False) for now in range(5)]

    assert pauses == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert budget.attempts == 5


def test_a_run_that_only_fails_gives_up() -> None:
    budget = RetryBudget(LIMITS)

    assert budget.next_pause(100.0, has_progressed=False) is not None
    assert budget.next_pause(699.0, has_progressed=False) is not None
    assert budget.next_pause(700.0, has_progressed=False) is None


def test_progress_resets_the_budget() -> None:
    budget = RetryBudget(LIMITS)
    budget.next_pause(0.0, has_progressed=False)
    budget.next_pause(599.0, has_progressed=False)

    assert budget.next_pause(700.0, has_progressed=True) == 0.5
    assert budget.attempts == 1
    assert budget.next_pause(1_200.0, has_progressed=False) == 1.0
