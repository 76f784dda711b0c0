"""What SVG images in the UI have in common: their colours, and how Markdown embeds them. Pure; no Dagster."""

import base64
from typing import Final
from xml.etree import ElementTree as ET

# Readable on white (light theme) and on near-black (dark theme).
TEXT_COLOUR: Final = "#7b8494"
LINE_COLOUR: Final = "#8f86e8"


def markdown_image(svg: ET.Element | str, alt: str) -> str:
    """Return an image in Markdown.

    Args:
        svg: the image.
        alt: alternative text.
    """
    content = svg if isinstance(svg, str) else ET.tostring(svg, encoding="unicode")
    return f"![{alt}](data:image/svg+xml;base64,{base64.b64encode(content.encode()).decode()})"
