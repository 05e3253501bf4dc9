"""Models for boards: anomalib's from local files (:mod:`.local`, :mod:`.lite0`), trivial ones, and any in one line.

They are for comparison, not for use, and so are no names in everybody's list of models: a configuration reaches them by
``class_path: anomalib_anoseg.board.baselines.PadimLite0``.
"""

from anomalib_anoseg.board.baselines.lite0 import PadimLite0, PatchcoreLite0, SupersimplenetLite0
from anomalib_anoseg.board.baselines.local import LocalDraem, LocalEfficientAd
from anomalib_anoseg.board.baselines.trivial import ConstantMap, ImageStatistics
from anomalib_anoseg.board.run.packed import player

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
