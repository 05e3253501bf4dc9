"""From a file on a disk, every export decides as the model that was tested, and says how."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
import torch
from anomalib.data.utils import read_image
from anomalib.deploy import OpenVINOInferencer
from PIL import Image
from torchvision.transforms.v2 import Resize
from torchvision.transforms.v2.functional import pil_to_tensor

from anomalib_anoseg import SGSF, AnoSeg
from anomalib_anoseg.deploy.forms import export_forms
from anomalib_anoseg.deploy.inspection.inspection import inspect_pictures
from anomalib_anoseg.deploy.metadata import write_onnx_metadata
from anomalib_anoseg.deploy.record import KEY, Model, OperatingPoint, Record, Threshold, Thresholds, Training, from_json
from anomalib_anoseg.deploy.runtimes import Form, load_runtime
from anomalib_anoseg.training.seeding import seeded_weights

EXACT = [Form("torch", "float32"), Form("onnxruntime", "float32"), Form("openvino", "FP32")]
FP16, INT8 = Form("openvino", "FP16"), Form("openvino", "INT8")
# Of values that anomalib has normalised to [0, 1].
TOLERANCE = 1e-4
REGION = torch.zeros(64, 64, dtype=torch.bool)
REGION[10:40, 20:50] = True
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["AnoSeg", "SGSF, nearest, ignoring a region", "SGSF, patches"])
def model(request, demo_checkpoint, draw_picture, raw):
    name, *details = request.param.split(", ")
    if name == "AnoSeg":
        model = AnoSeg.load_from_checkpoint(demo_checkpoint, weights_only=True, map_location="cpu").eval()
        pictures = [Resize((64, 64), antialias=True)(torch.from_numpy(values)) for values in raw.values()]
        set_thresholds(model, torch.cat(pictures))  # a short training may find all of them anomalous
        return model
    model = make_sgsf(details[0], draw_picture)
    if "ignoring a region" in details:
        model.model.region.ignored = REGION  # of pictures of any shape
    return model


def make_sgsf(guidance, draw_picture):
    """An SGSF with references and thresholds, whose map varies, without waiting for a training."""
    is_by_patches = guidance == "patches"
    model = SGSF(
        (64, 64),
        guidance={"kind": guidance},
        extractor={"name": "test_efficientnet" if is_by_patches else "test_resnet", "weights": is_by_patches},
        bank={"size": 4, "vectors": 64},
        network={"width": 0.125, "score_window": 5},
    )
    images = torch.stack([pil_to_tensor(draw_picture(64, 64, seed)) for seed in range(9, 13)])
    networks = model.model
    with seeded_weights(0):
        for module in networks.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            elif isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
    with torch.no_grad():
        if is_by_patches:
            guide = torch.arange(len(images))
            networks.fill_memory(images, guide)
        else:
            guide = images.roll(1, 0) / 255
            networks.fill_bank(images, networks.embed(images / 255))
        networks.train()(images / 255, guide)
        networks.prepare_for_evaluation()
    set_thresholds(model.eval(), images.roll(20, 3) / 255)
    return model


@torch.no_grad()
def set_thresholds(model, images):
    """Set thresholds and ranges by what is predicted for images, so that scores lie well on both sides of 0.5."""
    raw = model.model(images)
    scores = raw.pred_score.sort().values
    widest = scores.diff().argmax()  # the mean of all may happen to be one of them
    thresholds = {"image": scores[widest : widest + 2].mean(), "pixel": raw.anomaly_map.mean()}
    for level, threshold in thresholds.items():
        found = {"_{}_threshold": threshold, "{}_min": raw.anomaly_map.min(), "{}_max": raw.anomaly_map.max()}
        for name, value in found.items():
            getattr(model.post_processor, name.format(level)).copy_(value)


@pytest.fixture(scope="module")
def tested(model, predict_files):
    return predict_files(model)


@pytest.fixture(scope="module")
def raw(pictures):
    """The files' pixels, as an integrator hands them over."""
    return {path: read_image(path, as_tensor=True)[None].numpy() for path in pictures}


