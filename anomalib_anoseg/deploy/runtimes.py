"""One interface to the libraries that run a trained model: torch, ONNX Runtime and OpenVINO.

A form is a library together with the precision of its file. Importing this module imports none of the libraries, so
that the process that runs one of them holds no other.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import Counter
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from anomalib_anoseg.deploy.metadata import describe_thresholds, openvino_entries, own_entries
from anomalib_anoseg.deploy.openvino_core import openvino_core

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = [
    "FORMS",
    "Form",
    "OnnxRuntime",
    "OpenVinoRuntime",
    "Runtime",
    "RuntimeOutput",
    "TorchRuntime",
    "load_runtime",
]

# Layers with most of the arithmetic; the precision of all others has little effect.
HEAVY_LAYERS = {"Convolution", "Deconvolution", "FullyConnected", "GroupConvolution", "MatMul"}
IMAGE_RANK = 4  # (B, C, H, W)


class Form(NamedTuple):
    """A runtime and the precision of its model.

    Attributes:
        runtime: ``"torch"``, ``"onnxruntime"`` or ``"openvino"``.
        precision: For torch ``"float32"`` or ``"bfloat16"`` (autocast, channels-last); for ONNX Runtime
            ``"float32"``; for OpenVINO ``"FP32"`` (computed in float32), ``"default"`` (the same file, in the precision
            that OpenVINO chooses for the processor), ``"FP16"`` (a file of that precision, likewise) or ``"INT8"``
            (what is not quantized in float32).

    Example:
        >>> Form("openvino", "INT8").name
        'openvino INT8'
    """

    runtime: str
    precision: str

    @property
    def name(self) -> str:
        """Runtime and precision in words."""
        return f"{self.runtime} {self.precision}"

    @property
    def file(self) -> str:
        """Name of its file in records; torch and ONNX Runtime have one for all precisions."""
        return {"torch": "torch", "onnxruntime": "onnx"}.get(self.runtime, self.name)


FORMS = (
    Form("torch", "float32"),
    Form("torch", "bfloat16"),
    Form("onnxruntime", "float32"),
    Form("openvino", "FP32"),
    Form("openvino", "FP16"),
    Form("openvino", "INT8"),
)


class RuntimeOutput(NamedTuple):
    """What an exported model predicts for a batch.

    Attributes:
        pred_score: ``(B,)``, float32, normalised to ``[0, 1]`` if the model has a post-processor.
        anomaly_map: ``(B, 1, H, W)``, float32, likewise; ``None`` from a model without maps.
        pred_label: ``(B,)``, bool; ``None`` from a model without thresholds.
        pred_mask: ``(B, 1, H, W)``, bool; likewise.
    """

    pred_score: NDArray[np.float32]
    anomaly_map: NDArray[np.float32] | None
    pred_label: NDArray[np.bool_] | None
    pred_mask: NDArray[np.bool_] | None

    @classmethod
    def from_outputs(cls, outputs: dict[str, Any]) -> RuntimeOutput:
        """Bring a runtime's outputs into the shapes and types above."""

        def per_image(name: str, dtype: type) -> Any:  # noqa: ANN401
            return None if outputs.get(name) is None else np.asarray(outputs[name]).astype(dtype).reshape(-1)

        def per_pixel(name: str, dtype: type) -> Any:  # noqa: ANN401
            if outputs.get(name) is None:
                return None
            values: Any = np.asarray(outputs[name]).astype(dtype)
            return values if values.ndim == IMAGE_RANK else values[:, None]

        return cls(
            per_image("pred_score", np.float32),
            per_pixel("anomaly_map", np.float32),
            per_image("pred_label", np.bool_),
            per_pixel("pred_mask", np.bool_),
        )


