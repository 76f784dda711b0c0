"""Bar charts as small SVG images for the UI, drawn from counts in a fraction of a millisecond. Pure; no Dagster.

Dagster's UI shows images that are embedded in Markdown, but inline only if the text has fewer than 1,000 characters. A
longer text is shown as a link. So a chart is one image, and all bars of a colour are one path.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from xml.etree import ElementTree as ET

import numpy as np
from numpy.typing import NDArray

from churn_platform.orchestration.assets.svg import LINE_COLOUR, TEXT_COLOUR, markdown_image

MAX_CHARACTERS: Final = 999
BINS: Final = 20
MAX_LABELS: Final = 6
# Pixels. LINE is the height of the labels below the bars.
WIDTH: Final = 300
HEIGHT: Final = 60
LINE: Final = 14
MARKED_COLOUR: Final = "#e0574f"


@dataclass(frozen=True)
class Chart:
    """A bar chart.

    Attributes:
        counts: height of each bar, from left to right.
        labels: texts below the bars, spread from left to right, or one below each bar if there are as many.
        marked_from: index of the first bar in the second colour, None if there is none.
    """

    counts: Sequence[float]
    labels: Sequence[str]
    marked_from: int | None = None


def histogram(values: NDArray[Any]) -> Chart:
    """Return a histogram of numbers. Missing values are ignored.

    Args:
        values: shape (n,), numbers. Whole numbers in a small range have one bar each.
    """
    missing = np.isnan(values) if values.dtype.kind == "f" else np.zeros(0, dtype=np.bool_)
    known = values[~missing] if missing.any() else values  # of ten million values, each copy takes 80 MB
    if not len(known):
        return Chart([], [])
    minimum, maximum = known.min(), known.max()
    if known.dtype.kind in "iub" and maximum - minimum < BINS:
        numbers = range(int(minimum), int(maximum) + 1)
        above = known.astype("int64")
        above -= int(minimum)
        counts = np.bincount(above, minlength=len(numbers))
        labels = numbers if len(numbers) <= MAX_LABELS else (numbers[0], numbers[-1])
        return Chart(counts.tolist(), list(map(str, labels)))
    counts, _ = np.histogram(known, BINS)
    return Chart(counts.tolist(), [f"{minimum:,.5g}", f"{maximum:,.5g}" if maximum < 1e5 else f"{maximum:,.0f}"])


def categories(counts: Mapping[str, float]) -> Chart:
    """Return a chart with one bar for each category, in the given order."""
    return Chart(list(counts.values()), list(counts))


def markdown(chart: Chart, alt: str) -> str:
    """Return the chart as an image in Markdown, without labels if it would be too long with them.

    Args:
        chart: the chart.
        alt: alternative text.
    """
    image = markdown_image(_svg(chart), alt)
    if len(image) <= MAX_CHARACTERS:
        return image
    return markdown_image(_svg(replace(chart, labels=[])), alt)


def _svg(chart: Chart) -> ET.Element:
    size = {"width": str(WIDTH), "height": str(HEIGHT + LINE)}
    text = {"fill": TEXT_COLOUR, "font-family": "sans-serif", "font-size": "10"}
    svg = ET.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", **size, **text})
    split = len(chart.counts) if chart.marked_from is None else chart.marked_from
    for colour, first, last in ((LINE_COLOUR, 0, split), (MARKED_COLOUR, split, len(chart.counts))):
        if any(chart.counts[first:last]):
            ET.SubElement(svg, "path", {"fill": colour, "d": _outline(chart.counts, first, last)})
    ET.SubElement(svg, "path", {"d": f"M0 {HEIGHT}h{WIDTH}v1H0"})
    for x, anchor, label in _label_positions(chart):
        place = {"x": str(x), "y": str(HEIGHT + LINE - 2), "text-anchor": anchor}
        ET.SubElement(svg, "text", place if anchor != "start" else {"y": place["y"]}).text = label
    return svg


def _outline(counts: Sequence[float], first: int, last: int) -> str:
    """Return the path of the bars first..last-1, one pixel apart. Bars above 0 have at least one pixel."""
    scale = HEIGHT / max(counts)
    heights = [max(1, round(count * scale)) if count else 0 for count in counts[first:last]]
    edges = [round(number * WIDTH / len(counts)) for number in range(first, last + 1)]
    bars = [
        f"v-{height}h{right - left - 1}v{height}h1" if height else f"h{right - left}"
        for height, left, right in zip(heights, edges, edges[1:], strict=False)
    ]
    return f"M{edges[0]} {HEIGHT}{''.join(bars)}"


def _label_positions(chart: Chart) -> list[tuple[int, str, str]]:
    """Return x, anchor and text of each label."""
    count = len(chart.labels)
    if count == len(chart.counts):
        return [(round((n + 0.5) * WIDTH / count), "middle", label) for n, label in enumerate(chart.labels)]
    anchors = ["start", *["middle"] * (count - 2), "end"]
    steps = max(count - 1, 1)
    return [
        (round(n * WIDTH / steps), anchor, label)
        for n, (anchor, label) in enumerate(zip(anchors, chart.labels, strict=False))
    ]
