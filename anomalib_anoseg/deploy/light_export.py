"""Export of what predicts, without what only training needs."""

import copy
from pathlib import Path
from typing import Any

import anomalib.models  # noqa: F401 - first: runs the registration hook while nothing of this package is half imported
from anomalib.data.transforms.utils import extract_transforms_by_type
from anomalib.models.components import AnomalibModule
from lightning.pytorch import LightningModule
from torch.export import Dim
from torchvision.transforms.v2 import Resize

from anomalib_anoseg.deploy.metadata import describe_thresholds, write_onnx_metadata

# The oldest opset that torch's exporter writes natively; anomalib's default of 14 makes it try a down-conversion.
OPSET_VERSION = 18


class LightExport(LightningModule):
    """Exports as anomalib does, for a model whose ``model`` knows how to ``drop_training_parts``.

    A mixin, to stand before :class:`anomalib.models.components.AnomalibModule`.

    Attributes:
        min_side: Shortest side of an image in pixels that the networks can take.
        unexported: Names of attributes beside ``model`` that only training needs and that may be large.
    """

    min_side: int
    unexported: tuple[str, ...] = ()

    @property
    def only_size(self) -> tuple[int, int] | None:
        """Height and width of the only images that the networks can take; ``None`` if they take any."""
        return None

    def to_torch(self, export_root: Path | str, model_file_name: str = "model") -> Path:
        """Export as anomalib does, without what only training needs."""
        return AnomalibModule.to_torch(self._for_inference(), export_root, model_file_name)

    def to_onnx(
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> Path:
        """Export as anomalib does, in an opset that needs no conversion, with the thresholds in the file's metadata.

        Raises:
            ValueError: If pictures of any size shall be resized by their shorter edge alone, which cannot be exported.
        """
        kwargs.setdefault("opset_version", OPSET_VERSION)
        pre_processor: Any = self.pre_processor
        resizes = extract_transforms_by_type(getattr(pre_processor, "transform", None), Resize)
        if input_size is None and any(len(resize.size) == 1 for resize in resizes):
            raise ValueError("The pre_processor resizes to a shorter edge. Give Resize (height, width), or input_size.")
        if input_size is None and not resizes:
            input_size = self.only_size
        if input_size is None and not resizes:
            # anomalib traces with 2x2 pixels, where the exporter takes the sizes of feature maps for constants.
            sides = {axis: Dim(name, min=self.min_side) for axis, name in ((2, "height"), (3, "width"))}
            kwargs.setdefault("dynamic_shapes", ({0: Dim("batch_size"), **sides},))
            # Of the one forward pass that finds the names of the outputs; the shapes above decide what is exported.
            input_size = (self.min_side, self.min_side)
        path = AnomalibModule.to_onnx(self._for_inference(), export_root, model_file_name, input_size, **kwargs)
        write_onnx_metadata(path, describe_thresholds(self.post_processor))
        return path

    def _post_training_quantization_ov(self, model: Any, datamodule: Any = None) -> Any:  # noqa: ANN401
        """Quantize the networks alone; anomalib's hook for ``INT8_PTQ``, where it quantizes scores and maps, too.

        Raises:
            ValueError: If there is no data module.
        """
        if datamodule is None:
            raise ValueError("INT8_PTQ is calibrated on validation images: give datamodule (--data).")
        from anomalib_anoseg.deploy.quantization import quantize  # noqa: PLC0415 - nncf is installed with an extra

        return quantize(model, datamodule)

    def _for_inference(self) -> Any:  # noqa: ANN401
        # What the memo holds already is not copied.
        left_out = {id(getattr(self, name)): None for name in self.unexported}
        light: Any = copy.deepcopy(self, left_out).eval()
        light.model.drop_training_parts()
        return light
