"""Boards: grids become jobs, every row is kept, every missing one named, and whatever was killed goes on."""

import csv
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from anomalib.data import ImageBatch
from anomalib.utils.config import flatten_dict
from PIL import Image
from rich.console import Console

from anomalib_anoseg import AnoSeg
from anomalib_anoseg.board.run import board
from anomalib_anoseg.board.run import job as jobs
from anomalib_anoseg.board.run.adapting import adapt
from anomalib_anoseg.board.run.board import run_board
from anomalib_anoseg.board.run.grid import read_tasks
from anomalib_anoseg.board.run.job import find_left_out, run_job
from anomalib_anoseg.board.run.recording import TestRecorder
from anomalib_anoseg.board.run.run_folder import Board, Row, RunFolder
from anomalib_anoseg.cli.main import main
from anomalib_anoseg.common.cores import share_cores
from anomalib_anoseg.common.files import write_json
from anomalib_anoseg.common.jobs import process
from anomalib_anoseg.common.jobs.one_machine import OneMachine
from anomalib_anoseg.common.jobs.process import Work
from anomalib_anoseg.common.presets import read_file, read_preset
from anomalib_anoseg.training.budget import Stopwatch
from anomalib_anoseg.training.resume_point import ResumePoint

METRICS = {f"pixel_{name}" for name in ("AUROC", "AP", "AUPRO", "F1Score", "IoU", "BestIoU", "IoUCurveArea")}
METRICS |= {"image_AUROC", "image_F1Score"}
TINY = {"image_size": [64, 64], "network": {"width": 0.125}}
SHORT = {"image_size": [64, 64], "max_epochs": 1}
BASELINES = "anomalib_anoseg.board.baselines"
CONFIGS = Path(__file__).parents[3] / "configs" / "benchmark"
ANOMALIB = Path(sys.executable).with_name("anomalib")


def configuration(*models, root="nowhere", seed=0, **more):
    data = {"root": str(root), "category": "stripes", "num_workers": 0, "train_batch_size": 3, "eval_batch_size": 4}
    data |= {"val_split_mode": "from_train", "val_split_ratio": 0.25, "seed": 0}
    benchmark = {"seed": seed, "model": {"grid": list(models)}, "data": {"class_path": "MVTecAD", "init_args": data}}
    return {"accelerator": "cpu", "benchmark": benchmark, **more}


def model(class_path="Padim", *, label=None, trainer=None, **settings):
    extra = {name: value for name, value in {"label": label, "trainer": trainer}.items() if value is not None}
    return {"class_path": class_path, "init_args": settings, **extra}


def write(path, config):
    path.write_text(yaml.safe_dump(config))
    return path


def row_of(job):
    empty = {"metrics": {}, "defects": {}, "trivial": False, "training": {}, "parameters": 0, "provenance": {}}
    return Row(**vars(job), **empty, peak_memory_mb=None)


# ------------------------------------------------------------------------------------------------- grids and jobs


def test_grid_spans_models_settings_categories_and_seeds():
    config = configuration(model(), model("AnoSeg", network={"width": 0.5}), seed={"grid": [0, 1]})
    config["benchmark"]["data"]["init_args"]["category"] = {"grid": ["screw", "nut"]}
    found = {(task.job.label, task.job.category, task.job.seed) for task in read_tasks(config)}
    assert found == set(product(("Padim", "AnoSeg"), ("screw", "nut"), (0, 1)))


def test_settings_make_labels_differ():
    found = [
        task.job.label for task in read_tasks(configuration(model("AnoSeg", network={"width": 0.5}), model("AnoSeg")))
    ]
    assert found == ["AnoSeg (network.width=0.5)", "AnoSeg"]


def test_names_follow_from_the_whole_configuration():
    def names(**changes):
        return [task.job.id for task in read_tasks(configuration(model("AnoSeg", label="A/B (c)"), **changes))]

    assert names() == names()
    assert names()[0].startswith("A-B-c-stripes-seed0-")
    others = [names(root="elsewhere"), names(trainer={"max_epochs": 1}), names(budget={"seconds": 1})]
    assert len({tuple(names()), *map(tuple, others)}) == 4


