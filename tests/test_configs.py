"""Every configuration that is shipped runs."""

from pathlib import Path

import pytest
import timm
import torch
import yaml
from anomalib.cli import AnomalibCLI

from anomalib_anoseg.board.run.grid import read_tasks
from anomalib_anoseg.board.run.protocol import FORGED_DEFECTS
from anomalib_anoseg.common.presets import merge, read_preset

CONFIGS = Path(__file__).parents[1] / "configs"
OURS = CONFIGS.parent / "benchmarks" / "board"
QUICK = [
    "--trainer.accelerator=cpu",
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=1",
    "--trainer.limit_val_batches=1",
    "--trainer.limit_test_batches=1",
    "--trainer.precision=32-true",
    "--trainer.check_val_every_n_epoch=1",
    "--trainer.enable_progress_bar=false",
    "--model.image_size=[64,64]",
    "--model.network.width=0.125",
    "--data.num_workers=0",
    "--data.train_batch_size=2",
    "--data.eval_batch_size=2",
]
MVTEC = ["--data=MVTecAD", "--data.category=stripes"]


def run(tmp_path, *arguments):
    return AnomalibCLI([*map(str, arguments), *QUICK, f"--default_root_dir={tmp_path}"])


def test_demo(tmp_path):
    run(
        tmp_path,
        "train",
        f"--config={CONFIGS / 'demo.yaml'}",
        f"--data.root={tmp_path / 'cache'}",
        "--data.image_size=64",
        "--data.num_train=8",
        "--data.num_test_good=1",
        "--data.num_test_per_defect=1",
    )
    assert list(tmp_path.rglob("model.ckpt"))
    assert list(tmp_path.rglob("images/**/*.png"))


