"""Each picture of a training is read once, and nothing that is learned changes."""

import logging
import os
import shutil
import time
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from anomalib.data import MVTecAD
from anomalib.engine import Engine
from lightning.pytorch import Callback
from PIL import Image, ImageFile
from torchvision.transforms.v2 import Compose, RandomCrop, RandomHorizontalFlip, Resize

from anomalib_anoseg import SGSF, AnoSeg
from anomalib_anoseg.models import self_supervised
from anomalib_anoseg.training import reading_once
from anomalib_anoseg.training.reading_once import ReadingOnce, read_item
from anomalib_anoseg.training.repeatable_items import RepeatableItems
from anomalib_anoseg.training.shrunk_pictures import INDEX, ShrunkPictures

SIZE = (64, 64)


@pytest.fixture
def root(tiny_root, tmp_path):
    """A copy of the tiny set that a test may change, larger than the networks' images."""
    root = shutil.copytree(tiny_root, tmp_path / "tiny")
    for path in root.rglob("*.png"):
        Image.open(path).resize((80, 72), Image.Resampling.NEAREST).save(path)
    return root


@pytest.fixture
def decoded(monkeypatch):
    """Count how often the pixels of each file were decoded in this process."""
    counts, load = Counter(), ImageFile.ImageFile.load

    def count(image):
        counts[os.fspath(image.filename)] += bool(image.tile)
        return load(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", count)
    return counts


def make_data(root, **settings):
    split = {"val_split_mode": "from_train", "val_split_ratio": 0.25, "seed": 0}
    return MVTecAD(root, "stripes", train_batch_size=3, eval_batch_size=3, num_workers=0, **(split | settings))


def train(model, root, folder, **settings):
    """Train for two epochs, and return what was learned."""
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    engine = Engine(max_epochs=2, accelerator="cpu", devices=1, default_root_dir=folder, **quiet)
    engine.fit(model, datamodule=make_data(root, **settings))
    return model.state_dict()


def make(model, **settings):
    settings |= {"network": {"width": 0.125}, "visualizer": False, "evaluator": False, "post_processor": False}
    return AnoSeg(SIZE, **settings) if model is AnoSeg else SGSF(SIZE, extractor={"name": "test_resnet"}, **settings)


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("model", "augmentations"),
    [(AnoSeg, Compose([Resize(SIZE), RandomHorizontalFlip(), RandomCrop(60)])), (SGSF, None)],
    ids=["augmented", "with references"],
)
def test_a_training_decodes_each_file_once_and_learns_the_same(
    root, tmp_path, decoded, monkeypatch, model, augmentations
):
    learned = train(make(model), root, tmp_path / "once", train_augmentations=augmentations)
    pictures = {str(path) for path in root.rglob("*/*/*.png") if "ground_truth" not in path.parts}
    assert {path: decoded[path] for path in pictures} == dict.fromkeys(pictures, 1), "by check and epochs together"
    monkeypatch.setattr(self_supervised, "ReadingOnce", Callback)
    assert equal(learned, train(make(model), root, tmp_path / "every", train_augmentations=augmentations))
    assert max(decoded.values()) > 3, "the counter counts"


def test_references_that_were_read_before_are_hidden_as_others(root, tmp_path, decoded):
    Image.new("L", (80, 72)).save(mask := tmp_path / "ignored.png")
    with Image.open(mask) as drawn:
        drawn.paste(255, (0, 0, 80, 36))
        drawn.save(mask)
    model = make(SGSF, ignore_mask=mask)
    train(model, root, tmp_path)
    images = model.model.bank.images
    assert (images[..., :32, :] == 128).all()
    assert (images[..., 40:, :] != 128).any()
    assert {decoded[path] for path in decoded if "good" in path} == {1}


