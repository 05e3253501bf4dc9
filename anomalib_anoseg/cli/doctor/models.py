"""The files of a model: which exist, which thresholds they hold, and a picture to predict."""

from __future__ import annotations

import math
from dataclasses import asdict
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from anomalib.data.utils import read_image
from torch.nn import functional as F

from anomalib_anoseg.common.messages import one_line
from anomalib_anoseg.common.picture_files import examine_picture
from anomalib_anoseg.common.schema import read_json
from anomalib_anoseg.data.demo_textures import render
from anomalib_anoseg.deploy.forms import export_forms
from anomalib_anoseg.deploy.metadata import FIELDS, describe_thresholds
from anomalib_anoseg.deploy.rebuild import load_model
from anomalib_anoseg.deploy.record import Record, from_json
from anomalib_anoseg.deploy.runtimes import Form, Runtime
from anomalib_anoseg.training.checkpoints import read_checkpoint

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from anomalib_anoseg.cli.doctor.output import Findings

__all__ = [
    "FLOAT32_FORMS",
    "TestedModel",
    "describe_record",
    "find_files",
    "fit_picture",
    "list_thresholds",
    "load_checkpoint",
    "load_picture",
    "read_record",
]

FLOAT32_FORMS = (Form("torch", "float32"), Form("onnxruntime", "float32"), Form("openvino", "FP32"))
SUFFIXES = {"torch": ".pt", "onnxruntime": ".onnx", "openvino": ".xml"}
FOLDERS = {"torch": "torch", "onnxruntime": "onnx", "openvino": "openvino"}
DEMO_SIZE = 128
TRUSTED = {"anomalib", "anomalib_anoseg"}


class TestedModel(Runtime):
    """A checkpoint's model as `anomalib test` and `predict` use it: pictures are resized as in the training.

    Args:
        model (Any): Any of anomalib's models.
    """

    def __init__(self, model: Any) -> None:  # noqa: ANN401
        super().__init__(Form("test", "float32"), torch.get_num_threads())
        self._model, self.in_use = model.eval(), "float32"
        self.thresholds = describe_thresholds(model.post_processor)

    def run(self, images: NDArray[np.float32]) -> dict[str, Any]:
        """Compute the model's outputs."""
        model, image = self._model, torch.from_numpy(images)
        transform = getattr(model.pre_processor, "transform", None)
        with torch.inference_mode():
            outputs = model.model(transform(image) if transform else image)
            outputs = model.post_processor(outputs) if model.post_processor else outputs
        return {name: value.numpy() for name, value in outputs._asdict().items() if value is not None}


def load_checkpoint(checkpoint: Path, model_class: str | None) -> Any:  # noqa: ANN401
    """Load a checkpoint's model, whose class its folder names if ``model_class`` does not."""
    return load_model(checkpoint, _full_class_path(model_class) if model_class else _guess_class_path(checkpoint))


def find_files(model: Path, loaded: Any, size: Sequence[int], temporary: Path, findings: Findings) -> dict[Form, Path]:  # noqa: ANN401
    """Find a model's exported files, by form; a checkpoint is first exported into a temporary folder, for one size.

    Raises:
        ValueError: If ``model`` is neither a checkpoint nor exports.
    """
    if model.suffix == ".ckpt":
        return _export(loaded, size, temporary, findings)
    if model.is_dir():
        roots = [model, model / "weights"]
    elif model.suffix in SUFFIXES.values():
        named = {form: model for form in FLOAT32_FORMS if SUFFIXES[form.runtime] == model.suffix}
        beside = model.parent.name in FOLDERS.values()
        return (_look_into([model.parent.parent], model.stem) if beside else {}) | named
    else:
        raise ValueError(f"model must be a .ckpt, .pt, .onnx or .xml file or a folder of exports, got {model}")
    files = _look_into(roots)
    if not files:
        raise ValueError(f"{model} holds no exports: there is no torch/*.pt, onnx/*.onnx or openvino/*.xml in it")
    return files