def test_settings_of_a_preset_are_those_of_its_file_but_for_what_the_row_says(monkeypatch):
    shipped = read_preset("laptop")["model"]["init_args"]
    (task,) = read_tasks(configuration({**model("AnoSeg", image_size=[64, 64]), "preset": "laptop"}))
    assert task.job.settings == flatten_dict(shipped | {"image_size": [64, 64]})
    assert task.container["model"] == {"class_path": "AnoSeg", "init_args": shipped | {"image_size": [64, 64]}}
    nested = {"model": {"init_args": {"patches": {"area": [0, 1], "count": 3}, "lr": 0.1}}}
    monkeypatch.setattr("anomalib_anoseg.board.run.grid.read_preset", lambda _: nested)
    (task,) = read_tasks(configuration({**model("AnoSeg", patches={"count": 5}), "preset": "mine"}))
    assert task.container["model"]["init_args"] == {"patches": {"area": [0, 1], "count": 5}, "lr": 0.1}


def test_a_row_trains_as_long_as_its_preset_unless_the_board_says_otherwise():
    row = {"preset": "laptop"}
    own = {**row, "label": "own", "init_args": {"max_epochs": 3}}
    for rows, others, lengths in (
        ([row], {}, [{"max_epochs": 64}]),
        ([row], {"trainer": {"max_epochs": 9}}, [{"max_epochs": 9}]),
        ([row], {"budget": {"seconds": 1}}, [{}]),
        ([{**row, "trainer": {"max_epochs": 2}}, own], {}, [{"max_epochs": 2}, {}]),
    ):
        assert [task.trainer for task in read_tasks(configuration(*rows, **others))] == lengths


def test_data_take_a_preset_too():
    config = configuration(model())
    config["benchmark"]["data"] = {"preset": "mvtec_ad", "init_args": {"category": "screw", "eval_batch_size": 2}}
    (task,) = read_tasks(config)
    shared = read_preset("mvtec_ad")
    assert task.container["data"]["class_path"] == shared["class_path"] == "anomalib.data.MVTecAD"
    assert task.container["data"]["init_args"] == shared["init_args"] | {"category": "screw", "eval_batch_size": 2}
    assert task.job.category == "screw"


def test_a_board_names_files_in_place_of_what_they_hold(tmp_path, monkeypatch):
    (tmp_path / "rows").mkdir()
    write(tmp_path / "rows" / "padim.yaml", model())
    found = []
    monkeypatch.setattr(board, "_run_all", lambda tasks, *_: found.extend(task.job.label for task in tasks) or [])
    run_board(write(tmp_path / "a.yaml", configuration("rows/padim.yaml", model("AnoSeg"))), tmp_path / "runs")
    assert found == ["Padim", "AnoSeg"]
    with pytest.raises(FileNotFoundError, match=r"config: There is no file .*rows/none\.yaml"):
        run_board(write(tmp_path / "b.yaml", configuration("rows/none.yaml")), tmp_path / "runs")


def test_unknown_preset_gets_a_clear_error():
    with pytest.raises(ValueError, match="'nowhere'"):
        read_tasks(configuration({**model("AnoSeg"), "preset": "nowhere"}))


def test_trainer_settings_of_a_model_overrule_those_of_all():
    models = (model(trainer={"max_epochs": 2}), model("AnoSeg"))
    found = [task.trainer for task in read_tasks(configuration(*models, trainer={"max_epochs": 9, "precision": 32}))]
    assert found == [{"max_epochs": 2, "precision": 32}, {"max_epochs": 9, "precision": 32}]


def test_jobs_share_nothing():
    first, second = read_tasks(configuration(model(), model("AnoSeg")))
    first.container["data"]["init_args"]["root"] = "changed"
    assert second.container["data"]["init_args"]["root"] == "nowhere"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"accelerator": "tpu"}, "accelerator must be one of cpu, cuda, got 'tpu'"),
        ({"benchmark": None}, "needs the keys accelerator and benchmark"),
        ({"benchmark": {"seed": 0}}, "benchmark lacks model, data"),
        ({"budget": {"seconds": 0}}, r"budget must be \{seconds: ...\}, .* or \{images: ...\} with a positive number"),
        ({"budget": {"hours": 1}}, "budget must be"),
        ({"budget": {"images": 1, "clock": "cpu"}}, "budget must be"),
        ({"budget": {"seconds": 1, "clock": "sun"}}, "budget.clock must be one of cpu, wall, got 'sun'"),
        ({"accelerator": "cuda", "budget": {"seconds": 1, "clock": "cpu"}}, "CPU time misses what accelerator cuda"),
        ({"benchmark": {"seed": None, "model": "Padim", "data": {"class_path": "MVTecAD"}}}, "seed must be a whole"),
        ({"benchmark": {"seed": 0, "model": {"x": 1}, "data": {"class_path": "A"}}}, "needs a class_path"),
        ({"benchmark": {"seed": 0, "model": ["A"], "data": None}}, "needs a class_path"),
    ],
)
def test_wrong_configurations_get_a_clear_error(change, message):
    with pytest.raises(ValueError, match=message):
        read_tasks(configuration(model()) | change)


