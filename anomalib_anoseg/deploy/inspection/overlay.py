"""Pictures on which a person sees what was found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

if TYPE_CHECKING:
    from anomalib_anoseg.deploy.inspection.session import Decision, Judgement

__all__ = ["draw_overlay"]

MARK, PAPER, INK = (255, 0, 80), (255, 255, 255), (0, 0, 0)
TINT = 0.35  # share of the colour within a mask
LINE, TEXT = 400, 32  # a line and a text are this part of the longer side
LEAST_TEXT = 12
MOST_REACH = 10  # pixels; farther away, one marked pixel is lost in a mean of 8 bits


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
    if judgement.mask is not None and judgement.mask.any():
        mask = Image.fromarray(judgement.mask)
        overlay.paste(Image.blend(picture, Image.new("RGB", picture.size, MARK), TINT), mask=mask)
        overlay.paste(MARK, mask=_outline(mask, side // LINE // 2))
    draw.text((strip // 4, picture.height + strip // 8), text, fill=MARK if judgement.is_anomalous else INK, font=font)
    return overlay


def _outline(mask: Image.Image, reach: int) -> Image.Image:
    """Mark the pixels that are so near to the edge of a mask, on either side of it or on that of the picture.

    Where the mean of the pixels around is neither black nor white, there is an edge.
    """
    reach = max(1, min(reach, MOST_REACH))
    means = ImageOps.expand(mask.convert("L"), reach, 0).filter(ImageFilter.BoxBlur(reach))
    return ImageOps.crop(means.point([0, *[255] * 254, 0]), reach)
