"""What an error says: what is wrong, and what to do about it."""


class PlatformError(Exception):
    """An error that a person can do something about. Commands show its remedy first, logs show it as one text."""

    def __init__(self, problem: str, *, remedy: str = "") -> None:
        """Name the problem and the way out.

        Args:
            problem: what is wrong: the thing, its value and what was expected.
            remedy: what to do about it, in whole sentences; empty where the problem says it.
        """
        super().__init__(f"{problem} {remedy}".rstrip())
        self.problem = problem
        self.remedy = remedy
