"""The exported graph finds its reference itself and predicts what the model does, for any number of images."""

import copy
import math

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from torch.export import Dim

from anomalib_anoseg.models.sgsf.bank_size import BankSize

TOLERANCE = 1e-4
FIELDS = ("pred_score", "anomaly_map")


def export(model, path, size=(64, 96), axes=None):
    light = copy.deepcopy(model).eval()
    light.drop_training_parts()
    torch.onnx.export(
        light,
        (torch.rand(2, 3, *size),),
        path,
        dynamo=True,
        opset_version=18,
        dynamic_shapes=({0: Dim("batch_size"), **(axes or {})},),
        input_names=["input"],
        output_names=list(FIELDS),
        external_data=False,
        verbose=False,
    )
    return path


def run_onnx(path, image):
    outputs = onnxruntime.InferenceSession(path).run(FIELDS, {"input": image.numpy()})
    return dict(zip(FIELDS, outputs, strict=True))


def run_openvino(path, image):
    # Without the hint a processor with such units computes in bfloat16.
    network = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    outputs = network(image.numpy())
    return {field: outputs[field] for field in FIELDS}


@pytest.mark.parametrize(
    "arguments",
    [
        {"guidance": "nearest", "bank_features": "stored", "extractor_size": 48},
        {"guidance": "nearest", "bank_features": "computed", "passes": "concatenated"},
        {"guidance": "single", "bank_features": "stored"},
        {"guidance": "single", "bank_features": "computed"},
    ],
    ids=lambda arguments: "-".join(map(str, arguments.values())),
)
def test_graphs_predict_what_the_model_does(make_model, batch, tmp_path, arguments):
    model, image = make_model(**arguments), batch(3)
    # One that is as normal as can be.
    image[1] = model.bank.pictures(torch.tensor([0]))[0]
    path = export(model, tmp_path / "model.onnx")
    for run in (run_onnx, run_openvino):
        for count in (1, 3):
            check(run(path, image[:count]), model(image[:count]))
    check_graph(onnx.load(path).graph, len(model.bank), arguments["bank_features"])


def check(predicted, expected):
    for field in FIELDS:
        np.testing.assert_allclose(predicted[field], getattr(expected, field).detach(), atol=TOLERANCE, rtol=0)
    assert expected.anomaly_map.std() > 100 * TOLERANCE, "constant maps would prove nothing"


def check_graph(graph, count, bank_features):
    """Plain operations, and references, known by their type, that have the size that is documented."""
    assert {node.domain for node in graph.node} == {""}
    assert not {"Loop", "If", "Scan", "NonZero"} & {node.op_type for node in graph.node}
    item_size = {onnx.TensorProto.FLOAT16: 2, onnx.TensorProto.UINT8: 1}
    held = sum(math.prod(tensor.dims) * item_size.get(tensor.data_type, 0) for tensor in graph.initializer)
    # A small tensor may have been folded into what is made of it.
    size = BankSize(count, (64, 96), 0.125, bank_features, embedding_size=0)
    assert held == pytest.approx(size.megabytes * 1e6, rel=0.1)


def test_graphs_without_references_take_any_size(make_model, batch, tmp_path):
    model, sides = make_model(guidance="none"), {2: Dim("height", min=32), 3: Dim("width", min=32)}
    path = export(model, tmp_path / "model.onnx", axes=sides)
    for image in (batch(3), batch(1, (41, 70))):
        check(run_onnx(path, image), model(image))
