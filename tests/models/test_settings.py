"""Settings in groups: from Python, mappings and the command line, checked at once; errors name their place."""

import inspect
import re
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path

import docstring_parser
import numpy as np
import pytest
from anomalib import models
from anomalib.cli.cli import AnomalibCLI
from anomalib.models import get_model

from anomalib_anoseg import SGSF, AnoSeg
from anomalib_anoseg._autoload.moved_settings import moved_settings
from anomalib_anoseg.common.presets import find_preset
from anomalib_anoseg.models.anoseg.settings import GROUPS, DetectorSettings, PatchSettings
from anomalib_anoseg.models.settings import NetworkSettings, changed_settings
from anomalib_anoseg.models.sgsf.settings import GROUPS as SGSF_GROUPS

BARE = dict.fromkeys(("post_processor", "evaluator", "visualizer"), False)


@pytest.mark.parametrize("model", [AnoSeg, SGSF])
def test_a_model_takes_a_handful_of_arguments(model):
    named = [p for p in inspect.signature(model).parameters.values() if p.kind is not p.VAR_KEYWORD]
    assert len(named) <= 20


# A range, as the help of the command must show for every number.
RANGE = re.compile(r"\[[\d.e-]+, [\d.]+[\])]|[\d.]+ or more|[\d.]+ to [\d.]+")


@pytest.mark.parametrize(("model", "groups"), [(AnoSeg, GROUPS), (SGSF, SGSF_GROUPS)])
def test_every_setting_is_documented_on_its_group_and_every_number_with_its_range(model, groups):
    assert {group.group for group in groups} <= inspect.signature(model).parameters.keys()
    for place in (model, *groups):
        entries = docstring_parser.parse(place.__doc__).params
        documented = {entry.arg_name: " ".join(entry.description.split()) for entry in entries}
        fields = inspect.signature(place).parameters
        assert not fields.keys() - documented.keys() - {"unknown"}
        numbers = [name for name, field in fields.items() if re.search(r"\b(int|float)\b", str(field.annotation))]
        assert [name for name in numbers if not RANGE.search(documented[name])] == [], place
        # The command shows Sphinx's roles as they stand here.
        assert [name for name, text in documented.items() if re.search(r":[a-z]+:`", text)] == [], place


@pytest.mark.parametrize("given", [{"area": [0.01, 0.05]}, PatchSettings(area=(0.01, 0.05))])
def test_mappings_and_dataclasses_are_alike(given):
    model = AnoSeg((64, 64), network={"width": 0.125}, patches=given, **BARE)
    assert model.augmenter.flags["area"] == (0.01, 0.05)
    assert model.hparams["patches"]["area"] == (0.01, 0.05)
    assert model.hparams["patches"]["count"] == 1  # checkpoints hold whole groups
    assert changed_settings(model)[:2] == [("image_size", (64, 64)), ("network.width", 0.125)]


def test_host_hands_mappings_on():
    settings = {"image_size": [64, 64], "network": {"width": 0.125}, "bank": {"size": 3}}
    model = get_model({"class_path": "SGSF", "init_args": settings})
    assert model.bank_settings.size == 3
    # Lists in groups arrive as a class of OmegaConf's.
    settings = {"network": {"width": 0.125}, "calibration": {"opacity": [0.15, 0.3]}}
    model = get_model({"class_path": "AnoSeg", "init_args": settings})
    assert model.hparams["calibration"]["opacity"] == (0.15, 0.3)


def test_groups_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        NetworkSettings().width = 2.0


@pytest.mark.parametrize(
    ("model", "name", "place"),
    [
        (AnoSeg, "patch_area", "patches.area"),
        (AnoSeg, "width", "network.width"),
        (AnoSeg, "freeze_encoder", "encoder.frozen"),
        (AnoSeg, "perlin_share", "noise.share"),
        (AnoSeg, "hard_augmentation", "patches.hard"),
        (AnoSeg, "segmentation_loss", "losses.segmentation"),
        (AnoSeg, "adversarial_weight", "losses.adversarial_weight"),
        (AnoSeg, "detector_adversarial_weight", "detector.adversarial_weight"),
        (AnoSeg, "calibration_opacity", "calibration.opacity"),
        (AnoSeg, "lr", "optimizer.lr"),
        (SGSF, "bank_size", "bank.size"),
        (SGSF, "extractor_weights", "extractor.weights"),
        (SGSF, "reference_memory", "guidance.memory"),
        (SGSF, "detach_guidance", "guidance.detach"),
        (SGSF, "anomaly_p", "anomalies.p"),
        (SGSF, "lr_milestones", "optimizer.milestones"),
        (SGSF, "averaging", "optimizer.averaging"),
    ],
)
def test_an_old_name_is_refused_with_its_new_place(model, name, place):
    with pytest.raises(TypeError, match=rf"^{name} is now {place}: give .* or --model\.{place} on the") as raised:
        model(**{name: 1})
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("model", [AnoSeg, SGSF])
def test_no_argument_of_today_is_taken_for_an_old_one(model):
    assert [name for name in inspect.signature(model).parameters if model.find_place(name)] == []


MOVED = "bank_size is now bank.size: write --model.bank.size, or bank: {size: ...} in a file"


