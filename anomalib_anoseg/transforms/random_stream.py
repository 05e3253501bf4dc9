"""The source of all random numbers."""

from typing import NamedTuple

import torch
from torch import Tensor


class RandomStream(NamedTuple):
    """Draw random numbers on one device.

    Attributes:
        device: Device of the numbers.
        generator: Generator on that device. ``None`` draws from the device's global stream.
    """

    device: torch.device = torch.device("cpu")
    generator: torch.Generator | None = None

    def uniform(self, shape: tuple[int, ...], low: float, high: float) -> Tensor:
        """Draw float32 values from ``U(low, high)``, whatever torch's default dtype is."""
        return torch.empty(shape, dtype=torch.float32, device=self.device).uniform_(low, high, generator=self.generator)

    def choice(self, shape: tuple[int, ...], count: int) -> Tensor:
        """Draw int64 values from ``{0, ..., count - 1}``."""
        return torch.randint(count, shape, device=self.device, generator=self.generator)
