"""Pictures small enough to be kept beside the results."""

import io
from pathlib import Path

from PIL import Image

LIMIT = 300_000  # bytes
SMALLEST = 64  # pixels of the shorter side, below which no picture is worth keeping


def small_png(path: Path, limit: int = LIMIT) -> bytes:
    """The picture as a PNG of at most `limit` bytes: as it is, else with 256 colours, else smaller too."""
    with Image.open(path) as image:
        whole = image.convert("RGB")
    content = _encode(whole)
    shown = whole
    while len(content) > limit and min(shown.size) >= SMALLEST:
        content = _encode(shown.quantize(256))
        shown = shown.resize((shown.width * 4 // 5, shown.height * 4 // 5), Image.Resampling.LANCZOS)
    return content


def _encode(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="png", optimize=True)
    return buffer.getvalue()