class Runtime(ABC):
    """A loaded model, which any number of threads may ask at once.

    Attributes:
        form: Runtime and precision asked for.
        in_use: Precision in which the runtime computes, in words.
        threads: Threads per prediction.
        input_size: Height and width that the file requires; ``None`` if it accepts any.
        stored: Precision of the weights in the file: ``"FP32"``, ``"FP16"`` or ``"INT8"``.
        thresholds: The thresholds in the file's metadata, see :mod:`anomalib_anoseg.deploy.metadata`.
        record: What the file says about itself, see :mod:`anomalib_anoseg.deploy.record`, as text; ``None`` if nothing.
    """

    in_use: str
    input_size: tuple[int, int] | None = None
    stored: str = "FP32"
    thresholds: dict[str, str]
    record: str | None = None

    def __init__(self, form: Form, threads: int) -> None:
        self.form, self.threads = form, threads

    @property
    def name(self) -> str:
        """Runtime and precision in words."""
        return self.form.name

    def predict(self, images: NDArray[np.float32]) -> RuntimeOutput:
        """Predict from ``(B, 3, H, W)`` float32 pictures in ``[0, 1]``.

        Raises:
            ValueError: If shape or type differ.
        """
        if images.ndim != IMAGE_RANK or images.shape[1] != 3 or images.dtype != np.float32:  # noqa: PLR2004
            raise ValueError(f"images must be (B, 3, H, W) of float32, got {images.shape} of {images.dtype}")
        return RuntimeOutput.from_outputs(self.run(images))

    @abstractmethod
    def run(self, images: NDArray[np.float32]) -> dict[str, Any]:
        """Compute the model's outputs, by name, as the library returns them."""


class TorchRuntime(Runtime):
    """anomalib's Torch export, a pickle: load only what you trust.

    The number of threads applies to torch in the whole process.
    """

    def __init__(self, form: Form, path: Path, threads: int = 1) -> None:
        torch: Any = import_module("torch")
        super().__init__(form, threads)
        torch.set_num_threads(threads)
        self._torch = torch
        self.model: Any = torch.load(path, map_location="cpu", weights_only=False)["model"].eval()
        self.thresholds = describe_thresholds(getattr(self.model, "post_processor", None))
        self.record = getattr(self.model, "record", None)
        self._dtype = getattr(torch, form.precision)
        self._reduced = self._dtype != torch.float32
        if self._reduced:
            self.model.to(memory_format=torch.channels_last)
        self.in_use = f"{form.precision} by autocast" if self._reduced else form.precision

    def run(self, images: NDArray[np.float32]) -> dict[str, Any]:
        """Compute the model's outputs."""
        torch = self._torch
        tensor = torch.from_numpy(images)
        if self._reduced:
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        with torch.inference_mode(), torch.autocast("cpu", self._dtype, enabled=self._reduced):
            outputs = self.model(tensor)._asdict()
        return {
            name: (value.float() if value.is_floating_point() else value).numpy()
            for name, value in outputs.items()
            if value is not None
        }


class OnnxRuntime(Runtime):
    """An ONNX file in ONNX Runtime, on its CPU provider."""

    def __init__(self, form: Form, path: Path, threads: int = 1) -> None:
        onnxruntime: Any = import_module("onnxruntime")
        super().__init__(form, threads)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3  # errors
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        entry = self._session.get_inputs()[0]
        self._input, self._outputs = entry.name, [output.name for output in self._session.get_outputs()]
        self.input_size = _fixed_size(entry.shape)
        self.thresholds = own_entries(self._session.get_modelmeta().custom_metadata_map)
        self.record = self.thresholds.pop("record", None)
        self.in_use = {"tensor(float)": "float32", "tensor(float16)": "float16"}.get(entry.type, entry.type)

    def run(self, images: NDArray[np.float32]) -> dict[str, Any]:
        """Compute the model's outputs."""
        return dict(zip(self._outputs, self._session.run(None, {self._input: images}), strict=True))


