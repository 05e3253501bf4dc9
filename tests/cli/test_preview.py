"""The preview shows what training will see, reproducibly, and says clearly what it cannot show."""

import csv
import errno
import filecmp
import os
import shutil
from pathlib import Path
from platform import node

import numpy as np
import pytest
import torch
from anomalib.data import Folder, MVTecAD
from anomalib.models import Draem, Padim
from jsonargparse import ActionConfigFile, ArgumentParser
from PIL import Image
from torchvision.transforms.v2 import Compose, Normalize, RandomHorizontalFlip, RandomVerticalFlip, Resize

from anomalib_anoseg import SGSF, AnoSeg
from anomalib_anoseg.cli.preview import preview
from anomalib_anoseg.common.presets import merge

CONFIGS = Path(__file__).parents[2] / "configs"


def tiny(**arguments):
    return AnoSeg(**merge({"image_size": (64, 64), "network": {"width": 0.125}}, arguments))


@pytest.fixture
def pictures(tmp_path):
    """Ten 80x96 pictures of noise, two of them in a subfolder."""
    rng = np.random.default_rng(0)
    (tmp_path / "pictures" / "more").mkdir(parents=True)
    for index in range(10):
        path = tmp_path / "pictures" / ("more" if index > 7 else ".") / f"{index}.png"
        Image.fromarray(rng.integers(0, 256, (80, 96, 3), np.uint8)).save(path)
    return tmp_path / "pictures"


@pytest.fixture
def opened(monkeypatch):
    """Files that Pillow opens from now on."""
    paths, original = [], Image.open

    def remember(path, *args, **kwargs):
        paths.append(str(path))
        return original(path, *args, **kwargs)

    monkeypatch.setattr(Image, "open", remember)
    return paths


def read(made, kind):
    return [np.asarray(Image.open(made.folder / kind / image.name)).astype(int) for image in made.images]


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_masks_mark_exactly_the_changed_pixels(pictures, tmp_path):
    # Not resized, noise stays noise: whatever is pasted differs everywhere by more than can be seen.
    model = tiny(pre_processor=False, patches={"mark": "changed", "rotation": 0.0})
    made = preview(model, images=pictures, out=tmp_path / "out")
    for normal, forged, mask in zip(*(read(made, kind) for kind in ("normal", "forged", "mask")), strict=True):
        assert set(np.unique(mask)) == {0, 255}
        assert np.array_equal(mask == 255, (np.abs(forged - normal) > 3).any(-1))
        assert np.array_equal(forged[mask == 0], normal[mask == 0]) or np.abs(forged - normal)[mask == 0].max() <= 3


def test_nothing_is_forged_where_a_mask_is_white(pictures, tmp_path):
    mask = np.zeros((80, 96), np.uint8)
    mask[:40] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    made = preview(tiny(ignore_mask=tmp_path / "mask.png"), images=pictures, out=tmp_path / "out")
    marks, images = np.stack(read(made, "mask")) > 0, np.stack(read(made, "forged"))
    assert marks[:, 33:].any()
    assert not marks[:, :32].any()
    assert (images[:, :32] == 128).all()
    Image.fromarray(mask[:, :80]).save(tmp_path / "mask.png")
    with pytest.raises(ValueError, match=r"^ignore_mask has 80 x 80 pixels, but .*\.png has 96 x 80\."):
        preview(tiny(ignore_mask=tmp_path / "mask.png"), images=pictures, out=tmp_path / "other")


