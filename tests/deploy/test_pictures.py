"""Pictures for exported files: the right ones, at the right size, with their truth."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from anomalib.data import MVTecAD
from PIL import Image
from torchvision.transforms.v2 import Resize

from anomalib_anoseg import AnoSeg
from anomalib_anoseg.deploy.accuracy import measure_accuracy
from anomalib_anoseg.deploy.pictures import CalibrationData, LabelledPictures, Pictures, resize_of
from anomalib_anoseg.deploy.runtimes import RuntimeOutput

ACCURACY = ("image_AUROC", "pixel_AUROC", "pixel_AP", "pixel_IoU")


def test_calibration_sees_no_test_image(tiny_root):
    data = MVTecAD(tiny_root, "stripes", num_workers=0, val_split_mode="same_as_test")
    pictures = Pictures(data, SimpleNamespace(pre_processor=None))
    assert pictures.size == (64, 64)
    tested = [image for batch in pictures.for_test(4) for image in batch.image]
    calibration = pictures.for_calibration(100)
    assert (len(tested), len(pictures), len(calibration)) == (6, 6, 8)
    assert not any(torch.equal(image, other) for image in calibration for other in tested)
    assert len(pictures.for_calibration(3)) == 3
    data.train_data = data.test_data
    with pytest.raises(ValueError, match="There are no training or validation images to calibrate INT8 on"):
        pictures.for_calibration(3)


def test_pictures_are_checked(tiny_root, tmp_path):
    root = shutil.copytree(tiny_root, tmp_path / "tiny")
    data = MVTecAD(root, "stripes", num_workers=0, val_split_mode="from_train", seed=0)
    pictures = Pictures(data, SimpleNamespace(pre_processor=None))
    for path in (root / "stripes" / "train" / "good").iterdir():
        path.write_bytes(b"spoiled")
    with pytest.raises(ValueError, match=r"good.\d+\.png is not an image, or is corrupt"):
        pictures.for_calibration(3)
    (root / "stripes" / "test" / "square" / "001.png").write_bytes(b"spoiled")
    with pytest.raises(ValueError, match=r"square.001\.png is not an image, or is corrupt"):
        Pictures(data, SimpleNamespace(pre_processor=None))


def test_calibration_starts_with_validation_images(tiny_data):
    pictures = Pictures(tiny_data, SimpleNamespace(pre_processor=None))
    first, second, *others = pictures.for_calibration(100)
    assert torch.equal(first, tiny_data.val_data[0].image)
    assert torch.equal(second, tiny_data.val_data[1].image)
    assert len(others) == len(tiny_data.train_data) == 6


def test_pictures_come_as_they_are_and_masks_resized_as_in_a_test(tiny_data):
    model = AnoSeg((64, 96), network={"width": 0.125})
    pictures = Pictures(tiny_data, model)
    assert (pictures.size, pictures.input_size) == ((64, 96), (64, 64))
    batches = list(pictures.for_test(4))
    assert torch.equal(batches[0].image[1], tiny_data.test_data[1].image)
    assert {image.shape for image in pictures.for_calibration(3)} == {(3, 64, 64)}
    assert [len(batch.image) for batch in batches] == [4, 2]
    assert batches[0].mask.shape == (4, 64, 96)
    labels = torch.cat([batch.label for batch in batches])
    masks = torch.cat([batch.mask for batch in batches])
    assert labels.sum() == 3
    assert torch.equal(masks.flatten(1).any(1), labels)
    assert resize_of(SimpleNamespace(pre_processor=None))(masks) is masks


def test_size_of_test_images_is_known_from_the_check(tiny_root, monkeypatch):
    data = MVTecAD(tiny_root, "stripes", num_workers=0)
    pictures = Pictures(data, SimpleNamespace(pre_processor=None))
    data.test_data.augmentations = Resize((32, 48))
    assert pictures.input_size == (32, 48)
    data.test_data.augmentations = None
    monkeypatch.setattr(Image, "open", None)
    assert pictures.input_size == (64, 64)


def test_pictures_of_several_sizes_come_in_batches_of_one():
    shapes = [(40, 50)] * 3 + [(30, 20)] + [(40, 50)]
    items = [SimpleNamespace(image=torch.rand(3, *shape), gt_label=0, gt_mask=None) for shape in shapes]
    data = SimpleNamespace(test_data=items, prepare_data=list, setup=list)
    pictures = Pictures(data, AnoSeg((64, 96), network={"width": 0.125}))
    assert (pictures.size, pictures.input_size) == ((64, 96), None)
    batches = list(pictures.for_test(2))
    assert [tuple(batch.image.shape) for batch in batches] == [
        (2, 3, 40, 50),
        (1, 3, 40, 50),
        (1, 3, 30, 20),
        (1, 3, 40, 50),
    ]
    assert {tuple(batch.mask.shape[1:]) for batch in batches} == {(64, 96)}


def test_calibration_reads_pictures_one_by_one(tiny_data):
    pictures = Pictures(tiny_data, SimpleNamespace(pre_processor=None)).for_calibration(3)
    batches = list(CalibrationData(pictures).val_dataloader())
    assert [torch.equal(batch["image"][0], image) for batch, image in zip(batches, pictures, strict=True)] == [True] * 3


def test_figures_are_none_where_they_are_not_defined():
    class Blind:
        def predict(self, images):
            return RuntimeOutput(np.zeros(len(images), np.float32), None, None, None)

    normal = LabelledPictures(torch.zeros(2, 3, 4, 4), torch.zeros(2).bool(), torch.zeros(2, 4, 4).bool())
    assert measure_accuracy(Blind(), [normal, normal]) == dict.fromkeys(ACCURACY, None) | {"images": 4}


@pytest.mark.parametrize("spoil", [np.nan, np.inf])
def test_figures_are_none_if_a_score_is_not_finite(spoil):
    class Diverged:
        def predict(self, images):
            maps = images[:, :1].copy()
            maps[0, 0, 0, 0] = spoil
            return RuntimeOutput(maps.max((1, 2, 3)), maps, None, None)

    label, mask = torch.tensor([False, True]), torch.zeros(2, 4, 4).bool()
    mask[1, :2] = True
    both = LabelledPictures(mask[:, None].expand(2, 3, 4, 4).float(), label, mask)
    assert measure_accuracy(Diverged(), [both]) == dict.fromkeys(ACCURACY, None) | {"images": 2}
