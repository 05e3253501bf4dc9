"""What a file decides, and what cannot be used as one."""

from dataclasses import replace

import numpy as np
import pytest

from anomalib_anoseg.deploy.inspection import session
from anomalib_anoseg.deploy.inspection.session import Session, enlarge
from anomalib_anoseg.deploy.record import KEY, OperatingPoint, Threshold, Thresholds

from .conftest import RECORD, make_picture


@pytest.mark.parametrize(("rate", "image", "pixel"), [(None, 0.5, 0.5), (0.01, 0.75, 0.65), (0.05, 0.6, 0.55)])
def test_the_rate_chooses_thresholds_of_the_record(model, rate, image, pixel):
    loaded = Session(model, rate)
    assert loaded.decision[:2] == (image, pixel)
    assert bool(loaded.decision.note) is (rate is not None), "nothing tells whether a rate holds"
    for bright, is_anomalous in {image + 0.01: True, image - 0.01: False}.items():
        judgement = loaded.judge(make_picture(bright=bright))
        assert judgement.score == pytest.approx(round(255 * bright) / 255)
        assert judgement.is_anomalous is is_anomalous
    assert not loaded.judge(make_picture(bright=pixel - 0.01)).mask.any()
    assert loaded.judge(make_picture(bright=pixel + 0.01)).mask.any()


@pytest.mark.parametrize("grey", range(140, 240, 7))
def test_a_score_at_its_threshold_is_normal(make_model, grey):
    """A threshold is the score of a held-out picture, which must not be called anomalous itself."""
    at = Session(make_model("plain.onnx", {})).judge(make_picture(bright=grey / 255)).score
    record = replace(RECORD, operating_points=(OperatingPoint(0.01, at, at, 99, (0.0, 0.04)),))
    judgement = Session(make_model("at.onnx", {KEY: record.to_json()}), 0.01).judge(make_picture(bright=grey / 255))
    assert (judgement.score, judgement.is_anomalous, judgement.mask.any()) == (at, False, False)


def test_a_file_that_was_never_calibrated_says_so(make_model):
    record = replace(RECORD, thresholds=Thresholds(Threshold(), Threshold(), "none"))
    loaded = Session(make_model("raw.onnx", {KEY: record.to_json()}))
    assert "never calibrated, so its scores are raw" in loaded.decision.note


def test_maps_are_brought_to_the_picture_bilinearly(model):
    judgement = Session(model).judge(make_picture(0.0, size=(32, 24), bright=1.0, at=(8, 4, 12, 8)))
    assert judgement.full_map.shape == judgement.mask.shape == (24, 32)
    # The bright cell's centre is at 9.5; its map falls to 0 at the centres of its neighbours, 4 pixels away.
    assert judgement.full_map[5, 6:14] == pytest.approx([0.11, 0.33, 0.55, 0.77, 0.77, 0.55, 0.33, 0.11], abs=0.01)
    assert np.array_equal(enlarge(judgement.full_map, (32, 24)), judgement.full_map)


def test_a_file_without_a_record_decides_by_itself_and_says_so(make_model):
    loaded = Session(make_model("old.onnx", {"anomalib_anoseg.image_sensitivity": "0.4"}))
    assert loaded.decision[:2] == (0.6, 0.5)
    assert loaded.decision.note == "old.onnx has no record of operating points: it decides at its own threshold, 0.6."
    assert loaded.judge(make_picture(bright=0.55)).is_anomalous  # what its graph says
    raw = Session(make_model("raw.onnx", {"anomalib_anoseg.image_threshold": "nan"}))
    assert "never calibrated, so its scores are raw" in raw.decision.note


@pytest.mark.parametrize(
    ("name", "entries", "rate", "message"),
    [
        ("m.onnx", None, 0.02, r"--rate 0.02 is no operating point of .*m.onnx. It has 0.01, 0.05."),
        ("m.onnx", {}, 0.01, r"--rate needs a file with operating points, and .*m.onnx has none. Leave --rate out"),
        ("m.onnx", {KEY: "{}"}, None, r"m.onnx: the record must have a format"),
        ("m.onnx", {KEY: RECORD.to_json().replace('"format": 1', '"format": 2')}, None, "update anomalib-anoseg"),
        ("m.pt", {}, None, r"MODEL must be a .onnx or .xml, .* and .*m.pt is of another kind."),
    ],
)
def test_refuses_in_a_line(make_model, name, entries, rate, message):
    with pytest.raises(ValueError, match=message) as refused:
        Session(make_model(name, entries), rate)
    assert "\n" not in str(refused.value)


def test_refuses_what_is_no_model(tmp_path):
    for name in ("m.onnx", "m.xml"):
        (tmp_path / name).write_text("no model")
        with pytest.raises(ValueError, match=rf"{name} cannot be loaded \(.*\). Keep the weights beside it") as refused:
            Session(tmp_path / name)
        assert "\n" not in str(refused.value)
    with pytest.raises(ValueError, match="is a folder"):
        Session(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"There is no file .*none.onnx. Export the model"):
        Session(tmp_path / "none.onnx")


def test_names_the_one_library_that_lacks(model, monkeypatch):
    monkeypatch.setitem(session.FORMS, ".onnx", session.FORMS[".xml"])
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(ModuleNotFoundError, match=r"which runs model.onnx; `pip install openvino` brings it"):
        Session(model)


def test_a_picture_that_the_file_does_not_take_is_refused(make_model):
    loaded = Session(make_model(size=(24, 32)))
    assert loaded.judge(make_picture(size=(32, 24))).score == pytest.approx(0.2)
    with pytest.raises(ValueError, match=r"has 40 x 24 pixels, and the file takes 32 x 24 alone. Export it without"):
        loaded.judge(make_picture(size=(40, 24)))


def test_a_score_that_is_no_number_is_no_decision(model, monkeypatch):
    loaded = Session(model)
    predict = loaded._runtime.predict
    monkeypatch.setattr(loaded._runtime, "predict", lambda images: predict(images * np.float32(np.nan)))
    with pytest.raises(ValueError, match="a score that is not a number"):
        loaded.judge(make_picture())


def test_the_digest_covers_the_weights(tmp_path):
    (tmp_path / "m.xml").write_bytes(b"graph")
    before = session._digest(tmp_path / "m.xml")
    (tmp_path / "m.bin").write_bytes(b"weights")
    assert session._digest(tmp_path / "m.xml") != before
