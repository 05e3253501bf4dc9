"""The size of the references of a trained model in a file, and which settings reduce it."""

import math
from dataclasses import dataclass, replace
from typing import Literal

from anomalib_anoseg.models.network_parts import scale_channels
from anomalib_anoseg.models.sgsf.bank import DTYPES, Precision
from anomalib_anoseg.models.sgsf.networks import CHANNELS, REDUCTION, Passes

BankFeatures = Literal["computed", "stored"]


@dataclass(frozen=True)
class BankSize:
    """The size of references in a file.

    With ``H`` and ``W`` rounded up to multiples of 16, channels ``C_i`` of 64, 128, 256 and 512 times ``width``, and
    ``s`` bytes per number, 2 or 4, it is in bytes::

        computed: count * (3 H W                                + 4 embedding_size)
        stored:   count * (s * sum_i C_i (H / 2^i) (W / 2^i)    + 4 embedding_size),  i = 0..3

    With ``passes="concatenated"`` the stored features take half as much again. A checkpoint always takes the size of
    ``computed``; an export takes that of its ``features``. A single reference needs no embedding.

    Attributes:
        count: References.
        image_size: Height and width in pixels.
        width: Factor on the channels.
        features: ``"computed"`` from the images, or ``"stored"``.
        precision: Of stored features.
        passes: See :class:`~anomalib_anoseg.models.sgsf.networks.GuidedUNet`.
        embedding_size: Features of the extractor.

    Example:
        >>> BankSize(1, (256, 256)).megabytes, BankSize(16, (256, 256)).megabytes
        (15.72864, 251.691008)
        >>> BankSize(16, (256, 256), features="computed").megabytes
        3.178496
    """

    count: int
    image_size: tuple[int, int]
    width: float = 1.0
    features: BankFeatures = "stored"
    precision: Precision = "float16"
    passes: Passes = "fused"
    embedding_size: int = 512

    @property
    def megabytes(self) -> float:
        """Size of all references together, in units of 10**6 bytes."""
        numbers = self.embedding_size if self.count > 1 else 0
        return self.count * (self._bytes_of_one() + 4 * numbers) / 1e6

    def _bytes_of_one(self) -> int:
        if self.features == "computed":
            return 3 * self.image_size[0] * self.image_size[1]
        height, width = (math.ceil(side / REDUCTION) * REDUCTION for side in self.image_size)
        scales = scale_channels(CHANNELS, self.width)
        numbers = [channels * (height >> i) * (width >> i) for i, channels in enumerate(scales)]
        passed = sum(numbers[1:]) if self.passes == "concatenated" else 0
        return (sum(numbers[:-1]) + passed) * DTYPES[self.precision].itemsize

    def explain(self, limit: float) -> str | None:
        """Explain that they take more megabytes than ``limit``, and what takes less; ``None`` if they do not.

        Example:
            >>> print(BankSize(16, (256, 256)).explain(100).partition(". ")[0])
            16 references take 252 MB of each exported file, more than bank.limit=100
        """
        if self.megabytes <= limit:
            return None
        remedies = [
            f"{setting} ({_show(other.megabytes)}{price})"
            for setting, price, other in (
                ("bank.features=computed", ", slower", replace(self, features="computed")),
                ("bank.precision=float16", "", replace(self, precision="float16")),
                ("guidance.kind=single", ", one reference for all", replace(self, count=1)),
            )
            if other.megabytes < self.megabytes
        ]
        fitting = int(limit * self.count / self.megabytes)
        if fitting:
            remedies.append(f"before the training bank.size={fitting}")
        remedies.append(f"bank.limit={math.ceil(self.megabytes)} to accept it")
        return (
            f"{self.count} references take {_show(self.megabytes)} of each exported file, more than "
            f"bank.limit={limit:g}. Choose {', or '.join(remedies)}. After the training choose in Python, because "
            "`anomalib export` keeps what was trained: SGSF.load_from_checkpoint(FILE, guidance={'kind': 'single'})."
        )


def _show(megabytes: float) -> str:
    return f"{megabytes:.0f} MB" if megabytes >= 10 else f"{megabytes:.2g} MB"  # noqa: PLR2004 - two digits or more
