"""How pictures look: each property means one thing, and is the same from a file and in a training."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from anomalib.pre_processing import PreProcessor
from PIL import Image, ImageFilter
from torchvision.transforms.v2 import Compose, Normalize, Resize
from torchvision.transforms.v2.functional import pil_to_tensor

from anomalib_anoseg.common.appearance import grey_of, measure, summarize
from anomalib_anoseg.training.held_out import measure_looks

SIZE = (32, 48)


def draw(seed=0, size=(150, 97)):
    pixels = np.random.default_rng(seed).normal(100, 25, (size[1], size[0], 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).filter(ImageFilter.BoxBlur(2))


@pytest.mark.parametrize("size", [(150, 97), (20, 15), SIZE[::-1]])
@pytest.mark.parametrize("others", [[], [Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]])
def test_a_file_looks_as_the_model_sees_it(size, others):
    picture, transform = draw(size=size), Compose([Resize(SIZE, antialias=True), *others])
    image = transform(pil_to_tensor(picture).float() / 255)[None]
    looks = measure_looks(SimpleNamespace(pre_processor=PreProcessor(transform=transform)), image)
    assert looks[0, :2].tolist() == list(SIZE)
    assert looks[0, 2:].tolist() == pytest.approx(measure(grey_of(picture, SIZE)[None])[0], rel=1e-4)


def test_each_property_changes_alone():
    grey = grey_of(draw(), SIZE)[None]
    (light, contrast, sharpness), center = measure(grey)[0], grey.mean()
    assert measure(grey + 20)[0] == pytest.approx((light + 20, contrast, sharpness), rel=1e-5)
    assert measure(center + (grey - center) / 2)[0] == pytest.approx((light, contrast / 2, sharpness), rel=1e-5)
    blurred = grey_of(draw().filter(ImageFilter.GaussianBlur(4)), SIZE)[None]
    assert measure(blurred)[0, 2] < 0.8 * sharpness
    assert measure(blurred)[0, 0] == pytest.approx(light, rel=0.01)


def test_a_picture_of_one_colour_has_no_sharpness():
    assert measure(np.full((2, 8, 8), 7, np.float32)).tolist() == [[7, 0, 0]] * 2
    assert measure(np.zeros((0, 8, 8), np.float32)).shape == (0, 3)


@pytest.mark.parametrize(("images", "outside"), [(1, 1), (18, 1), (19, 2), (381, 38)])
def test_a_tenth_lies_outside_at_each_end(images, outside):
    looks = np.random.default_rng(0).normal(size=(images, 3))
    found = summarize(looks, SIZE)
    assert (found["size"], found["good_images"], found["outside"]) == (list(SIZE), images, outside)
    low, median, high = found["contrast"]
    assert (looks[:, 1] < low + 1e-6).sum() == (looks[:, 1] > high - 1e-6).sum() == outside
    assert median == pytest.approx(np.median(looks[:, 1]), abs=1e-6)


def test_the_weights_of_colours_are_those_of_the_training():
    image = torch.eye(3).view(3, 3, 1, 1).expand(3, 3, 2, 2)
    files = [Image.new("RGB", (2, 2), tuple(255 * (n == channel) for n in range(3))) for channel in range(3)]
    looks = measure_looks(SimpleNamespace(pre_processor=None), image)
    assert looks[:, 2].tolist() == pytest.approx([grey_of(file, (2, 2)).mean() for file in files], rel=1e-5)
