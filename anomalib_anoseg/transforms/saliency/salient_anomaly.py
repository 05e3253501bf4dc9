"""Anomalies on salient pixels, because real defects lie on the object and not on the background."""

from collections.abc import Sequence

import torch
from torch import Tensor

from anomalib_anoseg.transforms.base import SyntheticAnomaly
from anomalib_anoseg.transforms.saliency.base import EMPTY, NoSaliency, Saliency
from anomalib_anoseg.transforms.saliency.folder import create_saliency

# Saliency is rounded to this many steps: sums of whole numbers are the same on every device and in any order.
STEPS = 255


class SalientAnomaly(SyntheticAnomaly):
    """Base of anomalies that follow saliency.

    Args:
        saliency: A name for :func:`~.saliency.create_saliency`, or a module.
        p: Probability of an anomaly.
        keepdim: Whether a ``(C, H, W)`` image keeps its shape.
    """

    def __init__(self, saliency: Saliency | str, p: float, keepdim: bool) -> None:
        super().__init__(p=p, keepdim=keepdim)
        self.saliency = create_saliency(saliency) if isinstance(saliency, str) else saliency

    def look_up(self, image: Tensor, paths: Sequence[str] | None) -> dict[str, Tensor]:
        """Find the images' ``saliency``, ``(B, 1, h, w)``, if their files are given."""
        if paths is None or isinstance(self.saliency, NoSaliency):
            return {}
        return {"saliency": self.saliency.small(image, paths)}

    def check_paths(self, paths: Sequence[str]) -> None:
        """Check that the source of saliency knows these files, see :meth:`SyntheticAnomaly.check_paths`."""
        self.saliency.check_paths(paths)

    def estimate_saliency(self, image: Tensor, params: dict[str, Tensor]) -> Tensor | None:
        """Estimate the saliency of images, or take it from ``params``: ``(B, 1, h, w)``; ``None`` for ``"none"``."""
        if isinstance(self.saliency, NoSaliency):
            return None
        return params["saliency"].to(image.device) if "saliency" in params else self.saliency.small(image)


def move_to_salient(points: Tensor, saliency: Tensor) -> Tensor:
    """Move uniformly distributed points so that their density is proportional to the saliency of their image.

    This inverts the cumulative saliency, first over the rows, then along a row. Neighbours stay neighbours. Points do
    not move if the saliency is the same everywhere or the map is empty.

    Args:
        points: ``(B, ..., 2)``, x first, as fractions of the side, in ``[0, 1]``.
        saliency: ``(B, 1, h, w)``, in ``[0, 1]``.

    Returns:
        ``(B, ..., 2)``, in ``[0, 1]``.

    Example:
        >>> saliency = torch.tensor([[[[0.0, 1.0]]]])
        >>> move_to_salient(torch.tensor([[0.5, 0.25]]), saliency)
        tensor([[0.7500, 0.2500]])
    """
    density, flat = saliency.mul(STEPS).round().long().squeeze(1), points.reshape(len(points), -1, 2)
    is_empty = (saliency.mean((1, 2, 3)) < EMPTY) | (density.amax((1, 2)) == 0)
    density = torch.where(is_empty[:, None, None], 1, density)
    row, y = _invert(density.sum(-1)[:, None].expand(-1, flat.shape[1], -1), flat[..., 1])
    images = torch.arange(len(density), device=density.device)[:, None]
    _, x = _invert(density[images, row], flat[..., 0])
    return torch.where(is_empty[:, None, None], flat, torch.stack((x, y), -1)).view_as(points)


def _invert(density: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Find where the cumulative ``density`` ``(B, N, n)``, whole numbers, reaches a ``share`` ``(B, N)`` of its total.

    Returns:
        The cell and the fraction of the whole way, each ``(B, N)``.
    """
    cumulative = density.cumsum(-1)
    total = cumulative[..., -1]
    target = share * total
    # Below the total, so that the cell's density is not 0, even if the share is 1 or rounded to 1.
    reached = torch.minimum(target.long(), total - 1)[..., None]
    cell = torch.searchsorted(cumulative, reached, right=True)
    before, own = (values.gather(-1, cell).squeeze(-1) for values in (cumulative - density, density))
    within = ((target - before) / own.clamp(min=1)).clamp(0, 1)
    cell = cell.squeeze(-1)
    return cell, (cell + within) / density.shape[-1]
