"""Weights averaged over a training, and normalisation statistics that belong to them.

Training tracks the normalisation statistics of the current weights, which differ from the averaged ones, above all in a
short training. So evaluation recomputes the statistics from the last batches.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

from timm.utils import ModelEmaV3
from torch import nn
from torch.optim.swa_utils import update_bn

# Training batches from which the normalisation statistics of the averaged weights are computed.
REMEMBERED_BATCHES = 4


class AveragedModule(ModelEmaV3):
    """An exponential moving average of a module's weights, to predict with.

    Args:
        module: The module to average; it is copied, and each :meth:`follow` adds its weights.
        decay: How much of the average each step keeps, in ``(0, 1)``; less in the first steps.

    Example:
        >>> import torch
        >>> module = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
        >>> averaged = AveragedModule(module, 0.9)
        >>> averaged.follow(module, torch.rand(4, 3, 8, 8), step=1)
        >>> averaged.refresh_statistics()
        >>> averaged.module[1].running_mean.ne(0).all().item()
        True
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        super().__init__(module, decay, use_warmup=True)
        # Lightning warns about modules in evaluation mode when training starts; only evaluation uses this one.
        self.requires_grad_(False).train()
        self._remembered: deque[Any] = deque(maxlen=REMEMBERED_BATCHES)

    def follow(self, module: nn.Module, batch: Any, step: int) -> None:  # noqa: ANN401
        """Update the averaged weights with the current ones.

        Args:
            module: The module in training.
            batch: Its inputs in this step, without a gradient; the last few are kept for the statistics.
            step: Number of the optimiser step, from 1.
        """
        self.update(module, step)
        self._remembered.append(batch)

    def refresh_statistics(self, prepare: Callable[[Any], Any] = lambda batch: batch) -> None:
        """Recompute the normalisation statistics from the kept batches, if there are new ones.

        Args:
            prepare: Maps a kept batch to the module's input, or to a tuple of which it is the first.
        """
        if self._remembered:
            update_bn((prepare(batch) for batch in self._remembered), self.module)
            self._remembered.clear()
