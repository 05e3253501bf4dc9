"""Models for boards: anomalib's from local files (:mod:`.local`, :mod:`.lite0`), trivial ones, and any in one line.

``anomalib.models`` is imported first, because its import registers the models below: a module that registration found
half imported could not be registered.
"""

import anomalib.models  # noqa: F401

from anomalib_anoseg.leaderboard.players.lite0 import PadimLite0, PatchcoreLite0, SupersimplenetLite0
from anomalib_anoseg.leaderboard.players.local import LocalDraem, LocalEfficientAd
from anomalib_anoseg.leaderboard.players.packed import player
from anomalib_anoseg.leaderboard.players.trivial import ConstantMap, ImageStatistics

__all__ = [
    "ConstantMap",
    "ImageStatistics",
    "LocalDraem",
    "LocalEfficientAd",
    "PadimLite0",
    "PatchcoreLite0",
    "SupersimplenetLite0",
    "player",
]
