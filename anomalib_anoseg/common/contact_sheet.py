"""A contact sheet of forged anomalies: all that a person needs to judge them, in one picture."""

import math
import textwrap
from collections.abc import Sequence
from functools import cache

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2.functional import pil_to_tensor, resize, to_pil_image
from torchvision.utils import make_grid

# Longer side in pixels of a picture on the sheet: smaller pictures are enlarged, larger ones reduced.
CELL_SIDES = (192, 256)
GAP, TEXT_SIZE = 6, 15
MARK_COLOR = (255, 0, 80)
SCREEN_SHAPE = 16 / 10


def compose_sheet(
    normal: Tensor, forged: Tensor, mask: Tensor, captions: Sequence[str], header: Sequence[str]
) -> Image.Image:
    """Lay out normal images, forged images, masks and outlines in as many columns as fit a screen.

    Args:
        normal: ``(N, 3, H, W)`` uint8.
        forged: Likewise.
        mask: ``(N, 1, H, W)`` bool.
        captions: A line of text above each image, cut where it is too long.
        header: Lines of text at the top.

    Example:
        >>> image = torch.zeros(3, 3, 64, 96, dtype=torch.uint8)
        >>> compose_sheet(image, image, image[:, :1].bool(), ["a", "b", "c"], ["An example"]).mode
        'RGB'
    """
    height, width = _cell_size(*normal.shape[-2:])
    normal, forged = (resize(image, [height, width], antialias=True) for image in (normal, forged))
    marks = F.adaptive_max_pool2d(mask.float(), (height, width))  # keeps marks thinner than a pixel
    outline = (F.max_pool2d(marks, 3, 1, 1) > marks).expand(-1, 3, -1, -1)
    outlined = torch.where(outline, torch.tensor(MARK_COLOR, dtype=torch.uint8).view(3, 1, 1), forged)
    white = (marks * 255).to(torch.uint8).expand(-1, 3, -1, -1)
    strips = []
    for cells, caption in zip(zip(normal, forged, white, outlined, strict=True), captions, strict=True):
        strip = make_grid(list(cells), nrow=len(cells), padding=GAP, pad_value=255)
        strips.append(_add_lines(strip, [_shorten(caption, strip.shape[-1])]))
    sheet = make_grid(strips, nrow=_columns(strips), padding=GAP, pad_value=255)
    characters = max(1, int(sheet.shape[-1] / _font().getlength("e")) - 2)
    lines = [part for line in header for part in textwrap.wrap(line, characters, break_on_hyphens=False)]
    return to_pil_image(_add_lines(sheet, lines))


def _cell_size(height: int, width: int) -> tuple[int, int]:
    scale = min(max(height, width, CELL_SIDES[0]), CELL_SIDES[1]) / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _columns(strips: Sequence[Tensor]) -> int:
    """Choose the number of columns whose sheet is closest to the shape of a screen."""
    _, height, width = strips[0].shape

    def distance(columns: int) -> float:
        rows = math.ceil(len(strips) / columns)
        return abs(math.log(columns * width / (rows * height) / SCREEN_SHAPE))

    return min(range(1, len(strips) + 1), key=distance)


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(TEXT_SIZE)


def _shorten(text: str, width: int) -> str:
    """Cut a line of text to ``width`` pixels."""
    if _font().getlength(text) <= width - 2 * GAP:
        return text
    kept = next((end for end in range(len(text), 0, -1) if _font().getlength(text[:end] + "...") <= width - 2 * GAP), 0)
    return text[:kept] + "..."


def _add_lines(picture: Tensor, lines: Sequence[str]) -> Tensor:
    """Add lines of text above a ``(3, H, W)`` uint8 picture."""
    line_height = TEXT_SIZE + GAP
    canvas = Image.new("RGB", (picture.shape[-1], line_height * len(lines) + GAP), "white")
    draw = ImageDraw.Draw(canvas)
    for number, line in enumerate(lines):
        draw.text((GAP, GAP + number * line_height), line, fill="black", font=_font())
    return torch.cat((pil_to_tensor(canvas), picture), 1)
