"""Weights averaged over a training, and normalisation statistics that belong to them.

The averaged weights are not the ones whose normalisation statistics training tracks, and in a short training both
change fast; so evaluation needs statistics computed anew from the last batches.
"""

from collections import deque
from collections.abc import Callable

from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

# Training batches from which the normalisation statistics of the averaged weights are computed.
REMEMBERED_BATCHES = 4


class AveragedModule(ModelEmaV3):
    """An exponential moving average of a module's weights, to predict with.

    Args:
        module: Is copied; its weights go into the average with each :meth:`follow`.
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
        # Lightning warns of modules in evaluation mode when training starts; only evaluation uses this one.
        self.requires_grad_(False).train()
        self._remembered: deque[Tensor] = deque(maxlen=REMEMBERED_BATCHES)

    def follow(self, module: nn.Module, batch: Tensor, step: int) -> None:
        """Take the current weights into the average.

        Args:
            module: The one that learns.
            batch: What it saw in this step; the last few are kept for the statistics.
            step: Number of the optimiser step, from 1.
        """
        self.update(module, step)
        self._remembered.append(batch.detach())

    def refresh_statistics(self, prepare: Callable[[Tensor], Tensor] = lambda batch: batch) -> None:
        """Compute the normalisation statistics anew from the batches kept, if there are new ones.

        Args:
            prepare: Makes a batch that was kept the module's input.
        """
        if self._remembered:
            update_bn((prepare(batch) for batch in self._remembered), self.module)
            self._remembered.clear()
