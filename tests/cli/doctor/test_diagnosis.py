"""The doctor finds what is wrong, names a remedy, and is silent where nothing is."""

import json
import logging
import os
import shutil
import sys

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from anomalib_anoseg import AnoSeg
from anomalib_anoseg._autoload import registration
from anomalib_anoseg.cli.doctor import doctor, environment
from anomalib_anoseg.deploy import openvino_core
from anomalib_anoseg.deploy.forms import export_forms
from anomalib_anoseg.deploy.metadata import own_entries, write_onnx_metadata
from anomalib_anoseg.deploy.runtimes import Form, OnnxRuntime

HOOK = "anomalib_anoseg._autoload"
pytestmark = pytest.mark.usefixtures("calm")


@pytest.fixture
def calm(monkeypatch):
    """Let no test depend on who runs it."""
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.delenv("TRUST_REMOTE_CODE", raising=False)
    monkeypatch.delenv("ANOMALIB_ANOSEG_AUTOLOAD", raising=False)
    monkeypatch.setitem(sys.modules, HOOK, sys.modules.get(HOOK, object()))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def made(demo_checkpoint, tmp_path_factory):
    """Exports as anomalib's engine lays them out."""
    root = tmp_path_factory.mktemp("exports")
    model = AnoSeg.load_from_checkpoint(demo_checkpoint).eval()
    forms = [Form("torch", "float32"), Form("onnxruntime", "float32"), Form("openvino", "FP32")]
    files, left_out = export_forms(model, root, (64, 64), list, forms)
    assert not left_out
    shutil.move(root / "FP32" / "weights" / "openvino", root / "weights" / "openvino")
    return files[forms[0]].parents[1]


@pytest.fixture
def exports(made, tmp_path):
    """A copy that may be broken."""
    return shutil.copytree(made, tmp_path / "weights")


@pytest.fixture
def picture(tmp_path):
    values = np.random.default_rng(0).integers(0, 255, (80, 100, 3), np.uint8)
    Image.fromarray(values).save(tmp_path / "part.png")
    return tmp_path / "part.png"


# ------------------------------------------------------------------------------------------------------- environment


def test_without_a_model_it_shows_what_is_installed(capsys):
    assert doctor() == []
    shown = capsys.readouterr().out
    for text in ("Registration", "Versions", "Machine", "known to anomalib", "openvino", "processor", "No problem"):
        assert text in shown


def test_a_switched_off_hook_is_no_problem(monkeypatch, capsys):
    monkeypatch.setenv("ANOMALIB_ANOSEG_AUTOLOAD", "0")
    monkeypatch.delitem(sys.modules, HOOK)
    assert doctor() == []
    assert "ANOMALIB_ANOSEG_AUTOLOAD=0 switches registration off" in capsys.readouterr().out


def test_a_hook_that_was_not_read_is_a_problem(monkeypatch):
    monkeypatch.delitem(sys.modules, HOOK)
    (problem,) = doctor()
    assert "did not read anomalib_anoseg.pth" in problem
    assert "Remedy: install the package with pip" in problem


def test_a_model_that_is_not_registered_is_a_problem(monkeypatch):
    import anomalib.models

    monkeypatch.setattr(anomalib.models, "AnoSeg", type("Other", (), {}))
    monkeypatch.setattr(
        registration,
        "register",
        lambda: registration.logger.warning("could not register AnoSeg of x: the name is taken"),
    )
    (problem,) = doctor()
    assert problem.startswith("AnoSeg is not registered: could not register AnoSeg of x: the name is taken.")
    monkeypatch.setattr(registration, "register", list)
    assert "no reason was logged" in doctor()[0]
    assert not any(type(handler) is logging.Handler for handler in registration.logger.handlers)


