"""Every configuration that is shipped runs."""

from pathlib import Path

import pytest
import timm
import torch
from anomalib.cli import AnomalibCLI
from anomalib.utils.config import flatten_dict

from anomalib_anoseg.board.run.grid import read_tasks
from anomalib_anoseg.board.run.protocol import FORGED_DEFECTS
from anomalib_anoseg.common.presets import merge, read_file, read_preset

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


def test_the_demonstration_trains(tmp_path):
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


MODELS = [
    "laptop",
    "laptop_pretrained",
    "published",
    "sgsf_laptop",
    "sgsf_guided_laptop",
    "sgsf_laptop_pretrained",
    "sgsf_published",
]


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
    setting = {"laptop_pretrained": "encoder.pre_trained", "sgsf_laptop_pretrained": "extractor.weights"}.get(name)
    no_download = [f"--model.{setting}={weights}"] if setting else []
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
    *(CONFIGS.parent / "benchmarks" / "board" / f"{name}.yaml" for name in ("five_minutes", "two_minutes")),
]
AS_SHIPPED = [OURS / f"as_shipped{suffix}.yaml" for suffix in ("", "_tile", "_tile_256")]


def flat(name):
    """A preset's settings of the model, by ``group.name``, as a board's jobs hold them."""
    return flatten_dict(read_preset(name)["model"]["init_args"])


# What a training of the paper's losses has beside a laptop's.
ALL_LOSSES = {"losses.masked_reconstruction": True, "losses.adversarial": True}


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_boards_train_anoseg_as_the_laptop_does_and_with_all_losses(path):
    tasks = read_tasks(read_file(path))
    laptop = flat("laptop")
    of_anoseg = [task.job for task in tasks if task.job.label.startswith("AnoSeg")]
    assert len({job.label for job in of_anoseg}) == (3 if path.stem == "five_minutes" else 2)
    for job in of_anoseg:
        settings = dict(job.settings)
        if "Lite0" in job.label:
            assert settings.pop("encoder.backbone") == "tf_efficientnet_lite0"
            assert settings.pop("encoder.pre_trained").endswith("tf_efficientnet_lite0.pth")
            assert settings.pop("encoder.frozen", False) == ("frozen" in job.label)
        if job.label.endswith("segmentation loss alone"):
            assert settings == laptop
            assert job.trainer.get("max_epochs") == (None if job.budget else 64)  # a budget ends the training
        else:
            assert settings == laptop | ALL_LOSSES


@pytest.mark.parametrize("path", AS_SHIPPED, ids=lambda path: path.stem)
def test_as_shipped_is_as_the_pretrained_laptop(path):
    tasks = read_tasks(read_file(path))
    first, *others = (dict(task.job.settings) for task in tasks if task.job.label.startswith("AnoSeg"))
    assert all(settings == first for settings in others)
    laptop = flat("laptop_pretrained")
    assert laptop.pop("calibration.opacity")  # boards have one calibration for all
    assert first.pop("calibration.opacity") is None
    assert first.pop("encoder.pre_trained").endswith("tf_efficientnet_lite0.pth")  # a file in place of a download
    assert laptop.pop("encoder.pre_trained") is True
    if "256" in path.stem:  # as much of the image belongs to the score
        assert first.pop("image_size") == [256, 256]
        assert first.pop("network.score_window") == 21
        del laptop["image_size"], laptop["network.score_window"]
    assert first == laptop


def test_as_shipped_trains_as_long_as_its_presets_and_on_tiles_for_a_thousand_pictures():
    lengths = {}
    for name in ("as_shipped", "as_shipped_tile"):
        for job in (task.job for task in read_tasks(read_file(OURS / f"{name}.yaml"))):
            lengths[name, job.label.split(",")[0]] = job.trainer
            if job.label.startswith("SGSF"):
                shipped = flat("sgsf_laptop_pretrained")
                assert shipped.pop("calibration.opacity")  # boards have one calibration for all
                assert job.settings | {"extractor.weights": True} == shipped | {"calibration.opacity": None}
    sgsf = {"max_steps": 150, "max_epochs": -1}
    assert lengths["as_shipped", "AnoSeg"] == {"max_epochs": 64}
    assert lengths["as_shipped_tile", "AnoSeg"] == {"max_epochs": 8}
    assert lengths["as_shipped", "SGSF"] == lengths["as_shipped_tile", "SGSF"] == sgsf


def test_the_laptops_board_trains_it_as_it_says():
    tasks = read_tasks(read_file(OURS / "laptop.yaml"))
    assert all(task.job.settings == flat("laptop") for task in tasks)


def test_laptops_differ_by_encoder_decoder_noise_and_calibration_alone():
    plain, pretrained = (read_preset(name) for name in ("laptop", "laptop_pretrained"))
    changes = {
        "encoder": {"backbone": "tf_efficientnet_lite0", "pre_trained": True, "frozen": True},
        "network": {"decoder": "light", "width": 0.5},
        "noise": {"share": 0.5},
        "calibration": {"opacity": [0.15, 0.3]},
    }
    del plain["model"]["init_args"]["network"]["skip_connections"]  # the light decoder always has them
    assert pretrained == merge(plain, {"model": {"init_args": changes}})


def test_anosegs_ablation_leaves_out_one_part_after_the_other():
    path = OURS / "ablation.yaml"
    settings = {task.job.label: task.job.settings for task in read_tasks(read_file(path))}
    whole, network = settings.pop("AnoSeg"), dict.fromkeys(ALL_LOSSES, False)
    assert whole == flat("laptop") | ALL_LOSSES | {"patches.saliency": "none"}
    assert settings == {
        "plain CutPaste": whole | network | {"patches.hard": False},
        "with hard augmentation": whole | network,
        "AnoSeg with coordinates": whole | {"encoder.coordinates": True},
    }


def test_sgsfs_ablations_change_one_thing_each():
    path = OURS / "sgsf.yaml"
    settings = {task.job.label: task.job.settings for task in read_tasks(read_file(path))}
    whole = settings.pop("SGSF")
    assert whole == flat("sgsf_guided_laptop") | {"anomalies.textures": whole["anomalies.textures"]}
    for label, changed in settings.items():
        names = {name for name in changed if changed[name] != whole.get(name, "not set")} - {"extractor.weights"}
        assert len(names) == 1, label


def test_demo_and_laptop_share_their_settings():
    demo, laptop = (read_preset(name)["model"] for name in ("demo", "laptop"))
    assert demo == laptop


@pytest.mark.parametrize("name", MODELS)
def test_a_crash_costs_a_few_epochs(name):
    # anomalib writes a checkpoint after each validation, with which FinalValidation ends every training.
    trainer = read_preset(name)["trainer"]
    every = trainer.get("check_val_every_n_epoch", 1)
    assert every in ({1} if "published" in name else {4, 10})
    assert trainer["max_epochs"] == -1 or trainer["max_epochs"] % every == 0


def test_boards_judge_by_the_defects_that_the_laptops_model_learns_but_anywhere():
    patches = read_preset("laptop")["model"]["init_args"]["patches"]
    assert patches.pop("saliency") == "border_contrast"
    assert {name: list(v) if isinstance(v, tuple) else v for name, v in FORGED_DEFECTS.items()} == patches
