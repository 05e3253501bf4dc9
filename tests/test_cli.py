"""Every verb of the real ``anomalib`` command, from training to a deployed model, as a user types them.

Each verb runs once, two at a time, and the tests look at what is left. One of them starts as a user's command does; the
others need not wait until torch and the like are imported.
"""

import csv
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openvino
import pytest
import torch

CONSOLE_SCRIPT = Path(sys.executable).with_name("anomalib.exe" if os.name == "nt" else "anomalib")
METRICS = {
    "image_AUROC",
    "image_F1Score",
    "pixel_AUROC",
    "pixel_AUPR",
    "pixel_AUPRO",
    "pixel_F1Score",
    "pixel_IoU",
    "pixel_BestIoU",
    "pixel_IoUCurveArea",
}
NAMES = ["AnoSeg", "anomalib_anoseg.AnoSeg", "SGSF", "anomalib_anoseg.SGSF"]
WEIGHTS = "AnoSeg/MVTecAD/stripes/v0/weights/lightning/model.ckpt"


class Runs:
    """Finished processes by verb; each verb's results lie in a folder of its name."""

    def __init__(self, root, tiny_root, fork):
        self.root, self.fork, self.processes = root, fork, {}
        self.train = root / "train" / WEIGHTS
        # Relative paths, because those to temporary folders may contain spaces.
        self.tiny = os.path.relpath(tiny_root, root)
        self.data = f"""--data MVTecAD --data.root {self.tiny} --data.category stripes --data.num_workers 0
            --data.train_batch_size 3 --data.val_split_mode from_train --data.val_split_ratio 0.25 --data.seed 0"""

    def run(self, verb, arguments="", model="AnoSeg"):
        """Run a verb on the tiny model, on the CPU, in a folder without a repository around."""
        arguments = f"""--model {model} --model.image_size [64,64] --model.network.width 0.125 --trainer.accelerator cpu
            --default_root_dir {verb} {arguments}"""
        self.start(verb, *arguments.split())

    def start(self, verb, *arguments):
        quiet = {"OMP_NUM_THREADS": "1", "PYTHONPATH": "", "PYTHONWARNINGS": "ignore", "COLUMNS": "200"}
        if verb != "train":
            self.processes[verb] = self.fork(CONSOLE_SCRIPT, verb, *arguments, cwd=self.root, **quiet)
            return
        self.processes[verb] = subprocess.run(
            [str(CONSOLE_SCRIPT), verb, *arguments],
            env=os.environ | quiet,
            cwd=self.root,
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
            timeout=300,
        )

    def metrics(self, verb):
        """What the verb printed as results."""
        found = re.findall(r"│\s+((?:image|pixel)_\w+)\s+│\s+([\d.e-]+)\s+│", self.processes[verb].stdout)
        return {name: float(value) for name, value in found}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_root, fork):
    root = tmp_path_factory.mktemp("cli")
    runs = Runs(root, tiny_root, fork)
    (root / "benchmark.yaml").write_text(json.dumps(benchmark(tiny_root)))
    checkpoint = f"--ckpt_path train/{WEIGHTS}"
    with ThreadPoolExecutor(2) as pool:
        training = pool.submit(runs.run, "train", f"{runs.data} --trainer.max_epochs 1")
        jobs = [pool.submit(runs.start, "benchmark", "--config", "benchmark.yaml")]
        training.result()
        jobs += [
            pool.submit(runs.run, "validate", f"{runs.data} {checkpoint}"),
            pool.submit(runs.run, "test", f"{runs.data} {checkpoint}"),
            pool.submit(runs.run, "predict", f"--data {runs.tiny}/stripes/test {checkpoint}"),
            pool.submit(runs.run, "export", f"--export_type openvino --input_size [64,64] {checkpoint}"),
            pool.submit(runs.run, "fit", f"{runs.data} {checkpoint} --trainer.max_epochs 2", "anomalib_anoseg.AnoSeg"),
        ]
        for job in jobs:
            job.result()
    return runs


def benchmark(tiny_root):
    """A configuration that names the models in both ways."""
    return {
        "accelerator": "cpu",
        "benchmark": {
            "seed": 1,
            "model": {
                "class_path": {"grid": NAMES},
                "init_args": {"image_size": [64, 64], "network": {"width": 0.125}, "max_epochs": 1},
            },
            "data": {
                "class_path": "MVTecAD",
                "init_args": {"root": str(tiny_root), "category": "stripes", "num_workers": 0},
            },
        },
    }


def pictures(folder):
    return sorted(str(path.relative_to(folder).as_posix()) for path in folder.rglob("*.png"))


@pytest.fixture(scope="module")
def all_pictures(tiny_root):
    return pictures(tiny_root / "stripes" / "test")


@pytest.mark.parametrize("verb", ["train", "validate", "test", "predict", "export", "fit", "benchmark"])
def test_verb_succeeds_quietly(runs, verb):
    process = runs.processes[verb]
    assert process.returncode == 0, process.stderr
    for text in ("Traceback", "There were some errors", "anomalib-anoseg: "):
        assert text not in process.stdout + process.stderr


def test_train_prints_metrics_and_leaves_a_checkpoint_and_pictures(runs, all_pictures):
    assert runs.metrics("train").keys() == METRICS
    assert "calibrated on: forged on held-out images" in runs.processes["train"].stderr
    assert torch.load(runs.train, weights_only=True)["epoch"] == 0
    assert pictures(runs.train.parents[2] / "images") == all_pictures


def test_test_repeats_the_results_of_train_from_the_checkpoint(runs, all_pictures):
    assert runs.metrics("test") == runs.metrics("train")
    assert pictures(runs.root / "test" / "AnoSeg/MVTecAD/stripes/latest/images") == all_pictures


def test_validate_loads_the_checkpoint(runs):
    assert "Loaded model weights from the checkpoint" in runs.processes["validate"].stderr


def test_predict_leaves_pictures_of_a_folder(runs, all_pictures):
    assert pictures(runs.root / "predict" / "AnoSeg/latest/images") == all_pictures


def test_export_writes_a_model_without_converting_its_opset(runs):
    process = runs.processes["export"]
    assert "[torch.onnx] Optimize the ONNX graph... ✅" in process.stdout
    for complaint in ("❌", "No Adapter", "not modified", "version conversion", "ailed to convert"):
        assert complaint not in process.stdout + process.stderr
    model = openvino.Core().read_model(runs.root / "export" / "weights/openvino/model.xml")
    assert [output.any_name for output in model.outputs] == ["pred_score", "pred_label", "anomaly_map", "pred_mask"]
    assert str(model.input(0).partial_shape) == "[?,3,64,64]"


def test_fit_resumes_under_the_dotted_name(runs):
    assert "Restored all states from the checkpoint" in runs.processes["fit"].stderr
    first, resumed = (torch.load(path, weights_only=True) for path in (runs.train, runs.root / "fit" / WEIGHTS))
    assert resumed["epoch"] == 1
    assert resumed["global_step"] == 2 * first["global_step"]


def test_benchmark_has_a_row_for_each_name_of_the_model(runs):
    (path,) = runs.root.glob("runs/benchmark/*/results.csv")
    rows = list(csv.DictReader(path.open(encoding="utf-8")))
    assert [row["model.class_path"] for row in rows] == NAMES
    figures = [[float(row[metric]) for metric in sorted(METRICS)] for row in rows]
    assert figures[::2] == figures[1::2]
