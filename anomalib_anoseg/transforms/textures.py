"""Auxiliary textures, which become the anomalies: from a folder, from the batch itself, or from noise."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms.v2.functional import resize

from anomalib_anoseg.common.checks import check_value
from anomalib_anoseg.transforms.base import SeededAugmentation, in_parts
from anomalib_anoseg.transforms.distortions import distort, draw_distortions

DTD = "https://www.robots.ox.ac.uk/~vgg/data/dtd/"
SUFFIXES = {".jpeg", ".jpg", ".png", ".webp"}


class Textures(nn.Module):
    """Where textures come from; each is distorted anew for each image, as DRAEM does.

    Subclasses say in :meth:`look_up` which picture an index means. Like the transforms, they draw everything random in
    :meth:`generate_parameters` and read nothing else afterwards, but the ``noise`` that a transform may add: that which
    it thresholds, ``(B, 1, H, W)``.
    """

    # What comes in from outside when a texture is rotated: black in DRAEM.
    padding: str = "zeros"

    def generate_parameters(self, transform: SeededAugmentation, batch_shape: tuple[int, ...]) -> dict[str, Tensor]:
        """Draw from the random stream of ``transform`` which texture each image gets, and how it is distorted.

        Returns:
            What :func:`~anomalib_anoseg.transforms.distortions.draw_distortions` tells, and ``index``, ``(B,)`` in
            ``[0, 1)``.
        """
        params = draw_distortions(transform, batch_shape[0], batch_shape[1])
        return params | {"index": transform.uniform((batch_shape[0],), 0.0, 1.0)}

    def look_up(self, image: Tensor, params: dict[str, Tensor]) -> Tensor:
        """Get the undistorted texture for each of ``(B, C, H, W)`` images: that shape or ``(B, 1, H, W)``, uint8.

        The memory is the caller's, who overwrites it.
        """
        raise NotImplementedError

    def forward(self, image: Tensor, params: dict[str, Tensor]) -> Tensor:
        """Make a texture for each image.

        Args:
            image: ``(B, C, H, W)``, floating point, in ``[0, 1]``.
            params: What :meth:`generate_parameters` drew, and ``noise``.

        Returns:
            ``(B, C, H, W)`` or, if it is grey, ``(B, 1, H, W)``; float32, in ``[0, 1]``, without gradient.
        """
        params = {name: value.to(image.device, non_blocking=True) for name, value in params.items()}
        return distort(self.look_up(image.detach(), params), params, self.padding)


class BatchTextures(Textures):
    """Textures for who has no pictures of any: images of the batch, upside down and their rows shifted around.

    Parts lie in the same place in all pictures: without that an image would get from another what it has there itself.
    An image may be given to itself.

    Example:
        >>> import torch
        >>> from anomalib_anoseg.transforms import SaliencyPerlin
        >>> forged, mask = SaliencyPerlin(textures=BatchTextures()).forge(torch.rand(2, 3, 64, 64))
    """

    padding = "reflection"

    def generate_parameters(self, transform: SeededAugmentation, batch_shape: tuple[int, ...]) -> dict[str, Tensor]:
        """As for any texture, and ``shift``, ``(B,)`` in heights."""
        params = super().generate_parameters(transform, batch_shape)
        return params | {"shift": transform.uniform((batch_shape[0],), 0.2, 0.8)}

    def look_up(self, image: Tensor, params: dict[str, Tensor]) -> Tensor:
        """Take the image at fraction ``index`` of the batch, upside down, its rows shifted around."""
        batch, channels, height, width = image.shape
        source = (params["index"] * batch).long().clamp(max=batch - 1)[:, None, None]
        channel = torch.arange(channels, device=image.device)[:, None]
        row = ((params["shift"] * height).long()[:, None, None] - torch.arange(height, device=image.device)) % height
        rows = (source * channels + channel) * height + row
        pictures = torch.empty(image.shape, dtype=torch.uint8, device=image.device)
        for part, levels in in_parts((height, width), image.flatten(0, 1), pictures.flatten(0, 1)):
            # A little more than 255, so that cutting off rounds: k / 255 becomes k again for all 256 levels.
            levels.copy_(part.float().mul(255.999).clamp_(0, 255))
        return pictures.view(-1, width).index_select(0, rows.flatten()).view_as(image)


class NoiseTextures(Textures):
    """The noise itself as a texture, grey, as in anomalib's generator without a folder.

    Example:
        >>> import torch
        >>> from anomalib_anoseg.transforms import SaliencyPerlin
        >>> forged, mask = SaliencyPerlin(textures=NoiseTextures()).forge(torch.rand(2, 3, 64, 64))
    """

    def generate_parameters(self, transform: SeededAugmentation, batch_shape: tuple[int, ...]) -> dict[str, Tensor]:
        """Draw how the noise is distorted; its one channel has no colours to change."""
        return draw_distortions(transform, batch_shape[0], channels=1)

    def look_up(self, image: Tensor, params: dict[str, Tensor]) -> Tensor:
        """Bring the noise from ``[-0.5, 1]`` to ``[0, 0.75]``; what lies below becomes 0."""
        del image
        return params["noise"].add(0.5).mul_(255 / 2).add_(0.5).clamp_(min=0).to(torch.uint8)


class TextureFolder(Textures):
    """Textures from a folder of pictures, such as the Describable Textures Dataset, as in DRAEM.

    The pictures are read at first use, once, brought to the size of the images of that batch and kept as 8-bit values
    on their device; images of another size get them interpolated. DTD takes 1.1 GB at 256x256 pixels.

    Args:
        root: Folder of pictures (JPEG, PNG, WebP), in its subfolders too.
        memory: Largest amount of memory for them, in megabytes, ``1 <= memory <= 100000``; of more pictures than fit
            evenly spaced ones are taken.

    Raises:
        ValueError: If ``memory`` is out of bounds.

    Example:
        >>> TextureFolder("nowhere")._paths()
        Traceback (most recent call last):
            ...
        FileNotFoundError: textures: there are no pictures (.jpeg, .jpg, .png, .webp) in 'nowhere'. ...
    """

    def __init__(self, root: str | Path, memory: int = 1500) -> None:
        check_value("memory", memory, 1, 100_000)
        super().__init__()
        self.root = Path(root)
        self.memory = memory
        self._pictures: Tensor | None = None

    def look_up(self, image: Tensor, params: dict[str, Tensor]) -> Tensor:
        """Take the picture at fraction ``index`` of the folder.

        Raises:
            ValueError: If the images have neither 1 nor 3 channels.
        """
        if image.shape[1] not in {1, 3}:
            raise ValueError(f"Textures are for images of 1 or 3 channels, got shape {tuple(image.shape)}.")
        if self._pictures is None:
            self._pictures = self._load(image.shape[-2:])
        self._pictures = self._pictures.to(image.device)
        number = (params["index"] * len(self._pictures)).long().clamp(max=len(self._pictures) - 1)
        texture = self._pictures.index_select(0, number)
        if texture.shape[-2:] != image.shape[-2:]:
            texture = F.interpolate(texture.float(), image.shape[-2:], mode="bilinear").to(torch.uint8)
        return texture.float().mean(1, keepdim=True).to(torch.uint8) if image.shape[1] == 1 else texture

    def __getstate__(self) -> dict[str, Any]:
        """Leave the pictures behind when copied or sent elsewhere: they are read again there."""
        return self.__dict__ | {"_pictures": None}

    def extra_repr(self) -> str:
        """Tell the folder."""
        return f"{str(self.root)!r}, memory={self.memory}"

    def _load(self, size: Sequence[int]) -> Tensor:
        """Read the pictures: ``(N, 3, H, W)`` uint8."""
        paths = self._paths()
        count = min(len(paths), max(1, self.memory * 10**6 // (3 * size[0] * size[1])))
        pictures = torch.empty((count, 3, *size), dtype=torch.uint8)
        for number in range(count):
            picture = decode_image(str(paths[number * len(paths) // count]), ImageReadMode.RGB)
            pictures[number] = resize(picture, list(size), antialias=True)
        return pictures

    def _paths(self) -> list[Path]:
        paths = sorted(path for path in self.root.rglob("*") if path.suffix.lower() in SUFFIXES)
        if not paths:
            raise FileNotFoundError(
                f"textures: there are no pictures ({', '.join(sorted(SUFFIXES))}) in {str(self.root)!r}. Nothing is "
                f"downloaded: name a folder of pictures, for example of the Describable Textures Dataset from {DTD}, "
                "or leave it out, for what shows through without one."
            )
        return paths


def create_textures(textures: Textures | str | Path | None) -> Textures:
    """Make textures from what a transform is given: a folder's name, or ``None`` for the batch itself."""
    if isinstance(textures, Textures):
        return textures
    return BatchTextures() if textures is None else TextureFolder(textures)