@pytest.mark.slow
def test_the_stock_command_says_the_new_place(fork, tmp_path):
    arguments = ["train", "--model", "SGSF", "--model.bank_size", "8", "--data", "DemoTextures"]
    process = fork(Path(sys.executable).with_name("anomalib"), *arguments, cwd=tmp_path)
    assert process.returncode not in {0, None}
    assert process.stderr.splitlines().count(f"anomalib-anoseg: {MOVED}") == 1


@pytest.mark.parametrize("form", ["option", "init_args", "file"])
def test_a_moved_setting_is_found_in_every_form(form, tmp_path):
    options = {
        "option": ["--model", "SGSF", "--model.bank_size", "8"],
        "init_args": ["--model.class_path=anomalib_anoseg.SGSF", "--model.init_args.bank_size=8"],
        "file": ["--config", str(tmp_path / "old.yaml")],
    }[form]
    (tmp_path / "old.yaml").write_text("model: {class_path: SGSF, init_args: {bank_size: 8}}\n")
    assert moved_settings(models, ["train", *options, "--data", "DemoTextures"]) == [MOVED]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--model", "AnoSeg", "--model.bank_size", "8"],  # another model's
        ["--model", "Padim", "--model.lr", "1"],
        ["--model", "AnoSeg", "--model.optimizer.lr", "1"],
        ["--config", "missing.yaml", "--model.lr", "1"],
        ["--config", __file__, "--model.lr", "1"],
        ["--config", str(find_preset("folder_normal_only")), "--model.lr", "1"],
        ["--config", str(find_preset("laptop"))],
        ["--model"],
        [],
    ],
)
def test_other_arguments_are_left_to_the_host(arguments):
    assert moved_settings(models, arguments) == []


def test_unknown_names_are_refused_with_what_there_is():
    with pytest.raises(TypeError, match=r"There is no setting 'colour'\. `anomalib train --model.help AnoSeg`"):
        AnoSeg(colour=1)
    with pytest.raises(TypeError, match=r"patches has no setting 'size'; it has hard, hard_p, jitter, area, "):
        AnoSeg(patches={"size": 1})
    with pytest.raises(TypeError, match=r"detector must be a mapping of enabled, share, .*, got True"):
        AnoSeg(detector=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patches": {"count": 1.5}}, "patches.count must be int, got 1.5."),
        ({"network": {"compile": "no"}}, "network.compile must be bool, got 'no'."),
        ({"network": {"width": "0.25"}}, "network.width must be float, got '0.25'."),
        ({"network": {"width": True}}, "network.width must be float, got True."),
        ({"patches": {"area": 0.1}}, "patches.area must be tuple[float, float], got 0.1."),
        ({"patches": {"jitter": [1, 1]}}, "patches.jitter must be tuple[float, float, float, float], got (1, 1)."),
        ({"calibration": {"opacity": "0.1"}}, "calibration.opacity must be tuple[float, float] | None, got '0.1'."),
        ({"image_size": 64}, "image_size must be tuple[int, ...], got 64."),
        ({"image_size": (64.5, 64)}, "image_size must be tuple[int, ...], got (64.5, 64)."),
        ({"seed": 1.5}, "seed must be int | None, got 1.5."),
        ({"image_size": "64x64"}, "image_size must be tuple[int, ...], got '64x64'."),
        ({"max_epochs": True}, "max_epochs must be int | None, got True."),
        ({"count_ignored": "no"}, "count_ignored must be bool, got 'no'."),
    ],
)
@pytest.mark.parametrize("model", [AnoSeg, SGSF])
def test_a_value_of_another_type_is_refused(model, arguments, message):
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        model(**arguments)


def test_settings_are_kept_as_plain_values_which_a_checkpoint_may_hold(tmp_path):
    settings = PatchSettings(saliency=tmp_path, softness=np.float32([0, 0.5]).tolist(), area=[np.float32(0.25), 1])
    assert settings.saliency == str(tmp_path)
    assert [type(value) for value in (*settings.area, *settings.softness)] == [float] * 4
    assert type(NetworkSettings(width=np.float32(0.25)).width) is float


def test_a_group_checks_itself():
    with pytest.raises(ValueError, match=r"^patches\.jitter \(hue\) must lie within \[0\.0, 0\.5\], got 0\.6"):
        PatchSettings(jitter=[0.5, 0.5, 0.5, 0.6])
    with pytest.raises(ValueError, match=r"^detector\.share must lie within \[0\.01, 0\.99\], got 2"):
        DetectorSettings(share=2)


def test_command_shows_groups_with_ranges(capsys):
    """As the README says."""
    with pytest.raises(SystemExit) as end:
        AnomalibCLI(args=["train", "--model.help", "AnoSeg"])
    assert not end.value.code
    shown = " ".join(capsys.readouterr().out.split())
    assert "--model.patches.area" in shown
    assert "Range of a patch's area as a fraction of the image's, within ``[0.0001, 1]``" in shown
    assert "The paper's detector, a second GAN" in shown


def test_command_takes_parts_of_groups(tmp_path, capsys):
    (tmp_path / "a.yaml").write_text("model: {class_path: AnoSeg, init_args: {patches: {area: [0.01, 0.05]}}}\n")
    arguments = ["train", "--config", str(tmp_path / "a.yaml"), "--model.patches.count", "2", "--data", "DemoTextures"]
    with pytest.raises(SystemExit) as end:
        AnomalibCLI(args=[*arguments, "--print_config"])
    assert not end.value.code
    printed = capsys.readouterr().out
    assert "count: 2" in printed
    assert "- 0.01\n" in printed