def test_equal_jobs_get_a_clear_error():
    with pytest.raises(ValueError, match=r"Two jobs of the grid are equal\. Remove one"):
        read_tasks(configuration(model(), model()))


def test_more_in_the_grid_leaves_jobs_what_they_are():
    alone, *more = (
        {task.job.id: task.job.label for task in read_tasks(configuration(*models))}
        for models in (
            [model("AnoSeg", network={"width": 0.5})],
            [model("AnoSeg", network={"width": 0.5}), model("AnoSeg"), model()],
        )
    )
    ((job_id, label),) = alone.items()
    assert (label, more[0][job_id]) == ("AnoSeg", "AnoSeg (network.width=0.5)")


def test_a_class_in_another_spelling_makes_the_same_job():
    def names(*models):
        return [task.job.id for task in read_tasks(configuration(*models))]

    assert names(model("AnoSeg"), model("ConstantMap")) == names(
        model("anomalib_anoseg.AnoSeg"), model(f"{BASELINES}.ConstantMap")
    )
    assert names(model("AnoSeg")) != names(model("elsewhere.AnoSeg"))


def test_rows_take_the_labels_that_the_board_gives_them_now(tmp_path):
    runs = RunFolder(tmp_path)
    (task,) = read_tasks(configuration(model("AnoSeg", network={"width": 0.5})))
    runs.write_row(row_of(task.job))
    tasks = read_tasks(configuration(model("AnoSeg", network={"width": 0.5}), model("AnoSeg")))
    runs.write_board(Board("", [task.job for task in tasks]))
    assert [row.label for row in runs.rows()] == ["AnoSeg (network.width=0.5)"]


def test_data_goes_by_its_label():
    config = configuration(model())
    one = config["benchmark"]["data"]
    other = {**one, "label": "stripes (other)", "init_args": {**one["init_args"], "root": "elsewhere"}}
    config["benchmark"]["data"] = {"grid": [one, other]}
    first, second = (task.job for task in read_tasks(config))
    assert (first.data_name, second.data_name) == ("stripes", "stripes (other)")
    assert second.id.startswith("Padim-stripes-other-seed0-")
    assert (first.data["root"], second.data["root"]) == ("nowhere", "elsewhere")


def test_jobs_that_could_not_be_told_apart_are_refused():
    config = configuration(model("AnoSeg"), model("AnoSeg", trainer={"precision": "bf16-mixed"}))
    with pytest.raises(ValueError, match=r"called 'AnoSeg' on 'stripes' .* trainer differ\. .* of benchmark\.model"):
        read_tasks(config)
    config = configuration(model())
    one = config["benchmark"]["data"]
    config["benchmark"]["data"] = {"grid": [one, {**one, "init_args": {**one["init_args"], "root": "elsewhere"}}]}
    with pytest.raises(ValueError, match=r"called 'Padim' on 'stripes' .* data differ\. .* of benchmark\.data"):
        read_tasks(config)


def test_clock_of_a_budget_is_the_cpus_where_the_cpu_trains():
    config = configuration(model(), budget={"seconds": 9}) | {"accelerator": ["cpu", "cuda"]}
    assert [task.job.budget["clock"] for task in read_tasks(config)] == ["cpu", "wall"]


def test_budget_of_cpu_time_wants_no_workers():
    config = configuration(model(), budget={"seconds": 9})
    config["benchmark"]["data"]["init_args"]["num_workers"] = 2
    with pytest.raises(ValueError, match="num_workers must be 0 with a budget of CPU time"):
        read_tasks(config)
    del config["benchmark"]["data"]["init_args"]["num_workers"]
    (task,) = read_tasks(config)
    assert adapt(task.container, task.job.budget)["data"]["init_args"]["num_workers"] == 0


def test_data_takes_the_seed_of_its_job_unless_it_has_one():
    def seed(class_path, **own):
        data = {"class_path": class_path, "init_args": own}
        return adapt({"seed": 7, "model": {"class_path": "Padim"}, "data": data}, None)["data"]["init_args"].get("seed")

    assert (seed("MVTecAD"), seed("anomalib.data.MVTecAD"), seed("MVTecAD", seed=3)) == (7, 7, 3)
    assert seed("DemoTextures") is None  # has one by default, from which its images are drawn
    assert seed("nowhere.Unknown") is None


