"""What a change of a case means, as sentences. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from churn_platform.database.case_reading import Change


@dataclass(frozen=True)
class Step:
    """A change of a case, and what it changed, such as "contacted" or "note: will think about it"."""

    change: Change
    texts: Sequence[str]

    @property
    def summary(self) -> str:
        """What the change did, in a line."""
        return "; ".join(self.texts)


def steps_of(history: Sequence[Change]) -> list[Step]:
    """Return what each change of a case did.

    Args:
        history: all changes of the case, in order; none if there is no such case.
    """
    before: list[Change | None] = [None, *history]
    return [Step(change, _texts(earlier, change)) for earlier, change in zip(before, history, strict=False)]


def _texts(before: Change | None, after: Change) -> list[str]:
    if before is None:
        return ["opened"]
    texts = []
    if after.status != before.status:
        texts.append(f"assigned to {after.owner}" if after.status == "assigned" else after.status)
    if after.owner != before.owner and not (after.status == "assigned" and after.status != before.status):
        texts.append(f"assigned to {after.owner}" if after.owner else "without an owner")
    if after.notes != before.notes:
        texts.append(_note(before.notes or "", after.notes or ""))
    if after.reason and after.reason != before.reason:
        texts.append(after.reason)
    taken_back = f"took back change {after.takes_back}: " if after.takes_back is not None else ""
    return [f"{taken_back}{texts[0]}", *texts[1:]] if texts else [f"{taken_back}nothing changed"]


def _note(before: str, after: str) -> str:
    if before and not after.startswith(f"{before}\n"):
        return "notes restored" if before.startswith(after) else "notes changed"
    return f"note: {after.removeprefix(before).strip()}"
