"""A database that was restored to an earlier state is reconciled with Kafka: nothing is lost or published twice."""

from collections import Counter
from collections.abc import Sequence

import pytest

from churn_platform.environments.exceptions import LedgerBehindError
from churn_platform.local.stack import Stack
from churn_platform.operations import status
from churn_platform.operations.recovery.recover import Recovery, recover
from churn_platform.operations.verification.verify import check_invariants
from churn_platform_tests.operations.recovery.restoring import copy_of, restored
from churn_platform_tests.stream.streams import Stream, event


def run(stream: Stream) -> Recovery:
    """Recover the stream."""
    return recover(stream.config, lambda _step, _count: None)


def violations(stream: Stream) -> list[str]:
    """Return the violations of all invariants of the stream."""
    return [each for invariant in check_invariants(stream.config) for each in invariant.violations]


def twice(ids: Sequence[str]) -> list[str]:
    """Return the ids that occur more than once."""
    return [each for each, count in Counter(ids).items() if count > 1]


@pytest.mark.slow
def test_lost_events_are_scored_again_and_published_once(stack: Stack, stream: Stream) -> None:
    stream.send([event(number) for number in range(9)])
    stream.stream()
    backup = copy_of(stack, stream)
    stream.send([event(number) for number in range(9, 30)])
    stream.stream()
    published = stream.published_ids()

    with restored(stream, backup) as again:
        with pytest.raises(LedgerBehindError, match="churn recover"):
            again.stream()
        found = run(again)

        assert (found.reconciled.predictions, found.comparison.scored) == (21, 0)
        assert sorted(found.reconciled.published) == [0, 1, 2]
        assert violations(again) == []
        assert not status.collect_status(again.config).problems
        again.send([event(number) for number in range(30, 36)])
        assert again.stream().events == 27
        assert again.table_ids() == again.published_ids()
        assert len(again.published_ids()) == len(published) + 6
        assert violations(again) == []
        assert run(again).comparison.scored == 21
        assert run(again).comparison.other_score == 0
