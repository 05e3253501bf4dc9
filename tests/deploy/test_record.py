"""The record survives being written and read, and bad ones are refused by the name of what is wrong."""

import json
import math
import subprocess
import sys

import pytest

from anomalib_anoseg.deploy.record import (
    Appearance,
    Model,
    OperatingPoint,
    Record,
    Threshold,
    Thresholds,
    Training,
    from_json,
)

THRESHOLD = Threshold(raw=0.25, low=0.0, high=1.0)
RECORD = Record(
    model=Model("AnoSeg", None, 6_300_000, "sha256:0"),
    versions={"torch": "2.10.0"},
    training=Training(images=180, held_out=20, seed=0),
    input={"name": "input", "range": [0, 1]},
    outputs={"pred_score": {"shape": ["batch"]}},
    thresholds=Thresholds(THRESHOLD, THRESHOLD, "forged on held-out images"),
    operating_points=(OperatingPoint(0.05, 0.56, 0.61, 20, (0.0, 0.168), 0.93),),
    appearance=Appearance((128, 96), 20, 2, (176.0, 183.0, 190.0), (30.0, 33.0, 35.0), (0.06, 0.07, 0.08)),
)


def test_what_is_written_is_read():
    found = from_json(RECORD.to_json())
    assert found.operating_points[0].interval == (0.0, 0.168)
    # NaN differs from itself, so that it is looked at alone.
    assert math.isnan(found.operating_points[0].real_found)
    assert found.to_json() == RECORD.to_json()
    assert json.loads(RECORD.to_json())["operating_points"][0]["real_found"] is None


def test_a_record_of_before_knows_no_appearance():
    content = json.loads(RECORD.to_json())
    del content["appearance"]
    assert from_json(json.dumps(content)).appearance is None


def test_what_is_not_known_is_ignored():
    content = json.loads(RECORD.to_json())
    content["model"]["colour"] = content["author"] = "new"
    assert from_json(json.dumps(content)).to_json() == RECORD.to_json()


@pytest.mark.parametrize(
    ("place", "value", "problem"),
    [
        ("format", 2, "update anomalib-anoseg"),
        ("format", "1", 'must have a format, a whole number, got "1"'),
        ("model", None, "model must be an object, got null"),
        ("model.parameters", 1.5, "model.parameters must be a whole number, got 1.5"),
        ("model.parameters", True, "model.parameters must be a whole number, got true"),
        ("thresholds.image.raw", "x", 'thresholds.image.raw must be a number, got "x"'),
        ("thresholds.pixel.low", 10**400, "thresholds.pixel.low must be a number, got 1000"),
        ("operating_points", {}, "operating_points must be a list, got {}"),
        ("operating_points", [{"false_alarm_rate": 1}], "lacks operating_points[0].image_score"),
        ("appearance.grey", [1, 2], "appearance.grey must be a list of 3, got [1, 2]"),
        ("versions.torch", 2, "versions.torch must be text, got 2"),
    ],
)
def test_bad_entries_are_named(place, value, problem):
    content = json.loads(RECORD.to_json())
    *folders, name = place.split(".")
    inner = content
    for folder in folders:
        inner = inner[folder]
    inner[name] = value
    with pytest.raises(ValueError, match=r"^model\.onnx: the record") as error:
        from_json(json.dumps(content), "model.onnx")
    assert problem in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"format": NaN}', "[" * 100_000])
def test_what_is_no_record_is_refused(text):
    with pytest.raises(ValueError, match=r"^model\.onnx: the record (is no JSON|must have a format)"):
        from_json(text, "model.onnx")


def test_reading_needs_the_standard_library_alone():
    code = (
        "import sys; before = set(sys.modules); import anomalib_anoseg.deploy.record; "
        "new = {name.split('.')[0] for name in set(sys.modules) - before} - {'anomalib_anoseg'}; "
        "print(*sorted(new - sys.stdlib_module_names))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not run.stdout.strip()
