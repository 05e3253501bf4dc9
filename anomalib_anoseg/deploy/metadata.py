"""The thresholds of an exported file and its record, in its metadata.

anomalib folds thresholds and the range of scores into the graph, where they are constants without a name. Written into
an ONNX file's metadata they can be read again; OpenVINO's converter takes them along.
"""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

from anomalib_anoseg.common.files import write_json
from anomalib_anoseg.deploy.openvino_core import openvino_core
from anomalib_anoseg.deploy.record import KEY

__all__ = [
    "FIELDS",
    "PREFIX",
    "RECORD_FILE",
    "describe_thresholds",
    "openvino_entries",
    "own_entries",
    "read_openvino_record",
    "write_onnx_metadata",
    "write_record",
]

PREFIX = "anomalib_anoseg."
NUMBERS = ("image_threshold", "pixel_threshold", "image_min", "image_max", "pixel_min", "pixel_max")
SWITCHES = ("image_sensitivity", "pixel_sensitivity", "calibrated_on")
FIELDS = (*NUMBERS, *SWITCHES)
# The record beside each exported file, where anomalib's inferencers expect a file of this name and read none.
RECORD_FILE = "metadata.json"


def describe_thresholds(post_processor: Any) -> dict[str, str]:  # noqa: ANN401 - any of anomalib's post-processors
    """List the thresholds and the range of scores of a post-processor, on the scale of the model's raw scores.

    Args:
        post_processor (Any): anomalib's, or ``None``.

    Returns:
        dict[str, str]: Its values of ``FIELDS``, as text; ``"nan"`` where training has not set it.

    Example:
        >>> from types import SimpleNamespace
        >>> describe_thresholds(SimpleNamespace(image_threshold=0.25, calibrated_on="anomalous images"))
        {'image_threshold': '0.25', 'calibrated_on': 'anomalous images'}
        >>> describe_thresholds(None)
        {}
    """
    values = {name: getattr(post_processor, name, None) for name in FIELDS}
    return {
        name: str(value) if isinstance(value, str) else f"{float(value):.9g}"
        for name, value in values.items()
        if value is not None
    }


def write_onnx_metadata(path: Path, entries: dict[str, str]) -> None:
    """Add entries to an ONNX file's metadata; weights beside it stay as they are.

    Args:
        path (Path): The file.
        entries (dict[str, str]): Each is written under ``PREFIX`` and its name.
    """
    onnx: Any = import_module("onnx")
    model = onnx.load(path, load_external_data=False)
    known = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, known | {f"{PREFIX}{name}": value for name, value in entries.items()})
    onnx.save(model, path)


def own_entries(entries: dict[str, str]) -> dict[str, str]:
    """Select the entries that :func:`write_onnx_metadata` wrote.

    Example:
        >>> own_entries({"anomalib_anoseg.image_threshold": "0.5", "author": "somebody"})
        {'image_threshold': '0.5'}
    """
    return {name.removeprefix(PREFIX): value for name, value in entries.items() if name.startswith(PREFIX)}


def openvino_entries(model: Any) -> dict[str, str]:  # noqa: ANN401 - an openvino.Model
    """List the entries that OpenVINO's converter copied from an ONNX file's metadata, without ``PREFIX``."""
    return {
        name: model.get_rt_info(["framework", PREFIX + name]).astype(str)
        for name in (*FIELDS, KEY.removeprefix(PREFIX))
        if model.has_rt_info(["framework", PREFIX + name])
    }


def read_openvino_record(path: Path) -> str:
    """Read the record of an OpenVINO file, as text.

    Args:
        path (Path): The ``.xml`` file.
    """
    return openvino_entries(openvino_core().read_model(path))[KEY.removeprefix(PREFIX)]


def write_record(path: Path, record: str) -> None:
    """Write a record to a file beside an exported one.

    Args:
        path (Path): The exported file.
        record (str): As text.
    """
    write_json(path.with_name(RECORD_FILE), json.loads(record))
