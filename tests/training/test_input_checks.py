"""Bad input stops a fit before its first step, with a message that names the culprit and the remedy.

No test here trains: ``training_step`` raises :class:`Trained`, so reaching it means that the input was accepted.
"""

import os
import shutil
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Barrier
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from anomalib.data import Folder, ImageBatch, ImageItem, MVTecAD, PredictDataset
from anomalib.engine import Engine
from anomalib.pre_processing import PreProcessor
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import LambdaCallback
from pandas import DataFrame
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as first_version
from torchvision.transforms.v2 import Compose, Grayscale, Lambda, Normalize, RandomApply, RandomVerticalFlip, Resize

from anomalib_anoseg import AnoSeg
from anomalib_anoseg.common.picture_files import examine_picture
from anomalib_anoseg.training import file_checks
from anomalib_anoseg.training.file_checks import check_image_files, mask_pairs
from anomalib_anoseg.training.input_checks import InputCheck, check_batch, check_dataset, check_images
from anomalib_anoseg.training.reading_once import ReadingOnce

EMPTY = r"No training images were found\. Put normal images into .* `data` .*train/good.*normal_dir"
NORMALIZE = Normalize([0.5] * 3, [0.5] * 3)


class Trained(Exception):  # noqa: N818
    """Raised instead of training."""


@pytest.fixture
def root(tiny_root, tmp_path):
    """A copy of the tiny set that a test may spoil."""
    return shutil.copytree(tiny_root, tmp_path / "tiny")


@pytest.fixture
def normal(root):
    """The folder of its normal training images."""
    return root / "stripes" / "train" / "good"


@pytest.fixture
def data(root):
    """Build the datamodule of the copy."""
    split = {"val_split_mode": "from_train", "val_split_ratio": 0.25, "seed": 0}
    return partial(MVTecAD, root, "stripes", train_batch_size=3, num_workers=0, **split)


@pytest.fixture
def any_format(normal):
    """Build a datamodule that lists files of every ending, as MVTecAD does not."""
    split = {"test_split_mode": "none", "val_split_mode": "from_train", "val_split_ratio": 0.25, "seed": 0}
    return partial(Folder, "tiny", normal, num_workers=0, **split)


@pytest.fixture
def fit(tmp_path, monkeypatch):
    """Fit a tiny model up to its first step."""

    def training_step(*_):
        raise Trained

    def fit(datamodule=None, loader=None, pre_processor=True, model_epochs=None, saliency="none", **trainer):
        model = AnoSeg(
            (64, 64),
            network={"width": 0.125},
            pre_processor=pre_processor,
            max_epochs=model_epochs,
            patches={"saliency": saliency},
        )
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        engine = Engine(accelerator="cpu", default_root_dir=tmp_path / "results", **quiet, **trainer)
        engine.fit(model, datamodule=datamodule, train_dataloaders=loader)

    monkeypatch.setattr(AnoSeg, "training_step", training_step)
    return partial(fit, max_epochs=1)


def test_good_input_is_accepted(fit, data):
    with pytest.raises(Trained):
        fit(data())


# ------------------------------------------------------------------------------------------------------ no images


@pytest.mark.parametrize("split", ["from_train", "same_as_test", "none"])
def test_empty_training_folder(fit, data, normal, split):
    for path in normal.iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=EMPTY):
        fit(data(val_split_mode=split))


def test_folder_without_good_images(fit, data, normal):
    normal.rename(normal.with_name("fine"))
    with pytest.raises(TypeError, match=EMPTY):  # anomalib's error, with the remedy put in front
        fit(data())


def test_missing_and_empty_normal_dir_are_named_by_anomalib(fit, root):
    folder = partial(Folder, "tiny", root=root, num_workers=0)
    with pytest.raises(FileNotFoundError, match=r"Path does not exist: .*tiny.misspelt"):
        fit(folder("misspelt"))
    (root / "empty").mkdir()
    with pytest.raises(RuntimeError, match=r"Found 0 .*(?i:normal) images in .*tiny.empty"):
        fit(folder("empty"))


