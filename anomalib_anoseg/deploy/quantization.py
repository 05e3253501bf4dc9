"""Quantization of an exported model's networks, and nothing else, to 8 bits."""

from __future__ import annotations

import logging
import math
from itertools import islice
from typing import TYPE_CHECKING, Any

import nncf
import torch
from nncf.quantization.range_estimator import RangeEstimatorParametersSet
from torch.nn import functional as F

from anomalib_anoseg.training.file_checks import check_image_files, image_paths
from anomalib_anoseg.transforms import HardCutPaste

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anomalib.data import AnomalibDataModule
    from openvino import Model, Node
    from torch import Tensor
    from torch.utils.data import DataLoader

logger = logging.getLogger(__name__)

NO_IMAGES = "INT8 is calibrated on validation images, and there are none. Hold some out (val_split_mode: from_train)."
# OpenVINO's names of the layers with weights, which take nearly all of the time.
LAYERS = {"Convolution", "ConvolutionBackpropData", "GroupConvolution", "GroupConvolutionBackpropData"}
# Matrix products resize the picture and look up what is similar: neither must be rounded.
EXACT = ["MatMul"]
# As many as anomalib and NNCF recommend; further images are ignored.
RECOMMENDED_IMAGES = 300


def quantize(model: Model, datamodule: AnomalibDataModule) -> Model:
    """Quantize an OpenVINO model, calibrated on the validation images of a data module and on anomalies forged on them.

    NNCF takes the ranges of values from these images. Normal images have scores near 0, so the scores of defects would
    be clipped. So anomalies are forged for the networks, and the operations after the last layers, from logits to map,
    score and labels, stay in floating point. What rounding adds to a layer's outputs is taken off its bias, layer after
    layer: for all layers at once, much of it would stay in networks of many thin layers.

    Args:
        model: Its input is ``(B, 3, H, W)``; any of these may be dynamic.
        datamodule: Its validation images are resized if the model takes images of one size alone.

    Returns:
        The quantized model.
    """
    batch, _, *sides = model.input(0).partial_shape
    size = tuple(side.get_length() for side in sides) if all(side.is_static for side in sides) else None
    batch_size = batch.get_length() if batch.is_static else None
    images = CalibrationImages(validation_loader(datamodule, batch_size), size, batch_size)
    rest = nncf.IgnoredScope(names=behind_layers(model), types=EXACT, validate=False)
    # The widest range seen, not the mean of each batch's: anomalies are rare, and must not be clipped either.
    widest = nncf.AdvancedQuantizationParameters(activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX)
    return nncf.quantize(
        model,
        nncf.Dataset(images),
        subset_size=len(images),
        fast_bias_correction=False,
        ignored_scope=rest,
        advanced_parameters=widest,
    )


class CalibrationImages:
    """The first 300 images of a loader, batch by batch, each batch as it is and then with anomalies forged on it.

    Can be iterated again, with the same anomalies; nothing is kept in memory.

    Args:
        loader: Its batches hold images ``(B, 3, H, W)``, in ``[0, 1]``, under ``"image"``.
        size: Height and width to resize them to; ``None`` leaves them as they are.
        batch_size: Images in every batch; a smaller one repeats its images. ``None`` leaves batches as they are.

    Example:
        >>> loader = torch.utils.data.DataLoader([{"image": torch.rand(3, 32, 32)}] * 3, batch_size=2)
        >>> [tuple(image.shape) for image in CalibrationImages(loader, size=(64, 64))]
        [(2, 3, 64, 64), (2, 3, 64, 64), (1, 3, 64, 64), (1, 3, 64, 64)]
    """

    def __init__(
        self, loader: DataLoader[Any], size: tuple[int, ...] | None = None, batch_size: int | None = None
    ) -> None:
        self.loader, self.size, self.batch_size = loader, size, batch_size
        self.batches = min(len(loader), math.ceil(RECOMMENDED_IMAGES / (loader.batch_size or 1)))

    def __len__(self) -> int:
        """Count the batches, including those with anomalies."""
        return 2 * self.batches

    def __iter__(self) -> Iterator[Tensor]:
        """Iterate over the batches.

        Yields:
            ``(B, 3, H, W)`` in ``[0, 1]``, normal and forged alternately.
        """
        augmenter = HardCutPaste(hard_p=1.0, jitter=(1.0, 1.0, 1.0, 0.5))  # of colours that normal images do not have
        generator = torch.Generator().manual_seed(0)
        for batch in islice(self.loader, self.batches):
            image = batch["image"]
            if self.batch_size is not None:
                image = image[torch.arange(self.batch_size) % len(image)]
            if self.size is not None:
                image = F.interpolate(image, self.size, mode="bilinear", antialias=True)
            yield image
            yield augmenter.forge(image, generator=generator).image


def validation_loader(datamodule: AnomalibDataModule, batch_size: int | None) -> DataLoader[Any]:
    """Make the loader of a data module's validation images, with batches of its own or another size.

    Raises:
        ValueError: If there are no validation images, or a file cannot be used.
    """
    datamodule.setup("fit")
    before: Any = getattr(datamodule, "eval_batch_size", None)
    try:
        datamodule.eval_batch_size = batch_size or before
        loader: Any = datamodule.val_dataloader()
    except AttributeError as error:  # anomalib has no validation set then
        raise ValueError(NO_IMAGES) from error
    finally:
        datamodule.eval_batch_size = before
    if len(loader.dataset) == 0:
        raise ValueError(NO_IMAGES)
    check_image_files(list(image_paths(loader.dataset))[:RECOMMENDED_IMAGES])
    if len(loader.dataset) < RECOMMENDED_IMAGES:
        logger.warning("INT8 is calibrated on %d images; %d are better.", len(loader.dataset), RECOMMENDED_IMAGES)
    return loader


def behind_layers(model: Model) -> list[str]:
    """Name the operations of an OpenVINO model from which no path leads to a layer with weights."""
    nodes = model.get_ordered_ops()
    leads_to_layer: dict[str, bool] = {}
    # Last first, so that the readers of a node's outputs are known before the node.
    for node in reversed(nodes):
        leads_to_layer[node.get_friendly_name()] = any(
            reader.get_type_name() in LAYERS or leads_to_layer[reader.get_friendly_name()] for reader in _readers(node)
        )
    names = (node.get_friendly_name() for node in nodes if node.get_type_name() not in LAYERS)
    return [name for name in names if not leads_to_layer[name]]


def _readers(node: Node) -> list[Node]:
    return [port.get_node() for output in node.outputs() for port in output.get_target_inputs()]
