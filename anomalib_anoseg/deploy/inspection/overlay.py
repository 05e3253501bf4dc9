"""Pictures on which a person sees what was found."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from skimage.measure import find_contours

if TYPE_CHECKING:
    from anomalib_anoseg.deploy.inspection.session import Decision, Judgement

__all__ = ["draw_overlay"]

MARK, PAPER, INK = (255, 0, 80), (255, 255, 255), (0, 0, 0)
TINT = 0.35  # share of the colour within a mask
LINE, TEXT = 400, 32  # a line and a text are this part of the longer side
LEAST_TEXT = 12


def draw_overlay(picture: Image.Image, judgement: Judgement, decision: Decision) -> Image.Image:
    """Tint what the mask marks, draw its outline, and write the decision below the picture.

    The picture keeps its size and place, so that coordinates in the results are those of the overlay.

    Args:
        picture: RGB.
        judgement: What the file says of it.
        decision: The thresholds in use.
    """
    side = max(picture.size)
    verdict = "anomalous" if judgement.is_anomalous else "normal"
    text = f"{verdict} {judgement.score:.3f} {'>' if judgement.is_anomalous else '<='} {decision.image:.3f}"
    height = max(LEAST_TEXT, side // TEXT)
    fitting = 0.9 * height * picture.width / ImageFont.load_default(height).getlength(text)
    font = ImageFont.load_default(max(1, min(height, fitting)))
    strip = int(font.getbbox("Ag")[3] * 1.4)
    overlay = Image.new("RGB", (picture.width, picture.height + strip), PAPER)
    overlay.paste(picture)
    draw = ImageDraw.Draw(overlay)
    if judgement.mask is not None and judgement.anomaly_map is not None:
        tinted = Image.blend(picture, Image.new("RGB", picture.size, MARK), TINT)
        overlay.paste(tinted, mask=Image.fromarray(judgement.mask))
        for line in _outline(judgement.anomaly_map, decision.pixel, picture.size):
            draw.line(line, fill=MARK, width=max(1, side // LINE))
        draw.rectangle((0, picture.height, *overlay.size), fill=PAPER)  # lines are wide, and may reach out
    draw.text((strip // 4, picture.height + strip // 8), text, fill=MARK if judgement.is_anomalous else INK, font=font)
    return overlay


def _outline(anomaly_map: np.ndarray, threshold: float, size: tuple[int, int]) -> list[list[tuple[float, float]]]:
    """Find the lines where a map crosses the threshold, in pixels of the picture."""
    scale = np.array(size) / anomaly_map.shape[::-1]
    padded = np.pad(anomaly_map, 1, constant_values=min(0.0, threshold))  # lines close at the border
    contours = find_contours(padded, threshold)
    return [[(x, y) for x, y in (line[:, ::-1] - 0.5) * scale - 0.5] for line in contours]
