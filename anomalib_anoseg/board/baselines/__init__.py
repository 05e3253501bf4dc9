"""Models to compare with: anomalib's from local files (:mod:`.local_weights`), and trivial ones (:mod:`.trivial`).

They are for comparison, not for use, and so are no names in everybody's list of models: a configuration reaches them by
``class_path: anomalib_anoseg.board.baselines.PadimLite0``.
"""

from anomalib_anoseg.board.baselines.local_weights import LocalDraem, PadimLite0, PatchcoreLite0, SupersimplenetLite0
from anomalib_anoseg.board.baselines.trivial import ConstantMap, ImageStatistics

__all__ = ["ConstantMap", "ImageStatistics", "LocalDraem", "PadimLite0", "PatchcoreLite0", "SupersimplenetLite0"]
