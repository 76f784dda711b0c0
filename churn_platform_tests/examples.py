"""How many examples a property is tested with."""

from hypothesis import settings

REPEATABLE = "repeatable"  # the profile of `make test`
SHARE = 4


def examples(full: int) -> int:
    """Return the number of examples of a property whose examples take long.

    Args:
        full: the number in `make test-all`, which draws new examples in each run. `make test` takes the same quarter of
            them each time.
    """
    return full // SHARE if settings.get_current_profile_name() == REPEATABLE else full
