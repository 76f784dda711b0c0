"""When a duty leaves the stream's commits alone, so that a backlog is worked off first."""

from churn_platform.worker.pace import Pace


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def nothing_in_kafka() -> int:
    return 0


def test_the_first_look_never_waits_because_it_knows_no_rate() -> None:
    assert not Pace(monotonic=Clock()).waits(10_000_000, nothing_in_kafka)


def test_a_duty_waits_while_a_backlog_comes_and_follows_when_it_has_come() -> None:
    clock = Clock()
    pace = Pace(backlog_rate=20_000, longest_wait=60, monotonic=clock)
    assert not pace.waits(0, nothing_in_kafka)
    for waiting in (180_000, 360_000, 540_000):
        clock.now += 2
        assert pace.waits(waiting, nothing_in_kafka)
    clock.now += 2
    assert not pace.waits(545_000, nothing_in_kafka)


def test_on_a_slow_machine_what_waits_in_kafka_tells_a_backlog_from_a_high_rate() -> None:
    clock = Clock()
    pace = Pace(backlog_rate=20_000, asking_rate=2_000, longest_wait=60, monotonic=clock)
    assert not pace.waits(0, nothing_in_kafka)
    clock.now += 2
    assert pace.waits(12_000, lambda: 500_000)
    clock.now += 2
    assert not pace.waits(24_000, lambda: 6_000)


def test_kafka_is_not_asked_at_an_ordinary_rate() -> None:
    clock, asked = Clock(), []

    def in_kafka() -> int:
        asked.append(clock.now)
        return 1_000_000

    pace = Pace(backlog_rate=20_000, asking_rate=2_000, longest_wait=60, monotonic=clock)
    for waiting in (0, 1_500, 3_000):
        clock.now += 1
        assert not pace.waits(waiting, in_kafka)
    assert not asked


def test_an_ordinary_rate_is_followed_at_once_however_long_the_pause_was() -> None:
    clock = Clock()
    pace = Pace(backlog_rate=20_000, longest_wait=60, monotonic=clock)
    assert not pace.waits(0, nothing_in_kafka)
    for seconds in (0.01, 2, 4, 300):
        clock.now += seconds
        assert not pace.waits(int(5_000 * max(1, seconds)), nothing_in_kafka)
        pace.followed(0)


def test_in_a_backlog_of_minutes_the_duty_follows_once_a_minute() -> None:
    clock = Clock()
    pace = Pace(backlog_rate=20_000, longest_wait=60, monotonic=clock)
    assert not pace.waits(0, nothing_in_kafka)
    pace.followed(0)
    waiting, followed = 0, []
    for _ in range(150):
        clock.now += 2
        waiting += 200_000
        if not pace.waits(waiting, nothing_in_kafka):
            followed.append(clock.now - 100)
            waiting -= 50_000
            pace.followed(waiting)
    assert followed == [60, 120, 180, 240, 300]


def test_a_backlog_after_a_quiet_hour_is_waited_for_like_any_other() -> None:
    clock = Clock()
    pace = Pace(backlog_rate=20_000, longest_wait=60, monotonic=clock)
    for _ in range(1_800):
        clock.now += 2
        assert not pace.waits(0, nothing_in_kafka)
    for waiting in range(200_000, 5_800_000, 200_000):
        clock.now += 2
        assert pace.waits(waiting, nothing_in_kafka)


def test_offsets_that_a_run_leaves_are_not_new_ones_at_the_next_look() -> None:
    clock = Clock()
    pace = Pace(backlog_rate=20_000, longest_wait=60, monotonic=clock)
    assert not pace.waits(1_000_000, nothing_in_kafka)
    pace.followed(800_000)
    assert not pace.waits(801_000, nothing_in_kafka)
