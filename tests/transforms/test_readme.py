"""The guide's examples do what it says."""

from pathlib import Path

import pytest
import torch
from kornia.augmentation import AugmentationSequential

from anomalib_anoseg import transforms

GUIDE = Path(transforms.__file__).with_name("README.md")


@pytest.fixture(scope="module")
def examples():
    """Run the blocks of Python one after the other."""
    names = {}
    for block in GUIDE.read_text(encoding="utf-8").split("```python\n")[1:]:
        exec(block.split("```")[0], names)
    return names


def test_gradients_reach_the_network(examples):
    assert examples["masks"].shape == (8, 1, 64, 64)
    assert examples["network"].weight.grad.abs().sum() > 0


def test_own_transform_marks_what_it_changes_and_works_in_a_container(examples):
    image = torch.rand(64, 3, 16, 24) + 0.001
    transform = examples["DarkRow"](p=0.5).manual_seed(0)
    forged, mask = transform.forge(image)
    assert torch.equal((forged != image).any(1, keepdim=True), mask.bool())
    assert 16 < mask.flatten(1).any(1).sum() < 48
    container = AugmentationSequential(examples["DarkRow"](p=0.5).manual_seed(0), data_keys=["input", "mask"])
    again, marked = container(image, torch.zeros_like(mask))
    assert torch.equal(again, forged)
    assert torch.equal(marked, mask)


def test_every_transform_stands_in_the_guide():
    text = GUIDE.read_text(encoding="utf-8")
    bases = {"ForgedBatch", "PerlinAnomaly", "RandomStream", "SeededAugmentation", "SyntheticAnomaly", "Textures"}
    assert all(f"`{name}`" in text for name in set(transforms.__all__) - bases)
    assert len(text.splitlines()) <= 60
