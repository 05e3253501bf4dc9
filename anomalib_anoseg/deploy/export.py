"""Export of models without the parts that only training needs."""

import copy
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Any

from anomalib.data.transforms.utils import extract_transforms_by_type
from anomalib.deploy import CompressionType
from torch.export import Dim
from torchvision.transforms.v2 import Resize

from anomalib_anoseg.common.files import written_whole
from anomalib_anoseg.deploy.description import describe
from anomalib_anoseg.deploy.metadata import (
    describe_thresholds,
    read_openvino_record,
    write_onnx_metadata,
    write_record,
)
from anomalib_anoseg.deploy.resize import use_matrix_resize

# The oldest opset that torch's exporter writes natively; anomalib's default of 14 makes it try a down-conversion.
OPSET_VERSION = 18


def inference_copy(model: Any) -> Any:  # noqa: ANN401 - a SelfSupervisedModel, which this folder does not import
    """Copy a model of this package without the parts that only training needs, ready to predict.

    Args:
        model (SelfSupervisedModel): Stays unchanged. Its ``unexported`` names the attributes that the copy lacks; its
            networks drop their own parts.
    """
    use_matrix_resize(model.pre_processor)
    model.before_export()
    with _without(model, model.unexported):
        light = copy.deepcopy(model).eval()
    light.model.prepare_for_evaluation()
    light.model.drop_training_parts()
    return light


def export_torch(model: Any, export_root: Path | str, model_file_name: str = "model") -> Path:  # noqa: ANN401
    """Export as anomalib does, without the parts that only training needs, to a file that is whole or absent.

    The record is the attribute ``record`` of the model in the file, as text.
    """
    light = inference_copy(model)
    light.record = describe(light).to_json()

    def export(root: Path) -> Path:
        path: Path = _host().to_torch(light, root, model_file_name)
        write_record(path, light.record)
        return path

    return _write_whole(Path(export_root) / "weights" / "torch" / f"{model_file_name}.pt", export)


def export_onnx(
    model: Any,  # noqa: ANN401
    export_root: Path | str,
    model_file_name: str = "model",
    input_size: tuple[int, int] | None = None,
    **kwargs: Any,  # noqa: ANN401
) -> Path:
    """Export as anomalib does, in an opset that needs no conversion, with thresholds and record in the metadata.

    Args:
        model (SelfSupervisedModel): A trained one.
        export_root: Folder for ``weights/onnx``.
        model_file_name: Name of the file, without ``.onnx``.
        input_size: Height and width in pixels. ``None`` for images of any size, if the networks take those.
        **kwargs: Options of ``torch.onnx.export``.

    Raises:
        ValueError: If images of any size are resized by their shorter edge alone, which cannot be exported.
    """
    kwargs.setdefault("opset_version", OPSET_VERSION)
    resizes = extract_transforms_by_type(getattr(model.pre_processor, "transform", None), Resize)
    if input_size is None and any(len(resize.size) == 1 for resize in resizes):
        raise ValueError("The pre_processor resizes to a shorter edge. Give Resize (height, width), or input_size.")
    if input_size is None and not resizes:
        input_size = model.only_size
    fixed_size = input_size
    if input_size is None and not resizes:
        # anomalib traces with 2x2 pixels, where the exporter takes the sizes of feature maps as constants.
        sides = {axis: Dim(name, min=model.min_side) for axis, name in ((2, "height"), (3, "width"))}
        kwargs.setdefault("dynamic_shapes", ({0: Dim("batch_size"), **sides},))
        # Only for the forward pass that finds the names of the outputs; the shapes above decide what is exported.
        input_size = (model.min_side, model.min_side)
    light = inference_copy(model)
    record = describe(light, fixed_size, *kwargs.get("input_names", ())).to_json()

    def export(root: Path) -> Path:
        path: Path = _host().to_onnx(light, root, model_file_name, input_size, **kwargs)
        write_onnx_metadata(path, {**describe_thresholds(model.post_processor), "record": record})
        write_record(path, record)
        return path

    return _write_whole(Path(export_root) / "weights" / "onnx" / f"{model_file_name}.onnx", export)


def export_openvino(
    model: Any,  # noqa: ANN401
    export_root: Path | str,
    model_file_name: str = "model",
    *args: Any,  # noqa: ANN401
    **kwargs: Any,  # noqa: ANN401
) -> Path:
    """Export as anomalib does, to a pair of files that are whole and of one version, or absent.

    Args:
        model (SelfSupervisedModel): A trained one.
        export_root: Folder for ``weights/openvino``.
        model_file_name: Name of the files, without ``.xml`` and ``.bin``.
        *args: Further arguments of anomalib's ``to_openvino``.
        **kwargs: Likewise.

    Raises:
        ValueError: If a file of type ``INT8_PTQ`` is to be made without a data module.
    """
    given = signature(_host().to_openvino).bind(model, export_root, model_file_name, *args, **kwargs).arguments
    if given.get("compression_type") == CompressionType.INT8_PTQ and given.get("datamodule") is None:
        raise ValueError("INT8_PTQ is calibrated on validation images: give datamodule (--data).")

    def export(root: Path) -> Path:
        path: Path = _host().to_openvino(model, root, model_file_name, *args, **kwargs)
        write_record(path, read_openvino_record(path))
        return path

    return _write_whole(Path(export_root) / "weights" / "openvino" / f"{model_file_name}.xml", export)


def _write_whole(file: Path, export: Callable[[Path], Path]) -> Path:
    """Let anomalib export to a folder beside the file's, and move what is there when all of it is."""
    with written_whole(file) as place:
        root = place.parent / "root"
        root.mkdir()
        made = Path(export(root))
        for companion in [path for path in made.parent.iterdir() if path != made]:
            companion.replace(place.with_name(companion.name))
        made.replace(place)
        shutil.rmtree(root)
    return file


@contextmanager
def _without(model: Any, names: tuple[str, ...]) -> Generator[None, None, None]:  # noqa: ANN401
    """Remove attributes from a model for a while: they may be large, and some cannot be copied."""
    parts = {name: getattr(model, name) for name in names}
    try:
        for name in parts:
            setattr(model, name, None)
        yield
    finally:
        for name, part in parts.items():
            setattr(model, name, part)


def _host() -> Any:  # noqa: ANN401
    """Import anomalib's base of models here: at the top, registration would meet this module half imported."""
    from anomalib.models.components import AnomalibModule  # noqa: PLC0415

    return AnomalibModule
