"""Names of the bins in which the values of a feature are counted. Pure; without the large libraries."""

from collections.abc import Sequence
from datetime import date, timedelta
from itertools import pairwise

_EPOCH = date(1970, 1, 1)


def bin_labels(*, edges: Sequence[float], categories: Sequence[str], dates: bool) -> list[str]:
    """Return the human-readable label of each bin, as `FeatureReference` orders them.

    Args:
        edges: ascending bin edges of a number; empty for a category.
        categories: known categories; empty for a number.
        dates: whether the numbers are days since 1970.
    """
    if categories:
        return [*categories, "other", "missing"]
    if not edges:
        return ["all", "missing"]
    texts = [str(_EPOCH + timedelta(days=int(edge))) for edge in edges] if dates else _texts(edges)
    between = [f"{low} to {high}" for low, high in pairwise(texts)]
    return [f"below {texts[0]}", *between, f"from {texts[-1]}", "missing"]


def _texts(edges: Sequence[float]) -> list[str]:
    """Return edges as text: whole ones as they are, others with as few digits as tell each from the others.

    These have three significant digits at least, and six at most.
    """
    texts: list[str] = []
    for digits in range(3, 7):
        rounded = [edge if float(edge).is_integer() else float(f"{edge:.{digits}g}") for edge in edges]
        texts = [f"{edge:,.0f}" if float(edge).is_integer() else f"{edge:,.6g}" for edge in rounded]
        if len(set(texts)) == len(texts):
            break
    return texts
