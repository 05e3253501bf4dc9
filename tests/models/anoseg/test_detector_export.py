"""Exports of AnoSeg with its detector: they score as the model does, and hold what the chosen score needs alone."""

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch

from anomalib_anoseg import AnoSeg

EXACT = {"INFERENCE_PRECISION_HINT": "f32"}


def tiny():
    settings = {"network": {"width": 0.125}, "optimizer": {"averaging": 0.0}, "detector": {"enabled": True}}
    return AnoSeg((64, 64), **settings, image_score="detector", post_processor=False)


@pytest.fixture(scope="module")
def model():
    """A detector with normalisation statistics of its own, so that its scores are not all alike."""
    model = tiny()
    network, image = model.model, images(64, 64)
    with torch.no_grad():
        for _ in range(30):
            anomaly_map = network.predict_map(image)
            network.detector.judge(network.detector(image, anomaly_map), anomaly_map)
    return model.eval()


@pytest.fixture(scope="module")
def files(model, tmp_path_factory):
    """An ONNX file for each image score."""
    paths = {}
    for score in ("map", "detector"):
        model.model.image_score = score
        paths[score] = model.to_onnx(tmp_path_factory.mktemp(score), input_size=(64, 64))
    return paths


def images(*size):
    image = torch.rand(6, 3, *size, generator=torch.Generator().manual_seed(0))
    return image * torch.linspace(0.2, 1, 6).view(-1, 1, 1, 1)


@torch.no_grad()
def expect(model, batch):
    return [values.numpy() for values in model(batch) if values is not None]


def assert_equal(actual, expected):
    for found, wanted in zip(actual, expected, strict=True):
        np.testing.assert_allclose(np.asarray(found).reshape(wanted.shape), wanted, rtol=1e-4, atol=1e-5)


def assert_scores_alike(path, model, batches):
    session = onnxruntime.InferenceSession(path)
    in_openvino = openvino.Core().compile_model(path, "CPU", EXACT)
    for batch in batches:
        expected = expect(model, batch)
        assert_equal(session.run(None, {"input": batch.numpy()}), expected)
        assert_equal(list(in_openvino(batch.numpy()).values()), expected)


def test_scores_under_test_differ(model):
    score, _ = expect(model, images(64, 64))
    assert score.std() > 0.01 * score.mean() > 0


def test_torch_file(model, tmp_path):
    exported = torch.load(model.to_torch(tmp_path), weights_only=False)["model"]
    assert_equal(expect(exported, images(64, 64)), expect(model, images(64, 64)))
    names = {name.removeprefix("model.").split(".")[0] for name in exported.state_dict()}
    assert names == {"segmenter", "detector"}
    assert not [name for name in exported.state_dict() if "discriminator.head" in name]


def test_onnx_and_openvino_files(files, model):
    assert_scores_alike(files["detector"], model, [images(64, 64), images(64, 64)[:1]])


def test_files_that_take_images_as_they_are(model, tmp_path):
    native = tiny()
    native.load_state_dict(model.state_dict())
    native.eval().pre_processor = None
    batches = [images(64, 64), images(65, 130)[:1], images(192, 97)[2:4]]
    assert_scores_alike(native.to_onnx(tmp_path), native, batches)


def test_file_for_the_map_holds_no_detector(files, model):
    parts = {"map": [model.model.segmenter], "detector": [model.model.segmenter, model.model.detector]}
    for score, modules in parts.items():
        graph = onnx.load(files[score]).graph
        assert [node.op_type for node in graph.node].count("ConvTranspose") == 5 * len(modules), "one decoder each"
        needed = sum(parameter.numel() for module in modules for parameter in module.parameters())
        assert 0.9 * needed < sum(np.prod(tensor.dims) for tensor in graph.initializer) < 1.1 * needed
