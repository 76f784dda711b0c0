"""Percentiles of latencies that were counted in buckets. Pure."""

from collections.abc import Sequence


def percentile(counts: Sequence[int], share: float, *, bounds: Sequence[float]) -> float | None:
    """Return the latency that this share of the counted ones does not exceed, interpolated within its bucket.

    Args:
        counts: by bucket; the last one is for all that reach the last bound.
        share: 0..1.
        bounds: upper bounds of the buckets but the last, ascending.

    Returns:
        The latency in the unit of the bounds; the last bound if it is in the last bucket; None without counts.
    """
    wanted = share * sum(counts)
    if wanted <= 0:
        return None
    below = 0
    for count, lower, upper in zip(counts, [0.0, *bounds], [*bounds, bounds[-1]], strict=True):
        if below + count >= wanted:
            return lower + (upper - lower) * (wanted - below) / count
        below += count
    return bounds[-1]