class OpenVinoRuntime(Runtime):
    """An OpenVINO file on the CPU, tuned for latency."""

    def __init__(self, form: Form, path: Path, threads: int = 1) -> None:
        super().__init__(form, threads)
        config = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
        # In bfloat16 what INT8 leaves in floating point would first convert a whole picture, however large.
        if form.precision in {"FP32", "INT8"}:
            config["INFERENCE_PRECISION_HINT"] = "f32"
        core = openvino_core()
        model: Any = core.read_model(path)
        shape = model.input(0).partial_shape
        self.input_size = _fixed_size([axis.get_length() if axis.is_static else None for axis in shape])
        self.stored = _stored_precision(model)
        self.thresholds = openvino_entries(model)
        self.record = self.thresholds.pop("record", None)
        self._compiled: Any = core.compile_model(model, "CPU", config)
        self._own = threading.local()
        self.threads = self._compiled.get_property("INFERENCE_NUM_THREADS")
        self.in_use = _openvino_precision(self._compiled)

    def run(self, images: NDArray[np.float32]) -> dict[str, Any]:
        """Compute the model's outputs, in an infer request of the calling thread's own.

        ``compiled(images)`` shares one request among all threads: they then get each other's maps, without an error.
        """
        if not hasattr(self._own, "request"):
            self._own.request = self._compiled.create_infer_request()
        outputs = self._own.request.infer(images, share_inputs=True)
        return {output.any_name: value for output, value in outputs.items()}


def load_runtime(form: Form, path: Path, threads: int = 1) -> Runtime:
    """Load an exported file.

    Args:
        form (Form): Runtime and precision.
        path (Path): File that anomalib exported for this form: ``.pt``, ``.onnx`` or ``.xml``. A ``.pt`` is a pickle.
        threads (int): Threads per prediction, 1 or more. Defaults to ``1``.

    Raises:
        ValueError: If the runtime or the number of threads is not valid.
        ModuleNotFoundError: If the runtime's library is not installed; the message names the remedy.
        FileNotFoundError: If there is no such file.

    Example:
        >>> from pathlib import Path
        >>> load_runtime(Form("caffe", "float32"), Path("model.onnx"))
        Traceback (most recent call last):
        ...
        ValueError: runtime must be one of torch, onnxruntime, openvino, got 'caffe'
    """
    kinds: dict[str, Callable[[Form, Path, int], Runtime]] = {
        "torch": TorchRuntime,
        "onnxruntime": OnnxRuntime,
        "openvino": OpenVinoRuntime,
    }
    if form.runtime not in kinds:
        raise ValueError(f"runtime must be one of {', '.join(kinds)}, got {form.runtime!r}")
    if threads < 1:
        raise ValueError(f"threads must be 1 or more, got {threads}")
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}; export the model first")
    try:
        return kinds[form.runtime](form, path, threads)
    except ModuleNotFoundError as error:
        if error.name != form.runtime:
            raise
        raise ModuleNotFoundError(
            f"{form.runtime} is not installed; `pip install 'anomalib-anoseg[openvino]'` brings it", name=error.name
        ) from None


def _fixed_size(shape: list[Any]) -> tuple[int, int] | None:
    """Height and width of a ``(B, C, H, W)`` input; ``None`` if either is dynamic: a name or ``None``."""
    height, width = shape[-2:]
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def _stored_precision(model: Any) -> str:  # noqa: ANN401
    """Tell how an OpenVINO file stores its weights: only compression makes constants of these types."""
    types = {node.get_element_type().to_string() for node in model.get_ops() if node.get_type_name() == "Constant"}
    return "INT8" if types & {"i8", "u8"} else "FP16" if "f16" in types else "FP32"


def _openvino_precision(compiled: Any) -> str:  # noqa: ANN401
    """Count the precisions of the layers that the processor runs: the hint alone would hide those of INT8 graphs."""
    precisions: Counter[str] = Counter()
    for layer in compiled.get_runtime_model().get_ops():
        info = layer.get_rt_info()
        if info["layerType"].astype(str) in HEAVY_LAYERS:
            precisions[info["runtimePrecision"].astype(str)] += 1
    if not precisions:
        return str(compiled.get_property("INFERENCE_PRECISION_HINT").to_string())
    return ", ".join(f"{name} ({count} of {precisions.total()} layers)" for name, count in precisions.most_common())
