"""Every script in benchmarks/ runs at a tiny size, so that none of them rots."""

import importlib
import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
import yaml

from anomalib_anoseg import AnoSeg
from anomalib_anoseg.data import DemoTextures
from anomalib_anoseg.models.sgsf.patch_model import PatchGuidedModel
from anomalib_anoseg.transforms import SaliencyPerlin

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = [path for path in (ROOT / "benchmarks").rglob("*.md") if RESULTS not in path.parents]
BOARDS = ROOT / "benchmarks" / "board"
PICTURES = {".jpg", ".png", ".webp"}
# Chosen from what commands write, as their pages say.
BY_HAND = {"board/means.webp", "demo.webp", "inspect.webp"}
PERFORMANCE = {"at_the_line", "augmentation", "cost", "inference", "pictures", "scaling", "startup", "training_step"}
SHARED = {"__init__", "common", "drawing", "judging", "trainings"}
TRIALS = ["half of the batch", *(f"all losses, patches anywhere, {change}" for change in ("half Perlin", "detector"))]
SHIPPED_TRIALS = yaml.safe_load((ROOT / "benchmarks" / "experiments" / "study.yaml").read_text(encoding="utf-8"))
SMALL = {"image_size": [64, 64], "network.width": 0.125}
TINY_KINDS = {
    "AnoSeg": {"preset": "laptop", "network.width": 0.125},
    "SGSF": {"preset": "sgsf_laptop", "network.width": 0.125, "kinds.cracks": 0.5},
}
TINY_TRIALS = {name: SHIPPED_TRIALS[name] | SMALL for name in TRIALS}
TINY_EXPERTS = {"own": {}, "noise": {"textures": "noise"}, "breadth": {"kinds.cracks": 0.5}}
BUILT_ON = {"experts": "kinds"}
FEWER = {
    "at_the_line": {
        "make_data": lambda _: DemoTextures(
            image_size=96, num_train=12, num_test_good=1, num_test_per_defect=1, train_batch_size=8
        ),
    },
    "export_parity": {
        "make_data": lambda _: DemoTextures(
            image_size=96, num_train=12, num_test_good=1, num_test_per_defect=1, train_batch_size=8
        ),
        "of_preset": lambda *_, **more: AnoSeg((64, 64), network={"width": 0.125}, **more),
    },
    "false_alarms": {
        "make_data": lambda *_, **__: DemoTextures(
            image_size=96, num_train=12, num_test_good=2, num_test_per_defect=1, val_split_ratio=0.5
        ),
        "of_preset": lambda *_, **more: AnoSeg((64, 64), network={"width": 0.125}, **more),
    },
    "inference": {"untrained": lambda side: [("AnoSeg", AnoSeg((side, side), network={"width": 0.125}))]},
    "floor": {"HELD_OUT": 2, "TESTED": 6},
    "kinds": {"TRAINED": 8, "HELD_OUT": 2, "TESTED": 6},
    "calibration": {"FORGED_IMAGES": 16, "DRAWN_ON": 4},
    "image_scores": {
        "make_data": lambda *_, **__: DemoTextures(image_size=96, num_train=12, num_test_good=2, num_test_per_defect=1),
        "NORMAL": 3,
        "CARRIERS": 2,
        "FORGED": 2,
        "TESTED": 6,
    },
    "pixel_loss": {"FORMS": {"l1": {"losses": {"segmentation": "l1"}}}},
}
TINY = {
    "at_the_line": ["--here", "--megapixels", "0.02", "--steps", "1", "--rounds", "1"],
    "augmentation": ["--quick", "--markdown"],
    "calibration": ["--test", "--markdown", "--summary", "summary.json"],
    "cost": ["--quick", "--markdown"],
    "hostile_input": ["--cases", "12", "--only", "board"],
    "experts": [
        "experts",
        "--kinds",
        "experts.yaml",
        "--weights",
        "weights.pth",
        "--size",
        "64",
        "--steps",
        "1",
        "--seeds",
        "0",
        "1",
        "--csv",
        "experts.csv",
    ],
    "export_parity": ["--steps", "1", "--markdown"],
    "false_alarms": ["--preset", "laptop", "--steps", "1", "--markdown"],
    "floor": ["--weights", "weights.pth", "--csv", "floor.csv"],
    "guidance": ["--steps", "1", "--size", "32", "--width", "0.125", "--rounds", "1", "--quick"],
    "image_scores": [
        "maps",
        "--weights",
        "weights.pth",
        "--seconds",
        "1",
        "--csv",
        "scores.csv",
        "--candidates",
        "each.csv",
    ],
    "inference": ["--sides", "64", "--pictures", "own", "--rounds", "1"],
    "kills": ["--kills", "1", "--epochs", "1", "--pictures", "30", "--only", "training", "inspection", "--markdown"],
    "kinds": ["--trials", "kinds.yaml", "--size", "64", "--seconds", "0.5", "--csv", "kinds.csv"],
    "own_thresholds": ["--markdown"],
    "pictures": ["--pictures", "10", "--megapixels", "0.02", "--size", "64", "--steps", "1", "--markdown"],
    "pixel_loss": ["--steps", "1", "--every", "1", "--size", "64", "--width", "0.125", "--batch", "2"],
    "saliency": ["--size", "64", "--draws", "1", "--sheet", "sheet.jpg", "--markdown"],
    "scaling": [
        "--only",
        "pictures",
        "--pictures",
        "20",
        "30",
        "--presets",
        "laptop_pretrained",
        "--plot",
        "curves.png",
    ],
    "startup": ["--quick"],
    "training_step": ["--preset", "laptop", "--set", "image_size=[64,64]", "--steps", "2", "--rounds", "1"],
    "study": ["--trials", "trials.yaml", "--seconds", "1", "--batch", "2", "--markdown", "--csv", "study.csv"],
}


