"""Sessions and the limits of failed logins, with a clock that the tests move."""

from dataclasses import dataclass

from churn_platform.dashboard.sessions import FAILURE_SECONDS, MOST_SESSIONS, MOST_WATCHED, FailedLogins, Sessions
from churn_platform.dashboard.users import User

ERIKA = User("erika", "retention")


@dataclass
class Clock:
    """A clock that stands still until it is moved."""

    seconds: float = 1_000.0

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self.seconds


def test_a_session_ends_after_its_time() -> None:
    clock = Clock()
    sessions = Sessions(60, monotonic=clock)
    cookie, session = sessions.begin(ERIKA)

    assert sessions.find(cookie) == session
    clock.seconds += 60
    assert sessions.find(cookie) is None


def test_a_session_that_was_ended_is_gone_and_others_stay() -> None:
    sessions = Sessions(60)
    first, _ = sessions.begin(ERIKA)
    second, _ = sessions.begin(ERIKA)

    sessions.end(first)

    assert sessions.find(first) is None
    assert sessions.find(second) is not None
    assert sessions.find("") is None


def test_cookies_and_tokens_are_long_and_never_the_same() -> None:
    sessions = Sessions(60)
    found = [sessions.begin(ERIKA) for _ in range(100)]
    secrets = {cookie for cookie, _ in found} | {session.token for _, session in found}

    assert len(secrets) == 200
    assert min(len(each) for each in secrets) >= 43  # 256 bits in base64
    assert not [session for _, session in found if session.token in repr(session)]


def test_of_too_many_sessions_the_oldest_end() -> None:
    sessions = Sessions(60)
    first, _ = sessions.begin(ERIKA)
    for _ in range(MOST_SESSIONS):
        last, _ = sessions.begin(ERIKA)

    assert sessions.find(first) is None
    assert sessions.find(last) is not None


def test_after_too_many_failures_one_has_to_wait() -> None:
    clock = Clock()
    failed = FailedLogins(monotonic=clock)
    limits = {"name erika": 3}
    for _ in range(3):
        assert failed.begin(limits) == 0
        clock.seconds += 10

    assert failed.begin(limits) == FAILURE_SECONDS - 30
    assert failed.begin({"name max": 3}) == 0
    clock.seconds += FAILURE_SECONDS - 30
    assert failed.begin(limits) == 0, "the first failure was long ago"
    assert failed.begin(limits) == 10, "the second was not"


def test_an_attempt_that_may_not_be_made_is_not_counted() -> None:
    clock = Clock()
    failed = FailedLogins(monotonic=clock)
    assert failed.begin({"name erika": 1, "address a": 2}) == 0
    for _ in range(10):
        assert failed.begin({"name erika": 1, "address a": 2}) > 0

    assert failed.begin({"name max": 1, "address a": 2}) == 0
    assert failed.begin({"name eve": 1, "address a": 2}) > 0, "the address has failed twice"


def test_success_is_not_counted_as_a_failure() -> None:
    failed = FailedLogins()
    failed.begin({"name": 2, "address": 2})

    failed.begin({"name": 2, "address": 2})
    failed.forget("name")
    failed.take_back("address")

    assert failed.begin({"name": 1}) == 0
    assert failed.begin({"address": 2}) == 0, "of the two attempts one had failed"
    assert failed.begin({"address": 2}) > 0


def test_the_number_of_names_that_are_remembered_is_limited() -> None:
    failed = FailedLogins()
    for number in range(MOST_WATCHED + 1):
        failed.begin({f"name {number}": 1})

    assert failed.begin({"name 0": 1}) == 0, "the oldest was forgotten"
    assert failed.begin({f"name {MOST_WATCHED}": 1}) > 0
