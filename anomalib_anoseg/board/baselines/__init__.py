"""Models to compare with: anomalib's from local files (:mod:`.local_weights`), and trivial ones (:mod:`.trivial`).

They are only for comparison, and so are not in anomalib's list of models: a configuration names them by path,
``class_path: anomalib_anoseg.board.baselines.PadimLite0``.
"""

from anomalib_anoseg.board.baselines.local_weights import LocalDraem, PadimLite0, PatchcoreLite0, SupersimplenetLite0
from anomalib_anoseg.board.baselines.trivial import ConstantMap, ImageStatistics

__all__ = ["ConstantMap", "ImageStatistics", "LocalDraem", "PadimLite0", "PatchcoreLite0", "SupersimplenetLite0"]
