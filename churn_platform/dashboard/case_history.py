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
    steps: dict[int, Step] = {}
    for earlier, change in zip(before, history, strict=False):
        undone = steps.get(change.takes_back) if change.takes_back is not None else None
        steps[change.change] = Step(change, _texts(earlier, change, undone))
    return list(steps.values())


def _texts(before: Change | None, after: Change, undone: Step | None) -> list[str]:
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
    texts = texts or ["nothing changed"]
    return texts if undone is None else [f'undid "{undone.summary}": {texts[0]}', *texts[1:]]


def _note(before: str, after: str) -> str:
    if before and not after.startswith(f"{before}\n"):
        return "notes restored" if before.startswith(after) else "notes changed"
    return f"note: {after.removeprefix(before).strip()}"
