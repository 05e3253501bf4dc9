"""The surfaces of the demonstration data: camera-like views of photographs that scikit-image ships.

A view is made in four steps, so that a defect can be drawn on the surface itself and is lit with it: a crop of the
photograph (:meth:`Surface.crop`), its colours (:meth:`Surface.paint`), the light (:meth:`Camera.expose`), and the
sensor (:meth:`Camera.read`).
"""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import as_file, files
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

if TYPE_CHECKING:
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float64]
    Colour = tuple[float, float, float]

MAX_ROTATION = 1.5  # largest rotation of a view, in degrees
MAX_ZOOM = 0.03  # largest fraction by which a view is magnified or reduced
# Fraction of the photograph's columns that belongs to training; test images get the rest. Not rows: the lower courses
# of the wall have wider joints than the upper ones, so test images would show another kind of wall than training.
TRAIN_COLUMNS = 0.58

# The perspective that scikit-image's authors applied to their brick wall (see the source of `skimage.data.brick`).
_BRICK_PERSPECTIVE = np.array([[0.54764, -0.00219, 0.0], [-0.12822, 0.54688, 0.0], [-0.00022, 0.0, 1.0]])
_BRICK_STEP = 2.9  # pixels of their original per pixel of ours: close to the resolution of the file
_BRICK_CORNER, _BRICK_SIDE = (3.0, 110.0), 452  # (x, y) and side, in our pixels, of the square that the file covers


class Surface(NamedTuple):
    """A photographed surface and the defects that it can have.

    Args:
        file (str): Name of the photograph in ``skimage/data``.
        dark (tuple[float, float, float]): RGB colour for grey value 0, before clipping to [0, 1].
        light (tuple[float, float, float]): RGB colour for grey value 1, before clipping to [0, 1].
        defects (tuple[str, ...]): Keys of :data:`anomalib_anoseg.data.defects.DEFECTS` that make sense here.
        strength (float): Factor on the defects' contrast; a busy surface hides what a calm one shows.

    Example:
        >>> crop = SURFACES["brick"].crop("test", 64, np.random.default_rng(0))
        >>> SURFACES["brick"].paint(crop).shape
        (64, 64, 3)
    """

    file: str
    dark: Colour
    light: Colour
    defects: tuple[str, ...]
    strength: float

    def crop(self, split: str, size: int, rng: np.random.Generator) -> FloatArray:
        """Take a grey crop ``(size, size)`` at a random place of the split's columns, slightly rotated and zoomed."""
        region = _region(self.file, split)
        angle = np.deg2rad(rng.uniform(-MAX_ROTATION, MAX_ROTATION))
        zoom = 1 + rng.uniform(-MAX_ZOOM, MAX_ZOOM)
        matrix = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        reach = np.abs(matrix).sum(axis=1) * (size - 1) / 2  # half the rotated square's extent, in rows and columns
        centre = rng.uniform(reach, np.array(region.shape) - 1 - reach)
        offset = centre - matrix @ np.full(2, (size - 1) / 2)
        crop = ndimage.affine_transform(region, matrix, offset, (size, size), order=3, mode="mirror", prefilter=False)
        return crop.clip(0, 1)

    def paint(self, grey: FloatArray) -> FloatArray:
        """Give grey values ``(H, W)`` their colours: ``(H, W, 3)`` in [0, 1]."""
        dark, light = np.array(self.dark), np.array(self.light)
        return (dark + (light - dark) * grey[..., None]).clip(0, 1)


