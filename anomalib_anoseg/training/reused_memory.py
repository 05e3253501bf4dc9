"""Keep the memory that a step frees for the next step.

glibc gives large blocks back to the system as soon as they are freed. The next step is given others, and the system
clears each page when it is first written: on a CPU a seventh of a training of small images, and half of one of large
images. No result depends on it.
"""

import ctypes
import platform
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

# Parameters of glibc's mallopt, from malloc.h.
TRIM_THRESHOLD, MMAP_MAX = -1, -4
# Between trainings: glibc's own number of blocks, and what its threshold, which adapts until it is set, grows to.
BLOCKS, LARGEST = 65_536, 64 * 2**20


class ReusedMemory(Callback):
    """Let a training, test or prediction on a CPU use its memory again; afterwards the system gets all back.

    Only glibc, the C library of most Linux systems, needs it. Elsewhere this does nothing.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take large blocks from the heap, too, and never shorten it."""
        del pl_module, stage
        if trainer.strategy.root_device.type == "cpu" and (libc := _find_glibc()):
            libc.mallopt(MMAP_MAX, 0)
            libc.mallopt(TRIM_THRESHOLD, -1)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give back what is free."""
        del trainer, pl_module, stage
        _give_back()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give back what is free."""
        del trainer, pl_module, exception
        _give_back()


def _give_back() -> None:
    if libc := _find_glibc():
        libc.mallopt(MMAP_MAX, BLOCKS)
        libc.mallopt(TRIM_THRESHOLD, LARGEST)
        libc.malloc_trim(0)


def _find_glibc() -> Any:  # noqa: ANN401
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