def test_no_test_images_to_validate_on(fit, normal):
    for path in sorted(normal.iterdir())[1:]:
        path.unlink()
    with pytest.raises(ValueError, match=r"no test images to validate on\. Set val_split_mode of `data` to from_train"):
        fit(Folder("tiny", normal, num_workers=0, val_split_mode="from_test"))
    with pytest.raises(Trained):
        fit(Folder("tiny", normal, num_workers=0, val_split_mode="from_train"))


def test_a_set_without_validation_images_is_accepted(fit, data, normal):
    with pytest.raises(Trained):
        fit(data(val_split_mode="none"))
    with pytest.raises(Trained):
        fit(Folder("tiny", normal, num_workers=0, test_split_mode="none", val_split_mode="none"))
    with pytest.raises(ValueError, match=r"`data` has no images to validate on: set its val_split_mode"):
        run("validate", datamodule=data(val_split_mode="none"))


def test_a_name_that_anomalib_refuses_is_the_cause(fit, normal, tmp_path):
    shutil.copytree(normal, tmp_path / "Prüfteile")
    refused = r"^anomalib refuses the path .*Prüfteile: it takes ASCII .*, not 'ü'\. Rename the folder"
    with pytest.raises(ValueError, match=refused):
        fit(Folder("tiny", "Prüfteile", tmp_path, num_workers=0))
    bytewise = tmp_path / os.fsdecode(b"caf\xe9")
    bytewise.mkdir()
    with pytest.raises(ValueError, match=r"^anomalib refuses the path .*caf\\xe9: .* not '\\udce9'\. Rename") as error:
        fit(Folder("tiny", bytewise, num_workers=0))
    assert str(error.value).isascii()
    (tmp_path / "plain").symlink_to(tmp_path / "Prüfteile")
    with pytest.raises(Trained):
        fit(Folder("tiny", tmp_path / "plain", num_workers=0, val_split_mode="from_train"))


def rename_masks(bad, masks):
    for number, name in enumerate(("anomaly-1", "anomaly-10", "anomaly-2")):
        (bad / f"{number:03}.png").rename(bad / f"{name}.png")
        (masks / f"{number:03}_mask.png").rename(masks / f"{name}_mask.png")


LISTS = {
    "unsorted masks": (rename_masks, r"^.*anomaly-10_mask\.png would be the mask of .*anomaly-1\.png.*leading zeros"),
    "missing mask": (lambda _, masks: (masks / "001_mask.png").unlink(), r"^.*001\.png has no mask\. Add one"),
    "missing picture": (lambda bad, _: (bad / "001.png").unlink(), r"^.*001_mask\.png is the mask of no picture"),
    "dangling": (lambda bad, _: (bad / "003.png").symlink_to(bad / "gone"), r"^.*003\.png is a link to .*gone"),
}


@pytest.mark.parametrize("kind", ["mvtec", "folder"])
@pytest.mark.parametrize(("spoil", "says"), LISTS.values(), ids=LISTS)
def test_files_that_do_not_fit_together_are_the_cause(fit, data, root, kind, spoil, says):
    top = root / "stripes"
    folders = {"normal_dir": "train/good", "abnormal_dir": "test/square", "mask_dir": "ground_truth/square"}
    spoil(top / folders["abnormal_dir"], top / folders["mask_dir"])
    with pytest.raises(Exception, match=says):
        fit(data() if kind == "mvtec" else Folder("tiny", root=top, num_workers=0, **folders))


def test_cause_leads_an_error_of_the_system_too(fit, root):
    class Locked(MVTecAD):
        def _setup(self, _stage=None):
            raise PermissionError(13, "Permission denied", str(self.root))

    (root / "stripes" / "test" / "square" / "003.png").symlink_to("gone")
    with pytest.raises(PermissionError, match=r"^\S+003\.png is a link to gone.*Locked stopped with: .*denied"):
        fit(Locked(root, "stripes"))


def test_other_errors_of_a_datamodule_stay_as_they_are(fit, data):
    with pytest.raises(ValueError, match=r"^All split ratios must be between 0 and 1"):
        fit(data(val_split_ratio=1.5))


