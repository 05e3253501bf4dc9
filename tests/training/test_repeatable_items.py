"""What may be kept of a data set's items, and that it is what the data set makes."""

import os
import re
import shutil
from dataclasses import fields

import numpy as np
import pytest
import torch
from anomalib.data import FolderDataset, MVTecADDataset, MVTecLOCODataset
from PIL import Image
from torchvision.transforms.v2 import CenterCrop, ColorJitter, Compose, RandomAffine, RandomHorizontalFlip, Resize

from anomalib_anoseg.training.reading_once import Served
from anomalib_anoseg.training.repeatable_items import RepeatableItems, find_obstacle
from anomalib_anoseg.training.shrunk_pictures import ShrunkPictures

RESIZE = Resize((24, 32))


@pytest.fixture
def root(tmp_path):
    """Two good pictures and one with a mask, in the layout of MVTec AD."""
    rng = np.random.default_rng(0)
    for name in ("train/good/0.png", "test/good/0.png", "test/bad/000.png"):
        save(rng.integers(0, 256, (50, 70, 3), np.uint8), tmp_path / "parts" / name)
    save(255 * rng.integers(0, 2, (50, 70), np.uint8), tmp_path / "parts" / "ground_truth" / "bad" / "000.png")
    return tmp_path


def save(values, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def mvtec(root):
    return MVTecADDataset(root, "parts", split="test")


def loco(root):
    for name in ("test", "ground_truth"):  # newer pandas refuse its lists of masks
        shutil.rmtree(root / "parts" / name)
    return MVTecLOCODataset(root, "parts", split="train")


def folder(root):
    return FolderDataset("parts", "parts/train/good", root=root, abnormal_dir="parts/test/bad")


def serve(dataset):
    items = RepeatableItems.of(dataset)
    kept = [(key, items.read(index)) for index, key in enumerate(items.keys)]
    return Served(items, ShrunkPictures.in_memory(kept, len(kept), kept[0][1].image.shape))


@pytest.mark.parametrize("make", [mvtec, loco, folder])
@pytest.mark.parametrize(
    "augmentations",
    [RESIZE, Compose([Compose([CenterCrop(40), Resize((24, 32))]), RandomHorizontalFlip(), RandomAffine(30), RESIZE])],
    ids=["resize", "random after a resize"],
)
def test_items_are_those_of_the_data_set_bit_for_bit(root, make, augmentations):
    dataset = make(root)
    dataset.augmentations = augmentations
    served = serve(dataset)
    for index in range(len(dataset)):
        torch.manual_seed(index)
        expected = dataset[index]
        torch.manual_seed(index)
        (item,) = served([index])
        assert type(item) is type(expected)
        for field in fields(item):
            value, wanted = getattr(item, field.name), getattr(expected, field.name)
            assert type(value) is type(wanted), field.name
            assert (
                torch.equal(value, wanted) and value.dtype == wanted.dtype
                if torch.is_tensor(value)
                else value == wanted
            )


class Drawing(FolderDataset):
    """A data set that reads in a way of its own."""

    def __getitem__(self, index):
        return super().__getitem__(index)


@pytest.mark.parametrize(
    ("augmentations", "says"),
    [
        (RESIZE, ""),
        (Compose([RESIZE, ColorJitter()]), ""),
        (CenterCrop(16), ""),
        (None, "not resized"),
        (Resize(24), "Resize may leave pictures of several sizes"),
        (ColorJitter(), "ColorJitter may leave pictures of several sizes"),
        (Compose([ColorJitter(), RESIZE]), r"ColorJitter .*begin train_augmentations .* Resize\(\[24, 32\]\)"),
    ],
)
def test_obstacles_are_named_with_a_remedy(root, augmentations, says):
    dataset = folder(root)
    dataset.augmentations = augmentations
    obstacle = find_obstacle(dataset, "train")
    assert bool(obstacle) == bool(says)
    assert not says or re.search(says, obstacle)


def test_a_class_that_reads_in_its_own_way_is_left_alone(root):
    dataset = Drawing("parts", "parts/train/good", root=root, augmentations=RESIZE)
    assert "Drawing reads them in a way of its own" in find_obstacle(dataset, "train")


def test_keys_change_with_all_that_an_item_follows_from(root):
    dataset = mvtec(root)
    dataset.augmentations = RESIZE
    bad, good = RepeatableItems.of(dataset).keys
    assert RepeatableItems.of(dataset).keys == [bad, good]
    os.utime(root / "parts" / "test" / "good" / "0.png", ns=(0, 1))
    assert [key == old for key, old in zip(RepeatableItems.of(dataset).keys, [bad, good], strict=True)] == [True, False]
    os.utime(root / "parts" / "ground_truth" / "bad" / "000.png", ns=(0, 1))
    assert RepeatableItems.of(dataset).keys[0] != bad
    dataset.augmentations = Resize((24, 32), antialias=False)
    assert RepeatableItems.of(dataset).keys[1] not in {good, bad}