@pytest.fixture(scope="module")
def exported(model, raw, tmp_path_factory):
    images = [torch.from_numpy(values[0]) for values in raw.values()]
    files, left_out = export_forms(model, tmp_path_factory.mktemp("files"), None, lambda: images, [*EXACT, FP16, INT8])
    assert not left_out
    return files


def assert_same(prediction, item, tolerance=TOLERANCE):
    """Compare scores and maps, and decisions where these are not as close to the threshold as they may differ."""
    for value, decision in (("pred_score", "pred_label"), ("anomaly_map", "pred_mask")):
        found, expected = getattr(prediction, value), getattr(item, value).numpy()
        np.testing.assert_allclose(found.reshape(expected.shape), expected, rtol=0, atol=tolerance, err_msg=value)
        found, wanted = getattr(prediction, decision), getattr(item, decision).numpy()
        clear = np.abs(expected - 0.5) > tolerance
        assert np.array_equal(found.reshape(wanted.shape)[clear], wanted[clear]), decision


def test_pictures_tell_one_resize_from_another(model, raw, tested):
    """The checks below would see a file that resizes without antialiasing, and one whose map is constant."""
    path = next(iter(raw))
    aliased = model.post_processor(model.model(Resize((64, 64), antialias=False)(torch.from_numpy(raw[path]))))
    # How far a short training's map spreads depends on the processor; it only has to be far above the tolerance.
    assert (aliased.anomaly_map - tested[path].anomaly_map).abs().max() > 100 * TOLERANCE
    for item in tested.values():
        assert item.anomaly_map.std() > 100 * TOLERANCE
        assert item.pred_mask.unique().numel() == 2
        assert (item.pred_score - 0.5).abs() > TOLERANCE


@pytest.mark.parametrize("form", EXACT, ids=lambda form: form.name)
def test_files_decide_as_the_test_does(form, exported, raw, tested):
    runtime = load_runtime(form, exported[form])
    for path, values in raw.items():
        assert_same(runtime.predict(values), tested[path])


def test_a_file_of_one_size_decides_as_the_test_does(raw, predict_files, draw_picture, tmp_path):
    """Those of AnoSeg and of SGSF guided by patches are in ``test_resize`` and ``test_patches``."""
    model = make_sgsf("nearest", draw_picture)
    tested, (path, values) = predict_files(model), next(iter(raw.items()))
    files, left_out = export_forms(model, tmp_path, values.shape[-2:], list, EXACT[1:])
    assert not left_out
    for form, file in files.items():
        runtime = load_runtime(form, file)
        assert runtime.input_size == values.shape[-2:]
        assert_same(runtime.predict(values), tested[path])


def test_float16_differs_by_its_weights_alone(exported, raw, tested):
    """Weights have 11 bits, of which a network makes thousandths; the picture is the same to a millionth."""
    runtime = load_runtime(EXACT[2], exported[FP16])  # computes in float32: on some processors it would in bfloat16
    for path, values in raw.items():
        prediction, resized = runtime.predict(values), runtime.predict(resize(values))
        assert_same(prediction, tested[path], 0.01)
        np.testing.assert_allclose(prediction.anomaly_map, resized.anomaly_map, rtol=0, atol=TOLERANCE)


def test_int8_differs_by_its_layers_alone(exported, raw, tested):
    """Each layer rounds to 256 steps, which adds up to a tenth of a map's range; a pixel rounded otherwise is less."""
    runtime = load_runtime(EXACT[2], exported[INT8])
    for path, values in raw.items():
        prediction, resized, item = runtime.predict(values), runtime.predict(resize(values)), tested[path]
        assert np.abs(prediction.pred_score - item.pred_score.numpy()).max() < 0.2
        assert np.abs(prediction.anomaly_map[:, 0] - item.anomaly_map.reshape(1, 64, 64).numpy()).mean() < 0.1
        np.testing.assert_allclose(prediction.anomaly_map, resized.anomaly_map, rtol=0, atol=0.05)


