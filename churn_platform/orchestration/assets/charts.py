"""Small pictures for the UI: bar charts as SVG, drawn from counts in a fraction of a millisecond. Pure; no Dagster.

The UI shows a picture where markdown has an image, and takes the image from the text itself. It does so in its place
only for a text of less than 1,000 characters, and hides a longer one behind a link: so one chart is one picture, and
all bars of a colour are one path.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from xml.etree import ElementTree as ET

import numpy as np
from numpy.typing import NDArray

MOST_CHARACTERS: Final = 999
BINS: Final = 20
MOST_LABELS: Final = 6
# In pixels: the bars, and the line of labels below them.
WIDTH: Final = 300
HEIGHT: Final = 60
LINE: Final = 14
# Readable on the white of the light theme and on the near-black of the dark one.
TEXT_COLOUR: Final = "#7b8494"
BAR_COLOUR: Final = "#8f86e8"
MARKED_COLOUR: Final = "#e0574f"


@dataclass(frozen=True)
class Chart:
    """Bars beside each other.

    Attributes:
        counts: height of each bar, from left to right.
        labels: texts below, spread from the left end to the right end; as many as bars: one below each.
        marked_from: number of the first bar in the second colour, None when there is none.
    """

    counts: Sequence[float]
    labels: Sequence[str]
    marked_from: int | None = None


def histogram(values: NDArray[Any]) -> Chart:
    """How often numbers occur, from the least to the greatest; nulls are left out.

    Args:
        values: shape (n,), numbers. Whole numbers of a small range get a bar each.
    """
    known = values[~np.isnan(values.astype("float64"))]
    if not len(known):
        return Chart([], [])
    least, greatest = known.min(), known.max()
    if known.dtype.kind in "iub" and greatest - least < BINS:
        numbers = range(int(least), int(greatest) + 1)
        counts = np.bincount(known.astype("int64") - int(least), minlength=len(numbers))
        labels = numbers if len(numbers) <= MOST_LABELS else (numbers[0], numbers[-1])
        return Chart(counts.tolist(), list(map(str, labels)))
    counts, _ = np.histogram(known, BINS)
    return Chart(counts.tolist(), [f"{least:,.5g}", f"{greatest:,.5g}" if greatest < 1e5 else f"{greatest:,.0f}"])


def categories(counts: Mapping[str, float]) -> Chart:
    """One bar for each category, in the order given."""
    return Chart(list(counts.values()), list(counts))


def markdown(chart: Chart, alt: str) -> str:
    """The chart as an image in markdown, without labels where it would be too long with them.

    Args:
        alt: what the picture shows, for who cannot see it.
    """
    text = _image(chart, alt)
    return text if len(text) <= MOST_CHARACTERS else _image(Chart(chart.counts, [], chart.marked_from), alt)


def _image(chart: Chart, alt: str) -> str:
    return f"![{alt}](data:image/svg+xml;base64,{base64.b64encode(ET.tostring(_svg(chart))).decode()})"


def _svg(chart: Chart) -> ET.Element:
    size = {"width": str(WIDTH), "height": str(HEIGHT + LINE)}
    text = {"fill": TEXT_COLOUR, "font-family": "sans-serif", "font-size": "10"}
    svg = ET.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", **size, **text})
    split = len(chart.counts) if chart.marked_from is None else chart.marked_from
    for colour, first, last in ((BAR_COLOUR, 0, split), (MARKED_COLOUR, split, len(chart.counts))):
        if any(chart.counts[first:last]):
            ET.SubElement(svg, "path", {"fill": colour, "d": _outline(chart.counts, first, last)})
    ET.SubElement(svg, "path", {"d": f"M0 {HEIGHT}h{WIDTH}v1H0"})
    for x, anchor, label in _places(chart):
        place = {"x": str(x), "y": str(HEIGHT + LINE - 2), "text-anchor": anchor}
        ET.SubElement(svg, "text", place if anchor != "start" else {"y": place["y"]}).text = label
    return svg


def _outline(counts: Sequence[float], first: int, last: int) -> str:
    """The bars from `first` until before `last`, with a gap of a pixel between two. One that is not empty is seen."""
    scale = HEIGHT / max(counts)
    heights = [max(1, round(count * scale)) if count else 0 for count in counts[first:last]]
    edges = [round(number * WIDTH / len(counts)) for number in range(first, last + 1)]
    bars = [
        f"v-{height}h{right - left - 1}v{height}h1" if height else f"h{right - left}"
        for height, left, right in zip(heights, edges, edges[1:], strict=False)
    ]
    return f"M{edges[0]} {HEIGHT}{''.join(bars)}"


def _places(chart: Chart) -> list[tuple[int, str, str]]:
    """Where each label stands: x, anchor, text."""
    count = len(chart.labels)
    if count == len(chart.counts):
        return [(round((n + 0.5) * WIDTH / count), "middle", label) for n, label in enumerate(chart.labels)]
    anchors = ["start", *["middle"] * (count - 2), "end"]
    steps = max(count - 1, 1)
    return [
        (round(n * WIDTH / steps), anchor, label)
        for n, (anchor, label) in enumerate(zip(anchors, chart.labels, strict=False))
    ]
