"""Base of anomalies that alter an image in place: broken, bent, shaded, blurred or cracked."""

from collections.abc import Sequence

import torch
from torch import Tensor

from anomalib_anoseg.common.checks import check_interval
from anomalib_anoseg.transforms._tensors import find_changed, on_device
from anomalib_anoseg.transforms.base import ForgedBatch
from anomalib_anoseg.transforms.blobs import blob_weights, draw_blobs
from anomalib_anoseg.transforms.random_stream import RandomStream
from anomalib_anoseg.transforms.saliency import Saliency, SalientAnomaly, move_to_salient


class AlteredPlace(SalientAnomaly):
    """Base of anomalies that alter an image around a place; the mask marks what is visible of it.

    Subclasses draw a ``center`` ``(B, 2)``, x first, as fractions of the side, among their parameters, and implement
    :meth:`alter`. Changes of at most 3/255 in every channel, which nobody sees, are undone.
    """

    needs_batch = False

    def alter(self, image: Tensor, center: Tensor, params: dict[str, Tensor]) -> Tensor:
        """Alter ``(B, C, H, W)`` float32 images around ``center`` ``(B, 2)``, in pixels."""
        raise NotImplementedError

    def plant(self, image: Tensor, params: dict[str, Tensor]) -> ForgedBatch:
        """Alter the images that the gate chose, see :meth:`SyntheticAnomaly.plant`."""
        params = on_device(params, image.device)
        original = image.float()
        saliency = self.estimate_saliency(original, params)
        center = params["center"] if saliency is None else move_to_salient(params["center"], saliency)
        x, y = center.unbind(-1)
        center = torch.stack((x * (image.shape[-1] - 1), y * (image.shape[-2] - 1)), -1)
        forged = self.alter(original, center, params).clamp(0, 1).to(image.dtype)
        # A value outside [0, 1] that was only clamped is no change.
        marked = find_changed(forged, image.clamp(0, 1)) & self.is_chosen(params, image)
        return ForgedBatch(torch.where(marked, forged, image), marked.to(image.dtype))


class AlteredBlob(AlteredPlace):
    """Base of anomalies that alter an image within a patch of irregular outline.

    Args:
        area: Range of the patch's area, as a fraction of the image's, log-uniform, within ``[0.0001, 1]``.
        softness: Range of the fraction of the way from outline to centre over which the change rises, within
            ``[0, 1]``.
        strength: Range of the change's strength, within ``[0.01, 1]``.
        saliency: A name for :func:`~.saliency.create_saliency`, or a module.
        p: Probability of an anomaly.
        keepdim: Whether a ``(C, H, W)`` image keeps its shape.

    Raises:
        ValueError: If a range or probability is out of bounds.
    """

    def __init__(
        self,
        area: tuple[float, float],
        softness: tuple[float, float],
        strength: tuple[float, float],
        saliency: Saliency | str,
        p: float,
        keepdim: bool,
    ) -> None:
        check_interval("area", area, 1e-4, 1.0)
        check_interval("softness", softness, 0.0, 1.0)
        check_interval("strength", strength, 0.01, 1.0)
        super().__init__(saliency, p, keepdim)
        self.flags = {"area": tuple(area), "softness": tuple(softness), "strength": tuple(strength)}

    def draw_parameters(self, shape: Sequence[int], stream: RandomStream) -> dict[str, Tensor]:
        """Draw place, patch and strength for every image."""
        params = draw_blobs(shape[0], self.flags["area"], self.flags["softness"], stream)
        params["center"] = stream.uniform((shape[0], 2), 0.0, 1.0)
        params["strength"] = stream.uniform((shape[0],), *self.flags["strength"])
        return params

    @staticmethod
    def weigh(image: Tensor, center: Tensor, params: dict[str, Tensor]) -> Tensor:
        """Compute how much each pixel belongs to its image's patch: ``(B, 1, H, W)``, in ``[0, 1]``."""
        return blob_weights(params, center, (image.shape[-2], image.shape[-1]))
