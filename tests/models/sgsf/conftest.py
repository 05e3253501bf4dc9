"""Small SGSF models whose maps are not constant, without waiting for a training."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from anomalib_anoseg.models.sgsf.torch_model import SGSFModel
from anomalib_anoseg.training.seeding import seeded_weights

SIZE = (64, 96)


def random_images(count, size=SIZE, seed=0):
    """Smooth uint8 images that differ from each other, as those of one product do."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 6, generator=generator)
    images = nn.functional.interpolate(coarse, size, mode="bilinear")
    return (images * 200 + torch.rand(images.shape, generator=generator) * 55).to(torch.uint8)


@pytest.fixture(scope="session")
def pictures():
    return random_images


@pytest.fixture(scope="session")
def batch():
    """Draw other such images, as a model gets them."""
    return lambda count=2, size=SIZE, seed=7: random_images(count, size, seed) / 255


@pytest.fixture
def make_model():
    """Build a model with a filled bank, whose weights and normalisation statistics make its map vary."""

    def make(count=5, size=SIZE, **arguments):
        with seeded_weights(0):
            model = SGSFModel(width=0.125, extractor="resnet10t", **arguments)
            for module in model.network.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        images = random_images(count, size)
        norms = [module for module in model.network.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = 1.0
        pair = random_images(4, size, seed=1) / 255, random_images(4, size, seed=2) / 255
        with torch.no_grad():
            model(*pair)
        model.update_average(*pair, step=1)
        for norm in norms:
            norm.momentum = 0.1
        if model.needs_bank:
            model.fill_bank(images, model.embed(images / 255))
        model.prepare_for_evaluation()
        return model

    return make


class TensorSizes(TorchDispatchMode):
    """Notes the numbers in the largest tensor that an operation returns, and those in all that are no views."""

    numbers = written = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.numbers = max(self.numbers, tensor.numel())
                self.written += tensor.numel() if tensor._base is None else 0
        return result


@pytest.fixture
def tensor_sizes():
    """A context that measures the tensors that operations make."""
    return TensorSizes