def test_missing_packages_are_named_with_a_remedy(monkeypatch, capsys):
    found = environment.package_version
    monkeypatch.setattr(
        environment, "package_version", lambda name: None if name in {"nncf", "openvino"} else found(name)
    )
    monkeypatch.setattr(environment, "find_spec", lambda _: None)
    assert doctor() == []
    shown = capsys.readouterr().out
    assert "Not installed: openvino, nncf." in shown
    assert "pip install 'anomalib-anoseg[openvino]'" in shown
    assert "OpenVINO devices" not in shown
    monkeypatch.undo()
    assert environment.package_version("no-such-package") is None


def test_an_openvino_that_does_not_start_is_shown(monkeypatch):
    class Broken:
        def Core(self):  # noqa: N802
            raise RuntimeError("no\ndevice")

    monkeypatch.setattr(openvino_core, "import_module", lambda _: Broken())
    assert environment._openvino_rows() == [("OpenVINO", "does not start: no device")]


# -------------------------------------------------------------------------------------------------------- comparison


def test_a_checkpoint_is_exported_and_compared(demo_checkpoint, picture, capsys):
    assert doctor(demo_checkpoint, picture, model_class="AnoSeg", calls=1) == []
    shown = capsys.readouterr().out
    assert "Predictions for part.png, 80 x 100 pixels" in shown, "the files resize it, not the doctor"
    for name in (
        "checkpoint",
        "test float32",
        "torch float32",
        "onnxruntime float32",
        "openvino FP32",
        "openvino default",
    ):
        assert name in shown
    assert shown.count("forged on held-out images") == 5  # the checkpoint, three files, and the record in them
    state = torch.load(demo_checkpoint, weights_only=True)["state_dict"]
    assert shown.count(f"{state['post_processor._image_threshold'].item():.9g}") >= 4


def test_files_that_resize_otherwise_than_the_test_are_problems(demo_checkpoint, picture, monkeypatch):
    monkeypatch.setattr("anomalib_anoseg.deploy.resize._replace", lambda _, exported: exported)
    monkeypatch.setattr("anomalib_anoseg.cli.doctor.models.FLOAT32_FORMS", [Form("torch", "float32")])
    problems = doctor(demo_checkpoint, picture, model_class="AnoSeg", calls=1)
    assert any("anomaly map of torch float32 differs from that of test float32 by" in each for each in problems)
    assert all("pictures that are resized as in the training" in each for each in problems)


def test_exports_beside_each_other_are_compared(exports, monkeypatch, capsys):
    assert doctor(exports.parent, calls=1) == []
    shown = capsys.readouterr().out
    assert "model.pt is a pickle" in shown
    assert "If you trust it, set TRUST_REMOTE_CODE=1" in shown
    assert "torch float32" not in shown
    assert "a brick wall (no --image)" in shown
    assert "A file takes pictures of 64 x 64 pixels alone" in shown
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    assert doctor(exports / "onnx" / "model.onnx", calls=1) == []
    assert "torch float32" in capsys.readouterr().out


def test_a_single_file_stands_for_itself(exports, tmp_path, capsys):
    for path in (exports / "openvino").iterdir():
        shutil.copy(path, tmp_path)
    assert doctor(tmp_path / "model.xml", calls=1) == []
    shown = capsys.readouterr().out
    assert "openvino default" in shown
    assert "onnxruntime float32" not in shown


def test_weights_that_differ_are_problems(exports):
    path = exports / "onnx" / "model.onnx"
    model = onnx.load(path)
    biases = [each for each in model.graph.initializer if each.name.endswith("head.3.bias")]
    assert len(biases) == 1
    biases[0].CopyFrom(onnx.numpy_helper.from_array(np.full(1, -9, np.float32), biases[0].name))
    (path.parent / "model.onnx.data").unlink(missing_ok=True)
    onnx.save(model, path)
    problems = doctor(exports, calls=1)
    assert any("anomaly map of openvino FP32 differs from that of onnxruntime float32 by" in each for each in problems)
    assert all("Remedy: export all files anew" in each for each in problems)
    assert any("more than 0.001" in each for each in problems)
    assert not any("default" in each for each in problems)  # is not held to float32