def test_missing_configuration_gets_a_clear_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config: There is no file .*nowhere\.yaml"):
        run_board(tmp_path / "nowhere.yaml", tmp_path)


def test_no_model_left_gets_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr(board, "ask", lambda *_: {"Padim": "no weights"})
    with pytest.raises(ValueError, match=r"No model is left: \{'Padim': 'no weights'\}"):
        run_board(write(tmp_path / "a.yaml", configuration(model())), tmp_path)


def test_jobs_need_what_finished_ones_of_their_label_took(tmp_path):
    runs = RunFolder(tmp_path)
    jobs = {
        task.job.id: task.job for task in read_tasks(configuration(model(), model("AnoSeg"), seed={"grid": [0, 1]}))
    }
    runs.write_board(Board("", list(jobs.values())))
    first = next(iter(jobs.values()))
    runs.write_row(replace(row_of(first), peak_memory_mb=1000, test_memory_mb=1100))
    works = board._prepare(jobs, runs, offline=False)
    assert [work.need for work in works] == [1100 if job.label == first.label else 2048 for job in jobs.values()]
    assert works[0].folder == runs.job_folder(first.id)


def test_models_take_the_seed_of_their_job_unless_they_have_one():
    def settings(class_path, **own):
        container = {"seed": 7, "model": {"class_path": class_path, "init_args": own}, "data": {"class_path": "Folder"}}
        return adapt(container, None)["model"]["init_args"]

    assert settings("AnoSeg") == settings("anomalib_anoseg.AnoSeg") == {"seed": 7}
    assert settings("AnoSeg", seed=3) == {"seed": 3}
    assert settings("Padim") == {}


def test_budget_overrules_a_models_own_length():
    model_and_data = {
        "model": {"class_path": "Padim", "init_args": {"max_epochs": 3}},
        "data": {"class_path": "Folder"},
    }
    container = {"seed": 7, **model_and_data}
    assert adapt(container, {"seconds": 1})["model"]["init_args"] == {}


def test_models_that_would_download_are_left_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # anomalib makes the folder before it asks for the textures
    models = {
        "file": {"class_path": f"{BASELINES}.PadimLite0", "init_args": {"weights": "nowhere.pth"}},
        "download": {"class_path": "Draem", "init_args": {"dtd_dir": "nowhere"}},
        "wrong": {"class_path": "AnoSeg", "init_args": {"network": {"width": 99}}},
        "fine": {"class_path": f"{BASELINES}.ConstantMap"},
    }
    left_out = find_left_out(models)
    assert set(left_out) == {"file", "download"}
    assert left_out["file"].startswith("weights: 'nowhere.pth' does not exist.")
    assert "nothing is downloaded here: give the files" in left_out["download"]


# ---------------------------------------------------------------------------------------- interruptions, in process


@pytest.fixture
def job(tiny_root, tmp_path):
    """Prepare the folder of a job with a tiny AnoSeg of three epochs."""

    def prepare(name="runs", entry=None, data=None, **more):
        entry = entry or model("AnoSeg", **TINY)
        config = configuration(entry, root=tiny_root, **{"trainer": {"max_epochs": 3}, **more})
        config["benchmark"]["data"]["init_args"] |= data or {}
        (task,) = read_tasks(config)
        folder = RunFolder(tmp_path / name).job_folder(task.job.id)
        job_json = {"job": vars(task.job), "container": task.container, "trainer": task.trainer}
        write_json(folder / "job.json", {**job_json, "offline": True, "save_every": 0})
        return folder

    return prepare


class Killed(BaseException):
    """No error that anybody handles."""


def kill_after(monkeypatch, owner, name, calls=1):
    """Let a method run so many times and then end everything."""
    original, counted = getattr(owner, name), []

    def method(*args, **kwargs):
        counted.append(original(*args, **kwargs))
        if len(counted) == calls:
            raise Killed

    monkeypatch.setattr(owner, name, method)


def weights(folder):
    return AnoSeg.load_from_checkpoint(folder / "model.ckpt").state_dict()


