"""Where screenshots are stored, and in which size."""

from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from churn_platform.settings import PROJECT_ROOT

IMAGES: Final = PROJECT_ROOT / "docs" / "images"
# READMEs are shown about 900 pixels wide. The scale keeps text sharp on high-resolution screens.
WIDTH: Final = 1200
SCALE: Final = 1.5
MAX_BYTES: Final = 200_000
HALF: Final = 128  # of the 256 colours that a small PNG file may have


def shrink(file: Path) -> int:
    """Reduce a screenshot to 256 colours and return its size in bytes.

    Half of them are the most frequent ones, such as backgrounds, which stay as they are. The others are as different as
    possible, so that rare ones stay, too, such as a red cross.

    Raises:
        ValueError: it has more than MAX_BYTES.
    """
    with Image.open(file) as opened:
        image = opened.convert("RGB")
    spread = image.quantize(HALF, method=Image.Quantize.MAXCOVERAGE).getpalette() or []
    red, green, blue = np.moveaxis(np.asarray(image).astype(np.int32), -1, 0)
    colors, places, counts = np.unique((red << 16) | (green << 8) | blue, return_inverse=True, return_counts=True)
    known = np.stack([colors >> 16, colors >> 8 & 255, colors & 255], axis=1)
    palette = np.concatenate([known[np.argsort(-counts)[:HALF]], np.reshape(spread, (-1, 3))])
    nearest = np.argmin(((known[:, None, :] - palette[None, :, :]) ** 2).sum(axis=2), axis=1)
    reduced = Image.fromarray(nearest[places].reshape(image.height, image.width).astype(np.uint8), "P")
    reduced.putpalette(palette.astype(np.uint8).tobytes())
    reduced.save(file, optimize=True)
    size = file.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"{file} has {size:,} bytes, expected at most {MAX_BYTES:,}. Make the window smaller.")
    return size
