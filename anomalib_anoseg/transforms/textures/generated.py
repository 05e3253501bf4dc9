"""Textures without a folder: from the batch itself, or from noise."""

from collections.abc import Sequence

import torch
from torch import Tensor

from anomalib_anoseg.transforms._tensors import in_parts
from anomalib_anoseg.transforms.random_stream import RandomStream
from anomalib_anoseg.transforms.textures.base import Textures
from anomalib_anoseg.transforms.textures.distortions import draw_distortions


class BatchTextures(Textures):
    """Use other images of the batch as textures, upside down and with their rows shifted cyclically.

    Objects lie in the same place in all images: unmoved, another image would often show the same there. An image may
    also get itself, and in a batch of one it does: moved and distorted, it shows as well as another one.

    Example:
        >>> import torch
        >>> from anomalib_anoseg.transforms import SaliencyPerlin
        >>> forged, mask = SaliencyPerlin(textures=BatchTextures()).forge(torch.rand(2, 3, 64, 64))
    """

    padding = "reflection"

    def draw(self, shape: Sequence[int], stream: RandomStream) -> dict[str, Tensor]:
        """Draw as for any texture, and ``shift``, ``(B,)``, as a fraction of the height."""
        params = super().draw(shape, stream)
        return params | {"shift": stream.uniform((shape[0],), 0.2, 0.8)}

    def look_up(self, image: Tensor, params: dict[str, Tensor]) -> Tensor:
        """Take the image at fraction ``index`` of the batch, upside down, its rows shifted cyclically."""
        batch = params.get("batch", image).detach()
        count, channels, height, width = batch.shape
        source = (params["index"] * count).long().clamp(max=count - 1)[:, None, None]
        channel = torch.arange(channels, device=image.device)[:, None]
        row = ((params["shift"] * height).long()[:, None, None] - torch.arange(height, device=image.device)) % height
        rows = (source * channels + channel) * height + row
        pictures = torch.empty(batch.shape, dtype=torch.uint8, device=batch.device)
        for part, levels in in_parts((height, width), batch.flatten(0, 1), pictures.flatten(0, 1)):
            # A little more than 255, so that truncation restores k from k / 255 for all 256 levels.
            levels.copy_(part.float().mul(255.999).clamp_(0, 255))
        return pictures.view(-1, width).index_select(0, rows.flatten()).view_as(image)


class NoiseTextures(Textures):
    """The noise itself as a texture, grey, as in anomalib's generator without a folder.

    Example:
        >>> import torch
        >>> from anomalib_anoseg.transforms import SaliencyPerlin
        >>> forged, mask = SaliencyPerlin(textures=NoiseTextures()).forge(torch.rand(2, 3, 64, 64))
    """

    def draw(self, shape: Sequence[int], stream: RandomStream) -> dict[str, Tensor]:
        """Draw how the noise is distorted; its one channel has no colours to change."""
        return draw_distortions(stream, shape[0], channels=1)

    def look_up(self, image: Tensor, params: dict[str, Tensor]) -> Tensor:
        """Map the noise from ``[-0.5, 1]`` to ``[0, 0.75]``; lower values become 0."""
        del image
        return params["noise"].add(0.5).mul_(255 / 2).add_(0.5).clamp_(min=0).to(torch.uint8)