@pytest.mark.parametrize("form", EXACT[1:], ids=lambda form: form.name)
def test_inspect_says_what_the_test_says(form, exported, pictures, tested, tmp_path):
    for result in inspect(exported[form], pictures, tmp_path):
        item, (width, height) = tested[Path(result["path"])], result["size"]
        assert result["score"] == pytest.approx(item.pred_score.item(), abs=TOLERANCE)
        assert (result["label"], result["threshold"]) == ("anomalous" if item.pred_label else "normal", 0.5)
        # torch brings the map of the test to the picture's size.
        resized = Resize((height, width), antialias=min(height, width) < 64)(item.anomaly_map.reshape(1, 64, 64))
        mask, clear = np.asarray(Image.open(tmp_path / result["mask"])), (resized[0] - 0.5).abs().numpy() > TOLERANCE
        assert mask.shape == (height, width)
        assert np.array_equal(mask[clear], resized[0].numpy()[clear] > 0.5)
        assert clear.mean() > 0.98
        assert sum(region["area"] for region in result["regions"]) == mask.sum()


@pytest.mark.parametrize("form", EXACT[1:], ids=lambda form: form.name)
def test_inspect_decides_by_the_record_in_the_file(form, exported, pictures, tested, tmp_path):
    scores = sorted(item.pred_score.item() for item in tested.values())
    between = (scores[1] + scores[2]) / 2
    assert scores[2] - scores[1] > 2 * TOLERANCE
    threshold, point = Threshold(0.3, 0.0, 1.0), OperatingPoint(0.02, between, 0.7, 20, (0.0, 0.1))
    thresholds = Thresholds(threshold, threshold, "forged on held-out images")
    text = Record(Model("AnoSeg", None, 0, ""), {}, Training(), {}, {}, thresholds, (point,)).to_json()
    path = tmp_path / f"marked{exported[form].suffix}"
    if path.suffix == ".xml":
        marked = openvino.Core().read_model(exported[form])
        marked.set_rt_info(text, ["framework", KEY])
        openvino.save_model(marked, path, compress_to_fp16=False)
    else:
        onnx.save(onnx.load(exported[form]), path)
        write_onnx_metadata(path, {KEY.rpartition(".")[2]: text})
    results = inspect(path, pictures, tmp_path / "out", rate=0.02)
    assert sorted(line["score"] for line in results if line["label"] == "anomalous") == pytest.approx(
        scores[2:], abs=TOLERANCE
    )
    assert {line["threshold"] for line in results} == {between}
    assert all(region["peak"] > 0.7 for line in results for region in line["regions"])


def inspect(path, pictures, out, **options):
    inspect_pictures(path, [pictures[0].parent], out, masks=True, **options)
    return [json.loads(line) for line in (out / "results.jsonl").read_text(encoding="utf-8").splitlines()]


def test_no_file_sees_what_lies_in_the_region(model, exported, raw):
    """The only difference of two pictures lies there: it changes nothing with a region, and much without one."""
    has_region = model.model.region.size is not None
    picture = resize(next(iter(raw.values())))
    defect = np.where(REGION.numpy(), picture[..., ::-1, ::-1], picture)
    for form, file in exported.items():
        runtime = load_runtime(form if form in EXACT else EXACT[2], file)
        good, bad = runtime.predict(np.ascontiguousarray(picture)), runtime.predict(defect)
        for found, expected in zip(bad, good, strict=True):
            is_same = np.array_equal(found, expected)
            assert is_same if has_region else not is_same or expected.dtype == bool
        inside = good.anomaly_map[..., REGION.numpy()]
        assert not has_region or (inside.max() == inside.min() == good.anomaly_map.min() < 0.5)
        assert not (has_region and good.pred_mask[..., REGION.numpy()].any())


def resize(values):
    return Resize((64, 64), antialias=True)(torch.from_numpy(values)).numpy()


# ------------------------------------------------------------------------------------------------------- the record


@pytest.fixture(scope="module")
def runtimes(exported):
    return {form: load_runtime(form, path) for form, path in exported.items()}


@pytest.fixture(scope="module")
def record(runtimes):
    return from_json(runtimes[EXACT[1]].record)


ALL = pytest.mark.parametrize("form", [*EXACT, FP16, INT8], ids=lambda form: form.name)