# ---------------------------------------------------------------------------------------------------------- files


def transparent(alpha, mode="RGBA"):
    image = Image.new("RGBA", (64, 64), (90, 120, 150, 255))
    image.putpixel((5, 7), (90, 120, 150, alpha))
    return image.convert(mode)


def palette():
    image = Image.new("P", (64, 64))
    image.putpalette([90, 120, 150] * 256)
    image.info["transparency"] = 0
    return image


def save(content, path):
    """Write an image or bytes over a training image, perhaps with another ending."""
    path.parent.joinpath("000.png").unlink()
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content.save(path)


REJECTED = {
    "16 bits": (
        lambda: Image.fromarray(np.full((64, 64), 40_000, np.uint16)),
        "000.png",
        r"has pixels of mode 'I;16' \(more than 8 bits a channel\).*Convert the images to 8 bits",
    ),
    "float": (
        lambda: Image.fromarray(np.ones((64, 64), np.float32)),
        "000.tif",
        r"has pixels of mode 'F' \(more than 8 bits a channel\).*Convert the images to 8 bits",
    ),
    "transparent": (lambda: transparent(254), "000.png", "has transparent pixels.*Flatten the images"),
    "transparent grey": (lambda: transparent(0, "LA"), "000.png", "has transparent pixels.*Flatten the images"),
    "transparent palette": (palette, "000.png", "has transparent pixels.*Flatten the images"),
    "text": (lambda: b"not an image", "000.png", "is not an image, or is corrupt.*Replace or remove it"),
    "nothing": (lambda: b"", "000.jpg", "is not an image, or is corrupt.*Replace or remove it"),
    "unreadable TIFF": (lambda: b"II*\0\0\0\0\0", "000.tiff", "is not an image, or is corrupt.*Replace or remove it"),
    "bad number": (lambda: b"P3 1 1 255 red", "000.ppm", "is not an image, or is corrupt.*Replace or remove it"),
}


@pytest.mark.parametrize(("content", "name", "says"), REJECTED.values(), ids=REJECTED)
def test_unusable_file_is_named(fit, any_format, normal, content, name, says):
    save(content(), normal / name)
    with pytest.raises(ValueError, match=f"good.{name} {says}"):
        fit(any_format())


