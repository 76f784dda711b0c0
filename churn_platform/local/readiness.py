"""Whether a part answers, and which process answers in its place."""

from collections.abc import Collection, Mapping

from churn_platform.local import listening
from churn_platform.local.part import Part
from churn_platform.local.ports import HOST
from churn_platform.local.supervision import ProcessState


def is_ready(part: Part, states: Mapping[str, ProcessState]) -> bool:
    """Return whether a part answers.

    An embedded server is ready only if the process that supervisord started is the one that listens.

    Args:
        part: embedded or of the user.
        states: of the processes, by part.
    """
    if not part.command:
        return part.problem() is None
    state, answering = states.get(part.name), part.answers_through or part
    through = states.get(answering.name)
    if state is None or state.pid is None or through is None or through.pid is None:
        return False
    pid = through.pid
    return all(listening.listens(pid, place) for place in answering.listens_at) and part.ready(state.since)


def port_taken(part: Part, own_pids: Collection[int]) -> str | None:
    """Return a sentence about another process that listens at this part's address; None if there is none.

    Args:
        part: an embedded one.
        own_pids: the part's processes: one or none.
    """
    for place in part.listens_at:
        other = listening.other_listener(own_pids, place)
        if other is not None:
            where = f"port {place} of {HOST}" if isinstance(place, int) else str(place)
            return f"{part.title} cannot use {where}: {other} listens there."
    return None


def pids(state: ProcessState) -> set[int]:
    """Return the process of a part as a set: one or none."""
    return set() if state.pid is None else {state.pid}