def test_synthetic_validation_pictures_outlive_the_reading(root, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        train(make(AnoSeg), root, tmp_path, val_split_mode="synthetic")
    assert "val_data are read anew in every epoch, because SyntheticAnomalyDataset is copied" in caplog.text
    assert "pictures once, shrunk" in caplog.text, "those of train_data"


def test_a_file_serves_the_next_training_and_a_changed_picture_is_read_anew(root, tmp_path, decoded, monkeypatch):
    monkeypatch.setattr(reading_once, "available_memory", lambda: 0)
    first = train(make(AnoSeg), root, tmp_path)
    assert (tmp_path / "AnoSeg" / "MVTecAD" / "stripes" / INDEX).is_file()
    decoded.clear()
    (changed, other, *_) = sorted((root / "stripes" / "train" / "good").iterdir())
    assert equal(first, train(make(AnoSeg), root, tmp_path))
    assert not [path for path in decoded if "train" in path]
    shutil.copyfile(other, changed)
    assert not equal(first, train(make(AnoSeg), root, tmp_path))
    assert {path for path in decoded if "train" in path} == {str(changed)}


class Trainer(SimpleNamespace):
    """As much of a trainer as the callback asks."""

    is_global_zero = True
    world_size = 1


@pytest.fixture
def data(root):
    """The tiny set as a trainer has set it up."""
    data = make_data(root, augmentations=Resize(SIZE))
    data.setup()
    return data


def test_a_full_disk_is_a_line_and_pictures_are_read_as_before(data, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(reading_once, "available_memory", lambda: 0)
    monkeypatch.setattr(reading_once.shutil, "disk_usage", lambda _: SimpleNamespace(free=1e4))
    with caplog.at_level(logging.INFO):
        ReadingOnce().setup(Trainer(datamodule=data, default_root_dir=tmp_path / "runs"), None, "fit")
    assert "read anew in every epoch. Shrunk, they take 0.4 MB" in caplog.text
    assert "has only 0.0 MB left" in caplog.text
    assert read_item(data.train_data, 0).image.shape == (3, *SIZE)


def test_a_folder_that_cannot_be_written_likewise(data, tmp_path, caplog):
    (tmp_path / "runs").write_text("a file")
    with caplog.at_level(logging.INFO):
        trainer = Trainer(datamodule=data, default_root_dir=tmp_path / "runs", world_size=2)
        ReadingOnce().setup(trainer, None, "fit")
    assert "no file holds them" in caplog.text
    assert not hasattr(data.train_data, reading_once.SERVES)


def test_data_of_another_size_are_a_line(data, tmp_path, caplog):
    data.val_data.augmentations = Resize((32, 48))
    with caplog.at_level(logging.INFO):
        ReadingOnce().setup(Trainer(datamodule=data, default_root_dir=tmp_path), None, "fit")
    assert "val_data are read anew in every epoch, because they are resized to 32x48 pixels" in caplog.text
    assert hasattr(data.train_data, reading_once.SERVES)
    assert not hasattr(data.val_data, reading_once.SERVES)


def test_a_mask_that_cannot_be_read_is_no_lack_of_space(root, tmp_path):
    data = make_data(root, augmentations=Resize(SIZE), val_split_mode="same_as_test")
    data.setup()
    mask = next((root / "stripes" / "ground_truth").rglob("*.png"))
    mask.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=f"or its mask cannot be read .*{mask.name}"):
        ReadingOnce().setup(Trainer(datamodule=data, default_root_dir=tmp_path), None, "fit")


def test_few_pictures_wait_for_a_slow_disk(data, tmp_path, monkeypatch):
    read, started, waiting = RepeatableItems.read, [], []
    monkeypatch.setattr(RepeatableItems, "read", lambda *given: started.append(given) or read(*given))
    monkeypatch.setattr(reading_once, "AHEAD", 2)

    def take(items, *_):
        for taken, _ in enumerate(items):
            time.sleep(0.02)
            waiting.append(len(started) - taken)

    monkeypatch.setattr(ShrunkPictures, "in_memory", take)
    ReadingOnce().setup(Trainer(datamodule=data, default_root_dir=tmp_path), None, "fit")
    assert len(started) == len(waiting) > 6
    assert max(waiting) <= 3, "two ahead of the one that is taken"


def test_data_sets_are_left_as_they_were(data, tmp_path):
    before = dict(vars(data.train_data))
    callback = ReadingOnce()
    callback.setup(Trainer(datamodule=data, default_root_dir=tmp_path), None, "fit")
    assert hasattr(data.train_data, reading_once.SERVES)
    assert hasattr(data.val_data, reading_once.SERVES)
    callback.teardown(None, None, "fit")
    assert vars(data.train_data) == before


def test_workers_serve_what_was_read(data, tmp_path, root):
    data.num_workers = 1
    expected = [data.val_data[index].image for index in range(len(data.val_data))]
    ReadingOnce().setup(Trainer(datamodule=data, default_root_dir=tmp_path), None, "fit")
    shutil.rmtree(root)
    (batch,) = data.val_dataloader()
    assert torch.equal(batch.image, torch.stack(expected))


def test_an_unusable_picture_is_named(data, tmp_path, root):
    path = sorted((root / "stripes" / "train" / "good").iterdir())[3]
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match=f"{path.name} is not an image, or is corrupt"):
        ReadingOnce().setup(Trainer(datamodule=data, default_root_dir=tmp_path), None, "fit")