def test_truncated_file_is_named(fit, data, normal):
    whole = (normal / "003.png").read_bytes()
    (normal / "003.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"good.003\.png is not an image, or is corrupt \(.*truncated.*Replace"):
        fit(data())


def test_images_held_out_for_validation_are_checked_too(fit, data):
    datamodule = data()
    datamodule.setup()
    held_out = datamodule.val_data.samples.image_path[1]
    Image.fromarray(np.zeros((64, 64), np.uint16)).save(held_out)
    with pytest.raises(ValueError, match=r"\d.png has pixels of mode 'I;16'"):
        fit(data())


def test_test_pictures_are_checked_before_the_training(fit, data, root):
    (root / "stripes" / "test" / "square" / "001.png").write_bytes(b"spoiled")
    with pytest.raises(ValueError, match=r"square.001\.png is not an image, or is corrupt"):
        fit(data())


def test_masks_are_checked_before_the_training(fit, data, root):
    mask = root / "stripes" / "ground_truth" / "square" / "001_mask.png"
    Image.new("RGBA", (64, 64), (255, 255, 255, 0)).save(mask)
    with pytest.raises(ValueError, match=r"square.001_mask\.png marks by transparency.* 100% would be defective"):
        fit(data())


def test_each_of_several_masks_of_a_picture_is_listed():
    masks = [["a/0/0.png", "a/0/1.png"], "b.png", "", None]
    samples = DataFrame({"image_path": ["a/0.png", "b.png", "c.png", "d.png"], "mask_path": masks, "label_index": 1})
    pairs = [("a/0/0.png", "a/0.png"), ("a/0/1.png", "a/0.png"), ("b.png", "b.png")]
    assert list(mask_pairs(SimpleNamespace(samples=samples))) == pairs


class Verbs(LightningModule):
    """Reaches no step, or raises :class:`Trained`."""

    def validation_step(self, *_):
        raise Trained

    test_step = predict_step = validation_step


def run(verb, loaders=None, **arguments):
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    getattr(Trainer(accelerator="cpu", callbacks=[InputCheck()], **quiet), verb)(Verbs(), loaders, **arguments)


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_each_verb_checks_what_it_will_read(data, root, verb):
    with pytest.raises(Trained):
        run(verb, datamodule=data(val_split_mode="same_as_test"))
    (root / "stripes" / "train" / "good" / "000.png").write_bytes(b"spoiled, but read by none of them")
    with pytest.raises(Trained):
        run(verb, datamodule=data(val_split_mode="same_as_test"))
    Image.fromarray(np.zeros((64, 64), np.uint16)).save(root / "stripes" / "test" / "square" / "001.png")
    with pytest.raises(ValueError, match=r"square.001\.png has pixels of mode 'I;16'"):
        run(verb, datamodule=data(val_split_mode="same_as_test"))


@pytest.mark.parametrize("precision", ["bf16-true", "16-true", "64-true"])
def test_weights_that_are_not_float32_are_refused_before_pictures_are_read(fit, data, precision, monkeypatch):
    monkeypatch.setattr(ReadingOnce, "setup", lambda *_: pytest.fail("pictures are read"))
    with pytest.raises(ValueError, match=rf"--trainer\.precision {precision} cannot be used.* Take 32"):
        fit(data(), precision=precision)


@pytest.mark.parametrize("precision", ["32", "bf16-mixed"])
def test_weights_in_float32_are_accepted(fit, data, precision):
    with pytest.raises(Trained):
        fit(data(), precision=precision)


def test_faults_of_a_datamodule_of_the_users_own_stay_as_they_are(data):
    datamodule = data(val_split_mode="same_as_test")
    datamodule.test_dataloader = lambda: datamodule.misspelt
    with pytest.raises(AttributeError, match="misspelt"):
        run("test", datamodule=datamodule)


def test_prediction_checks_a_folder_before_it_reads_the_first_picture(normal):
    loaders = [DataLoader(PredictDataset(normal), collate_fn=ImageBatch.collate)]
    with pytest.raises(Trained):
        run("predict", loaders)
    transparent(0).save(normal / "000.png")
    with pytest.raises(ValueError, match=r"good.000\.png has transparent pixels"):
        run("predict", loaders)
    (normal / "000.png").unlink()
    os.mkfifo(normal / "000.png")
    with pytest.raises(ValueError, match=r"good.000\.png is a named pipe"):
        run("predict", loaders)


def test_missing_maps_of_saliency_are_found_for_images_that_are_held_out_too(fit, data, normal, tmp_path):
    maps = shutil.copytree(normal, tmp_path / "maps")
    with pytest.raises(Trained):
        fit(data(), saliency=str(maps))
    datamodule = data()
    datamodule.setup()
    held_out = Path(datamodule.val_data.samples.image_path[1]).name
    (maps / held_out).unlink()
    with pytest.raises(FileNotFoundError, match=rf"No saliency map for .*{held_out} among the 7 below .*maps"):
        fit(data(), saliency=str(maps))
    with pytest.raises(FileNotFoundError, match=r"no folder of saliency maps 'border-contrast', nor an estimator"):
        fit(data(), saliency="border-contrast")


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK"])
def test_eight_bits_are_accepted(fit, any_format, normal, mode):
    save(transparent(255).convert("RGB").convert(mode), normal / ("000.jpg" if mode == "CMYK" else "000.png"))
    with pytest.raises(Trained):
        fit(any_format())


def test_images_are_read_side_by_side(normal, monkeypatch):
    both = Barrier(2, timeout=5)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(file_checks, "examine_picture", lambda path: (both.wait(), examine_picture(path))[1])
    check_image_files(sorted(normal.iterdir()))


def test_other_errors_of_the_image_reader_are_caught(tmp_path, monkeypatch):
    def fail(*_):
        raise SyntaxError("broken PNG file")

    (tmp_path / "image.png").touch()
    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(ValueError, match=r"image\.png is not an image, or is corrupt \(broken PNG file\)"):
        check_image_files([tmp_path / "image.png"])


# ---------------------------------------------------------------------------------------------------- their range


@pytest.mark.parametrize(
    "transform",
    [
        NORMALIZE,
        Compose([Resize((64, 64)), Compose([NORMALIZE])]),
        RandomApply([NORMALIZE]),
        torch.nn.Sequential(NORMALIZE),
        first_version.Compose([first_version.Normalize([0.5] * 3, [0.5] * 3)]),
    ],
    ids=["alone", "nested", "sometimes", "in a module", "first version"],
)
def test_normalizing_pre_processor(transform):
    processor = PreProcessor()
    processor.transform = transform  # PreProcessor itself takes torchvision's second version only
    with pytest.raises(ValueError, match=r"pre_processor must keep images in \[0, 1\].*Remove Normalize"):
        AnoSeg((64, 64), network={"width": 0.125}, pre_processor=processor)


def test_pre_processor_that_normalizes_later_on(fit, data):
    processor = PreProcessor(Resize((64, 64)))
    user_code = LambdaCallback(setup=lambda *_, stage: setattr(processor, "transform", NORMALIZE))  # noqa: ARG005
    with pytest.raises(ValueError, match=r"pre_processor must keep images in \[0, 1\].*Remove Normalize"):
        fit(data(), pre_processor=processor, callbacks=[user_code])


@pytest.mark.parametrize("argument", ["augmentations", "train_augmentations", "val_augmentations"])
def test_normalizing_augmentations(fit, data, argument):
    with pytest.raises(ValueError, match=r"augmentations of `data` must keep images in \[0, 1\]. Remove Normalize"):
        fit(data(**{argument: Compose([RandomVerticalFlip(), NORMALIZE])}))


def test_augmentations_that_leave_the_range_otherwise(fit, data):
    with pytest.raises(ValueError, match=r"\[0, 1\]; .*good.\d+\.png is torch\.float32 in \[\d+, \d+\]\. Divide"):
        fit(data(train_augmentations=Lambda(lambda values: values * 255)))


def test_first_batch_is_checked_behind_the_pre_processor(fit, data):
    """What no look at the transforms and at one image finds."""
    processor = PreProcessor(Lambda(lambda images, *_: None if images is None else images * 2 - 1))
    with pytest.raises(ValueError, match=r"\[0, 1\]; the first batch is torch\.float32 in \[-0\.\d+, 0\.\d+\]"):
        fit(data(), pre_processor=processor)


def test_range_has_a_margin_for_rounding_and_none_for_nan():
    check_images(torch.tensor([0.0, 1.0 + 1e-6]).expand(3, 1, 2), "white")
    for value in (float("nan"), 1.01, -0.01):
        with pytest.raises(ValueError, match=r"\[0, 1\]; odd is"):
            check_images(torch.tensor([0.5, value]).expand(3, 1, 2), "odd")
    with pytest.raises(ValueError, match=r"odd is torch\.uint8 in \[0, 0\]\. Divide 8-bit values by 255"):
        check_images(torch.zeros(3, 4, 4, dtype=torch.uint8), "odd")


def test_looking_at_an_image_leaves_the_random_stream_alone(data):
    datamodule = data(train_augmentations=RandomVerticalFlip())
    datamodule.setup()
    before = torch.get_rng_state()
    check_dataset(datamodule.train_data)
    assert torch.equal(torch.get_rng_state(), before)
    assert datamodule.train_data[0] is not None
    assert not torch.equal(torch.get_rng_state(), before)


# ------------------------------------------------------------------------------------------------------- channels


def test_augmentations_to_one_channel(fit, data):
    with pytest.raises(ValueError, match=r"^The augmentations .* 3 channels, got 1.*Grayscale\(num_out.*good.\d+\.png"):
        fit(data(train_augmentations=Grayscale()))


class Custom(Dataset):
    def __init__(self, item):
        self.item = item

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return self.item()


def test_one_channel_from_a_custom_dataset_is_named_by_anomalib(fit):
    dataset = Custom(lambda: ImageItem(image=torch.rand(1, 64, 64)))
    with pytest.raises(ValueError, match="Image must have 3 channels, got 1"):
        fit(loader=DataLoader(dataset, 2, collate_fn=ImageBatch.collate))


@dataclass
class OwnBatch:
    image: torch.Tensor
    gt_mask: torch.Tensor | None = None


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (torch.rand(1, 64, 64), r"Images must be RGB, \(3, H, W\); the first batch has shape .*Convert it to RGB"),
        (torch.full((3, 64, 64), 200.0), r"\[0, 1\]; the first batch is torch\.float32 in \[200, 200\]\. Divide"),
    ],
)
def test_batches_of_a_custom_class(fit, image, says):
    loader = DataLoader(Custom(lambda: image), 2, collate_fn=lambda images: OwnBatch(torch.stack(images)))
    with pytest.raises(ValueError, match=says):
        fit(loader=loader)