def test_training_that_was_killed_goes_on_from_its_last_epoch(job, monkeypatch):
    folder, whole = job(), job("whole")
    with monkeypatch.context() as patch:
        kill_after(patch, ResumePoint, "on_train_epoch_end")
        with pytest.raises(Killed):
            run_job(folder)
    assert not (folder / "row.json").exists()
    row, other = run_job(folder), run_job(whole)
    assert (row.provenance["resumed"], other.provenance["resumed"]) == (True, False)
    assert row.training["epochs"] == other.training["epochs"] == 3
    assert row.training["images"] == other.training["images"] == 18
    assert row.metrics == other.metrics
    first, second = weights(folder), weights(whole)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not (folder / "work").exists()


def test_test_that_was_killed_trains_no_second_time(job, monkeypatch):
    folder = job()
    with monkeypatch.context() as patch:
        kill_after(patch, TestRecorder, "on_test_start")
        with pytest.raises(Killed):
            run_job(folder)
    monkeypatch.setattr(jobs.JobRun, "_train", lambda _: pytest.fail("trained again"))
    row = run_job(folder)
    assert row.provenance["resumed"]
    assert row.training["epochs"] == 3


def test_what_cannot_be_taken_up_starts_anew(job, monkeypatch):
    folder = job()
    with monkeypatch.context() as patch:
        kill_after(patch, TestRecorder, "on_test_start")
        with pytest.raises(Killed):
            run_job(folder)
    for path in (folder / "model.ckpt", *folder.glob("work/training/*.ckpt")):
        path.write_bytes(path.read_bytes()[:1000])
    assert not run_job(folder).provenance["resumed"]


def test_test_that_fails_again_and_again_trains_no_second_time(job, monkeypatch):
    folder = job()
    with monkeypatch.context() as patch:
        patch.setattr(TestRecorder, "on_test_start", lambda *_: 1 / 0)
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                run_job(folder)
            monkeypatch.setattr(jobs.JobRun, "_train", lambda _: pytest.fail("trained again"))
    assert run_job(folder).training["epochs"] == 3


def test_a_second_board_in_the_same_folder_is_refused(tmp_path):
    config = write(tmp_path / "a.yaml", configuration(model()))
    with (
        RunFolder(tmp_path / "runs").locked(),
        pytest.raises(ValueError, match=r"out: another board is running in .*runs"),
    ):
        run_board(config, tmp_path / "runs")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "workers must be 1 or more, got 0"),
        ({"save_every": -1.0}, r"save_every must lie within \[0.0, inf\], got -1.0"),
        ({"threads": 0}, "threads must be 1 or more, got 0"),
        ({"workers": 2, "scheduler": "tcp://there"}, "workers: the scheduler's workers run the jobs"),
        ({"workers": 10_000}, r"workers must be \d+ or less, one for each core, got 10000"),
    ],
)
def test_wrong_numbers_of_processes_get_a_clear_error(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run_board(write(tmp_path / "a.yaml", configuration(model())), tmp_path / "runs", **options)


def test_what_is_no_yaml_gets_one_line(tmp_path, capsys):
    (tmp_path / "a.yaml").write_text("benchmark: [\n  seed: 0\n")
    with pytest.raises(SystemExit) as ended:
        main(["board", "--config", str(tmp_path / "a.yaml"), "--out", str(tmp_path / "runs")])
    assert ended.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "is no YAML" in line]
    assert "a.yaml is no YAML: while parsing" in line


@pytest.mark.parametrize(
    ("budget", "images"),
    [({"images": 9}, 9), ({"seconds": 0.01, "clock": "cpu"}, 3), ({"seconds": 0.01, "clock": "wall"}, 3)],
)
def test_budget_ends_the_training(job, budget, images):
    row = run_job(job(budget=budget))
    assert row.training["images"] == images
    assert row.training["epochs"] == images / 6
    assert row.budget == budget


def test_budget_overrules_other_lengths(job):
    row = run_job(job(budget={"images": 9}, trainer={"max_epochs": 1, "max_steps": 2, "max_time": "00:00:00:00"}))
    assert row.training["images"] == 9


def test_budget_does_not_cut_short_what_learns_in_one_pass(job):
    row = run_job(job(entry=model(f"{BASELINES}.ImageStatistics", image_size=[64, 64]), budget={"seconds": 1e-3}))
    assert row.training["images"] == 6  # eight, a quarter of them held out


