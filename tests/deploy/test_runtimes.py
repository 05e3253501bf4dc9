"""All runtimes give one model's predictions, and what cannot run says why."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from anomalib_anoseg import AnoSeg
from anomalib_anoseg.deploy import forms as exports
from anomalib_anoseg.deploy.forms import export_forms, size_of_file_mb
from anomalib_anoseg.deploy.metadata import describe_thresholds
from anomalib_anoseg.deploy.runtimes import FORMS, Form, RuntimeOutput, load_runtime

EXACT = [Form("torch", "float32"), Form("onnxruntime", "float32"), Form("openvino", "FP32")]
REDUCED = [form for form in FORMS if form not in EXACT]
SCORE_TOLERANCE = 5e-3  # thresholds stretch a range of raw scores of a few percent to [0, 1]


@pytest.fixture(scope="module")
def model(demo_checkpoint):
    return AnoSeg.load_from_checkpoint(demo_checkpoint).eval()


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(3, 3, 64, 64, generator=generator)


@pytest.fixture(scope="module")
def exported(model, images, tmp_path_factory):
    return export_forms(model, tmp_path_factory.mktemp("forms"), (64, 64), lambda: list(images))


@pytest.fixture
def load(exported):
    return lambda form, **options: load_runtime(form, exported[0][form], **options)


def test_every_form_is_exported(exported, model):
    files, left_out = exported
    assert left_out == {}
    assert list(files) == list(FORMS)
    assert [path.suffix for path in files.values()] == [".pt", ".pt", ".onnx", ".xml", ".xml", ".xml"]
    assert len(set(files.values())) == 5
    whole, half, quarter = (
        files["openvino", precision].with_suffix(".bin").stat().st_size for precision in ("FP32", "FP16", "INT8")
    )
    assert quarter < 0.35 * whole < half < 0.6 * whole
    assert "to_onnx" not in vars(model)  # the model exports as before


@pytest.mark.parametrize("form", EXACT, ids=lambda form: form.name)
def test_exact_forms_predict_what_the_model_predicts(load, model, images, form):
    with torch.no_grad():
        expected = model(images)
    prediction = load(form).predict(images.numpy())
    assert np.allclose(prediction.pred_score, expected.pred_score, rtol=0, atol=SCORE_TOLERANCE)
    assert np.allclose(prediction.anomaly_map, expected.anomaly_map, rtol=0, atol=1e-3)
    assert prediction.anomaly_map.std() > 0.01  # constant ones would prove little
    clear = (expected.anomaly_map - 0.5).abs().numpy() > 1e-3
    assert np.array_equal(prediction.pred_mask[clear], expected.pred_mask.numpy()[clear])


def test_a_signal_is_heard_after_files_are_dropped_in_the_order_of_loading(exported):
    """OpenVINO's cores give the thread a stack for signals, and do not clear up after one another."""
    code = """
import os, signal, sys
from pathlib import Path
from anomalib_anoseg.deploy.runtimes import Form, load_runtime
signal.signal(signal.SIGUSR1, lambda *_: print("heard"))
first, second = (load_runtime(Form("openvino", "FP32"), Path(sys.argv[1])) for _ in range(2))
del first
del second
os.kill(os.getpid(), signal.SIGUSR1)
"""
    path = exported[0]["openvino", "FP32"]
    run = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, "heard\n"), run.stderr


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_forms_share_shapes_and_types(load, model, images, form):
    runtime = load(form)
    assert (runtime.name, runtime.threads) == (form.name, 1)
    assert runtime.input_size == (None if form.runtime == "torch" else (64, 64))
    prediction = runtime.predict(images.numpy())
    shapes = [(values.shape, values.dtype.name) for values in prediction]
    maps = (3, 1, 64, 64)
    assert shapes == [((3,), "float32"), (maps, "float32"), ((3,), "bool"), (maps, "bool")]
    assert runtime.thresholds == describe_thresholds(model.post_processor)
    assert runtime.thresholds["calibrated_on"] == "forged on held-out images"


@pytest.mark.parametrize("form", REDUCED, ids=lambda form: form.name)
def test_reduced_forms_are_close_but_not_equal(load, images, form):
    exact, reduced = (load(each).predict(images.numpy()).anomaly_map for each in (EXACT[0], form))
    assert 0 < np.abs(exact - reduced).mean() < 0.1


