"""Curves as small SVG images: one line in a unit square, with an optional diagonal. Pure; no Dagster."""

from collections.abc import Sequence
from typing import Final
from xml.etree import ElementTree as ET

from churn_platform.orchestration.assets.svg import LINE_COLOUR, TEXT_COLOUR

SIDE: Final = 160  # pixels
MARGIN: Final = 14  # pixels, for one line of text


def curve(points: Sequence[tuple[float, float]], *, title: str, diagonal: bool = True) -> str:
    """Return a curve as SVG, short enough (1,000 characters as Markdown) that Dagster's UI shows it inline.

    Args:
        points: (x, y), each 0..1.
        title: text below the curve.
        diagonal: whether to draw the diagonal, for a random ranking or perfect calibration.
    """
    svg = ET.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "width": str(SIDE),
            "height": str(SIDE + MARGIN),
            "fill": "none",
            "stroke": TEXT_COLOUR,
        },
    )
    corner = f"M0 {SIDE}L{SIDE} 0" if diagonal else ""
    ET.SubElement(svg, "path", {"d": f"M0 0V{SIDE}H{SIDE}{corner}"})
    coordinates = " ".join(f"{round(x * SIDE)} {round((1 - y) * SIDE)}" for x, y in points)
    ET.SubElement(svg, "path", {"d": f"M{coordinates}", "stroke": LINE_COLOUR, "stroke-width": "2"})
    text = {"y": str(SIDE + MARGIN - 3), "font-size": "10", "stroke": "none", "fill": TEXT_COLOUR}
    ET.SubElement(svg, "text", text).text = title
    return ET.tostring(svg, encoding="unicode")
