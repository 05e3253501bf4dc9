"""A record names the preset of a model only if nothing that matters differs."""

import json
from dataclasses import fields, is_dataclass
from inspect import signature

import pytest

from anomalib_anoseg import SGSF, AnoSeg
from anomalib_anoseg.common.presets import list_presets, merge, read_preset
from anomalib_anoseg.deploy.preset import NOT_COMPARED, WEIGHTS, name_preset

KINDS = {"AnoSeg": AnoSeg, "SGSF": SGSF}
PRESETS = {
    name: preset["model"]
    for name in list_presets()
    if "/" not in name and "class_path" in (preset := read_preset(name)).get("model", {})
}
LAPTOP = PRESETS["laptop"]["init_args"]


def test_an_export_names_its_preset(tmp_path):
    model = AnoSeg(**LAPTOP)
    model.has_learned = True
    model.to_torch(tmp_path)
    record = json.loads((tmp_path / "weights" / "torch" / "metadata.json").read_text(encoding="utf-8"))
    assert record["model"]["preset"] == "laptop"


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_known(name):
    kind = KINDS[PRESETS[name]["class_path"].rpartition(".")[2]]
    expected = "laptop" if name == "demo" else name  # which has the same model, and no data
    assert name_preset(kind, PRESETS[name].get("init_args", {})) == expected


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"seed": 7, "max_epochs": 3, "ignore_mask": "clamp.png"}, "laptop"),
        ({"calibration": {"false_alarm_rate": 0.01}, "network": {"channels_last": False}}, "laptop"),
        ({"patches": {"count": 4}}, None),
        ({"image_size": (128, 160)}, None),
        ({"encoder": {"pre_trained": "weights.pth"}}, None),
        ({"kinds": {"cracks": 0.2}}, None),
    ],
)
def test_one_setting_that_matters_makes_it_unknown(changes, name):
    assert name_preset(AnoSeg, merge(LAPTOP, changes)) == name


def test_the_place_of_weights_does_not_matter():
    settings = PRESETS["laptop_pretrained"]["init_args"]
    assert name_preset(AnoSeg, merge(settings, {"encoder": {"pre_trained": "lite0.pth"}})) == "laptop_pretrained"


def test_settings_that_do_not_count_exist():
    places = {f"{group}.{name}" for kind in KINDS.values() for group, name in settings_of(kind)}
    assert {place for place in NOT_COMPARED | WEIGHTS if "." in place} <= places


def settings_of(kind):
    groups = {name: parameter.default for name, parameter in signature(kind).parameters.items()}
    return [(name, field.name) for name, group in groups.items() if is_dataclass(group) for field in fields(group)]
