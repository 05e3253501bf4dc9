"""Notice pictures that do not look like the good ones that were held out: for them no stated false alarm rate holds.

If pictures were like those held out, all orders of both together would be equally likely. That gives the exact chance
that so many of them lie beyond the ``outside``-th lowest or highest one. A warning needs two things: a chance so small
that at most one run in a hundred warns by mistake, however long it is, and more than half of the pictures beyond the
same end. A tenth of good pictures lies there by rights, so defects alone do not warn as long as no more than a third of
the pictures has any, whatever they look like.
"""

from __future__ import annotations

import math
import sys
from array import array
from typing import TYPE_CHECKING

import numpy as np

from anomalib_anoseg.common.appearance import PROPERTIES, grey_of, measure

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    from anomalib_anoseg.deploy.record import Appearance

__all__ = ["BLOCK", "ShiftMonitor", "can_tell", "chance_beyond", "explain_shift", "look_at"]

# Chance of a warning by mistake in a run, and the number of comparisons in a look: both ends of each property.
LEVEL, COMPARISONS = 0.01, 2 * len(PROPERTIES)
# Differences below this share of a value mean nothing.
RESOLUTION = 0.01
# Pictures of a look while a camera is watched.
BLOCK = 50
WORDS = {
    "grey": ("are darker (median grey level", "are brighter (median grey level"),
    "contrast": ("have less contrast (median", "have more contrast (median"),
    "sharpness": ("are less sharp (median", "are sharper (median"),
}


def chance_beyond(beyond: int, pictures: int, outside: int, good_images: int) -> float:
    """Compute the chance that so many pictures, or more, lie below the ``outside``-th lowest of the held-out ones.

    Then at most ``outside - 1`` of the lowest ``beyond + outside - 1`` of all are held-out ones.

    Args:
        beyond: Number of pictures that lie below.
        pictures: Number of all of them.
        outside: Rank of the held-out picture.
        good_images: Number of the held-out ones.

    Example:
        >>> round(1 / chance_beyond(2, 2, 1, 8))  # two of ten places are the lowest in one of 45 cases
        45
    """
    if beyond == 0:
        return 1.0
    lowest = beyond + outside - 1
    ways = _log_ways(good_images + pictures, lowest)
    return sum(
        math.exp(_log_ways(good_images, own) + _log_ways(pictures, lowest - own) - ways)
        for own in range(outside)
        if lowest - own <= pictures
    )


def can_tell(pictures: int, appearance: Appearance, look: int = 1) -> bool:
    """Tell whether there are enough pictures, so that a warning is possible at all."""
    return chance_beyond(pictures, pictures, appearance.outside, appearance.good_images) <= _level(look)


def explain_shift(looks: NDArray[np.float64], appearance: Appearance, look: int = 1, subject: str = "Pictures") -> str:
    """Say in which way pictures differ from good ones that were held out, and what to do; empty if they do not.

    Args:
        looks: ``(N, 3)``, what :func:`~anomalib_anoseg.common.appearance.measure` finds in them.
        appearance: Of the held-out ones.
        look: Number of times that pictures of this run have been compared, with this one.
        subject: How the sentence begins.

    Example:
        >>> from anomalib_anoseg.deploy.record import Appearance
        >>> held_out = Appearance((128, 128), 20, 2, (176, 183, 190), (30, 33, 35), (0.06, 0.07, 0.08))
        >>> explain_shift(np.array([[171, 33, 0.07]] * 9), held_out)[:84]
        'Pictures are darker (median grey level 171 against 183) than the good ones held out:'
    """
    differences = []
    for column, name in enumerate(PROPERTIES):
        values, (low, median, high) = looks[:, column], getattr(appearance, name)
        ends = (values < (1 - RESOLUTION) * low, values > (1 + RESOLUTION) * high)
        for words, is_beyond in zip(WORDS[name], ends, strict=True):
            beyond = int(is_beyond.sum())
            if 2 * beyond > len(values) and (
                chance_beyond(beyond, len(values), appearance.outside, appearance.good_images) <= _level(look)
            ):
                differences.append(f"{words} {np.median(values):.3g} against {median:.3g})")
    if not differences:
        return ""
    return (
        f"{subject} {' and '.join(differences)} than the good ones held out: no stated rate of false alarms holds. "
        "Restore light, exposure and focus, or train again and hold out good pictures like these."
    )


def look_at(picture: Image.Image, appearance: Appearance) -> NDArray[np.float64]:
    """Measure an RGB picture, ``(3,)``, as the held-out ones were measured."""
    height, width = appearance.size
    return measure(grey_of(picture, (height, width))[None])[0]


class ShiftMonitor:
    """Compares the pictures of a run with those held out: all at its end, or block after block of what a camera writes.

    Args:
        appearance (Appearance | None): Of those held out; ``None`` compares nothing.
        is_watching (bool): Whether to compare each block of pictures when it is full.

    Attributes:
        warning: What was found last; empty if nothing was.
        unlike_held_out: Whether anything was found; ``None`` as long as nothing could be told.
    """

    def __init__(self, appearance: Appearance | None, *, is_watching: bool = False) -> None:
        self._appearance, self._is_watching = appearance, is_watching
        self._looks, self._number, self._is_shifted = array("d"), 0, False
        self.warning = ""
        self.unlike_held_out: bool | None = None

    def add(self, picture: Image.Image) -> None:
        """Measure a picture."""
        if self._appearance is not None:
            self._looks.extend(look_at(picture, self._appearance))
            if self._is_watching and len(self._looks) == BLOCK * len(PROPERTIES):
                self.compare()

    def compare(self) -> None:
        """Compare the pictures that came since the last time, and tell of a change."""
        if self._appearance is None or not self._looks:
            return
        looks = np.array(self._looks).reshape(-1, len(PROPERTIES))
        del self._looks[:]
        self._number += 1
        if not can_tell(len(looks), self._appearance, self._number):
            return
        subject = f"The last {len(looks)} pictures" if self._is_watching else "Pictures"
        found = explain_shift(looks, self._appearance, self._number, subject)
        if found and not self._is_shifted:
            _tell(found)
        elif self._is_shifted and not found:
            _tell(f"{subject} look like the good ones held out again.")
        self._is_shifted = bool(found)
        self.warning = found or self.warning
        self.unlike_held_out = bool(self.warning)


def _log_ways(number: int, chosen: int) -> float:
    """Logarithm of the number of ways to choose some; factorials of a million pictures are out of reach."""
    return math.lgamma(number + 1) - math.lgamma(chosen + 1) - math.lgamma(number - chosen + 1)


def _tell(line: str) -> None:
    print(line, file=sys.stderr)  # noqa: T201


def _level(look: int) -> float:
    """Give each look and comparison its part of the level; the parts of endless looks add up to it."""
    return LEVEL / (COMPARISONS * look * (look + 1))
