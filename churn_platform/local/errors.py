"""Errors of the embedded servers."""

from churn_platform.errors import PlatformError


class StackError(PlatformError):
    """A part of the stack cannot be prepared, started or stopped."""

    def __init__(self, problem: str, *, remedy: str, details: str = "") -> None:
        """Set the problem and the remedy.

        Args:
            problem: what is wrong: the thing, its value and what was expected.
            remedy: what to do about it.
            details: further help, such as the last lines of a log; may span lines.
        """
        super().__init__(problem, remedy=remedy, details=details)


class PortTakenError(StackError):
    """Another process listens at the address of an embedded server."""

    def __init__(self, part: str, title: str, problem: str) -> None:
        """Set the part and the problem.

        Args:
            part: name of the part.
            title: display name of the part.
            problem: which port, and which process listens there.
        """
        super().__init__(
            problem, remedy="End that process, or run 'churn down', then 'churn up', which chooses another port."
        )
        self.part = part
        self.title = title
