"""The base of every error that a user of the platform can act on."""


class PlatformError(Exception):
    """An error with a problem, a remedy and details. Commands show each on its own line, logs one text."""

    # Whether the same operation may succeed later without any change. transience.py decides about retries.
    transient: bool = False

    def __init__(self, problem: str, *, remedy: str = "", details: str = "") -> None:
        """Describe the error.

        Args:
            problem: what is wrong: the thing, its value and what was expected.
            remedy: what to do about it, in full sentences; empty where the problem already says it.
            details: what helps to understand it, such as the last lines of a log; may span lines.
        """
        super().__init__("\n".join(filter(None, (f"{problem} {remedy}".rstrip(), details))))
        self.problem = problem
        self.remedy = remedy
        self.details = details
