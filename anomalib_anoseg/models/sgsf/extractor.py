"""Similarity of images, by the pooled features of a frozen network."""

from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anomalib_anoseg.models.pretrained import expected_colours, load_pretrained


class FeatureExtractor(nn.Module):
    """A frozen timm network that describes an image by its globally pooled features.

    The paper names 512 features of the last map, as a ResNet-18 has. The network never trains, whatever the mode.

    Args:
        backbone: Name of a timm model.
        weights: Where the weights come from: ``True`` for timm's download, the path of a file, or ``False`` for random
            ones. :meth:`load_pretrained` reads them, not the constructor: a checkpoint brings its own.
        size: Side in pixels to which images are resized for it; ``None`` keeps their size.

    Attributes:
        embedding_size: Number of features.

    Raises:
        ValueError: If timm does not know the backbone.

    Example:
        >>> import torch
        >>> extractor = FeatureExtractor()
        >>> embedding = extractor(torch.rand(2, 3, 64, 96))
        >>> embedding.shape, embedding.norm(dim=1).round(decimals=4).tolist()
        (torch.Size([2, 512]), [1.0, 1.0])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: str = "resnet18", weights: bool | str = False, size: int | None = None) -> None:
        super().__init__()
        self.backbone, self.weights, self.size = backbone, weights, size
        try:
            network: Any = timm.create_model(backbone, num_classes=0)
        except RuntimeError as error:
            raise ValueError(f"extractor.name must be the name of a timm model, got {backbone!r}: {error}") from error
        self.network = network.requires_grad_(False)
        self.embedding_size: int = network.num_features
        if weights:
            mean, std = expected_colours(backbone)
            self.register_buffer("mean", mean)
            self.register_buffer("std", std)

    def load_pretrained(self) -> None:
        """Load the pre-trained weights, if any are configured."""
        if self.weights:
            file = self.weights if isinstance(self.weights, str) else None
            load_pretrained(self.network, self.backbone, file, "extractor.weights", num_classes=0)

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """Describe ``(B, 3, H, W)`` images in ``[0, 1]`` by ``(B, embedding_size)`` float32 features of length 1."""
        was_training = self.network.training
        if was_training:
            self.network.eval()
        image = image.float()
        if self.size is not None:
            image = F.interpolate(image, (self.size, self.size), mode="bilinear", align_corners=False)
        if self.weights:
            image = (image - self.mean) / self.std
        embedding = F.normalize(self._describe(image), dim=1)
        if was_training:
            self.network.train()
        return embedding

    def _describe(self, image: Tensor) -> Tensor:
        # Similar images differ by less than bfloat16 resolves.
        if not torch.is_autocast_enabled(image.device.type):
            return self.network(image)
        with torch.autocast(image.device.type, enabled=False):
            return self.network(image)
