"""How anomalous an image is, by its anomaly map."""

from torch import Tensor
from torch.nn import functional as F


def average(anomaly_map: Tensor, window: int) -> Tensor:
    """Average ``(B, 1, H, W)`` maps over a square window of odd side; beyond the border they count as 0.

    Averages over rows, then over columns: the cost grows with the window's side, not with its area.
    """
    rows = F.avg_pool2d(anomaly_map, (window, 1), stride=1, padding=(window // 2, 0))
    return F.avg_pool2d(rows, (1, window), stride=1, padding=(0, window // 2))


def score_map(anomaly_map: Tensor, window: int) -> Tensor:
    """Average ``(B, 1, H, W)`` maps over a square window and take the maximum of each, ``(B,)``.

    A value that rises never lowers the score, wherever it lies. The score belongs to the image alone, not to its batch.
    """
    return average(anomaly_map, window).amax((1, 2, 3))