class Camera(NamedTuple):
    """Light and sensor of one picture; everything acts on each pixel alone, so that no defect spreads.

    Args:
        gain (NDArray[np.float64]): Factor per pixel and channel, ``(H, W, 3)``: exposure (0.88 to 1.12), a brightness
            gradient across the picture (up to 12 %), darker corners (up to 8 %) and white balance (up to 1.5 %).
        noise (NDArray[np.float64]): Standard normal noise ``(H, W, 3)``.
        read_noise (float): Standard deviation of the noise in the dark, in grey levels of 255.
        shot_noise (float): Standard deviation of the signal-dependent noise at full scale, in grey levels of 255.

    Example:
        >>> camera = Camera.draw(64, np.random.default_rng(0))
        >>> camera.read(camera.expose(np.full((64, 64, 3), 0.5))).dtype
        dtype('uint8')
    """

    gain: FloatArray
    noise: FloatArray
    read_noise: float
    shot_noise: float

    @classmethod
    def draw(cls, size: int, rng: np.random.Generator) -> Camera:
        """Draw the camera of one picture of ``size`` by ``size`` pixels."""
        y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
        angle = rng.uniform(0, 2 * np.pi)
        gradient = 1 + rng.uniform(0, 0.06) * (x * np.cos(angle) + y * np.sin(angle))
        corners = 1 - rng.uniform(0, 0.04) * (x**2 + y**2)
        exposure = rng.uniform(0.88, 1.12) * rng.uniform(0.985, 1.015, size=3)
        noise = rng.standard_normal((size, size, 3))
        return cls((gradient * corners)[..., None] * exposure, noise, rng.uniform(0.8, 1.6), rng.uniform(1.0, 2.5))

    def expose(self, surface: FloatArray) -> FloatArray:
        """Compute what a noiseless sensor sees of a surface, in [0, 1]."""
        return (surface * self.gain).clip(0, 1)

    def read(self, exposed: FloatArray) -> NDArray[np.uint8]:
        """Read the picture, 8 bits per channel, with the noise of this camera."""
        deviation = np.sqrt(self.read_noise**2 + self.shot_noise**2 * exposed)
        return (255 * exposed + deviation * self.noise).round().clip(0, 255).astype(np.uint8)


@lru_cache(maxsize=8)
def _region(file: str, split: str) -> FloatArray:
    """Columns of a photograph that belong to ``"train"`` or ``"test"``, as coefficients of a cubic spline.

    The spline is fitted after the cut, so that interpolation mixes no pixel of one part into the other.
    """
    photograph = _photograph(file)
    cut = round(TRAIN_COLUMNS * photograph.shape[1])
    region = photograph[:, :cut] if split == "train" else photograph[:, cut:]
    return ndimage.spline_filter(region, order=3, mode="mirror")


def _photograph(file: str) -> FloatArray:
    """Grey values in [0, 1] of a photograph, read from the folder of scikit-image's wheel: nothing is downloaded."""
    with as_file(files("skimage.data") / file) as path:
        grey = np.asarray(Image.open(path).convert("L"), dtype=np.float64) / 255
    return _upright(grey) if file == "brick.png" else grey


def _upright(brick: FloatArray) -> FloatArray:
    """Undo scikit-image's perspective and rotation by 90 degrees, to see the brick wall straight from the front."""
    y, x = np.mgrid[:_BRICK_SIDE, :_BRICK_SIDE] + np.array(_BRICK_CORNER[::-1])[:, None, None]
    wall = np.stack([_BRICK_STEP * x, _BRICK_STEP * y, np.ones_like(x)])
    column, row, scale = np.tensordot(_BRICK_PERSPECTIVE, wall, axes=1)
    return ndimage.map_coordinates(np.rot90(brick), [row / scale / 2, column / scale / 2], order=3, mode="nearest")


SURFACES = {
    "brick": Surface(
        "brick.png",
        dark=(0.16, -0.08, -0.13),
        light=(0.96, 0.99, 0.97),
        defects=("scratch", "stain", "chip", "foreign", "smear"),
        strength=1.0,
    ),
    "gravel": Surface(
        "gravel.png",
        dark=(0.03, 0.02, 0.0),
        light=(1.02, 1.0, 0.95),
        defects=("stain", "chip", "foreign", "smear"),
        strength=1.7,
    ),
}