def test_custom_data_are_accepted(fit):
    dataset = Custom(lambda: ImageItem(image=torch.rand(3, 64, 64)))
    with pytest.raises(Trained):
        fit(loader=DataLoader(dataset, 2, collate_fn=ImageBatch.collate))


@pytest.mark.parametrize(
    ("image", "got"),
    [
        (torch.rand(1, 1, 64, 64), r"torch\.float32 \(1, 1, 64, 64\)"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), r"torch\.uint8 \(1, 3, 64, 64\)"),
        (torch.rand(64, 64), r"torch\.float32 \(64, 64\)"),
    ],
)
def test_images_in_memory_are_refused_with_the_reason(image, got):
    with pytest.raises(ValueError, match=rf"Images must be RGB.*got {got}\. Repeat the channel of grey images"):
        AnoSeg((64, 64), network={"width": 0.125})(image)


@pytest.mark.parametrize(
    "image", [255 * torch.ones(1, 3, 64, 64), torch.full((3, 64, 64), torch.nan)], ids=["8 bits", "NaN"]
)
def test_images_in_memory_have_a_range(image):
    with pytest.raises(ValueError, match=r"in \[0, 1\]; what was passed is .*Divide 8-bit values by 255"):
        AnoSeg((64, 64), network={"width": 0.125}).eval()(image)


