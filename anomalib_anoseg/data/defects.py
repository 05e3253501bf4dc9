"""Defects for the demonstration data, drawn on a surface before light and sensor act on it.

They exist to *test* models that are trained on pasted patches, so they are drawn by other means than those patches:
random walks, thresholded smooth noise, shaded height fields. All lengths scale with the picture and are given for a
side of 128 pixels; colours and surfaces are RGB in [0, 1].
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage
from skimage.draw import disk, polygon

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    FloatArray = NDArray[np.float64]

VISIBLE = 3  # of 255 grey levels: a pixel is part of a defect if a channel changes by more, before noise
SMALLEST_SPECK = 6  # pixels; smaller groups of changed pixels are undone
_FINE = 4  # sub-pixels per pixel and axis, for smooth edges
_FOREIGN = ((0.08, 0.07, 0.06), (0.85, 0.83, 0.78), (0.2, 0.27, 0.42), (0.35, 0.3, 0.2))  # hair, thread, plastic, straw


def mark_changes(before: FloatArray, after: FloatArray) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Keep the visible part of a change, and mark it.

    Args:
        before (NDArray[np.float64]): Picture ``(H, W, 3)`` in [0, 1] without the defect and without noise.
        after (NDArray[np.float64]): The same with the defect.

    Returns:
        tuple[NDArray[np.float64], NDArray[np.bool_]]: The picture with the defect, ``(H, W, 3)``, and its mask
            ``(H, W)``: true where any channel differs by more than ``VISIBLE / 255``, in groups of at least
            ``SMALLEST_SPECK`` pixels. Outside the mask the picture equals ``before`` exactly.

    Example:
        >>> after = np.zeros((32, 32, 3))
        >>> after[4:8, 4:8, 0], after[20, 20] = 0.1, 0.1  # a red square, and a speck that is too small
        >>> picture, mask = mark_changes(np.zeros((32, 32, 3)), after)
        >>> int(mask.sum()), float(picture[20, 20, 0])
        (16, 0.0)
    """
    visible = (np.abs(after - before) > VISIBLE / 255).any(axis=-1)
    groups, _ = ndimage.label(visible, structure=np.ones((3, 3)))
    mask = visible & (np.bincount(groups.ravel())[groups] >= SMALLEST_SPECK)
    return np.where(mask[..., None], after, before), mask


def scratch(surface: FloatArray, rng: np.random.Generator, strength: float = 1.0) -> FloatArray:
    """Draw a wandering, tapering, sometimes interrupted line, lighter (dust) or darker (shadow) than the surface."""
    size = len(surface)
    line = _walk(size, rng, length=rng.uniform(0.2, 0.8), bend=_log_uniform(rng, 0.002, 0.03))
    pressure = np.sin(np.linspace(0, np.pi, len(line))) ** 0.4 * (0.75 + 0.35 * _noise((len(line),), 8, rng)).clip(0, 1)
    width = rng.uniform(0.5, 1.3) * size / 128
    cover = _stroke(size, line, width * (0.6 + 0.4 * pressure), pressure)
    contrast = strength * _log_uniform(rng, 0.14, 0.55) * (1 + 0.25 * _noise((size, size), 0.7, rng))
    return _mix(surface, np.full(3, rng.choice([0.9, 0.0], p=[0.65, 0.35])), cover * contrast)


def stain(surface: FloatArray, rng: np.random.Generator, strength: float = 1.0) -> FloatArray:
    """Draw a soft, uneven patch where something dried: oil and rust absorb light, lime and dust whiten."""
    size = len(surface)
    blob = _blob(size, rng, radius=_log_uniform(rng, 0.07, 0.24), rough=0.9)
    body = _smooth_step(blob, rng.uniform(0.15, 0.7)) * (1 + 0.2 * _noise((size, size), 4, rng)).clip(0.4, 1.4)
    rim = rng.uniform(0, 0.7) * np.exp(-((blob / 0.12 - 1) ** 2)) * (blob > 0)
    amount = strength * (body + rim) * _log_uniform(rng, 0.1, 0.4)
    whitened = _mix(surface, np.array([0.86, 0.85, 0.82]), amount)
    absorption = rng.choice([(1.0, 1.0, 1.0), (0.65, 0.95, 1.1), (1.05, 0.85, 1.1)])  # oil, rust, algae
    darkened = (surface * (1 - amount[..., None] * absorption)).clip(0, 1)
    return whitened if rng.integers(2) else darkened