def test_all_models_are_judged_in_float32(job, monkeypatch):
    autocast = {"training_step": set(), "validation_step": set()}
    for name, found in autocast.items():
        original = getattr(AnoSeg, name)

        def step(self, *args, original=original, found=found):
            found.add(torch.is_autocast_enabled("cpu"))
            return original(self, *args)

        monkeypatch.setattr(AnoSeg, name, step)
    row = run_job(job(trainer={"max_epochs": 1, "precision": "bf16-mixed"}))
    assert autocast == {"training_step": {True}, "validation_step": {False}}
    assert row.provenance["precision"] == "bf16-mixed"


def test_images_without_masks_have_image_figures_alone(tmp_path):
    recorder = TestRecorder(tmp_path)
    paths = {"image_path": ["test/good/0.png", "test/bad/0.png"]}
    recorder.on_test_start(
        SimpleNamespace(test_dataloaders=SimpleNamespace(dataset=SimpleNamespace(samples=paths))), None
    )
    batch = ImageBatch(
        image=torch.rand(2, 3, 8, 8),
        image_path=paths["image_path"],
        gt_label=torch.tensor([False, True]),
        pred_score=torch.tensor([0.1, 0.9]),
        pred_label=torch.tensor([False, True]),
        anomaly_map=torch.rand(2, 1, 8, 8),
    )
    recorder.on_test_batch_end(None, None, None, batch, 0)
    recorder.on_test_epoch_end(None, None)
    assert recorder.defects()["bad"]["image_AUROC"] == 1
    assert recorder.defects()["bad"]["pixel_IoU"] is None
    assert not (tmp_path / "curve.csv").exists()


@pytest.mark.parametrize("change", [{"trainer": 1.5}, {"trainer": {1: 2}}, {"init_args": "image_size"}])
def test_settings_of_a_grid_that_are_no_mapping_get_a_line(change):
    with pytest.raises(ValueError, match=r"model\.\w+ must map the names of settings to values, got "):
        read_tasks(configuration({"class_path": "Padim", **change}))


def test_a_grid_without_models_gets_a_line():
    config = configuration(model())
    config["benchmark"]["model"] = {}
    with pytest.raises(ValueError, match=r"Each entry of benchmark\.model and benchmark\.data needs a class_path"):
        read_tasks(config)


@pytest.mark.parametrize("text", [b"\xff\xfe\x00", b"[" * 100_000, b"a: [1"])
def test_grids_that_are_no_yaml_get_a_line(text, tmp_path):
    (tmp_path / "grid.yaml").write_bytes(text)
    with pytest.raises(ValueError, match=r"config: .*grid.yaml is no YAML: .") as error:
        run_board(tmp_path / "grid.yaml", tmp_path / "runs")
    assert "\n" not in str(error.value)


def test_reasons_with_brackets_are_printed_as_they_are(tmp_path):
    config = yaml.safe_load(write(tmp_path / "a.yaml", configuration(model())).read_text())
    (task,) = read_tasks(config)
    runs = RunFolder(tmp_path / "runs")
    error = runs.job_folder(task.job.id) / "error.txt"
    error.parent.mkdir(parents=True)
    error.write_text("OSError: [/data/parts] cannot be read")
    console = Console(record=True, width=200)
    board._print_row(task.job, runs, console)
    assert "failed: OSError: [/data/parts] cannot be read" in console.export_text()


def test_no_held_out_images_gets_a_clear_error(job):
    folder = job()
    task = json.loads((folder / "job.json").read_text())
    task["container"]["data"]["init_args"]["val_split_mode"] = "none"
    write_json(folder / "job.json", task)
    with pytest.raises(ValueError, match=r"no held-out images to find thresholds with\. Set val_split_mode"):
        run_job(folder)


def test_held_out_images_that_are_tested_get_a_clear_error(job):
    folder = job(data={"val_split_mode": "same_as_test"})
    with pytest.raises(ValueError, match=r"6 of the 6 held-out images, .* are test images, such as .*from_train"):
        run_job(folder)


def test_pictures_are_checked_for_baselines_too(job, tiny_root, tmp_path):
    root = shutil.copytree(tiny_root, tmp_path / "spoiled")
    (root / "stripes" / "test" / "square" / "001.png").write_bytes(b"spoiled")
    with pytest.raises(ValueError, match=r"square.001\.png is not an image, or is corrupt"):
        run_job(job(entry=model(f"{BASELINES}.ImageStatistics", image_size=[64, 64]), data={"root": str(root)}))


def test_defects_among_held_out_images_are_told(job, capsys):
    folder = job(data={"val_split_mode": "from_test", "val_split_ratio": 0.5}, trainer={"max_epochs": 1})
    row = run_job(folder)
    assert row.provenance["held_out"]["anomalous"] > 0
    board._print_row(row, RunFolder(folder.parents[1]), Console(stderr=True, width=300))
    assert "anomalous: it has seen defects" in capsys.readouterr().err