def test_the_record_is_shown_and_must_be_one(exports, capsys):
    assert doctor(exports / "onnx" / "model.onnx", calls=1) == []
    shown = capsys.readouterr().out
    for text in ("AnoSeg, preset none", "sha256:", "held out 3", "bilinear, antialiased", "false alarms 25.0%"):
        assert text in shown
    file = exports / "onnx" / "model.onnx"
    kept = {entry.key: entry.value for entry in onnx.load(file, load_external_data=False).metadata_props}
    record = json.loads(kept["anomalib_anoseg.record"])
    record["model"]["digest"] = "sha256:0"
    write_onnx_metadata(file, {"record": json.dumps(record)})
    assert doctor(exports, calls=1)[0].startswith("The files have records of different weights.")
    write_onnx_metadata(file, {"record": json.dumps(record | {"format": 2})})
    (problem,) = doctor(exports, calls=1)
    assert problem.startswith(
        "onnxruntime float32: the record has format 2, and this version reads 1: update anomalib-"
    )


def test_thresholds_that_differ_are_problems(exports):
    write_onnx_metadata(exports / "onnx" / "model.onnx", {"image_threshold": "9"})
    (problem,) = doctor(exports, calls=1)
    assert problem.startswith("image_threshold differs: onnxruntime float32 9, openvino FP32 0.")


def test_thresholds_that_were_never_set_are_problems(exports, tmp_path):
    shutil.copytree(exports / "onnx", tmp_path / "alone" / "onnx")
    write_onnx_metadata(tmp_path / "alone" / "onnx" / "model.onnx", {"image_threshold": "nan"})
    (problem,) = doctor(tmp_path / "alone", calls=1)
    assert problem.startswith("A threshold is nan")
    assert "anomalib validate" in problem


def test_files_without_thresholds_are_noted(exports, tmp_path, capsys):
    folder = shutil.copytree(exports / "onnx", tmp_path / "alone" / "onnx")
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    del model.metadata_props[:]
    onnx.save(model, folder / "model.onnx")
    assert doctor(tmp_path / "alone", calls=1) == []
    assert "onnxruntime float32: the file does not name its thresholds" in capsys.readouterr().out


def test_broken_files_are_problems(exports):
    (exports / "onnx" / "model.onnx").write_bytes(b"nothing")
    (problem,) = doctor(exports, calls=1)
    assert "model.onnx does not load as onnxruntime float32" in problem
    assert problem.endswith("Remedy: export the model again.")


def test_a_runtime_that_fails_on_the_picture_is_a_problem(exports, monkeypatch):
    monkeypatch.setattr(OnnxRuntime, "run", lambda *_: 1 / 0)
    (problem,) = doctor(exports, calls=1)
    assert problem.startswith("onnxruntime float32 fails on the picture: ZeroDivisionError")


