"""Small pictures for a page: test images, masks and anomaly maps."""

import base64
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage.segmentation import find_boundaries

SIDE = 176  # pixels of a thumbnail's longer side
THRESHOLD = 0.5  # where anomalib's normalisation puts the calibrated threshold
COLORMAP = "inferno"  # perceptually uniform, also for colour-blind readers
TRUTH, EDGE, OUTLINE = (0, 158, 115), (160, 255, 220), (86, 220, 240)


def read_thumbnail(path: Path | None, mode: str) -> NDArray[np.uint8] | None:
    """Read a thumbnail; ``None`` if there is no such file, or it holds no picture."""
    if path is None or not path.is_file():
        return None
    try:
        with Image.open(path) as image:
            thumbnail = image.convert(mode)
    except Exception:  # noqa: BLE001 - what is broken may raise anything
        return None
    thumbnail.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(thumbnail)


def draw_truth(pixels: NDArray[np.uint8], mask: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    """Draw the mask, if there is one, onto the grey picture."""
    gray = np.asarray(Image.fromarray(pixels).convert("L").convert("RGB")) // 2 + 40
    if mask is None:
        return gray.astype(np.uint8)
    inside = np.asarray(Image.fromarray(mask).resize(pixels.shape[1::-1], Image.Resampling.NEAREST)) > 0
    tinted = np.where(inside[..., None], 0.35 * gray + 0.65 * np.array(TRUTH), gray)
    tinted[find_boundaries(inside, mode="inner")] = EDGE
    return tinted.astype(np.uint8)


def draw_map(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Colour an anomaly map, on one scale for all images, and outline what is above the threshold."""
    colored = _colors(values).copy()
    colored[find_boundaries(values >= THRESHOLD * 255, mode="inner")] = OUTLINE
    return colored


def draw_color_bar() -> NDArray[np.uint8]:
    """Draw the colours of anomaly maps from 0 to 1."""
    return _colors(np.linspace(0, 255, 256).astype(np.uint8)[None].repeat(8, 0))


def _colors(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    import matplotlib as mpl  # noqa: PLC0415 - jobs of a board keep thumbnails without it

    return np.asarray(mpl.colormaps[COLORMAP](values, bytes=True)[..., :3], dtype=np.uint8)


def to_uri(pixels: NDArray[np.uint8]) -> str:
    """Encode a picture as JPEG in a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=88, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