@ALL
def test_files_and_what_lies_beside_them_hold_one_record(form, exported, runtimes, record, model):
    assert from_json(runtimes[form].record).to_json() == record.to_json()
    beside = exported[form].with_name("metadata.json").read_text("utf-8")
    assert json.loads(beside) == json.loads(record.to_json())
    expected = getattr(model.post_processor, "operating_points", [])
    assert [point.image_score for point in record.operating_points] == [point.image_score for point in expected]
    appearance = getattr(model.post_processor, "appearance", {})
    assert (record.appearance is None) == (not appearance)
    for name, value in appearance.items():
        assert np.array_equal(getattr(record.appearance, name), value)


@ALL
def test_the_record_decides_as_the_file_does(form, runtimes, record, raw):
    for values in raw.values():
        found = runtimes[form].predict(values)
        np.testing.assert_array_equal(found.pred_score > record.thresholds.image.score, found.pred_label)
        np.testing.assert_array_equal(found.anomaly_map > record.thresholds.pixel.score, found.pred_mask)


@ALL
def test_a_higher_threshold_never_marks_more(form, runtimes, raw):
    predictions = [runtimes[form].predict(values) for values in raw.values()]
    for name in ("pred_score", "anomaly_map"):
        values = np.concatenate([getattr(prediction, name).ravel() for prediction in predictions])
        marked = [values > threshold for threshold in np.linspace(0, 1, 101)]
        assert all((more >= less).all() for more, less in pairwise(marked))
        assert marked[0].all(), "scores do not reach 0"
        assert not marked[-1].any(), "nor 1"


@pytest.mark.parametrize("form", EXACT, ids=lambda form: form.name)
def test_the_record_says_what_the_graph_does(form, runtimes, record, raw, model):
    """Resized by torchvision and mapped by the page's formula, raw scores are the file's, by no other record."""
    assert largest_error(record, runtimes[form], raw, model) < TOLERANCE
    if model.only_size is None:
        resize = record.input["resize"] | {"size": [72, 64]}
        assert largest_error(replace(record, input={"resize": resize}), runtimes[form], raw, model) > TOLERANCE
    for level in ("image", "pixel"):
        old = getattr(record.thresholds, level)
        for moved in (replace(old, raw=old.raw + 0.01), replace(old, high=old.high + 0.1 * (old.high - old.low))):
            other = replace(record, thresholds=replace(record.thresholds, **{level: moved}))
            assert largest_error(other, runtimes[form], raw, model) > TOLERANCE


def largest_error(record, runtime, raw, model):
    """Compute scores of a record's resize and thresholds, and compare those from 0.1 to 0.9 with the file's."""
    errors = []
    for values in raw.values():
        found = runtime.predict(values)
        resized = Resize(record.input["resize"]["size"], antialias=True)(torch.from_numpy(values))
        with torch.no_grad():
            scores = model.model(resized)
        for level, name in (("image", "pred_score"), ("pixel", "anomaly_map")):
            threshold, outputs = getattr(record.thresholds, level), getattr(found, name)
            mapped = 0.5 + (getattr(scores, name).numpy() - threshold.raw) / (threshold.high - threshold.low)
            if mapped.size != outputs.size:
                return float("inf")
            is_linear = np.abs(outputs.ravel() - 0.5) < 0.39
            errors += np.abs(mapped.ravel() - outputs.ravel())[is_linear].tolist()
    return max(errors)


@pytest.mark.parametrize("form", EXACT, ids=lambda form: form.name)
def test_the_record_describes_the_outputs(form, runtimes, record, raw):
    runtime = runtimes[form]
    outputs = runtime.run(next(iter(raw.values())))
    assert set(outputs) == set(record.outputs)
    for name, described in record.outputs.items():
        shape = [1 if side == "batch" else side for side in described["shape"]]
        assert list(outputs[name].shape) in (shape, shape[:1] + shape[2:]), name
        assert str(np.asarray(outputs[name]).dtype) == described["dtype"], name
    assert record.input["shape"] == ["batch", 3, "height", "width"]


def test_anomalibs_own_inferencer_reads_what_lies_in_the_folder(exported, raw, tested, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # it leaves its cache in the working directory
    path, values = next(iter(raw.items()))
    found = OpenVINOInferencer(exported[EXACT[2]], config={"INFERENCE_PRECISION_HINT": "f32"}).predict(
        values[0].transpose(1, 2, 0)
    )
    np.testing.assert_allclose(found.pred_score.reshape(-1), tested[path].pred_score.reshape(-1), atol=0.01)