def _look_into(roots: Sequence[Path], stem: str = "*") -> dict[Form, Path]:
    files: dict[Form, Path] = {}
    for form in FLOAT32_FORMS:
        for root in roots:
            files_there = (root / FOLDERS[form.runtime]).glob(f"{stem}{SUFFIXES[form.runtime]}")
            found = sorted(files_there, key=lambda path: (path.stem != "model", path))  # anomalib's name goes first
            if found:
                files.setdefault(form, found[0])
    return files


def _export(model: Any, size: Sequence[int], folder: Path, findings: Findings) -> dict[Form, Path]:  # noqa: ANN401
    files, left_out = export_forms(model, folder, (size[0], size[1]), list, FLOAT32_FORMS)
    for name, reason in left_out.items():
        if "pip install" in reason:
            findings.note(f"{name} is left out: {reason}.")
        else:
            findings.problem(f"The model could not be exported for {name}: {reason}.", "report it with this line")
    return files


def _full_class_path(name: str) -> str:
    """Find the class path of a name that anomalib knows.

    Raises:
        ValueError: If anomalib does not know it.
    """
    if "." in name:
        return name
    known = getattr(import_module("anomalib.models"), name, None)
    if known is None:
        raise ValueError(f"model_class names {name!r}, which anomalib does not know; give its full path with dots")
    return f"{known.__module__}.{known.__name__}"


def _guess_class_path(checkpoint: Path) -> str:
    """Find it in the row that a board leaves beside a checkpoint, or in the folders that anomalib makes for a model.

    Raises:
        ValueError: If neither names a model, or the row names one of another package, whose import could do anything.
    """
    row = checkpoint.with_name("row.json")
    if row.exists():
        named = str(read_json(row, dict[str, Any]).get("model"))
        if named.partition(".")[0] not in TRUSTED:
            raise ValueError(
                f"{row} names {one_line(repr(named), 100)}, which is neither anomalib's nor ours, and which was not "
                "imported. If you trust it, give it yourself, with --model_class."
            )
        return named
    models: Any = import_module("anomalib.models")
    for part in reversed(checkpoint.resolve().parts):
        if part in models.__all__:
            return _full_class_path(part)
    raise ValueError(f"No folder of {checkpoint} names its model; give it, such as --model_class AnoSeg")


def read_record(runtimes: Sequence[Runtime], findings: Findings) -> Record | None:
    """Read what the files say about themselves, which must be the same in all that were made from one model."""
    records = {}
    for runtime in runtimes:
        if runtime.record is not None:
            try:
                records[runtime.name] = from_json(runtime.record, runtime.name)
            except ValueError as error:
                findings.problem(str(error), "export the model again")
    digests = {name: record.model.digest for name, record in records.items()}
    if len(set(digests.values())) > 1:
        findings.problem("The files have records of different weights.", "export all files anew from one checkpoint")
    return next(iter(records.values()), None)


def describe_record(record: Record) -> list[tuple[str, str]]:
    """Write a record in words, one row an entry."""
    model, training, thresholds = record.model, record.training, record.thresholds
    known = {name: value for name, value in asdict(training).items() if value is not None}
    resize = record.input.get("resize") or {}
    set_at = "" if thresholds.false_alarm_rate is None else f", false alarm rate {thresholds.false_alarm_rate:g}"
    rows = [
        ("model", f"{model.name}, preset {model.preset or 'none'}, {model.parameters:,} parameters"),
        ("weights", f"{model.digest}, licence {record.weights_licence or 'unknown'}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in record.versions.items())),
        ("training", ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in known.items()) or "unknown"),
        ("input", f"{record.input.get('name')} {record.input.get('shape')}, {record.input.get('colors')}"),
        ("resize", f"{resize.get('size')}, {resize.get('method')}" if resize else "none"),
        *((name, f"{entry.get('shape')} {entry.get('dtype')}") for name, entry in record.outputs.items()),
        ("thresholds", f"calibrated on: {thresholds.calibrated_on}{set_at}"),
        ("ignore mask", f"{record.ignore_mask.get('share')} of all pixels" if record.ignore_mask else "none"),
    ]
    if look := record.appearance:
        middle = f"grey {look.grey[1]:.3g}, contrast {look.contrast[1]:.3g}, sharpness {look.sharpness[1]:.3g}"
        rows.append(("held-out pictures", f"medians of {look.good_images}: {middle}"))
    for point in record.operating_points:
        found = {"forged": point.forged_found, "real": point.real_found}
        shares = [f", {share:.0%} of {kind} defects found" for kind, share in found.items() if not math.isnan(share)]
        low, high = point.interval
        basis = f"{low:.1%} to {high:.1%} by {point.good_images} good images{''.join(shares)}"
        where = f"image {point.image_score:.4f}, pixel {point.pixel_score:.4f}; {basis}"
        rows.append((f"false alarms {point.false_alarm_rate:.1%}", where))
    return rows


