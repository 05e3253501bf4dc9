"""An encoder of timm's, with features at five scales, that may see where each pixel lies."""

from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anomalib_anoseg.models.network_parts import scale_channels
from anomalib_anoseg.models.pretrained import expected_colours, load_pretrained

# Of a ResNet, see Table 6 of arXiv 2110.03396.
CHANNELS = (64, 128, 256, 512)
REDUCTION = 32
# Of all images that a frozen encoder sees at once on a processor: its cache holds the feature maps of so many, 16 of
# 128x128. More wait for memory, and take up to 1.6 times as long for each.
MAX_PIXELS = 2**18


class CoordinateEncoder(nn.Module):
    """A timm backbone that sees the position of each pixel beside its colour (Sec. 3.3).

    Args:
        backbone: Name of a timm model with feature maps down to 1/32 of the image.
        width: Factor on the channels of a ResNet; other backbones keep theirs.
        coordinates: Whether row and column, linear in ``[-1, 1]``, are two more input channels.
        normalize: Whether colours are shifted and scaled as timm's weights of this backbone expect; images stay in
            ``[0, 1]`` everywhere else.
        extra_channels: Further channels of the inputs to encode, which the caller appends.
        frozen: Whether weights and normalisation statistics stay as loaded; not in the paper.
        setting: Name of the setting that chose the backbone, for messages.

    Attributes:
        channels: Numbers of channels of the feature maps, finest first.
        frozen: Whether it never trains.

    Raises:
        ValueError: If timm does not know the backbone or it does not halve its input five times.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: str = "resnet18",
        width: float = 1.0,
        coordinates: bool = True,
        normalize: bool = False,
        extra_channels: int = 0,
        frozen: bool = False,
        setting: str = "encoder.backbone",
    ) -> None:
        super().__init__()
        self.backbone, self.coordinates, self.normalize, self.frozen = backbone, coordinates, normalize, frozen
        self.in_channels = (5 if coordinates else 3) + extra_channels
        self.is_scaled = (width < 1 or width > 1) and backbone.startswith("resnet")
        scaled: dict[str, Any] = {"channels": scale_channels(CHANNELS, width)} if self.is_scaled else {}
        try:
            self.network = timm.create_model(backbone, **self._timm_arguments, **scaled)
        except RuntimeError as error:
            raise ValueError(f"{setting} must be a timm feature extractor, got {backbone!r}: {error}") from error
        feature_info: Any = self.network.feature_info
        reductions = feature_info.reduction()
        if reductions != [2, 4, 8, 16, REDUCTION]:
            raise ValueError(
                f"{setting} must have feature maps at 1/2, 1/4, ... 1/{REDUCTION} of the image, {backbone!r} has "
                f"1/{', 1/'.join(map(str, reductions))}; take a ResNet, EfficientNet, MobileNet or similar."
            )
        self.channels: list[int] = feature_info.channels()
        if normalize:
            mean, std = expected_colours(backbone)
            self.register_buffer("mean", mean)
            self.register_buffer("std", std)
        if frozen:
            self._freeze()

    def _freeze(self) -> None:
        self.network.requires_grad_(False)
        for module in self.network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.track_running_stats = False  # otherwise update_bn would reset the statistics

    @property
    def _timm_arguments(self) -> dict[str, Any]:
        return {"features_only": True, "in_chans": self.in_channels}

    def load_pretrained(self, weights: str | None = None, argument: str = "encoder.pre_trained") -> None:
        """Load the backbone's ImageNet weights, from a file if given and by timm's download otherwise.

        timm spreads the colour filters of the first layer over the coordinate channels.

        Raises:
            ValueError: If ``width`` scales the encoder, for which no weights exist, or they cannot be loaded.
        """
        if self.is_scaled:
            raise ValueError(
                "encoder.pre_trained weights fit network.width=1 alone; set it to 1, or pre_trained to False."
            )
        load_pretrained(self.network, self.backbone, weights, argument, **self._timm_arguments)

    def with_coordinates(self, image: Tensor) -> Tensor:
        """Normalise ``(B, 3, H, W)`` images and append coordinate channels, each if enabled."""
        if self.normalize:
            image = (image - self.mean) / self.std
        if not self.coordinates:
            return image
        height, width = image.shape[-2:]
        rows = torch.arange(height, device=image.device, dtype=image.dtype) * (2 / (height - 1)) - 1
        columns = torch.arange(width, device=image.device, dtype=image.dtype) * (2 / (width - 1)) - 1
        coordinates = torch.stack((rows[:, None].expand(height, width), columns[None].expand(height, width)))
        return torch.cat((image, coordinates.expand(image.shape[0], -1, -1, -1)), 1)

    def forward(self, inputs: Tensor) -> list[Tensor]:
        """Pad the output of :meth:`with_coordinates` to multiples of 32; encode it to features at 1/2 to 1/32."""
        height, width = inputs.shape[-2:]
        padded = F.pad(inputs, (0, -width % REDUCTION, 0, -height % REDUCTION), mode="replicate")
        if self.frozen and self.network.training:
            # Not earlier: Lightning warns about modules in evaluation mode when training starts.
            self.network.eval()
        encoded = [self.network(part) for part in self._parts(padded)]
        return encoded[0] if len(encoded) == 1 else [torch.cat(scale) for scale in zip(*encoded, strict=True)]

    def _parts(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Divide a batch where that is faster; training needs the statistics of all of it."""
        if not self.frozen or inputs.device.type != "cpu" or torch.compiler.is_compiling():
            return (inputs,)
        height, width = inputs.shape[-2:]
        return inputs.split(max(1, MAX_PIXELS // (height * width)))