def test_without_a_library_the_others_are_compared(exports, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert doctor(exports, calls=1) == []
    shown = capsys.readouterr().out
    assert "openvino FP32 is left out: openvino is not installed; `pip install 'anomalib-anoseg[openvino]'`" in shown
    assert "onnxruntime float32" in shown


def test_an_export_that_fails_is_a_problem(demo_checkpoint, monkeypatch):
    monkeypatch.setattr(AnoSeg, "to_onnx", lambda *_, **__: 1 / 0)
    problems = doctor(demo_checkpoint, model_class="anomalib_anoseg.AnoSeg", calls=1)
    assert [each.split(":")[0] for each in problems] == [
        "The model could not be exported for onnxruntime float32",
        "The model could not be exported for openvino FP32",
    ]


@pytest.mark.parametrize("how", ["row", "folder"])
def test_a_checkpoint_tells_its_model(demo_checkpoint, tmp_path, monkeypatch, how, capsys):
    folder = tmp_path / ("AnoSeg/v0" if how == "folder" else "job")
    folder.mkdir(parents=True)
    shutil.copy(demo_checkpoint, folder)
    if how == "row":
        (folder / "row.json").write_text(json.dumps({"model": "anomalib_anoseg.AnoSeg"}), "utf-8")
    monkeypatch.setattr("anomalib_anoseg.cli.doctor.models.export_forms", lambda *_: ({}, {}))
    assert doctor(folder / "model.ckpt") == []
    assert "Thresholds of raw scores" in capsys.readouterr().out


def test_a_pipe_is_no_model(tmp_path):
    os.mkfifo(tmp_path / "model.onnx")
    with pytest.raises(ValueError, match=r"model names .*model.onnx, which is neither a file nor a folder"):
        doctor(tmp_path / "model.onnx")


def test_a_row_does_not_choose_what_is_imported(demo_checkpoint, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "anomaly_lib.py").write_text("raise AssertionError('imported')")
    shutil.copy(demo_checkpoint, tmp_path / "model.ckpt")
    (tmp_path / "row.json").write_text(json.dumps({"model": "anomaly_lib.Model"}), "utf-8")
    with pytest.raises(ValueError, match=r"row.json names 'anomaly_lib.Model', which is neither .* --model_class"):
        doctor(tmp_path / "model.ckpt")


# --------------------------------------------------------------------------------------------------- wrong arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image": "model.onnx"}, "image needs a model that predicts it; give --model, too"),
        ({"model": "none.ckpt"}, "model names .*none.ckpt, which does not exist"),
        (
            {"model": "text.txt"},
            r"model must be a .ckpt, .pt, .onnx or .xml file or a folder of exports, got .*text.txt",
        ),
        ({"model": "empty"}, r"empty holds no exports: there is no torch/\*.pt, onnx/\*.onnx or openvino/\*.xml"),
        ({"threads": 0}, "threads must be 1 or more, got 0"),
        ({"calls": 0}, "calls must be 1 or more, got 0"),
        ({"tolerance": 0}, "tolerance must be positive, got 0"),
        ({"model": "model.ckpt"}, "No folder of .*model.ckpt names its model; give it, such as --model_class AnoSeg"),
        ({"model": "model.ckpt", "model_class": "AnoSag"}, "model_class names 'AnoSag', which anomalib does not know"),
        ({"model": "onnx/model.onnx", "image": "text.txt"}, "image names .*text.txt, which cannot be read"),
        (
            {"model": "onnx/model.onnx", "image": "deep.png"},
            "image names .*deep.png, which .* has pixels of mode 'I;16'",
        ),
    ],
)
def test_refuses_wrong_arguments(exports, demo_checkpoint, tmp_path, arguments, message):
    root = tmp_path / "root"
    shutil.copytree(exports / "onnx", root / "onnx")
    (root / "empty").mkdir()
    Image.new("I;16", (8, 8)).save(root / "deep.png")
    (root / "text.txt").write_text("no picture", "utf-8")
    shutil.copy(demo_checkpoint, root / "model.ckpt")
    (root / "model.onnx").touch()
    paths = {name: root / value for name, value in arguments.items() if name in {"model", "image"}}
    with pytest.raises(ValueError, match=message):
        doctor(**arguments | paths)


# ---------------------------------------------------------------------------------------------------------- metadata


def test_metadata_of_others_stays(exports):
    path = exports / "onnx" / "model.onnx"
    model = onnx.load(path, load_external_data=False)
    onnx.helper.set_model_props(model, {"author": "somebody", "anomalib_anoseg.image_min": "0"})
    onnx.save(model, path)
    write_onnx_metadata(path, {"image_min": "0.25"})
    entries = {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}
    assert entries == {"author": "somebody", "anomalib_anoseg.image_min": "0.25"}
    assert own_entries(entries) == {"image_min": "0.25"}