def list_thresholds(
    model: Path, runtimes: Sequence[Runtime], findings: Findings
) -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
    """List the thresholds in the checkpoint and the files: rows, and the headings."""
    columns = {runtime.name: runtime.thresholds for runtime in runtimes if runtime.form in FLOAT32_FORMS}
    if model.suffix == ".ckpt":
        columns = {"checkpoint": _checkpoint_thresholds(model)} | columns
    for name in [name for name, values in columns.items() if not values]:
        findings.note(
            f"{name}: the file does not name its thresholds. anomalib folds them into the graph as constants; "
            "in its scores and maps they are at 0.5."
        )
    _check_agreement(columns, findings)
    rows = [(field, *(values.get(field, "") for values in columns.values())) for field in FIELDS]
    shown = [row for row in rows if any(row[1:])]
    if any(row[1:] and "nan" in row[1:] for row in shown if row[0].endswith("threshold")):
        findings.problem(
            "A threshold is nan: it was never set, so labels and masks are meaningless.",
            "validate the model with `anomalib validate`, or train it with validation images, and export it again",
        )
    return shown, ("", *columns)


def _check_agreement(columns: dict[str, dict[str, str]], findings: Findings) -> None:
    for field in FIELDS:
        values = {name: column[field] for name, column in columns.items() if field in column}
        if len(set(values.values())) > 1:
            findings.problem(
                f"{field} differs: {', '.join(f'{name} {value}' for name, value in values.items())}.",
                "export all files anew from one checkpoint",
            )


def _checkpoint_thresholds(path: Path) -> dict[str, str]:
    content = read_checkpoint(path)
    names = {"image_threshold": "_image_threshold", "pixel_threshold": "_pixel_threshold"}
    state = content["state_dict"]
    stored: Any = type("Stored", (), {})()
    for field in FIELDS:
        value = state.get(f"post_processor.{names.get(field, field)}")
        value = content.get("anomalib_post_processor_config", {}).get(field) if value is None else value
        if value is not None:
            setattr(stored, field, value)
    return describe_thresholds(stored)


def load_picture(path: Path | None) -> tuple[torch.Tensor, str]:
    """Load a picture as it is, ``(1, 3, H, W)`` in ``[0, 1]``, and its name; a drawn one if there is no path.

    Raises:
        ValueError: If it cannot be used.
    """
    if path is None:
        texture, _ = render("brick", "test", "stain", 0, size=DEMO_SIZE, seed=0)
        picture, name = torch.from_numpy(texture.astype(np.float32) / 255).permute(2, 0, 1), "a brick wall (no --image)"
    else:
        if problem := examine_picture(path).problem:
            raise ValueError(f"image names {path}, which cannot be read as a picture: {problem}")
        picture, name = torch.as_tensor(read_image(path, as_tensor=True)), path.name
    return picture[None].float(), name


def fit_picture(
    picture: torch.Tensor, name: str, sizes: Sequence[tuple[int, int] | None], findings: Findings
) -> tuple[NDArray[np.float32], str]:
    """Give a picture the files' fixed size, if they have one, and make a title."""
    fixed = next((size for size in sizes if size), None)
    if fixed and picture.shape[-2:] != fixed:
        findings.note(
            f"A file takes pictures of {fixed[0]} x {fixed[1]} pixels alone, so {name} was resized for all runtimes; "
            "export without input_size for a file that takes any."
        )
        picture = F.interpolate(picture, fixed, mode="bilinear", antialias=True).clamp(0, 1)
    height, width = picture.shape[-2:]
    return picture.contiguous().numpy(), f"Predictions for {name}, {height} x {width} pixels"
