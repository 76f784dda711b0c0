"""Which commits share a Kafka transaction."""

import pytest

from churn_platform.stream.publish_pace import PublishPace


def transactions(commits: list[float], *, interval: float, linger: float) -> list[tuple[float, list[float]]]:
    """Return when each transaction begins and when its commits came, for commits that come at these seconds."""
    pace, begun, waiting = PublishPace(interval=interval, linger=linger), [], []
    for at, following in zip(commits, [*commits[1:], float("inf")], strict=True):
        waiting.append(at)
        begins = at + pace.seconds_left(at)
        if begins < following:
            pace.begin(begins)
            begun.append((begins, waiting))
            waiting = []
    return begun


@pytest.mark.parametrize("late", [-0.004, 0.0, 0.001, 0.004])
def test_transactions_begin_with_a_commit_and_have_as_many_as_come_in_an_interval(late: float) -> None:
    commits = [10 + each * (0.03 + late) for each in range(100)]
    begun = transactions(commits, interval=0.06, linger=0.03)
    assert {len(waited) for _, waited in begun[1:-1]} == {2}
    assert all(at == waited[-1] for at, waited in begun[:-1])


def test_a_commit_that_no_other_follows_waits_little_longer_than_the_interval() -> None:
    (_, first), (at, second) = transactions([10.0, 10.03], interval=0.06, linger=0.03)
    assert (first, second) == ([10.0], [10.03])
    assert at == pytest.approx(10.06 + 0.015)


def test_rare_commits_wait_for_nothing() -> None:
    commits = [10.0, 11.0, 12.0]
    assert transactions(commits, interval=0.06, linger=0.03) == [(at, [at]) for at in commits]


def test_without_an_interval_each_commit_has_its_own_transaction() -> None:
    commits = [10 + each * 0.01 for each in range(10)]
    assert transactions(commits, interval=0.0, linger=0.01) == [(at, [at]) for at in commits]