def test_models_get_the_same_held_out_images(job):
    unseeded = {"data": {"seed": None}, "trainer": {"max_epochs": 1}}
    first = run_job(job("first", **unseeded))
    second = run_job(job("second", entry=model(f"{BASELINES}.ImageStatistics", image_size=[64, 64]), **unseeded))
    assert first.provenance["held_out"] == second.provenance["held_out"]
    assert first.provenance["held_out"]["images"] == 2


def test_rates_fall_with_the_budget_of_time(job, monkeypatch):
    factors = []

    def note(self, *_):
        factors.append(self.lr_schedulers()[0].get_last_lr()[0] / self.stages.settings.lr)

    monkeypatch.setattr(AnoSeg, "on_train_batch_end", note)
    monkeypatch.setattr(Stopwatch, "seconds", property(lambda _: {"cpu": 10.0 * len(factors), "wall": 0.0}))
    row = run_job(job(budget={"seconds": 45}))
    assert factors == pytest.approx([1, 1, 1, 2 / 3, 2 / 9, 0])
    assert row.training["images"] == 18


def test_board_that_was_killed_repeats_no_finished_job(tmp_path, monkeypatch):
    config = write(tmp_path / "a.yaml", configuration(model(), model("AnoSeg"), seed={"grid": [0, 1]}))
    started, runs = [], RunFolder(tmp_path / "runs")

    def fake_run(_place, todo, _show):
        for each in todo:
            started.append(each.name)
            if len(started) == 3:
                raise KeyboardInterrupt
            runs.write_row(row_of(next(job for job in runs.board().jobs if job.id == each.name)))
            yield each.name

    monkeypatch.setattr(board.OneMachine, "run", fake_run)
    monkeypatch.setattr(board, "ask", lambda *_: {})
    with pytest.raises(KeyboardInterrupt):
        run_board(config, tmp_path / "runs")
    assert len(RunFolder(tmp_path / "runs").rows()) == 2
    assert run_board(config, tmp_path / "runs") == []
    assert len(started) == 5
    assert started[2] == started[3]


# -------------------------------------------------------------------------------------- the real thing, in processes


@pytest.fixture(scope="module")
def finished(tiny_root, tmp_path_factory):
    """A board with a model, a trivial one, one that fails, one that is killed, and one that lacks a file."""
    folder = tmp_path_factory.mktemp("board")
    models = (
        model("AnoSeg", **TINY),
        model(f"{BASELINES}.ConstantMap", image_size=[64, 64]),
        model("AnoSeg", label="Broken", network={"width": 99}),
        model(f"{BASELINES}.PadimLite0", weights="nowhere.pth"),
    )
    config = configuration(*models, root=tiny_root, trainer={"max_epochs": 2})
    command = [sys.executable, "-m", "anomalib_anoseg", "board"]
    command += ["--config", str(write(folder / "grid.yaml", config)), "--out", str(folder / "runs")]
    command += ["--workers", str(min(2, len(share_cores(1)[0])))]
    (folder / "timm.py").write_text("raise SystemExit('a file of the current folder ran')\n")
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=900)
    return ended, RunFolder(folder / "runs"), folder


def test_incomplete_board_exits_with_1_and_names_what_is_missing(finished):
    ended, runs, _ = finished
    assert ended.returncode == 1, ended.stderr
    assert [job.label for job in runs.missing()] == ["Broken"]
    assert "1 of 3 rows are missing" in ended.stderr
    assert "Broken stripes seed 0 (Broken-stripes-seed0-" in ended.stderr
    assert "network.width must" in ended.stderr
    assert "Traceback" in runs.error(runs.missing()[0].id)


def test_model_that_lacks_a_file_is_left_out_with_a_line(finished):
    ended, runs, _ = finished
    assert "PadimLite0 is left out: weights: 'nowhere.pth' does not exist." in ended.stderr
    assert list(runs.board().left_out) == ["PadimLite0"]


