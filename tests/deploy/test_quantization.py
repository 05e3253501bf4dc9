"""What an INT8 export is calibrated on, and what it leaves in floating point."""

import logging
import shutil
from itertools import starmap

import numpy as np
import openvino
import pytest
import torch
from anomalib.data import MVTecAD
from openvino import opset13 as ops
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from anomalib_anoseg.deploy.quantization import CalibrationImages, behind_layers, quantize
from anomalib_anoseg.training.seeding import seeded_weights


class Data:
    """As much of a data module as calibration needs."""

    eval_batch_size = 2

    def __init__(self, images):
        self.images = images

    def setup(self, stage):
        pass

    def val_dataloader(self):
        return DataLoader([{"image": image} for image in self.images], batch_size=self.eval_batch_size)


@pytest.fixture
def images():
    return torch.rand(5, 3, 32, 48, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model():
    """Two convolutions, something between them, and a map and a score behind them."""

    def build(batch=-1, height=-1, width=-1):
        image = ops.parameter([batch, 3, height, width], np.float32, name="image")
        features = ops.relu(convolve(image), name="features")
        logits = convolve(features)
        anomaly_map = ops.sigmoid(logits, name="map")
        score = ops.reduce_max(anomaly_map, np.array([1, 2, 3]), name="score")
        return openvino.Model([anomaly_map, score], [image])

    return build


def convolve(node):
    weights = np.random.default_rng(0).normal(size=(3, 3, 3, 3)).astype(np.float32)
    return ops.convolution(node, ops.constant(weights), [1, 1], [1, 1], [1, 1], [1, 1])


def test_calibration_checks_its_pictures_first(model, tiny_root, tmp_path):
    root = shutil.copytree(tiny_root, tmp_path / "tiny")
    data = MVTecAD(root, "stripes", num_workers=0, val_split_mode="from_train", val_split_ratio=0.5, seed=0)
    data.setup("fit")
    spoiled = data.val_data.samples.image_path[1]
    Image.fromarray(np.zeros((64, 64), np.uint16)).save(spoiled)
    with pytest.raises(ValueError, match=rf"{spoiled} has pixels of mode 'I;16'"):
        quantize(model(), data)


def test_what_follows_the_last_layer_is_behind_all(model):
    built = model()
    names = set(behind_layers(built))
    assert {"map", "score"} <= names
    assert not names & {"image", "features"}
    types = {node.get_friendly_name(): node.get_type_name() for node in built.get_ops()}
    assert "Convolution" not in {types[name] for name in names}


def test_every_batch_comes_as_it_is_and_with_anomalies(images):
    calibration = CalibrationImages(Data(images).val_dataloader())
    first, second = list(calibration), list(calibration)
    assert len(first) == len(calibration) == 6
    assert torch.equal(torch.cat(first[::2]), images)
    for normal, forged in zip(first[::2], first[1::2], strict=True):
        assert (forged != normal).flatten(1).any(1).all()
    assert all(starmap(torch.equal, zip(first, second, strict=True)))


def test_batches_get_the_size_that_the_file_takes(images):
    calibration = CalibrationImages(Data(images).val_dataloader(), size=(64, 40), batch_size=2)
    assert {tuple(image.shape) for image in calibration} == {(2, 3, 64, 40)}


def test_no_more_images_than_needed_are_read(images, monkeypatch):
    monkeypatch.setattr("anomalib_anoseg.deploy.quantization.RECOMMENDED_IMAGES", 3)
    assert sum(map(len, CalibrationImages(Data(images).val_dataloader()))) == 8  # two batches of two, each twice


@pytest.mark.parametrize("shape", [(), (1,), (4, 64, 40)])
def test_quantizes_for_any_shape_of_input(model, images, shape, caplog):
    data = Data(images)
    with caplog.at_level(logging.WARNING):
        quantized = quantize(model(*shape), data)
    assert "INT8 is calibrated on 5 images; 300 are better." in caplog.text
    assert data.eval_batch_size == 2
    fakes = [node for node in quantized.get_ops() if node.get_type_name() == "FakeQuantize"]
    readers = {port.get_node().get_type_name() for fake in fakes for port in fake.output(0).get_target_inputs()}
    assert readers == {"Convolution"}


def test_what_rounding_adds_to_all_pixels_is_taken_off_again(images):
    """Many thin layers, each of which moves the mean: corrected all at once, not one after another, 6 % of it stay."""
    with seeded_weights(0):
        blocks = [[nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.ReLU6(), nn.Conv2d(16, 16, 1)] for _ in range(6)]
        network = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), *(nn.Sequential(nn.ReLU6(), *block) for block in blocks)
        )
        network.extend([nn.ReLU6(), nn.Conv2d(16, 1, 1)])
        for layer in (module for module in network.modules() if isinstance(module, nn.Conv2d)):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.normal_(layer.bias, std=0.5)
    expected = network(images).detach().numpy()
    model = openvino.convert_model(network.eval(), example_input=images, input=[[-1, 3, 32, 48]])
    found = openvino.compile_model(quantize(model, Data(images)), "CPU")(images.numpy())[0]
    assert abs((found - expected).mean()) < 0.03 * expected.std()
    assert abs(found - expected).mean() < 0.1 * expected.std()


def test_refuses_data_without_validation_images(model, tiny_root):
    from anomalib.data import MVTecAD

    for data in (Data([]), MVTecAD(tiny_root, "stripes", val_split_mode="none")):
        with pytest.raises(ValueError, match=r"there are none\. Hold some out \(val_split_mode: from_train\)"):
            quantize(model(), data)