MODELS = ["laptop", "laptop_pretrained", "published", "sgsf_laptop", "sgsf_published"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file as timm publishes it, of a network that never learned."""
    path = tmp_path_factory.mktemp("weights") / "lite0.pth"
    with torch.random.fork_rng():
        torch.manual_seed(1)
        torch.save(timm.create_model("tf_efficientnet_lite0").state_dict(), path)
    return path


@pytest.mark.parametrize("name", MODELS)
def test_models(name, tiny_root, tmp_path, weights):
    no_download = [f"--model.encoder.pre_trained={weights}"] if name == "laptop_pretrained" else []
    run(tmp_path, "fit", f"--config={CONFIGS / name}.yaml", *MVTEC, f"--data.root={tiny_root}", *no_download)
    assert list(tmp_path.rglob("model.ckpt"))


def test_normal_images_alone(tiny_root, tmp_path):
    cli = run(
        tmp_path,
        "fit",
        f"--config={CONFIGS / 'laptop.yaml'}",
        f"--data={CONFIGS / 'data' / 'folder_normal_only.yaml'}",
        f"--data.root={tiny_root / 'stripes' / 'train'}",
        "--data.normal_dir=good",
        "--data.val_split_ratio=0.25",
    )
    assert cli.model.post_processor.calibrated_on == "forged on held-out images"


BOARDS = [
    CONFIGS / "benchmark" / "mvtec.yaml",
    *(CONFIGS.parent / "benchmarks" / "board" / f"{name}.yaml" for name in ("five_minutes", "mvtec", "tile")),
]
AS_SHIPPED = [OURS / f"as_shipped{suffix}.yaml" for suffix in ("", "_tile", "_tile_256")]


# What a training of the paper's losses has beside a laptop's.
ALL_LOSSES = {"losses": {"masked_reconstruction": True, "adversarial": True}}


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_boards_train_anoseg_as_the_laptop_does_and_with_all_losses(path):
    tasks = read_tasks(yaml.safe_load(path.read_text()))
    whole = read_preset("laptop")
    laptop, length = whole["model"]["init_args"], whole["trainer"]["max_epochs"]
    of_anoseg = [task.job for task in tasks if task.job.label.startswith("AnoSeg")]
    assert len({job.label for job in of_anoseg}) == (3 if path.stem == "five_minutes" else 2)
    for job in of_anoseg:
        settings = {name: value for name, value in job.settings.items() if name != "max_epochs"}
        if "Lite0" in job.label:
            encoder = dict(settings["encoder"])
            assert encoder.pop("backbone") == "tf_efficientnet_lite0"
            assert encoder.pop("pre_trained").endswith("tf_efficientnet_lite0.pth")
            assert encoder.pop("frozen", False) == ("frozen" in job.label)
            settings |= {"encoder": encoder}
        if job.label.endswith("segmentation loss alone"):
            assert settings == laptop
            assert job.settings.get("max_epochs", length) == length  # none where a budget ends the training
        else:  # by default
            assert merge(ALL_LOSSES, settings) == merge(laptop, ALL_LOSSES)


@pytest.mark.parametrize("path", AS_SHIPPED, ids=lambda path: path.stem)
def test_as_shipped_is_as_the_pretrained_laptop(path):
    tasks = read_tasks(yaml.safe_load(path.read_text()))
    first, *others = (dict(task.job.settings) for task in tasks if task.job.label.startswith("AnoSeg"))
    assert all(settings == first for settings in others)
    laptop = read_preset("laptop_pretrained")["model"]["init_args"]
    del laptop["calibration"]  # boards have one for all
    assert first["encoder"].pop("pre_trained").endswith("tf_efficientnet_lite0.pth")  # a file in place of a download
    assert laptop["encoder"].pop("pre_trained") is True
    if "256" in path.stem:  # as much of the image belongs to the score
        assert first.pop("image_size") == [256, 256]
        assert first["network"].pop("score_window") == 21
        del laptop["image_size"], laptop["network"]["score_window"]
    assert first == laptop


def test_the_laptops_board_trains_it_as_it_says():
    tasks = read_tasks(yaml.safe_load((OURS / "laptop.yaml").read_text()))
    laptop = read_preset("laptop")["model"]["init_args"]
    assert all(task.job.settings == laptop for task in tasks)


def test_laptops_differ_by_their_encoder_its_noise_and_their_calibration_alone():
    plain, pretrained = (read_preset(name) for name in ("laptop", "laptop_pretrained"))
    changes = {
        "encoder": {"backbone": "tf_efficientnet_lite0", "pre_trained": True, "frozen": True},
        "noise": {"share": 0.5},
        "calibration": {"opacity": [0.15, 0.3]},
    }
    assert pretrained == merge(plain, {"model": {"init_args": changes}})


def test_anosegs_ablation_leaves_out_one_part_after_the_other():
    path = OURS / "ablation.yaml"
    settings = {task.job.label: task.job.settings for task in read_tasks(yaml.safe_load(path.read_text()))}
    whole, network = settings.pop("AnoSeg"), {"losses": {"masked_reconstruction": False, "adversarial": False}}
    laptop = read_preset("laptop")["model"]["init_args"]
    del laptop["patches"]["saliency"]
    assert not whole.keys() & network.keys()
    assert whole | network == laptop
    assert settings == {
        "plain CutPaste": merge(whole | network, {"patches": {"hard": False}}),
        "with hard augmentation": whole | network,
        "AnoSeg with coordinates": merge(whole, {"encoder": {"coordinates": True}}),
    }


def test_ablations_change_one_thing_each_in_what_the_laptop_trains():
    path = OURS / "sgsf.yaml"
    settings = {task.job.label: task.job.settings for task in read_tasks(yaml.safe_load(path.read_text()))}
    whole = settings.pop("SGSF")
    laptop = read_preset("sgsf_laptop")["model"]["init_args"]
    assert whole == merge(laptop, {"anomalies": {"textures": whole["anomalies"]["textures"]}})
    own = flat(whole)
    for label, changed in settings.items():
        names = {name for name, value in flat(changed).items() if value != own.get(name, "not set")}
        assert len(names - {"extractor.weights"}) == 1, label


def flat(settings):
    """Settings by ``group.name``."""
    groups = {name: value for name, value in settings.items() if isinstance(value, dict)}
    inner = {f"{group}.{name}": value for group, values in groups.items() for name, value in values.items()}
    return {name: value for name, value in settings.items() if name not in groups} | inner


def test_demo_and_laptop_share_their_settings():
    demo, laptop = (read_preset(name)["model"] for name in ("demo", "laptop"))
    assert demo == laptop


@pytest.mark.parametrize("name", MODELS)
def test_every_epoch_ends_with_a_checkpoint(name):
    # anomalib writes one after each validation, and none where max_steps ends an epoch early.
    trainer = read_preset(name)["trainer"]
    assert trainer["check_val_every_n_epoch"] == 1
    assert "max_steps" not in trainer


def test_boards_judge_by_the_defects_that_the_laptops_model_learns_but_anywhere():
    patches = read_preset("laptop")["model"]["init_args"]["patches"]
    assert patches.pop("saliency") == "border_contrast"
    assert {name: list(v) if isinstance(v, tuple) else v for name, v in FORGED_DEFECTS.items()} == patches