def test_numbers_are_those_of_the_pictures(pictures, tmp_path):
    made = preview(tiny(), images=pictures, out=tmp_path / "out", number=4)
    for image, normal, forged, mask in zip(
        made.images, *(read(made, kind) for kind in ("normal", "forged", "mask")), strict=True
    ):
        assert image.share == pytest.approx((mask == 255).mean())
        assert image.change == pytest.approx(np.abs(forged - normal)[mask == 255].mean(), rel=1e-4)
    with (made.folder / "images.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [image.name for image in made.images]
    assert [float(row["share"]) for row in rows] == [image.share for image in made.images]


def test_equal_seeds_give_equal_files(tiny_root, tmp_path):
    def make(name, seed):
        data = MVTecAD(
            tiny_root,
            "stripes",
            num_workers=0,
            train_augmentations=Compose([RandomHorizontalFlip(), RandomVerticalFlip()]),
            val_split_mode="from_train",
        )
        torch.rand(7)
        return preview(tiny(), data, out=tmp_path / name, number=3, seed=seed).folder

    first, second, other = make("first", 1), make("second", 1), make("other", 2)
    names = files(first)
    assert len(names) == 2 + 3 * 3
    assert filecmp.cmpfiles(first, second, names, shallow=False) == (names, [], [])
    assert not filecmp.cmp(first / "sheet.png", other / "sheet.png", shallow=False)


def test_random_streams_of_the_caller_stay(pictures, tmp_path):
    before = torch.get_rng_state()
    preview(tiny(), images=pictures, out=tmp_path / "out", number=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_reads_no_more_images_than_it_shows(pictures, tmp_path, opened):
    made = preview(tiny(), images=pictures, out=tmp_path / "out", number=3)
    assert set(opened) == {image.image for image in made.images}
    assert (len(set(opened)), made.available) == (3, 10)


def test_shows_what_there_is_if_more_is_asked_for(pictures, tmp_path):
    made = preview(tiny(), images=pictures, out=tmp_path / "out", number=99)
    assert len(made.images) == made.available == 10
    assert {Path(image.image).parent.name for image in made.images} == {"pictures", "more"}


def test_images_are_those_that_training_sees(pictures, tmp_path):
    # anomalib replaces a Resize among the augmentations by the model's, and squeezes 80x96 to it.
    data = Folder(
        "parts",
        pictures,
        test_split_mode="none",
        val_split_mode="none",
        num_workers=0,
        train_batch_size=10,
        train_augmentations=Resize((16, 16)),
    )
    made = preview(tiny(image_size=(64, 128)), data, out=tmp_path / "out", number=10)

    class Seen(AnoSeg):
        def training_step(self, batch, batch_idx):
            self.seen = dict(zip(batch.image_path, batch.image, strict=True))
            super().training_step(batch, batch_idx)

    from anomalib.engine import Engine

    model = Seen(image_size=(64, 128), network={"width": 0.125}, visualizer=False)
    quiet = {"enable_progress_bar": False, "logger": False, "limit_val_batches": 0}
    Engine(accelerator="cpu", max_epochs=1, default_root_dir=tmp_path, **quiet).fit(model, datamodule=data)
    for image, normal in zip(made.images, read(made, "normal"), strict=True):
        seen = (model.seen[image.image] * 255).round().permute(1, 2, 0).numpy()
        assert np.array_equal(normal, seen)


def test_a_data_module_keeps_its_trainer(tiny_data, tmp_path):
    tiny_data.trainer = trainer = object()
    preview(tiny(), tiny_data, out=tmp_path / "out", number=1)
    assert tiny_data.trainer is trainer


def test_sheet_holds_every_picture_and_a_caption(pictures, tmp_path):
    def height(folder, number, **settings):
        sheet = Image.open(preview(tiny(**settings), images=pictures, out=tmp_path / folder, number=number).sheet)
        assert sheet.size[0] > sheet.size[1] / 2
        return sheet.size

    one, four = height("one", 1), height("four", 4)
    assert four[0] * four[1] > 3 * one[0] * one[1]
    # Settings that differ from the defaults take another line of the caption.
    assert (
        height("changed", 1, patches={"area": (0.1, 0.2), "aspect": (1, 1), "count": 2}, optimizer={"lr": 1e-3})[1]
        > one[1]
    )


def test_names_the_kind_of_each_anomaly(pictures, tmp_path, monkeypatch):
    captions = []
    monkeypatch.setattr(
        "anomalib_anoseg.cli.preview.compose_sheet",
        lambda *given: captions.extend(given[3]) or Image.new("RGB", (8, 8)),
    )
    kinds = {"cracks": 0.25, "uneven": 0.25, "missing": 0.25}
    made = preview(tiny(kinds=kinds), images=pictures, out=tmp_path / "out", number=8)
    assert {image.kind for image in made.images} == {"patches", *kinds}
    assert all(caption.startswith(f"{image.kind}, ") for caption, image in zip(captions, made.images, strict=True))
    assert {image.kind for image in preview(tiny(), images=pictures, out=tmp_path / "one", number=1).images} == {""}


def test_sheet_of_narrow_pictures_with_long_names(tmp_path):
    (tmp_path / "narrow").mkdir()
    for name in ("short", "a name that is longer than the picture is wide " * 4):
        Image.effect_noise((64, 640), 90).convert("RGB").save(tmp_path / "narrow" / f"{name}.png")
    made = preview(tiny(image_size=(640, 64)), images=tmp_path / "narrow", out=tmp_path / "out")
    assert min(Image.open(made.sheet).size) > 256


def test_summary_in_the_terminal(pictures, tmp_path, capsys):
    made = preview(tiny(), images=pictures, out=tmp_path / "out", number=2)
    told = capsys.readouterr().out
    assert "Forged on 2 of 10 training images, seed 0" in told
    assert f"{min(image.share for image in made.images):.2%}" in told
    assert "empty mask): 0" in told
    assert str(made.sheet) in told


def test_counts_images_without_a_visible_anomaly(tmp_path, capsys):
    (tmp_path / "grey").mkdir()
    Image.new("RGB", (64, 64), "grey").save(tmp_path / "grey" / "0.png")
    made = preview(tiny(patches={"hard": False}), images=tmp_path / "grey", out=tmp_path / "out")
    assert (made.empty, made.images[0].share, made.images[0].change) == (1, 0, 0)
    assert "empty mask): 1\n" in capsys.readouterr().out


def test_tells_how_many_images_stay_normal_on_purpose(pictures, tmp_path, capsys):
    model = SGSF((64, 64), network={"width": 0.125}, visualizer=False)
    preview(model, images=pictures, out=tmp_path / "out", number=2)
    assert "; 25% stay normal on purpose" in capsys.readouterr().out


def test_by_default_every_call_gets_a_new_folder(pictures, monkeypatch):
    monkeypatch.chdir(pictures.parent)
    folders = [preview(tiny(), images=Path("pictures"), number=1).folder for _ in range(2)]
    assert [folder.relative_to(pictures.parent.resolve()).as_posix() for folder in folders] == [
        "results/preview/v0",
        "results/preview/v1",
    ]
    assert all((folder / "sheet.png").exists() for folder in folders)


def test_nothing_is_overwritten(pictures, tmp_path, opened):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"not an empty folder\. Name another one"):
        preview(tiny(), images=pictures, out=tmp_path / "out")
    with pytest.raises(FileExistsError, match=r"not an empty folder\. Name another one"):
        preview(tiny(), images=pictures, out=tmp_path / "out" / "mine.txt")
    assert files(tmp_path / "out") == ["mine.txt"]
    assert not opened


def test_what_fails_or_is_killed_while_it_writes_blocks_no_other_preview(pictures, tmp_path, monkeypatch):
    out, save = tmp_path / "out", Image.Image.save

    def fail(self, path):
        save(self, path)
        path.write_bytes(b"")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", fail)
        with pytest.raises(OSError, match=r"No space left on device; .* unchanged: '.*out'"):
            preview(tiny(), images=pictures, out=out)
    assert not out.exists()
    (out / f".part-{node()}-4194999-x").mkdir(parents=True)  # what a killed process leaves
    preview(tiny(), images=pictures, out=out, number=1)
    assert {path.name for path in out.iterdir()} == {"forged", "images.csv", "mask", "normal", "sheet.png"}


@pytest.mark.parametrize("model", [Padim, Draem])
def test_model_without_forging(model, pictures, monkeypatch, tmp_path):
    monkeypatch.setattr(Draem, "__init__", lambda self: super(Draem, self).__init__())
    made = model(pre_trained=False) if model is Padim else model()
    with pytest.raises(ValueError, match=f"{model.__name__} forges no anomalies .* Choose a model"):
        preview(made, images=pictures, out=tmp_path / "out")


def test_no_such_folder(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere is not a folder\. Check its spelling"):
        preview(tiny(), images=tmp_path / "nowhere", out=tmp_path / "out")


def test_neither_data_nor_images(tmp_path):
    with pytest.raises(ValueError, match="a data module as `data`, or a folder with pictures as `images`"):
        preview(tiny(), out=tmp_path / "out")


def test_folder_without_pictures(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "readme.txt").write_text("no picture")
    with pytest.raises(ValueError, match=r"there are no pictures in .*empty\. Name a folder with good parts"):
        preview(tiny(), images=tmp_path / "empty", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_name_that_anomalib_refuses_is_the_cause(pictures, tmp_path):
    (tmp_path / "plain").symlink_to(shutil.copytree(pictures, tmp_path / "部品"))
    with pytest.raises(ValueError, match=r"^images: anomalib refuses the path .*部品: .*Rename the folder"):
        preview(tiny(), images=tmp_path / "部品", out=tmp_path / "out")
    with pytest.raises(ValueError, match=r"^anomalib refuses the path .*部品: .*Folder stopped with"):
        preview(tiny(), Folder("parts", tmp_path / "部品"), out=tmp_path / "out")
    assert preview(tiny(), images=tmp_path / "plain", out=tmp_path / "out", number=1).images


def test_data_module_without_training_images(tmp_path):
    (tmp_path / "empty").mkdir()
    data = Folder("parts", tmp_path / "empty")
    with pytest.raises(ValueError, match=r"No training images were found.*Folder stopped with"):
        preview(tiny(), data, out=tmp_path / "out")


def test_the_cause_leads_or_else_the_words_of_the_data_module(pictures, tiny_root, tmp_path):
    with pytest.raises(ValueError, match=r"^There is no folder .*misspelt. Correct root or normal_dir of `data`"):
        preview(tiny(), Folder("parts", pictures / "misspelt"), out=tmp_path / "out")
    data = MVTecAD(tiny_root, "stripes", val_split_mode="from_train", val_split_ratio=1.5)
    with pytest.raises(ValueError, match=r"^All split ratios must be between 0 and 1"):
        preview(tiny(), data, out=tmp_path / "out")


@pytest.mark.parametrize(
    ("replace", "says"),
    [
        (os.mkfifo, r"0\.png is a named pipe"),
        (lambda path: path.symlink_to("gone"), r"0\.png is a link to gone, which"),
    ],
    ids=["pipe", "dangling"],
)
def test_what_is_no_file_is_named(pictures, tmp_path, replace, says):
    (pictures / "0.png").unlink()
    replace(pictures / "0.png")
    with pytest.raises(ValueError, match=says):
        preview(tiny(), images=pictures, out=tmp_path / "out", number=10)


def test_other_errors_of_a_data_module_stay(tiny_data, tmp_path, monkeypatch):
    def fail(data):
        raise ValueError(f"{data.name} failed")

    monkeypatch.setattr(MVTecAD, "_create_val_split", fail)
    with pytest.raises(ValueError, match=r"^MVTecAD failed$"):
        preview(tiny(), tiny_data, out=tmp_path / "out")


def test_unreadable_picture(pictures, tmp_path):
    for path in pictures.rglob("*.png"):
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"\.png is not an image, or is corrupt .* Replace or remove it"):
        preview(tiny(), images=pictures, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_normalised_images(tiny_data, tmp_path):
    tiny_data.train_augmentations = Normalize([0.5] * 3, [0.5] * 3)
    with pytest.raises(ValueError, match=r"floating point in \[0, 1\]"):
        preview(tiny(), tiny_data, out=tmp_path / "out")


@pytest.mark.parametrize(("name", "value"), [("number", 0), ("seed", -1), ("seed", 2**32)])
def test_arguments_out_of_range(name, value, pictures, tmp_path):
    with pytest.raises(ValueError, match=f"{name} must be .*, got {value}"):
        preview(tiny(), images=pictures, out=tmp_path / "out", **{name: value})


class TestCommandLine:
    """The signature is the command line, with the arguments and files of ``anomalib train``."""

    @staticmethod
    def run(*arguments):
        parser = ArgumentParser(exit_on_error=False)
        parser.add_argument("--config", action=ActionConfigFile)
        parser.add_function_arguments(preview, sub_configs=True)
        config = parser.instantiate_classes(parser.parse_args(list(map(str, arguments))))
        return preview(**{name: value for name, value in config.items() if name != "config"})

    small = ("--model.image_size=[64,64]", "--model.network.width=0.125", "--number=2")

    def test_configuration_and_data_module(self, tiny_root, tmp_path):
        data = ("--data=MVTecAD", f"--data.root={tiny_root}", "--data.category=stripes")
        trainer = "--trainer.max_epochs=3"
        made = self.run(f"--config={CONFIGS / 'laptop.yaml'}", *data, trainer, *self.small, f"--out={tmp_path / 'out'}")
        assert (len(made.images), made.available, made.data) == (2, 8, "MVTecAD stripes")

    def test_demo(self, tmp_path):
        demo = (f"--data.root={tmp_path}", "--data.image_size=64", "--data.num_train=8")
        self.run(f"--config={CONFIGS / 'demo.yaml'}", *demo, *self.small, f"--out={tmp_path / 'out'}")

    def test_configuration_of_data(self, tiny_root, tmp_path):
        data = CONFIGS / "data" / "folder_normal_only.yaml"
        root = f"--data.root={tiny_root / 'stripes' / 'train'}"
        made = self.run("--model=AnoSeg", f"--data={data}", root, *self.small, f"--out={tmp_path / 'out'}")
        assert made.data == "parts"

    def test_folder(self, pictures, tmp_path):
        made = self.run("--model=AnoSeg", f"--images={pictures}", *self.small, f"--out={tmp_path / 'out'}")
        assert (len(made.images), made.available, made.data) == (2, 10, "pictures")

    def test_images_take_the_place_of_data(self, pictures, tmp_path):
        demo = f"--config={CONFIGS / 'demo.yaml'}"
        made = self.run(demo, f"--images={pictures}", *self.small, f"--out={tmp_path / 'out'}")
        assert made.data == "pictures"

    def test_unknown_model(self, pictures):
        with pytest.raises(Exception, match=r'(?s)"model".*AnoSegg'):
            self.run("--model=AnoSegg", f"--images={pictures}")
