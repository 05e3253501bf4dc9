"""Export a trained model in every form whose cost is measured, by anomalib's own export."""

from __future__ import annotations

import contextlib
import io
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomalib.deploy import CompressionType

from anomalib_anoseg.common.messages import one_line
from anomalib_anoseg.deploy.pictures import CalibrationData
from anomalib_anoseg.deploy.runtimes import FORMS, Form

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from torch import Tensor

__all__ = ["export_forms", "size_of_file_mb"]

COMPRESSION = {"FP32": None, "FP16": CompressionType.FP16, "INT8": CompressionType.INT8_PTQ}
CONVERTER = ("onnx", "onnxscript")


def export_forms(
    model: Any,  # noqa: ANN401 - any of anomalib's models
    folder: Path,
    input_size: tuple[int, int] | None,
    calibration: Callable[[], Sequence[Tensor]],
    forms: Sequence[Form] = FORMS,
) -> tuple[dict[Form, Path], dict[str, str]]:
    """Export a model in several forms.

    Args:
        model (Any): Trained model of anomalib's.
        folder (Path): Where the files go.
        input_size (tuple[int, int] | None): Height and width in pixels that the ONNX and OpenVINO files take; ``None``
            for pictures of any size.
        calibration (Callable[[], Sequence[Tensor]]): Returns the images for INT8, ``(3, H, W)`` in ``[0, 1]``; called
            only if they are needed.
        forms (Sequence[Form]): Which forms.

    Returns:
        tuple[dict[Form, Path], dict[str, str]]: Files by form, and a reason in one line by the name of each form whose
        export failed.
    """
    files: dict[Form, Path] = {}
    left_out: dict[str, str] = {}
    exporter = _Exporter(model, folder, input_size, calibration)
    for form in forms:
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # exporters draw progress of their own
                files[form] = exporter.export(form)
        except Exception as error:  # noqa: BLE001, PERF203 - a model's export may fail in any way
            left_out[form.name] = one_line(error)
    return files, left_out


class _Exporter:
    """Exports form after form; those that share a file, or the slow conversion to ONNX, share it."""

    def __init__(
        self,
        model: Any,  # noqa: ANN401
        folder: Path,
        input_size: tuple[int, int] | None,
        calibration: Callable[[], Sequence[Tensor]],
    ) -> None:
        self._model, self._folder, self._size, self._calibration = model, folder, input_size, calibration
        self._torch: Path | None = None
        self._onnx: Path | Exception | None = None

    def export(self, form: Form) -> Path:
        _check_installed(form)
        if form.runtime == "torch":
            self._torch = self._torch or self._model.to_torch(self._folder)
            return self._torch
        return self._to_onnx() if form.runtime == "onnxruntime" else self._to_openvino(form.precision)

    def _to_onnx(self) -> Path:
        if self._onnx is None:
            try:
                self._onnx = self._model.to_onnx(self._folder, input_size=self._size, verbose=False)
            except Exception as error:  # noqa: BLE001 - would fail again for each of OpenVINO's forms
                self._onnx = error
        if isinstance(self._onnx, Exception):
            raise self._onnx
        return self._onnx

    def _to_openvino(self, precision: str) -> Path:
        data: Any = CalibrationData(self._calibration()) if precision == "INT8" else None
        root = self._folder / precision
        with _ready_made_onnx(self._model, self._to_onnx()):
            return self._model.to_openvino(
                root, input_size=self._size, compression_type=COMPRESSION[precision], datamodule=data
            )


@contextlib.contextmanager
def _ready_made_onnx(model: Any, path: Path) -> Generator[None, None, None]:  # noqa: ANN401
    """Let ``to_openvino`` start from an existing ONNX file, instead of converting the model once more."""

    def to_onnx(export_root: Path | str, *_args: Any, **_kwargs: Any) -> Path:  # noqa: ANN401
        return Path(shutil.copytree(path.parent, Path(export_root) / "onnx")) / path.name

    model.to_onnx = to_onnx
    try:
        yield
    finally:
        del model.to_onnx


def _check_installed(form: Form) -> None:
    needed: tuple[str, ...] = () if form.runtime == "torch" else (*CONVERTER, form.runtime)
    if form.precision == "INT8":
        needed = (*needed, "nncf")
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(
            f"{', '.join(missing)} not installed; `pip install 'anomalib-anoseg[openvino]'` brings it", name=missing[0]
        )


def size_of_file_mb(path: Path) -> float:
    """Return the size of an exported file with the weights beside it (``.bin``, ``.onnx.data``), in megabytes.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     for name, size in {"model.xml": 1_000, "model.bin": 9_000}.items():
        ...         _ = (Path(folder) / name).write_bytes(bytes(size))
        ...     size_of_file_mb(Path(folder) / "model.xml")
        0.01
    """
    beside = [path.with_suffix(".bin")] if path.suffix == ".xml" else [path.with_name(f"{path.name}.data")]
    return sum(file.stat().st_size for file in (path, *beside) if file.is_file()) / 1e6