def chip(surface: FloatArray, rng: np.random.Generator, strength: float = 1.0) -> FloatArray:
    """Draw missing material: a pit with a jagged outline, rough ground, a shaded upper and a lit lower wall."""
    size = len(surface)
    radius = strength**0.5 * _log_uniform(rng, 0.025, 0.12)
    outline = _fragment(size, rng, radius=radius, corners=int(rng.integers(7, 13)))
    slope = rng.uniform(2.0, 5.0) * size / 128
    depth = _smooth_step(ndimage.distance_transform_edt(outline.round()), slope)
    depth += 0.04 * depth * _noise((size, size), 1.5, rng)
    shade = ndimage.gaussian_filter(ndimage.sobel(depth, axis=0) / 8, 0.5) * slope * rng.uniform(0.15, 0.4)
    colour = (outline[..., None] * surface).sum(axis=(0, 1)) / outline.sum()
    fresh = 1 + strength * (rng.uniform(0.1, 0.2) if rng.integers(4) == 0 else rng.uniform(-0.4, -0.08))
    ground = colour * (fresh * (1 + 0.06 * _noise((size, size), 0.8, rng)) - shade)[..., None]
    return _mix(surface, ground.clip(0, 1), outline * rng.uniform(0.75, 1.0))


def foreign(surface: FloatArray, rng: np.random.Generator, strength: float = 1.0) -> FloatArray:
    """Draw a foreign object: a fibre, or a splinter of another material, with its shadow."""
    size = len(surface)
    colour = rng.choice(_FOREIGN) * rng.uniform(0.8, 1.2)
    if rng.integers(2):
        line = _walk(size, rng, length=rng.uniform(0.25, 0.8), bend=_log_uniform(rng, 0.015, 0.06))
        shape = _stroke(size, line, np.full(len(line), rng.uniform(0.45, 0.95) * size / 128), np.ones(len(line)))
        shape *= min(strength * rng.uniform(0.45, 0.95), 1.0)
    else:
        shape = _fragment(size, rng, radius=_log_uniform(rng, 0.025, 0.09), corners=int(rng.integers(4, 7)))
        lit = 1 + rng.uniform(-0.15, 0.15) * _ramp(size, rng) + 0.06 * _noise((size, size), 0.8, rng)
        colour = _mix(surface.mean(axis=(0, 1)), colour, np.array(rng.uniform(0.35, 0.75))) * lit[..., None]
    offset = rng.uniform(0.6, 2.0, size=2) * size / 128
    shadow = ndimage.gaussian_filter(ndimage.shift(shape, offset, order=1), 0.8) * rng.uniform(0.15, 0.4)
    return _mix(_mix(surface, np.zeros(3), shadow), colour.clip(0, 1), shape)


def smear(surface: FloatArray, rng: np.random.Generator, strength: float = 1.0) -> FloatArray:
    """Draw a wiped region: the texture is dragged along one direction under a thin, streaky film."""
    size = len(surface)
    angle = rng.uniform(0, np.pi)
    direction = np.array([np.sin(angle), np.cos(angle)])
    reach = rng.uniform(4, 10) * size / 128
    noise, dragged = rng.standard_normal((size, size)), np.zeros_like(surface)
    streaks = np.mean([ndimage.shift(noise, t * direction, order=1, mode="wrap") for t in range(-10, 11)], axis=0)
    for t in np.linspace(-reach, reach, 11):
        dragged += ndimage.shift(surface, (*(t * direction), 0), order=1, mode="nearest") / 11
    blob = _blob(size, rng, radius=_log_uniform(rng, 0.09, 0.22), rough=0.5, stretch=(angle, rng.uniform(1.3, 2.2)))
    film = np.full(3, rng.choice([0.22, 0.75])) * rng.uniform(0.95, 1.05, size=3)
    thickness = strength * _log_uniform(rng, 0.1, 0.28) * (1 + 0.35 * streaks / streaks.std()).clip(0.3, 2)
    return _mix(surface, _mix(dragged, film, thickness), _smooth_step(blob, 0.3) * rng.uniform(0.7, 1.0))


DEFECTS: dict[str, Callable[[FloatArray, np.random.Generator, float], FloatArray]] = {
    draw.__name__: draw for draw in (scratch, stain, chip, foreign, smear)
}
"""Functions that draw a defect on a surface ``(H, W, 3)`` in [0, 1] and return the new surface, by name."""


