"""What goes wrong with the embedded servers, said so that a person can act."""


class StackError(Exception):
    """A part of the stack cannot be prepared, started or stopped."""

    def __init__(self, problem: str, *, remedy: str, details: str = "") -> None:
        """Name the problem and the way out.

        Args:
            problem: what is wrong: the thing, its value and what was expected.
            remedy: what to do about it.
            details: whatever helps to understand it, such as the last lines of a log; may span lines.
        """
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy
        self.details = details

    def __str__(self) -> str:
        """Remedy first: it is what a reader needs."""
        return "\n".join(filter(None, (self.remedy, self.problem, self.details)))


class PortTakenError(StackError):
    """Another process listens where a server of ours should."""

    def __init__(self, part: str, title: str, problem: str) -> None:
        """Name the part and what is wrong.

        Args:
            part: whose port it is.
            title: of the part, for people.
            problem: which port, and which process.
        """
        super().__init__(
            problem, remedy="End that process; or run 'churn down', then 'churn up': it takes another port."
        )
        self.part = part
        self.title = title