def test_rows_are_complete_and_judged_alike(finished):
    _, runs, _ = finished
    anoseg, constant = runs.rows()
    assert set(anoseg.metrics) == set(constant.metrics) == METRICS
    assert (anoseg.trivial, constant.trivial) == (False, True)
    assert anoseg.model == "anomalib_anoseg.AnoSeg"
    assert anoseg.settings == flatten_dict(TINY)
    assert set(anoseg.defects) == {"square"}
    assert set(anoseg.defects["square"]) == {"pixel_IoU", "pixel_BestIoU", "pixel_AUROC", "image_AUROC"}
    assert anoseg.training["epochs"] == 2
    assert anoseg.training["images"] == 12
    assert anoseg.training["seconds_per_image"] > 0
    assert anoseg.peak_memory_mb > 50
    assert anoseg.test_memory_mb > 50
    assert anoseg.provenance["calibrated_on"] == "forged on held-out images"
    assert anoseg.provenance["threads"] == len(share_cores(1)[0]) // min(2, len(share_cores(1)[0]))
    for name in ("commit", "versions", "cpu", "threads", "precision", "started", "wall_seconds", "trainer"):
        assert name in anoseg.provenance


def test_files_of_a_job(finished):
    _, runs, _ = finished
    row = runs.rows()[0]
    folder = runs.job_folder(row.id)
    with (folder / "images.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["defect"] for line in lines].count("good") == 3
    assert [line["defect"] for line in lines].count("square") == 3
    for line in lines:
        assert np.asarray(Image.open(folder / line["map_path"])).shape == (64, 64)
        assert Path(line["image_path"]).is_file()
        assert Image.open(folder / line["picture_path"]).mode == "RGB"
        assert bool(line["truth_path"]) == bool(line["mask_path"])
        assert bool(line["iou"]) == bool(line["mask_path"]) == (line["defect"] != "good")
    with (folder / "curve.csv").open() as file:
        curve = [(float(line["threshold"]), float(line["iou"])) for line in csv.DictReader(file)]
    assert max(iou for _, iou in curve) == pytest.approx(row.metrics["pixel_BestIoU"])
    assert (curve[0][0], curve[-1][0]) == (0, 1)
    assert AnoSeg.load_from_checkpoint(folder / "model.ckpt").image_size == (64, 64)
    assert not (folder / "work").exists()


def test_process_that_is_killed_leaves_a_reason(finished, monkeypatch):
    _, runs, folder = finished
    other = RunFolder(folder / "killed")
    (task, *_) = read_tasks(yaml.safe_load(runs.board().config))
    monkeypatch.setattr(
        process, "isolated", lambda _: "import os; print('almost', flush=True); os.kill(os.getpid(), 9)"
    )
    work = Work(task.job.id, other.job_folder(task.job.id), "module")
    work.folder.mkdir(parents=True)
    assert list(OneMachine(1, None).run([work], lambda _: None)) == [work.name]
    reason = other.error(task.job.id).splitlines()
    assert reason[-1] == "The job's process was killed by signal 9, possibly for lack of memory."
    assert "almost" in reason


@pytest.fixture(scope="module")
def stock(tmp_path_factory, fork):
    """anomalib's own command on a board whose rows have equal settings and no preset."""
    folder = tmp_path_factory.mktemp("stock")
    config = yaml.safe_load((CONFIGS / "demo.yaml").read_text())
    config["benchmark"]["seed"] = 0
    rows = [model("AnoSeg", label=f"width {width}", network={"width": width}, **SHORT) for width in (0.0625, 0.125)]
    config["benchmark"]["model"]["grid"] = rows
    sizes = {"image_size": 64, "num_train": 10, "num_test_good": 1, "num_test_per_defect": 1, "category": "brick"}
    config["benchmark"]["data"]["init_args"] |= {"root": str(folder / "data"), **sizes}
    ended = fork(ANOMALIB, "benchmark", "--config", write(folder / "demo.yaml", config), cwd=folder, timeout=900)
    assert ended.returncode == 0, ended.stderr
    (table,) = folder.glob("runs/benchmark/*/results.csv")
    with table.open() as file:
        return config, list(csv.DictReader(file))


def test_anomalibs_own_benchmark_runs_plain_rows(stock):
    config, rows = stock
    assert [row["model.label"] for row in rows] == [entry["label"] for entry in config["benchmark"]["model"]["grid"]]
    names = {name.replace("pixel_AP", "pixel_AUPR") if name == "pixel_AP" else name for name in METRICS}
    assert all(0 <= float(row[name]) <= 1 for row in rows for name in names)


@pytest.mark.parametrize("name", ["demo", "mvtec"])
def test_shipped_boards_are_boards(name):
    tasks = read_tasks(read_file(CONFIGS / f"{name}.yaml"))
    assert len({task.job.id for task in tasks}) == len(tasks)
