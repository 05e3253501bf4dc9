"""The region of a camera's pictures that does not count, as its user names it: a picture, or a list of polygons."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydantic import Field

from anomalib_anoseg.common.picture_files import Picture, examine_picture, open_picture, shown
from anomalib_anoseg.common.schema import Number, read_json

__all__ = ["explain_shape", "read_ignore_mask"]

# Grey levels from here on are white: soft edges and the noise of JPEG do not matter.
WHITE = 128
REMEDY = "Paint white (255) what is to be ignored and black (0) what is to be inspected."
FORM = 'Write {"size": [width, height], "polygons": [[[x, y], [x, y], [x, y]], ...]}, in pixels of the picture.'

Side = Annotated[int, Field(ge=1, le=100_000)]
Point = tuple[Number, Number]


@dataclass(frozen=True)
class Polygons:
    """The content of a file with polygons.

    Attributes:
        size: Width and height of the picture in pixels.
        polygons: Corners ``(x, y)`` of each, in pixels from the upper left corner of the picture.
    """

    size: tuple[Side, Side]
    polygons: Annotated[list[Annotated[list[Point], Field(min_length=3)]], Field(min_length=1)]


def read_ignore_mask(path: str | Path) -> NDArray[np.bool_]:
    """Read which pixels of the camera's pictures are ignored: ``(H, W)``, true where they are.

    Args:
        path: A picture, white (255) where pixels are ignored and black elsewhere; or, if it ends in ``.json``, polygons
            around what is ignored: ``{"size": [width, height], "polygons": [[[x, y], ...], ...]}``.

    Raises:
        ValueError: If it cannot be read, or marks nothing or everything.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp()) / "clamp.json"
        >>> _ = path.write_text('{"size": [4, 2], "polygons": [[[0, 0], [1, 0], [1, 1], [0, 1]]]}')
        >>> read_ignore_mask(path).astype(int).tolist()
        [[1, 1, 0, 0], [1, 1, 0, 0]]
    """
    path = Path(path)
    if not path.is_file():  # a pipe would wait for its writer
        raise ValueError(f"ignore_mask: there is no file {shown(path)}. Name a picture, or polygons in a .json file.")
    ignored = _draw(path) if path.suffix.lower() == ".json" else _read(path)
    if not ignored.any():
        raise ValueError(f"ignore_mask: {shown(path)} marks nothing. {REMEDY}")
    if ignored.all():
        raise ValueError(f"ignore_mask: {shown(path)} marks the whole picture. {REMEDY}")
    return ignored


def _read(path: Path) -> NDArray[np.bool_]:
    if problem := examine_picture(path).problem:
        raise ValueError(f"ignore_mask: {problem}")
    with open_picture(path) as image:
        return np.asarray(image.convert("L")) >= WHITE


def _draw(path: Path) -> NDArray[np.bool_]:
    try:
        content = read_json(path, Polygons, remedy=FORM)
    except ValueError as error:
        raise ValueError(f"ignore_mask: {error}") from None
    image = Image.new("1", content.size)
    draw = ImageDraw.Draw(image)
    for polygon in content.polygons:
        draw.polygon(polygon, fill=1, outline=1)
    return np.array(image)


def explain_shape(size: tuple[int, int], picture: Picture, name: str) -> str:
    """Say so if a picture has another aspect ratio than the mask; one may be the other one scaled, to whole pixels.

    Args:
        size: Width and height of the mask.
        picture: What is known of the picture.
        name: Of the picture.

    Example:
        >>> explain_shape((200, 150), Picture(size=(1601, 1201)), "0.png")
        ''
        >>> explain_shape((200, 150), Picture(size=(150, 200)), "0.png")
        'ignore_mask has 200 x 150 pixels, but 0.png has 150 x 200. Draw the mask on a picture of this camera.'
    """
    if picture.size is None:
        return ""
    (width, height), (own_width, own_height) = picture.size, size
    # Scaled alike, but for a pixel of the smaller one.
    if abs(width * own_height - height * own_width) <= max(width, height, own_width, own_height):
        return ""
    return (
        f"ignore_mask has {own_width} x {own_height} pixels, but {name} has {width} x {height}. Draw the mask on a "
        "picture of this camera."
    )