def test_runtimes_say_what_they_compute_in(load, exported):
    assert load(Form("torch", "float32")).in_use == load(Form("onnxruntime", "float32")).in_use == "float32"
    assert load(Form("torch", "bfloat16")).in_use == "bfloat16 by autocast"
    assert load(Form("openvino", "FP32")).in_use == "f32 (33 of 33 layers)"
    assert load(Form("openvino", "INT8")).in_use.split()[0] in {"u8", "i8"}
    assert "bf16" not in load(Form("openvino", "INT8")).in_use  # which is the default of many processors
    default = load_runtime(Form("openvino", "default"), exported[0]["openvino", "FP32"])
    assert default.in_use == load(Form("openvino", "FP16")).in_use
    assert [load(Form("openvino", name)).stored for name in ("FP32", "FP16", "INT8")] == ["FP32", "FP16", "INT8"]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_threads_do_not_get_each_others_predictions(load, images, form):
    runtime, pictures = load(form), [image[None] for image in images.numpy()]
    expected = [runtime.predict(picture) for picture in pictures]
    turns = [0, 1, 2] * 32
    with ThreadPoolExecutor(16) as pool:
        predictions = list(pool.map(lambda turn: runtime.predict(pictures[turn]), turns))
    for turn, prediction in zip(turns, predictions, strict=True):
        for found, wanted in zip(prediction, expected[turn], strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_threads_are_set(load):
    before = torch.get_num_threads()
    try:
        runtimes = [load(form, threads=2) for form in EXACT]
        assert torch.get_num_threads() == 2
        assert [runtime.threads for runtime in runtimes] == [2, 2, 2]
    finally:
        torch.set_num_threads(before)


def test_outputs_are_brought_into_shape():
    outputs = {"pred_score": np.zeros((2, 1)), "anomaly_map": np.zeros((2, 4, 5)), "pred_mask": None}
    prediction = RuntimeOutput.from_outputs(outputs)
    assert prediction.pred_score.shape == (2,)
    assert prediction.anomaly_map.shape == (2, 1, 4, 5)
    assert prediction.pred_label is prediction.pred_mask is None


def test_the_file_size_counts_the_weights(exported):
    files, _ = exported
    assert size_of_file_mb(files["onnxruntime", "float32"]) > 1.4  # most of them in model.onnx.data
    assert size_of_file_mb(files["openvino", "FP32"]) > 1.4


# --------------------------------------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize("wrong", [np.zeros((3, 64, 64), np.float32), np.zeros((1, 3, 64, 64), np.uint8)])
def test_refuses_other_images(load, wrong):
    with pytest.raises(ValueError, match=r"images must be \(B, 3, H, W\) of float32, got"):
        load(Form("torch", "float32")).predict(wrong)


def test_refuses_what_it_does_not_know(exported, tmp_path):
    path = exported[0][FORMS[0]]
    with pytest.raises(ValueError, match="runtime must be one of torch, onnxruntime, openvino, got 'caffe'"):
        load_runtime(Form("caffe", "float32"), path)
    with pytest.raises(ValueError, match="threads must be 1 or more, got 0"):
        load_runtime(FORMS[0], path, threads=0)
    with pytest.raises(FileNotFoundError, match=r"no file .*none.onnx; export the model first"):
        load_runtime(Form("onnxruntime", "float32"), tmp_path / "none.onnx")


@pytest.mark.parametrize("form", EXACT[1:], ids=lambda form: form.runtime)
def test_names_the_remedy_for_a_missing_library(load, monkeypatch, form):
    monkeypatch.setitem(sys.modules, form.runtime, None)
    with pytest.raises(ModuleNotFoundError, match=rf"{form.runtime} is not installed; `pip install 'anomalib-anoseg\["):
        load(form)


def test_a_missing_library_of_a_library_is_told_as_it_is(load, monkeypatch):
    monkeypatch.setattr("anomalib_anoseg.deploy.openvino_core.import_module", lambda _: __import__("no_such_module"))
    with pytest.raises(ModuleNotFoundError, match="No module named 'no_such_module'"):
        load(Form("openvino", "FP32"))


def test_a_failing_conversion_leaves_out_what_needs_it_and_is_tried_once(model, monkeypatch, tmp_path):
    calls = []

    def fail(*_, **__):
        calls.append(1)
        raise RuntimeError("no such\noperator")

    monkeypatch.setattr(AnoSeg, "to_onnx", fail)
    files, left_out = export_forms(model, tmp_path, (64, 64), list)
    assert [form.runtime for form in files] == ["torch", "torch"]
    assert left_out == {form.name: "RuntimeError: no such operator" for form in FORMS[2:]}
    assert len(calls) == 1


def test_missing_libraries_are_left_out_with_a_remedy(model, monkeypatch, tmp_path):
    monkeypatch.setattr(exports, "find_spec", lambda name: None if name in {"onnxscript", "nncf"} else object())
    files, left_out = export_forms(model, tmp_path, (64, 64), list)
    assert [form.runtime for form in files] == ["torch", "torch"]
    assert "onnxscript not installed; `pip install 'anomalib-anoseg[openvino]'`" in left_out["onnxruntime float32"]
    assert "onnxscript, nncf not installed" in left_out["openvino INT8"]


def test_the_module_imports_no_library_under_measurement():
    code = (
        "import sys, anomalib_anoseg.deploy.latency_worker\n"
        "sys.exit(bool({'torch', 'anomalib', 'onnxruntime', 'openvino'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