def _mix(ground: FloatArray, colour: FloatArray, amount: FloatArray) -> FloatArray:
    """Cover ``ground`` with ``colour`` at opacity ``amount``, ``(H, W)``, limited to [0, 1]."""
    opacity = amount.clip(0, 1)[..., None]
    return ground * (1 - opacity) + colour * opacity


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _noise(shape: tuple[int, ...], grain: float, rng: np.random.Generator) -> FloatArray:
    """Smooth noise with mean 0 and standard deviation 1; ``grain`` is that of the smoothing, in pixels."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), grain, mode="wrap")
    return (noise - noise.mean()) / (noise.std() + 1e-12)


def _smooth_step(values: FloatArray, width: float) -> FloatArray:
    """0 below zero, 1 above ``width``, smooth in between."""
    t = (values / width).clip(0, 1)
    return t * t * (3 - 2 * t)


def _ramp(size: int, rng: np.random.Generator) -> FloatArray:
    """A plane from -1 to 1 that rises in a random direction, ``(size, size)``."""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    angle = rng.uniform(0, 2 * np.pi)
    return np.asarray(x * np.cos(angle) + y * np.sin(angle))


def _blob(
    size: int, rng: np.random.Generator, *, radius: float, rough: float, stretch: tuple[float, float] = (0.0, 1.0)
) -> FloatArray:
    """Field ``(size, size)`` that is positive inside an irregular patch; ``radius`` is a fraction of the side."""
    y, x = np.mgrid[:size, :size] / size - rng.uniform(0.15, 0.85, size=2)[:, None, None]
    angle, ratio = stretch
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    distance = np.hypot(along / ratio, across * ratio) / radius
    return 1 - distance + 0.35 * rough * _noise((size, size), 0.35 * radius * size, rng)


def _walk(size: int, rng: np.random.Generator, *, length: float, bend: float) -> FloatArray:
    """Points ``(N, 2)``, one per pixel of length, of a random walk through the picture whose direction drifts."""
    count = max(int(length * size), 8)
    course = rng.uniform(0, 2 * np.pi) + bend * 128 / size * np.cumsum(_noise((count,), 10 * size / 128, rng))
    way = np.cumsum(np.stack([np.sin(course), np.cos(course)], axis=1), axis=0)
    return way - way.mean(axis=0) + size * rng.uniform(0.25, 0.75, size=2)


def _stroke(size: int, line: FloatArray, radius: FloatArray, opacity: FloatArray) -> FloatArray:
    """Coverage ``(size, size)`` in [0, 1] of a line drawn with a round pen of changing radius, in pixels."""
    canvas = np.zeros((size * _FINE, size * _FINE))
    steps = np.arange(0, len(line) - 1, 0.5)  # every half pixel
    course = [np.interp(steps, np.arange(len(line)), values) for values in (*line.T, radius, opacity)]
    for row, column, reach, value in zip(*course, strict=True):
        spot = disk(((row + 0.5) * _FINE, (column + 0.5) * _FINE), max(reach * _FINE, 1.0), shape=canvas.shape)
        canvas[spot] = np.maximum(canvas[spot], value)
    return canvas.reshape(size, _FINE, size, _FINE).mean(axis=(1, 3))


def _fragment(size: int, rng: np.random.Generator, *, radius: float, corners: int) -> FloatArray:
    """Coverage ``(size, size)`` in [0, 1] of an irregular polygon; ``radius`` is a fraction of the side."""
    angles = np.sort(rng.uniform(0, 2 * np.pi / corners, corners) + np.arange(corners) * 2 * np.pi / corners)
    reach = radius * rng.uniform(0.55, 1.25, corners)
    tilt, ratio = rng.uniform(0, np.pi), rng.uniform(1.0, 1.6)
    u, v = reach * np.cos(angles) * ratio, reach * np.sin(angles) / ratio
    centre = rng.uniform(0.12, 0.88, size=2)
    rows, columns = centre[0] + u * np.sin(tilt) + v * np.cos(tilt), centre[1] + u * np.cos(tilt) - v * np.sin(tilt)
    canvas = np.zeros((size * _FINE, size * _FINE))
    canvas[polygon(rows * size * _FINE, columns * size * _FINE, shape=canvas.shape)] = 1
    return ndimage.gaussian_filter(canvas, 0.6 * _FINE).reshape(size, _FINE, size, _FINE).mean(axis=(1, 3))
