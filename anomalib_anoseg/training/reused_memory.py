"""Keep the memory that a step frees for the next step.

glibc gives large blocks back to the system as soon as they are freed. The next step is given others, and the system
clears each page when it is first written: on a CPU a tenth of a step of small images, and a third of one of large ones.
No result depends on it.

What is kept would be copied when this process writes to it beside a worker of a data loader, which is a fork and holds
the same pages. So all that is free is given back before each fork.
"""

import ctypes
import os
import platform
from functools import cache
from typing import Any
from weakref import WeakSet

from lightning.pytorch import Callback, LightningModule, Trainer

# Parameters of glibc's mallopt, from malloc.h.
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
# Between trainings: glibc's own number of blocks, and what its threshold, which adapts until one is set, grows to.
BLOCKS, LARGEST = 65_536, 32 * 2**20
_keeping: WeakSet["ReusedMemory"] = WeakSet()


class ReusedMemory(Callback):
    """Let a training, test or prediction on a CPU use its memory again; afterwards the system gets all back.

    Only glibc, the C library of most Linux systems, needs it. Elsewhere this does nothing.
    """

    def __init__(self) -> None:
        self._libc: Any = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take large blocks from the heap, too, and never shorten it."""
        del pl_module, stage
        if trainer.strategy.root_device.type == "cpu" and platform.libc_ver()[0] == "glibc":
            self._libc = ctypes.CDLL(None)
            self._libc.mallopt(MMAP_MAX, 0)
            self._libc.mallopt(TRIM_THRESHOLD, -1)
            _keeping.add(self)
            _watch_forks()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give back what is free."""
        del trainer, pl_module, stage
        self._give_back()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give back what is free."""
        del trainer, pl_module, exception
        self._give_back()

    def _give_back(self) -> None:
        libc, self._libc = self._libc, None
        _keeping.discard(self)
        if libc:
            libc.mallopt(MMAP_MAX, BLOCKS)
            libc.mallopt(MMAP_THRESHOLD, LARGEST)
            libc.mallopt(TRIM_THRESHOLD, 2 * LARGEST)
            libc.malloc_trim(0)


@cache
def _watch_forks() -> None:
    """Give back what is free before each fork from now on, if anything is kept."""
    os.register_at_fork(before=lambda: ctypes.CDLL(None).malloc_trim(0) if _keeping else None)
