"""Several kinds of anomaly within a batch, one kind per image."""

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from anomalib_anoseg.transforms._tensors import add_prefix, as_batch, constant, per_image, under_prefix
from anomalib_anoseg.transforms.base import ForgedBatch, SyntheticAnomaly
from anomalib_anoseg.transforms.random_stream import RandomStream
from anomalib_anoseg.transforms.subsets import assign_places, max_selected, selected_images, stratified_uniform


class OneOf(SyntheticAnomaly):
    """Plant in each image the anomaly of one of several transforms, drawn by weight.

    From a single kind of anomaly a network may learn a peculiarity of that kind, such as its rims. Kinds are spread as
    evenly as their weights allow: in a batch of 8, two kinds of equal weight get 4 images each. To avoid synchronising
    host and device, a transform runs on as many images as its weight can give it, which may show parts of all others;
    each image takes the result of its own transform.

    Args:
        kinds: The transforms, one or more. Each keeps its own probability of an anomaly, but draws from the random
            stream of ``OneOf``.
        weights: Relative frequency of each transform: 0 or more, not all 0. Equal if ``None``.
        p: Probability of an anomaly, multiplied by that of the drawn transform.
        keepdim: Whether a ``(C, H, W)`` image keeps its shape.
        names: Name of each transform, for people; that of its class if ``None``.

    Raises:
        ValueError: If there is no transform, or ``weights`` are not one for each, finite, 0 or more, and not all 0, or
            ``names`` are not one for each.

    Convention:
        - ``_params["kind"]``: ``(B,)`` int64, the index of each image's transform; the parameters of transform ``n``
          are under ``<n>.<name>``; ``place.<n>`` ``(B, 1, K)`` tells on which images it runs.
        - :meth:`rotate` rotates the images whose transform does so. A mask ``(B, 1, H, W)`` follows its image. In a
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
        names: Sequence[str] | None = None,
    ) -> None:
        names = [type(kind).__name__ for kind in kinds] if names is None else names
        weights = [1.0] * len(kinds) if weights is None else list(weights)
        if not kinds:
            raise ValueError("kinds must hold one transform or more, got none.")
        if len(weights) != len(kinds):
            raise ValueError(f"weights must be one for each of {len(kinds)} kinds, got {tuple(weights)}.")
        if len(names) != len(kinds):
            raise ValueError(f"names must be one for each of {len(kinds)} kinds, got {tuple(names)}.")
        if not all(0 <= weight < math.inf for weight in weights) or not sum(weights):
            raise ValueError(f"weights must be finite, 0 or more, and not all 0, got {tuple(weights)}.")
        super().__init__(p=p, keepdim=keepdim)
        self.kinds = nn.ModuleList(kinds)
        self.flags = {"weights": tuple(weight / sum(weights) for weight in weights)}
        self.names = tuple(names)

    def draw_parameters(self, shape: Sequence[int], stream: RandomStream) -> dict[str, Tensor]:
        """Draw which transform each image takes, and all parameters of all transforms."""
        # Summed on the host: on some devices such sums are not deterministic.
        ends = constant(tuple(accumulate(self.flags["weights"]))[:-1], stream.device)
        params = {"kind": torch.bucketize(stratified_uniform(stream, shape[0]), ends, right=True)}
        for number, kind in self._numbered():
            params |= add_prefix(f"{number}.", kind.draw(shape, stream))
            count = max_selected(self.flags["weights"][number], shape[0])
            params[f"place.{number}"] = assign_places(params["kind"][:, None] == number, count)
        return params

    def look_up(self, image: Tensor, paths: Sequence[str] | None) -> dict[str, Tensor]:
        """Let every transform look up what depends on the images or their files."""
        found: dict[str, Tensor] = {}
        by_source: dict[Any, dict[str, Tensor]] = {}  # transforms may share their saliency
        for number, kind in self._numbered():
            source = getattr(kind, "saliency", kind)
            by_source[source] = by_source[source] if source in by_source else kind.look_up(image, paths)
            found |= add_prefix(f"{number}.", by_source[source])
        return found

    def check_paths(self, paths: Sequence[str]) -> None:
        """Check the files for every transform, see :meth:`SyntheticAnomaly.check_paths`."""
        for _, kind in self._numbered():
            kind.check_paths(paths)

    def plant(self, image: Tensor, params: dict[str, Tensor]) -> ForgedBatch:
        """Plant in each image the anomaly of its transform, see :meth:`SyntheticAnomaly.plant`."""
        forged, mask = image, torch.zeros_like(image[:, :1])
        for number, kind in self._numbered():
            places = params[f"place.{number}"]
            if not places.shape[-1]:  # its weight gives it no image
                continue
            images, is_own = (at[0] for at in selected_images(places.to(image.device)))
            planted = kind.plant_some(image, under_prefix(f"{number}.", params), images)
            is_own = per_image(is_own, image)
            forged, mask = (
                whole.index_copy(0, images, torch.where(is_own, part, whole.index_select(0, images)))
                for whole, part in zip((forged, mask), planted, strict=True)
            )
        chosen = self.is_chosen(params, image)
        return ForgedBatch(torch.where(chosen, forged, image), mask * chosen)

    def rotate(self, image: Tensor, params: dict[str, Tensor] | None = None) -> Tensor:
        """Rotate images like those in which anomalies were planted, see :meth:`SyntheticAnomaly.rotate`."""
        image, params = as_batch(image), self._params if params is None else params
        rotated = [kind.rotate(image, under_prefix(f"{number}.", params)) for number, kind in self._numbered()]
        if all(one is image for one in rotated):
            return image
        return torch.where(self.is_chosen(params, image), self._take(rotated, params), image)

    def name_kinds(self, params: dict[str, Tensor] | None = None) -> list[str]:
        """Name the kind of each image, see :meth:`SyntheticAnomaly.name_kinds`. The host waits for the device."""
        return [self.names[number] for number in (self._params if params is None else params)["kind"].tolist()]

    def _take(self, made: Sequence[Tensor], params: dict[str, Tensor]) -> Tensor:
        """Take for each image the result of its own transform."""
        taken = made[0]
        for number, candidate in enumerate(made[1:], start=1):
            taken = torch.where(per_image(params["kind"] == number, candidate), candidate, taken)
        return taken

    def _numbered(self) -> list[tuple[int, SyntheticAnomaly]]:
        kinds: Any = self.kinds
        return list(enumerate(kinds))
