"""Quantization of an exported model to 8 bits: of its networks, and no further."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import nncf
import torch
from nncf.quantization.range_estimator import RangeEstimatorParametersSet
from torch.nn import functional as F

from anomalib_anoseg.transforms import HardCutPaste

if TYPE_CHECKING:
    from anomalib.data import AnomalibDataModule
    from openvino import Model, Node
    from torch import Tensor

logger = logging.getLogger(__name__)

# OpenVINO's names of what has weights, where nearly all of the time goes.
LAYERS = {"Convolution", "ConvolutionBackpropData", "GroupConvolution", "GroupConvolutionBackpropData", "MatMul"}
# As many as anomalib and NNCF recommend; more are not looked at.
CALIBRATION_IMAGES = 300


def quantize(model: Model, datamodule: AnomalibDataModule) -> Model:
    """Quantize an OpenVINO model, calibrated on the validation images of a data module, with and without anomalies.

    NNCF takes the ranges of values from what it sees. Normal images have scores near 0, and the scores of defects would
    be cut off. So anomalies are forged on the images for the networks, and what follows the last layers, from logits to
    map, score and labels, stays in floating point.

    Args:
        model: Its input is ``(B, 3, H, W)``; any of these may be dynamic.
        datamodule: Its validation images are resized if the model takes images of one size alone.

    Returns:
        The quantized model.
    """
    batch, _, *sides = model.input(0).partial_shape
    size = tuple(side.get_length() for side in sides) if all(side.is_static for side in sides) else None
    images = calibration_images(datamodule, size, batch.get_length() if batch.is_static else None)
    rest = nncf.IgnoredScope(names=behind_layers(model), validate=False)
    # The widest range seen, not the mean of each batch's: anomalies are rare, and must not be cut off either.
    widest = nncf.AdvancedQuantizationParameters(activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX)
    return nncf.quantize(
        model, nncf.Dataset(images), subset_size=len(images), ignored_scope=rest, advanced_parameters=widest
    )


def calibration_images(
    datamodule: AnomalibDataModule, size: tuple[int, ...] | None = None, batch_size: int | None = None
) -> list[Tensor]:
    """Take the first validation images, batch by batch, each batch as it is and then with forged anomalies.

    Args:
        datamodule: The data module; it is set up here.
        size: Height and width to resize to; ``None`` leaves images as they are.
        batch_size: Images in a batch; ``None`` leaves that to the data module.

    Returns:
        Batches ``(B, 3, H, W)``, in ``[0, 1]``, of 300 images or a few more, if there are as many.
    """
    datamodule.setup("fit")
    if batch_size is not None:
        datamodule.eval_batch_size = batch_size
    forger = HardCutPaste(hard_p=1.0, jitter=(1.0, 1.0, 1.0, 0.5))  # of colours that normal images do not have
    generator = torch.Generator().manual_seed(0)
    batches: list[Tensor] = []
    count = 0
    for batch in datamodule.val_dataloader():
        image = batch["image"]
        image = image if size is None else F.interpolate(image, size, mode="bilinear", antialias=True)
        batches += [image, forger.forge(image, generator=generator).image]
        count += len(image)
        if count >= CALIBRATION_IMAGES:
            return batches
    logger.warning("INT8 is calibrated on %d images; %d are better.", count, CALIBRATION_IMAGES)
    return batches


def behind_layers(model: Model) -> list[str]:
    """Name the operations of an OpenVINO model from which no way leads to a layer."""
    nodes = model.get_ordered_ops()
    leads_to_layer: dict[str, bool] = {}
    # Last first, so that what reads a node's outputs is known before the node.
    for node in reversed(nodes):
        leads_to_layer[node.get_friendly_name()] = any(
            reader.get_type_name() in LAYERS or leads_to_layer[reader.get_friendly_name()] for reader in _readers(node)
        )
    names = (node.get_friendly_name() for node in nodes if node.get_type_name() not in LAYERS)
    return [name for name in names if not leads_to_layer[name]]


def _readers(node: Node) -> list[Node]:
    return [port.get_node() for output in node.outputs() for port in output.get_target_inputs()]
