"""Repeatable runs in a host whose ``--seed_everything`` does nothing.

anomalib 2.7 parses that option and never uses it, and its benchmark seeds after the model was built. Models of this
package own their seed instead: :func:`seeded_weights` for initial weights, :func:`step_seed` for forged anomalies, and
:class:`SeededFit` for the rest of the process during training.
"""

import random
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng


@contextmanager
def seeded_weights(seed: int | None) -> Generator[None, None, None]:
    """Build layers with initial weights that follow from ``seed``; the global random stream stays untouched.

    Args:
        seed: Any whole number, or ``None`` to draw from the global stream as usual.

    Example:
        >>> import torch
        >>> with seeded_weights(7):
        ...     first = torch.nn.Linear(2, 2)
        >>> with seeded_weights(7):
        ...     second = torch.nn.Linear(2, 2)
        >>> torch.equal(first.weight, second.weight)
        True
    """
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextmanager
def seeded_streams(seed: int) -> Generator[None, None, None]:
    """Seed the global random streams of torch, NumPy and Python, and restore the caller's afterwards.

    Args:
        seed: A whole number, ``0 <= seed < 2**32``.

    Example:
        >>> import torch
        >>> with seeded_streams(7):
        ...     first = torch.rand(2)
        >>> with seeded_streams(7):
        ...     print(torch.equal(first, torch.rand(2)))
        True
    """
    with isolate_rng():
        _seed_global_streams(seed)
        yield


def _seed_global_streams(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the global stream is the point here
    torch.manual_seed(seed)


def step_seed(seed: int, *counters: int) -> int:
    """Mix a seed with counters (rank, step, ...) to a seed that shares no stream with its neighbours.

    Because it follows from the counters, a resumed training continues as if it had never stopped.

    Example:
        >>> step_seed(0, 0, 1) == step_seed(0, 0, 1), step_seed(0, 0, 1) == step_seed(0, 1, 0)
        (True, False)
    """
    return int(np.random.SeedSequence([seed, *counters]).generate_state(1, np.uint64)[0] >> np.uint64(1))


class SeededFit(Callback):
    """Seed the global random streams for a fit, and restore the caller's afterwards.

    The order of the images and random transforms of a datamodule come from the global streams of torch, NumPy and
    Python. They are seeded from (seed, epoch) before each epoch's iterator is made, so that a run resumed at an epoch
    sees what an uninterrupted one would have seen. Ranks share the stream, as Lightning's samplers expect.

    Args:
        seed: Any whole number ``>= 0``, or ``None`` to leave all streams alone.
    """

    def __init__(self, seed: int | None) -> None:
        self.seed = seed
        self._seeded_epoch: int | None = None
        self._borrowed = ExitStack()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Set the caller's streams aside and seed the first epoch: Lightning makes its iterator before it starts."""
        del trainer, pl_module
        if stage == "fit" and self.seed is not None:
            self._borrowed.enter_context(isolate_rng())
            self._seed_epoch(0)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Seed the epoch at which a resumed run continues."""
        del pl_module
        if trainer.training and self.seed is not None:
            self._seed_epoch(checkpoint["epoch"] + 1)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Seed every later epoch, whose iterator Lightning makes next."""
        del pl_module
        if self.seed is not None and trainer.current_epoch != self._seeded_epoch:
            self._seed_epoch(trainer.current_epoch)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the caller's streams."""
        del trainer, pl_module
        self._borrowed.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore the caller's streams if training fails."""
        del trainer, pl_module, exception
        self._borrowed.close()

    def _seed_epoch(self, epoch: int) -> None:
        self._seeded_epoch = epoch
        _seed_global_streams(step_seed(self.seed or 0, epoch) % 2**32)
