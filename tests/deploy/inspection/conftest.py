"""A file whose decisions anybody can check: a picture is as anomalous as it is bright."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from anomalib_anoseg.deploy.inspection.inspection import inspect_pictures
from anomalib_anoseg.deploy.record import KEY, Model, OperatingPoint, Record, Threshold, Thresholds, Training

CELL = 4  # the map is smaller than the picture by this factor
THRESHOLD = Threshold(raw=0.3, low=0.0, high=1.0)
POINTS = (OperatingPoint(0.01, 0.75, 0.65, 20, (0.0, 0.14)), OperatingPoint(0.05, 0.6, 0.55, 20, (0.0, 0.17)))
RECORD = Record(
    Model("AnoSeg", None, 0, "sha256:0"),
    {},
    Training(),
    {},
    {},
    Thresholds(THRESHOLD, THRESHOLD, "forged on held-out images"),
    POINTS,
)


def write_model(path, entries, size=("height", "width")):
    """Write an ONNX file: the map is the mean colour of each cell, the score is its maximum, the threshold is 0.5."""
    small = [size[0] // CELL, size[1] // CELL] if isinstance(size[0], int) else ["h", "w"]
    nodes = [
        helper.make_node("ReduceMean", ["input", "channels"], ["grey"]),
        helper.make_node("AveragePool", ["grey"], ["anomaly_map"], kernel_shape=[CELL, CELL], strides=[CELL, CELL]),
        helper.make_node("ReduceMax", ["anomaly_map", "all"], ["pred_score"], keepdims=0),
        helper.make_node("Greater", ["pred_score", "half"], ["pred_label"]),
        helper.make_node("Greater", ["anomaly_map", "half"], ["pred_mask"]),
    ]
    values = [
        helper.make_tensor("channels", TensorProto.INT64, [1], [1]),
        helper.make_tensor("all", TensorProto.INT64, [3], [1, 2, 3]),
        helper.make_tensor("half", TensorProto.FLOAT, [], [0.5]),
    ]
    outputs = [
        helper.make_tensor_value_info("pred_score", TensorProto.FLOAT, ["batch"]),
        helper.make_tensor_value_info("pred_label", TensorProto.BOOL, ["batch"]),
        helper.make_tensor_value_info("anomaly_map", TensorProto.FLOAT, ["batch", 1, *small]),
        helper.make_tensor_value_info("pred_mask", TensorProto.BOOL, ["batch", 1, *small]),
    ]
    taken = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, *size])
    model = helper.make_model(
        helper.make_graph(nodes, "bright", [taken], outputs, values), opset_imports=[helper.make_opsetid("", 18)]
    )
    model.ir_version = 9
    helper.set_model_props(model, entries)
    onnx.save(model, path)
    return path


@pytest.fixture(scope="session")
def make_model(tmp_path_factory):
    """Write such a file, with a record or other entries."""

    def make(name="model.onnx", entries=None, **options):
        entries = {KEY: RECORD.to_json()} if entries is None else entries
        return write_model(tmp_path_factory.mktemp("model") / name, entries, **options)

    return make


@pytest.fixture(scope="session")
def model(make_model):
    return make_model()


def make_picture(brightness=0.2, size=(32, 24), bright=None, at=(8, 4, 16, 12)):
    """A dark picture, perhaps with a bright box: left, top, right, bottom."""
    pixels = np.full((size[1], size[0], 3), round(255 * brightness), np.uint8)
    if bright is not None:
        left, top, right, bottom = at
        pixels[top:bottom, left:right] = round(255 * bright)
    return Image.fromarray(pixels)


@pytest.fixture
def parts(tmp_path):
    """Three good pictures, and a bad one in a folder of its own."""
    folder = tmp_path / "parts"
    (folder / "bad").mkdir(parents=True)
    for number in range(3):
        make_picture(0.1 * number).save(folder / f"{number}.png")
    make_picture(bright=0.8).save(folder / "bad" / "0.png")
    return folder


@pytest.fixture
def inspect(model, tmp_path):
    """Inspect into one folder; returns the results that are in it, by the name of the picture."""

    def inspect(*pictures, path=model, out=tmp_path / "out", **options):
        inspect_pictures(path, [Path(name) for name in pictures], out, **options)
        return read(out)

    return inspect


def read(out):
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    return {Path(line["path"]).parent.name + "/" + Path(line["path"]).name: line for line in lines}
