"""Normal patches to compare with: the contrast set of SGSF, carried from whole images to the patches of their features.

A memory of patches of a frozen encoder beside the features that a network segments is MemSeg's idea (Yang, Wu, Feng,
arXiv 2205.00908), which keeps whole feature maps of a few images; a memory thinned by k-center is PatchCore's.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anomalib_anoseg.models.sgsf.neighbours import k_center

# Products in memory at a time, where a processor looks up: 1 MiB, which its cache holds.
MAX_PRODUCTS = 2**18
GROUP = 32  # products among which a file looks for the largest at once


class PatchMemory(nn.Module):
    """Feature vectors of normal patches at one scale, each with the image that it is of.

    Attributes:
        vectors: ``(K, C)`` float16.
        images: ``(K,)`` int64, the image of each.

    Example:
        >>> memory = PatchMemory()
        >>> memory.fill(torch.arange(8.0).view(2, 1, 2, 2), torch.arange(2), 8)
        >>> memory.nearest(torch.full((1, 1, 1, 1), 3.2)).item()
        3.0
        >>> memory.nearest(torch.full((1, 1, 1, 1), 3.2), own=torch.tensor([0])).item()
        4.0
    """

    vectors: Tensor
    images: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.zeros(0, 0, dtype=torch.float16))
        self.register_buffer("images", torch.zeros(0, dtype=torch.int64))

    def __len__(self) -> int:
        """Count the vectors."""
        return len(self.images)

    def fill(self, features: Tensor, places: Tensor, count: int) -> None:
        """Keep representatives, by k-center, in the place of the vectors that are there.

        Args:
            features: ``(N, C, h, w)`` of normal images.
            places: ``(N,)`` int64, by which ``own`` names these images in :meth:`nearest`.
            count: How many vectors at most.
        """
        vectors = features.movedim(1, -1).flatten(0, 2).half()
        images = places.to(vectors.device).repeat_interleave(features[0, 0].numel())
        chosen = k_center(vectors.float(), count)
        self.vectors, self.images = vectors[chosen], images[chosen]

    def nearest(self, features: Tensor, own: Tensor | None = None) -> Tensor:
        """Find the vector nearest to each of ``(B, C, h, w)`` features: the same shape, float32.

        Args:
            features: In float32.
            own: ``(B,)`` int64, the image of each whose vectors do not count, -1 for none; ``None`` lets all count.
        """
        batch, channels, height, width = features.shape
        vectors = self.vectors.float()
        # Minus half the squared distance, but for what is the same for all vectors: one matrix product.
        offset = vectors.square().sum(1) / -2
        if own is not None:
            offset = torch.where(self.images == own[:, None], -torch.inf, offset)[:, None]
        places = _largest_product(features.flatten(2).mT, vectors, offset)
        return vectors[places].mT.reshape(batch, channels, height, width)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:  # noqa: ANN401
        """Take the shapes of what is loaded."""
        for name in ("vectors", "images"):
            loaded = state_dict.get(prefix + name)
            if loaded is not None:
                setattr(self, name, getattr(self, name).new_zeros(loaded.shape))
        super()._load_from_state_dict(state_dict, prefix, *args)


def _largest_product(rows: Tensor, vectors: Tensor, offset: Tensor) -> Tensor:
    """Find which vector's product with each row, plus its offset, is largest.

    A table of all products is larger than a processor's cache, which then waits for memory: so it works in parts.

    Args:
        rows: ``(B, P, C)``.
        vectors: ``(K, C)``.
        offset: ``(K,)``, or ``(B, 1, K)`` if images differ in it.

    Returns:
        ``(B, P)`` int64.
    """
    if rows.device.type != "cpu" or torch.compiler.is_compiling():
        return _largest(rows @ vectors.mT + offset)
    length = max(1, MAX_PRODUCTS // len(vectors))
    images = zip(rows, offset.expand(len(rows), 1, -1), strict=True)
    return torch.stack([
        torch.cat([F.linear(part, vectors, added[0]).argmax(1) for part in image.split(length)])
        for image, added in images
    ])


def _largest(products: Tensor) -> Tensor:
    """Find the place of the largest of ``(B, P, K)`` products, ``(B, P)``: in groups, then in the best group.

    In a file, OpenVINO and ONNX Runtime find a largest value quickly, but its place slowly, unless few compete.
    """
    count = products.shape[2]
    groups = F.pad(products, (0, -count % GROUP), value=-torch.inf).unflatten(2, (-1, GROUP))
    best = groups.amax(3).argmax(2)
    within = groups.gather(2, best[:, :, None, None].expand(-1, -1, 1, GROUP)).argmax(3)
    return GROUP * best + within[:, :, 0]


class Standardisation(nn.Module):
    """Shift and scale each channel by its statistics over normal images.

    Args:
        channels: Number of channels.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))

    def fit(self, features: Tensor) -> None:
        """Take the statistics of ``(N, C, h, w)`` features; the scale of a channel that is constant stays.

        Where an image is normal, most channels vary; one that does not must not blow up what is abnormal.
        """
        variance, self.mean = torch.var_mean(features.transpose(0, 1).flatten(1), 1)
        self.variance = torch.where(variance > 0, variance, 1.0)

    def forward(self, features: Tensor) -> Tensor:
        """Standardise ``(B, C, h, w)`` features."""
        return F.batch_norm(features, self.mean, self.variance, eps=0.0)


def average_patches(features: Tensor) -> Tensor:
    """Average ``(B, C, h, w)`` features over 3x3 patches, over what there is of them at the border."""
    return F.avg_pool2d(features, 3, 1, 1, count_include_pad=False)
