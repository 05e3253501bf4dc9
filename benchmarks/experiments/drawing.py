"""More kinds of drawn defects for studies, beside those of the demonstration data: no model learns from them.

They are drawn by other means than anomalies are forged by: cheapest paths through noise, fractal outlines, sums of
bells. Surfaces are RGB in [0, 1], ``(H, W, 3)`` float64; lengths are given for a side of 128 pixels.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.draw import polygon
from skimage.graph import route_through_array

from anomalib_anoseg.data.defects import DEFECTS

FloatArray = NDArray[np.float64]
Draw = Callable[[FloatArray, np.random.Generator, float], FloatArray]
FAINT = (0.2, 0.4)  # opacity of a faint defect
SMALLEST = 1.5  # radius of a speck in pixels: three by three, or `mark_changes` would undo it


def crack(surface: FloatArray, rng: np.random.Generator, strength: float = 1.0) -> FloatArray:
    """Draw a dark crack with up to three branches: each is a cheapest path through noise."""
    shape = surface.shape[:2]
    side = min(shape)
    cost = np.exp(1.5 * ndimage.gaussian_filter(rng.standard_normal(shape), 1.2) / 0.23)
    start, reach = rng.uniform(0.2, 0.8, 2) * shape, rng.uniform(0.15, 0.45) * side
    course, line = rng.uniform(0, 2 * np.pi), np.zeros(shape)
    for branch in range(rng.integers(1, 5)):
        turn = course + (rng.uniform(-1.2, 1.2) if branch else 0)
        end = start + reach * (0.6 if branch else 1) * np.array([np.sin(turn), np.cos(turn)])
        path, _ = route_through_array(cost, _inside(start, shape), _inside(end, shape))
        line[tuple(np.transpose(path))] = 1
        start = np.array(path[rng.integers(len(path))])
    width = rng.uniform(0.4, 1.1) * side / 128
    cover = (ndimage.gaussian_filter(line, width) * 2.5 * width).clip(0, 1)
    return surface * (1 - strength * rng.uniform(0.25, 0.8) * cover[..., None])


def missing(surface: FloatArray, rng: np.random.Generator, strength: float = 1.0) -> FloatArray:
    """Draw a part that has broken off along a fractal outline: the colour of the picture's rim is in its place."""
    shape, count = surface.shape[:2], 64
    outline = np.zeros(count)
    for step in (32, 16, 8, 4, 2, 1):  # midpoint displacement, finer and weaker
        outline += np.repeat(rng.standard_normal(count // step), step) * 0.012 * step**0.8
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    radius = rng.uniform(0.06, 0.2) * min(shape) * (1 + ndimage.gaussian_filter1d(outline, 1, mode="wrap")).clip(0.3, 2)
    row, column = rng.uniform(0.15, 0.85, 2) * shape
    hole = np.zeros(shape)
    hole[polygon(row + radius * np.sin(angle), column + radius * np.cos(angle), shape)] = strength
    rim = np.concatenate([surface[:4], surface[-4:]]).reshape(-1, 3)
    ground = np.median(rim, axis=0) + 0.003 * rng.standard_normal(surface.shape)
    return _cover(surface, ground.clip(0, 1), ndimage.gaussian_filter(hole, 0.5))


def uneven(surface: FloatArray, rng: np.random.Generator, strength: float = 1.0) -> FloatArray:
    """Draw uneven light or polish: a few wide, soft bells, brighter or darker."""
    height, width = surface.shape[:2]
    y, x = np.mgrid[:height, :width] / np.array([height, width])[:, None, None]
    gain, sign = np.zeros((height, width)), rng.choice([-1.0, 1.0])
    row, column = rng.uniform(0.2, 0.8, 2)
    for _ in range(rng.integers(1, 4)):
        spread = rng.uniform(0.05, 0.2, 2)
        gain += np.exp(-(((y - row) / spread[0]) ** 2) - ((x - column) / spread[1]) ** 2)
        row, column = row + rng.uniform(-0.15, 0.15), column + rng.uniform(-0.15, 0.15)
    light: FloatArray = surface * (1 + sign * strength * rng.uniform(0.12, 0.45) * gain / gain.max())[..., None]
    return light.clip(0, 1)


def faint(surface: FloatArray, rng: np.random.Generator, strength: float = 1.0) -> FloatArray:
    """Draw a defect of the demonstration data at a fraction of its opacity."""
    draw = list(DEFECTS.values())[rng.integers(len(DEFECTS))]
    return _cover(surface, draw(surface, rng, strength), np.full(surface.shape[:2], rng.uniform(*FAINT)))


def tiny(surface: FloatArray, rng: np.random.Generator, strength: float = 1.0) -> FloatArray:
    """Draw one to four specks or pinholes, a few pixels wide."""
    side = min(surface.shape[:2])
    speck, place = np.zeros(surface.shape[:2]), rng.uniform(0.15, 0.85, 2) * surface.shape[:2]
    for _ in range(rng.integers(1, 5)):
        row, column = _inside(place + rng.uniform(-0.06, 0.06, 2) * side, speck.shape)
        y, x = np.indices(speck.shape)
        radius = max(SMALLEST, rng.uniform(1.0, 2.5) * side / 128)
        speck = np.maximum(speck, np.hypot(y - row, x - column) <= radius)
    colour = np.full(3, rng.choice([0.05, 0.95], p=[0.7, 0.3]))
    amount = strength * rng.uniform(0.4, 0.9) * ndimage.gaussian_filter(speck, 0.5 * side / 128)
    return _cover(surface, colour, amount)


MORE: dict[str, Draw] = {draw.__name__: draw for draw in (crack, missing, uneven, faint, tiny)}
WIDE: dict[str, Draw] = {**DEFECTS, **MORE}
# Small ones with sharp edges: of all, these rank settings most as real defects do, see kinds.md.
SHARP = ("crack", "scratch", "foreign", "tiny")


def _inside(point: FloatArray, shape: tuple[int, ...]) -> tuple[int, int]:
    row, column = (int(min(max(at, 0), side - 1)) for at, side in zip(point, shape, strict=False))
    return row, column


def _cover(ground: FloatArray, colour: FloatArray, amount: FloatArray) -> FloatArray:
    opacity = amount.clip(0, 1)[..., None]
    return ground * (1 - opacity) + colour * opacity
