"""Anomalies of several kinds within a batch, each image with one of them."""

import math
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from anomalib_anoseg.transforms.base import SyntheticAnomaly, constant, per_image, under_prefix
from anomalib_anoseg.transforms.shares import draw_spread


class OneOf(SyntheticAnomaly):
    """Plant in each image what one of several transforms makes, which is drawn by weight.

    What a network learns from one kind of anomaly may be what that kind alone has in common, such as its rims. Kinds
    are spread as evenly as their weights allow: of a batch of 8 with two equal ones, each gets 4. Every transform works
    on all images, because nobody may ask the device which of them it is for, and each image takes what the transform
    that was drawn for it made; so the cost is the sum of theirs.

    Args:
        kinds: The transforms, one or more. Each keeps its own probability of an anomaly, but draws from the random
            stream of this one.
        weights: How often each is drawn, in relation to the others: 0 or more, not all 0. Equally often if ``None``.
        p: Probability of an anomaly, before that of the transform that is drawn.
        keepdim: Whether a ``(C, H, W)`` image keeps its shape.

    Raises:
        ValueError: If there is no transform, or not a weight for each, or one is negative or infinite, or all are 0.

    Convention:
        - ``_params["kind"]``: ``(B,)`` int64, the number of the transform that each image takes; those of transform
          ``n`` are under ``<n>.<name>``.
        - :meth:`turn` turns the images whose transform does so. A mask ``(B, 1, H, W)`` follows its image. In a
          container give the keys as ``["input", "mask"]``, in this order.

    Example:
        >>> import torch
        >>> from anomalib_anoseg.transforms import HardCutPaste, SaliencyPerlin
        >>> both = OneOf([HardCutPaste(), SaliencyPerlin(p=1.0)], weights=[3, 1])
        >>> forged, mask = both.manual_seed(0).forge(torch.rand(4, 3, 64, 64))
        >>> both._params["kind"].sort().values.tolist()
        [0, 0, 0, 1]
    """

    def __init__(
        self,
        kinds: Sequence[SyntheticAnomaly],
        weights: Sequence[float] | None = None,
        p: float = 1.0,
        keepdim: bool = False,
    ) -> None:
        weights = [1.0] * len(kinds) if weights is None else list(weights)
        if not kinds:
            raise ValueError("kinds must hold one transform or more, got none.")
        if len(weights) != len(kinds):
            raise ValueError(f"weights must be one for each of {len(kinds)} kinds, got {tuple(weights)}.")
        if not all(0 <= weight < math.inf for weight in weights) or not sum(weights):
            raise ValueError(f"weights must be finite, 0 or more, and not all 0, got {tuple(weights)}.")
        super().__init__(p=p, keepdim=keepdim)
        self.kinds = nn.ModuleList(kinds)
        self.flags = {"weights": tuple(weight / sum(weights) for weight in weights)}

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> dict[str, Tensor]:
        """Draw which transform each image takes, and all parameters of all transforms."""
        # Summed on the host: some devices cannot do it in the same way each time.
        ends = constant(tuple(accumulate(self.flags["weights"]))[:-1], self.device)
        params = {"kind": torch.bucketize(draw_spread(self, batch_shape[0]), ends, right=True)}
        for number, transform in self._numbered():
            own, transform.generator = transform.generator, self.generator
            params |= _numbered(number, transform.forward_parameters(batch_shape))
            transform.generator = own
        return params

    def complete_parameters(self, params: dict[str, Tensor], image: Tensor, paths: Sequence[str] | None) -> None:
        """Let every transform add what depends on the images or their files."""
        for number, transform in self._numbered():
            own = under_prefix(f"{number}.", params)
            transform.complete_parameters(own, image, paths)
            params |= _numbered(number, own)

    def check_paths(self, paths: Sequence[str]) -> None:
        """Check the files for every transform, see :meth:`SyntheticAnomaly.check_paths`."""
        for _, transform in self._numbered():
            transform.check_paths(paths)

    def turn(self, image: Tensor, params: dict[str, Tensor] | None = None) -> Tensor:
        """Turn images as those that anomalies were planted in, see :meth:`SyntheticAnomaly.turn`."""
        params = self._params if params is None else params
        turned = self._take(params, lambda transform, own: transform.turn(image, own))
        return self._gate_by(params, turned, image)

    def apply_transform(
        self,
        input: Tensor,
        params: dict[str, Tensor],
        flags: dict[str, Any],
        transform: Tensor | None = None,
    ) -> Tensor:
        """Plant in each of ``(B, C, H, W)`` images the anomaly of its transform."""
        del flags, transform
        return self._take(params, lambda part, own: part(input, params=own))

    def apply_transform_mask(
        self,
        input: Tensor,
        params: dict[str, Tensor],
        flags: dict[str, Any],
        transform: Tensor | None = None,
    ) -> Tensor:
        """Let ``(B, 1, H, W)`` masks follow their images."""
        del flags, transform
        return self._take(params, lambda part, own: part.transform_masks(input, params=own))

    def _take(
        self, params: dict[str, Tensor], apply: Callable[[SyntheticAnomaly, dict[str, Tensor]], Tensor]
    ) -> Tensor:
        """Apply every transform with its parameters, and take for each image what its own gives."""
        made = [apply(transform, under_prefix(f"{number}.", params)) for number, transform in self._numbered()]
        taken = made[0]
        for number, candidate in enumerate(made[1:], start=1):
            taken = torch.where(per_image(params["kind"] == number, candidate), candidate, taken)
        return taken

    def _numbered(self) -> list[tuple[int, Any]]:
        return list(enumerate(self.kinds))


def _numbered(number: int, params: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{number}.{name}": value for name, value in params.items()}