def test_training_mode_predicts_nothing():
    with pytest.raises(RuntimeError, match=r"Call eval\(\) before predicting"):
        AnoSeg((64, 64), network={"width": 0.125})(torch.rand(1, 3, 64, 64))


def test_a_single_image_in_memory_and_float64_are_predicted():
    model, image = AnoSeg((64, 64), network={"width": 0.125}).eval(), torch.rand(3, 80, 70)
    with torch.no_grad():
        expected, single, double = model(image[None]), model(image), model(image.double())
    assert torch.equal(expected.pred_score, single.pred_score)
    assert torch.equal(expected.anomaly_map, double.anomaly_map)


def test_small_images_are_named_with_the_limit():
    with pytest.raises(ValueError, match=r"sides of 64 pixels or more, got \(2, 3, 63, 80\)\. .*set image_size"):
        check_batch(torch.rand(2, 3, 63, 80), 64)


# --------------------------------------------------------------------------------------------------------- length


@pytest.mark.parametrize(
    ("length", "warns"),
    [
        ({"max_epochs": None}, True),
        ({"max_epochs": 2}, False),
        ({"max_epochs": None, "max_steps": 5}, False),
        ({"max_epochs": None, "model_epochs": 2}, False),
        ({"max_epochs": None, "model_epochs": 1000}, False),
    ],
)
def test_default_of_1000_epochs_gets_a_warning(fit, data, length, warns):
    with warnings.catch_warnings(record=True) as caught, pytest.raises(Trained):
        warnings.simplefilter("always")
        fit(data(), **length)
    ours = [str(warning.message) for warning in caught if "Lightning's default" in str(warning.message)]
    assert len(ours) == warns
    for text in ours:
        assert "1000 epochs" in text
        assert "--trainer.max_epochs" in text
        assert "--model.max_epochs" in text