# Scripts that fork or count what a process loads, and so need one of their own.
OWN_PROCESS = {"cost", "kills", "startup"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return what runs a script as ``python -m`` does, once, and reads its report.

    Most scripts run in this process, because to import torch and anomalib takes longer than what they do.
    """
    folder = tmp_path_factory.mktemp("benchmarks")

    def run(name: str, *more: str) -> dict:
        report = folder / f"{name}{''.join(more)}.json"
        if not report.exists():
            start = run_in_own_process if name in OWN_PROCESS else run_here
            start(module_of(name), [*TINY[name], *more, "--json", str(report)], folder)
        return json.loads(report.read_text())

    return run


def run_here(module, options, folder):
    (folder / "trials.yaml").write_text(yaml.safe_dump(TINY_TRIALS, sort_keys=False))
    torch.save(timm.create_model("tf_efficientnet_lite0").state_dict(), folder / "weights.pth")
    (folder / "kinds.yaml").write_text(yaml.safe_dump(TINY_KINDS, sort_keys=False))
    (folder / "experts.yaml").write_text(yaml.safe_dump(TINY_EXPERTS, sort_keys=False))
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setattr(sys, "argv", [module, *options])
        patch.setenv("XDG_CACHE_HOME", str(folder))
        patch.syspath_prepend(ROOT)
        patch.chdir(folder)
        script = importlib.import_module(module)
        name = module.rpartition(".")[2]
        shrunk = load(BUILT_ON[name]) if name in BUILT_ON else script
        for constant, value in FEWER.get(BUILT_ON.get(name, name), {}).items():
            patch.setattr(shrunk, constant, value)
        script.main()


def run_in_own_process(module, options, folder):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(folder), "PYTHONWARNINGS": "ignore"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", module, *options]
    process = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, check=False, timeout=300
    )
    assert process.returncode == 0, process.stderr


def linked(page):
    """Return the files that a page links to."""
    targets = re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
    return {(page.parent / target).resolve() for target in targets if "://" not in target}


def module_of(name):
    return f"benchmarks.{'performance' if name in PERFORMANCE else 'experiments'}.{name}"


def load(name):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT)
        return importlib.import_module("benchmarks.common" if name == "common" else module_of(name))


@pytest.fixture(scope="module")
def cost():
    return load("cost")


@pytest.fixture(scope="module")
def calibration():
    return load("calibration")


def test_trials_name_settings_with_their_groups():
    found = load("common").by_group({"seed": 1, "patches.count": 6, "noise.share": 0.5, "patches.mark": "patch"})
    assert found == {"seed": 1, "patches": {"count": 6, "mark": "patch"}, "noise": {"share": 0.5}}


def test_no_script_is_left_out():
    assert {path.stem for path in (ROOT / "benchmarks").rglob("*.py")} - SHARED == set(TINY)


def test_pages_are_listed_and_link_to_what_exists():
    listed = linked(ROOT / "benchmarks" / "README.md")
    for page in PAGES:
        assert page in listed | {ROOT / "benchmarks" / "README.md"}
        assert not [path for path in linked(page) if not path.exists()], page


def test_every_result_is_small_linked_from_a_page_and_made_by_a_command():
    shown = set().union(*map(linked, PAGES))
    texts = [path.read_text(encoding="utf-8") for path in (*PAGES, *BOARDS.glob("*.yaml"))]
    blocks = [block for text in texts for block in re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)]
    heads = [line for text in texts for line in re.findall(r"^#   (.*)$", text, re.MULTILINE)]
    commands = " ".join([*blocks, *heads]).split()
    for path in (path for path in RESULTS.rglob("*") if path.is_file()):
        name = path.relative_to(ROOT).as_posix()
        assert path.stat().st_size < (150_000 if path.suffix in PICTURES else 100_000), name
        assert path in shown, name
        written = str(Path(name).parent) if path.name == "report.md" else name
        assert written in commands or path.relative_to(RESULTS).as_posix() in BY_HAND, name


def test_the_repository_stays_below_three_megabytes():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a clone")
    assert sum((ROOT / name).stat().st_size for name in listed.stdout.split("\0") if name) < 3e6


@pytest.mark.parametrize(
    "name", ["at_the_line", "hostile_input", "inference", "kills", "pictures", "startup", "pixel_loss"]
)
def test_script_runs_and_writes_its_report(name, run):
    assert run(name)


def test_cost_reports_every_quantity(run):
    content = run("cost")
    figures = content["figures"]
    assert {"versions", "machine", "commit", "load", "options", "verdicts"} < set(content)
    assert {"multiply-adds at inference, billion", "inference in float32, ms", "training step, ms"} < set(figures)
    for title, samples in figures.items():
        assert list(samples) == ["DRAEM", "AnoSeg, width 0.125", "SGSF, width 0.125"], title
        assert all(value >= 0 for values in samples.values() for value in values), title
    waits = figures["host synchronisations of forging"]
    draem, *ours = waits.values()
    assert max(max(samples) for samples in ours) == 0 < min(draem)


def test_image_scores_are_compared_on_every_kind_of_anomalies(run):
    rows = run("image_scores")["rows"]
    scores = {model: {row["score"] for row in rows if row["model"] == model} for model in ("AnoSeg", "SGSF")}
    assert scores["AnoSeg"] < scores["SGSF"] and "distance 16" in scores["SGSF"] - scores["AnoSeg"]
    for row in rows:
        assert all(0 <= row[kind] <= 1 for kind in ("patches and noise", "faint", "noise", "wide", "drawn", "test"))


def test_ties_of_scores_count_half():
    auroc = load("image_scores").auroc
    assert auroc(torch.tensor([0.0, 2.0]), torch.tensor([2.0, 3.0])) == pytest.approx(3.5 / 4)
    assert auroc(torch.tensor([1.0]), torch.tensor([1.0])) == pytest.approx(0.5)


def test_augmentation_counts_and_times_both_generators(run):
    content = run("augmentation")
    counts = content["operations and host synchronisations"]
    assert set(counts) == set(content["milliseconds"])
    assert len(counts) == 4
    for title, by_name in counts.items():
        (_, waits), *ours = by_name.values()
        assert waits > 0 == max(waits for _, waits in ours), title


def test_saliency_judges_every_estimator(run):
    [(_, content)] = run("saliency")["figures"].items()
    assert set(content["saliency"]) == {"none", "spectral_residual", "border_contrast"}
    assert content["saliency"]["none"]["empty"] == 1 > content["saliency"]["border_contrast"]["empty"] > 0
    assert all(0 <= value <= 1 for figures in content["saliency"].values() for value in figures.values())


def test_study_judges_every_trial_by_all_that_it_predicts(run):
    rows = run("study")["rows"]
    assert [row["trial"] for row in rows] == TRIALS
    assert [row["batch"] for row in rows] == [4, 2, 2]
    kinds = {f"{kind} {figure}" for kind in ("drawn", "sharp", "forged") for figure in ("AUROC", "AP", "best IoU")}
    assert all(0 < row[figure] <= 1 for row in rows for figure in kinds)
    scores = [{name.split()[-1] for name in row if "image AUROC by" in name} for row in rows]
    assert scores == [{"map"}, {"map"}, {"map", "detector"}]


def test_study_reports_again_what_is_kept_of_it():
    study = load("study")
    for name, trial, figures in (
        ("study", "ImageNet encoder, frozen", ("0.957", "0.651", "0.464", "0.809")),
        ("study_pretrained", "no skip connections", ("0.867", "0.203", "0.157", "0.2", "0.373")),
    ):
        lines = study.report(study.pd.read_csv(RESULTS / f"{name}.csv")).splitlines()
        line = [line for line in lines if line.startswith(f"| {trial} ")][-1]
        assert set(figures) <= {cell.strip() for cell in line.split("|")}


def test_kinds_are_judged_by_each_kind_of_drawn_defect_and_beside_real_ones(run):
    rows, kinds = run("kinds")["rows"], load("kinds")
    assert [row["trial"] for row in rows] == list(TINY_KINDS)
    for row in rows:
        of_kinds = [row[name] for name in kinds.WIDE]
        assert row["wide"] == pytest.approx(sum(of_kinds) / 10, abs=1e-4)
        assert row["drawn"] == pytest.approx(sum(of_kinds[:5]) / 5, abs=1e-4)
        assert 0 < row["real"] < 1


def test_experts_are_judged_alone_and_in_teams(run):
    rows = run("experts")["rows"]
    alone = [("own", "0"), ("noise", "0"), ("breadth", "0"), ("own", "1"), ("noise", "1"), ("breadth", "1")]
    teams = [("own + noise", "0"), ("own + noise", "1"), *((f"{name} + {name}", "0+1") for name in TINY_EXPERTS)]
    assert {(row["experts"], row["seed"]) for row in rows} == {*alone, *teams} and len(rows) == 11
    for row in rows:
        assert row["choice"] == pytest.approx((row["wide"] + row["forged"]) / 2)
        assert all(0 <= row[figure] <= 1 for figure in load("experts").FIGURES)


def test_distances_are_added_to_the_map_in_standard_deviations(run):
    rows = {row["floor"]: row for row in run("floor")["rows"]}
    floor = load("floor")
    assert list(rows) == [*floor.FLOORS, floor.LARGER]
    for row in rows.values():
        assert row["choice"] == pytest.approx((row["wide"] + row["forged"]) / 2)
        assert all(0 <= row[figure] <= 1 for figure in floor.FIGURES)
    parts = {"logits": torch.ones(1), **{f"distance {scale}": torch.tensor([float(scale)]) for scale in floor.SCALES}}
    assert floor.distance(parts, (1, 0, 0.5)) == 4 + 8
    assert floor.distance(parts, floor.FLOORS["+ mean distance"]) == pytest.approx(28 / 3)


def test_experts_are_averaged_as_one_network_with_all_their_decoders():
    experts, see = load("experts"), load("image_scores").see
    images, decoders, kept = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)), [], []
    for seed in (0, 1):
        torch.manual_seed(seed)
        decoders.append(PatchGuidedModel("mobilenetv3_small_050", averaging=0.9).averaged.module)
    networks = PatchGuidedModel("mobilenetv3_small_050", averaging=0.9, score_window=11).eval()
    networks.fill_memory((255 * images).byte(), torch.arange(3))
    for decoder in decoders:
        networks.averaged.module = decoder.eval()
        seen = dict(see(SimpleNamespace(model=networks), "real", images))
        kept.append({"real": torch.from_numpy(seen["real/logits"])})
    networks.averaged.module = MeanOf(decoders)
    maps, scores = experts.maps_and_scores(experts.average(kept))
    found = networks(images)
    torch.testing.assert_close(maps["real"], found.anomaly_map)
    torch.testing.assert_close(scores["real"], found.pred_score)


class MeanOf(torch.nn.ModuleList):
    def forward(self, features):
        return torch.stack([decoder(list(features)) for decoder in self]).mean(0)


def test_studies_judge_by_the_pixels_that_a_test_sees(tmp_path):
    data = DemoTextures(image_size=160, num_train=12, num_test_good=1, num_test_per_defect=1, num_workers=0)
    data.setup()
    model = AnoSeg((64, 80), network={"width": 0.125}, **load("common").BARE)
    predicted = load("trainings").make_engine(tmp_path).predict(model, dataset=data.val_data, return_predictions=True)
    seen = torch.cat([batch.image for batch in predicted])
    assert torch.equal(load("judging").held_out(data, model), seen)


def test_more_kinds_are_drawn_on_the_object_and_leave_the_rest_alone():
    judging, more = load("judging"), load("drawing").MORE
    normal = torch.full((2, 3, 64, 64), 0.2)
    normal[..., 12:-12, 12:-12] = 0.6 + 0.2 * torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    places = judging.find_object(normal)
    bad, mask = judging.draw(normal, places, kinds=more)
    before, on_object = (value.repeat_interleave(len(more), dim=0) for value in (normal, places))
    assert torch.equal(torch.where(mask.bool(), before, bad), before)
    assert mask.flatten(1).any(1).all()
    assert (2 * (mask.bool() & on_object).flatten(1).sum(1) >= mask.flatten(1).sum(1)).all()
    shares = dict(zip(more, mask.unflatten(0, (2, -1)).mean((0, 2, 3, 4)), strict=True))
    assert shares["tiny"] < shares["crack"] < shares["uneven"]


def test_all_kinds_of_defects_are_drawn_as_faint_as_they_should():
    study, defects = load("study"), load("judging").defects
    normal = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    anywhere = torch.ones(2, 1, 64, 64, dtype=torch.bool)
    (opaque, _), (faint, mask) = (study.draw(normal, anywhere, strength) for strength in (1.0, 0.5))
    before = normal.repeat_interleave(len(defects.DEFECTS), dim=0)
    torch.testing.assert_close(faint, torch.where(mask.bool(), before.lerp(opaque, 0.5), before))
    assert mask.unflatten(0, (2, -1)).amax((0, 2, 3, 4)).all()


def test_calibration_judges_every_kind_of_anomaly_by_its_best_threshold(run):
    rows = run("calibration")["rows"]
    kinds = {row["judged on"] for row in rows}
    assert kinds == {"drawn", "test", *(f"drawn, strength {strength}" for strength in ("1", "0.5", "0.25", "0.125"))}
    pixels, images, numbers = ([row for row in rows if row["of"] == name] for name in ("pixels", "images", "numbers"))
    assert len(pixels) == len({row["calibration"] for row in pixels}) * len(kinds) == 13 * len(kinds)
    assert len(images) == len({row["calibration"] for row in images}) * len(kinds) == 25 * len(kinds)
    assert len(numbers) == 13 * 3 * len({"drawn", "test"})
    assert all(0 <= row["share"] <= 1.001 for row in (*pixels, *numbers))
    assert all(row["least of lots"] <= row["share"] for row in numbers)


def test_calibrations_change_patches_alone_or_noise_as_well(monkeypatch):
    module, drawn, draw = load("calibration"), [], SaliencyPerlin.draw_parameters
    monkeypatch.setattr(SaliencyPerlin, "draw_parameters", lambda *args: drawn.append(args) or draw(*args))
    model = AnoSeg((64, 64), network={"width": 0.125}, noise={"share": 0.5}, patches={"opacity": (0.9, 1.0)})
    image = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    faint = {"opacity": (0.1, 0.1)}
    for changes, has_noise in (({}, True), (faint, False), (faint | module.WITH_NOISE, True)):
        drawn.clear()
        forged, _ = module.forge(model, image, changes)
        assert bool(drawn) == has_noise
        change = (forged - image.repeat(len(forged) // 4, 1, 1, 1)).abs().max()
        assert change <= 0.101 if changes else change > 0.5


def test_own_thresholds_count_on_every_kind_of_image(run):
    overall, *kinds = run("own_thresholds")["rows"]
    assert 0 <= overall["share"] <= 1.001
    assert {row["kind"] for row in kinds} == {"good", "scratch", "stain", "chip", "foreign", "smear"}
    assert sum(row["images"] for row in kinds) == overall["images"]


def test_own_thresholds_count_what_is_missed_and_what_is_false():
    masks = torch.zeros(4, 10, 10, dtype=torch.bool)
    masks[:3, :5] = True
    marked = torch.zeros_like(masks)
    marked[0, :5], marked[1, 0, :2], marked[2, 9] = True, True, True  # whole, a bit, beside
    marked[3, 0, 0] = True
    module = load("own_thresholds")
    called = torch.tensor([True, True, False, True])
    overall, dents, good = module.count(
        module.Decisions([*["dent"] * 3, "good"], marked.float(), masks, marked, called)
    )
    assert overall["IoU"] == pytest.approx(52 / (150 + 11), abs=1e-4)
    assert (dents["images"], dents["called anomalous"]) == (3, 2)
    assert (dents["no defect pixel marked"], dents["IoU below 0.1"]) == (1, 2)
    assert (good["images"], good["called anomalous"], good["any pixel marked"]) == (1, 1, 1)


def test_false_alarms_are_counted_on_good_test_pictures_alone(run):
    rows = run("false_alarms")["rows"]
    assert [(row["rate"], row["held out"], row["test pictures"]) for row in rows] == [(0.15, 6, 2), (0.2, 6, 2)]
    assert all(0 <= row["alarms"] <= 2 and 0 <= row["any pixel marked"] <= 2 for row in rows)


def test_a_shift_is_looked_for_among_good_pictures_and_among_all(run):
    rows = run("false_alarms", "--shift")["rows"]
    assert [row["test pictures"] for row in rows] == ["good", "good and defective"]
    assert [(row["held out"], row["warning"]) for row in rows] == [(6, "none")] * 2
    assert rows[0]["number"] == 2 < rows[1]["number"]


def test_image_thresholds_are_found_on_anomalies_alone_and_with_those_of_training(calibration):
    def predicted(*image_scores):
        labels = torch.tensor([False, False, True, True])
        return calibration.Predicted(torch.empty(0), torch.empty(0), torch.tensor(image_scores), labels)

    found_on = {calibration.TRAINING: predicted(0.4, 0.45, 0.8, 0.9), "faint": predicted(0.1, 0.2, 0.3, 0.5)}
    rows = calibration.of_images(found_on, predicted(0.1, 0.45, 0.6, 0.95))
    names = ("calibration", "threshold", "found", "false alarms", "balanced accuracy")
    assert [tuple(row[name] for name in names) for row in rows] == [
        ("as in training", 0.8, 0.5, 0.0, 0.75),
        ("faint", 0.3, 1.0, 0.5, 0.75),
        ("faint, and as in training", 0.5, 1.0, 0.0, 1.0),
    ]


def test_calibrations_are_compared_with_the_best_training_by_training(calibration):
    shares = {"best": (0.9, 0.8, 1.0), "worse": (0.8, 0.7, 0.9), "as good": (0.8, 0.9, 0.94)}
    rows = [
        {"calibration": name, "configuration": "AnoSeg", "training": f"screw, seed {seed}", "judged on": judged_on}
        | {"share": share if judged_on == "drawn" else 0.5}
        for name, values in shares.items()
        for seed, share in enumerate(values)
        for judged_on in ("drawn", "test")
    ]
    table = calibration.with_sets(rows)
    found = calibration.with_distances(calibration.summary(table, ["share"]), table, "share")
    assert found["behind"].round(6).to_dict() == {"best": 0.0, "worse": 0.1, "as good": 0.02}
    # Three differences of deviation 0.105830, so a standard error of 0.061101, and 4.302653 of Student's.
    assert found["95 %"].to_numpy() == pytest.approx([0.0, 0.0, 0.262897], abs=1e-5)


def test_export_parity_tells_one_resize_from_another(run):
    theirs, ours = (float(row["map, largest difference"]) for row in run("export_parity")["rows"])
    assert ours < 1e-4 < theirs


def test_training_step_times_every_part(run):
    [taken] = run("training_step")["milliseconds"]["32"]
    parts = {
        "serving of pictures that were read",
        "forging",
        "encoder",
        "decoder",
        "loss",
        "backward",
        "optimiser",
        "all else",
    }
    assert parts < set(taken)
    assert all(milliseconds > 0 for milliseconds in taken.values())


def test_stopwatch_counts_no_time_twice():
    module = load("training_step")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "clock", iter(range(100)).__next__)
        watch = module.Stopwatch()  # each look at the clock is a second later
        for part in ("forging", "encoder"):
            watch.begin(part)
        watch.end()
        watch.end()
        watch.begin(module.VALIDATION)
        watch.begin("encoder")
        watch.end()
        watch.end()
    assert watch.seconds == {module.REST: 2, "forging": 2, "encoder": 1, module.VALIDATION: 3}


def test_guidance_measures_every_form_of_the_bank(run):
    [figures] = run("guidance")["figures"].values()
    computed, stored, single = (figures[name] for name in list(figures)[:3])
    assert set(computed) == set(stored) == set(single)
    assert computed["difference"] == 0 <= stored["difference"] < 1e-3
    assert single["file, MB"] < stored["file, MB"]
    assert all(0 <= values["pixel AP"] <= 1 for values in figures.values())


def figures_of(cost, step: list[float], waits: float = 0.0) -> dict:
    """Figures with which AnoSeg passes, but for those given."""
    names = ["DRAEM", "AnoSeg, width 1", "AnoSeg, width 0.25"]
    return {
        "inference in float32, ms": dict(zip(names, ([60.0] * 4, [10.0] * 4, [5.0] * 4), strict=True)),
        "training step, ms": dict(zip(names, ([60.0] * 4, step, [5.0] * 4), strict=True)),
        cost.SHARE: dict.fromkeys(names, [1.0] * 4),
        cost.WAITS: dict.fromkeys(names, [waits] * 4),
    }


@pytest.mark.parametrize(
    ("step", "waits", "outcomes", "status"),
    [
        ([10.0] * 4, 0.0, {"passed"}, 0),
        ([40.0] * 4, 0.0, {"passed", "FAILED"}, 1),
        ([10.0, 20.0, 10.0, 10.0], 0.0, {"passed", "noisy"}, 2),
        ([10.0, 20.0, 10.0, 10.0], 3.0, {"passed", "noisy", "FAILED"}, 1),
    ],
)
def test_cost_judges(cost, step, waits, outcomes, status):
    found = {outcome for outcome, _ in cost.judge(figures_of(cost, step, waits))}
    assert found == outcomes
    assert cost.exit_status(found) == status


def test_cost_table_shows_the_median_and_the_extremes_of_the_speed_up(cost):
    figures = figures_of(cost, [10.0, 12.0, 15.0, 12.0])
    options = cost.argparse.Namespace(size=256, images=4, threads=1, markdown=True)
    assert "| training step, ms | 60 | 12 (5.0x, 4.0 to 6.0) | 5 (12.0x, 12.0 to 12.0) |" in cost.table(
        figures, options
    )
