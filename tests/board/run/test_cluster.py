"""A board on a scheduler and two workers with folders of their own: results are those of one process."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml

from anomalib_anoseg import AnoSeg
from anomalib_anoseg.board.run import job
from anomalib_anoseg.board.run.board import run_board
from anomalib_anoseg.board.run.grid import read_tasks
from anomalib_anoseg.board.run.run_folder import RunFolder
from anomalib_anoseg.common.files import write_json
from anomalib_anoseg.common.jobs import cluster
from anomalib_anoseg.common.jobs.cluster import Cluster

GRID = """
accelerator: cpu
trainer: {max_epochs: 8}
benchmark:
  seed: 0
  model: {class_path: AnoSeg, init_args: {image_size: [64, 64], network: {width: 0.125}}}
  data:
    class_path: MVTecAD
    init_args: {root: data, category: stripes, num_workers: 0, train_batch_size: 3, eval_batch_size: 4,
                val_split_mode: from_train, val_split_ratio: 0.25, seed: 0}
"""


@pytest.fixture
def dask(tiny_root, tmp_path):
    """The address of a scheduler with two workers; each has a folder of its own, in which the data is."""
    pytest.importorskip("distributed")
    file, quiet = tmp_path / "scheduler.json", ["--no-dashboard", "--scheduler-file", str(tmp_path / "scheduler.json")]
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", *quiet]
    with (tmp_path / "log").open("w") as log:
        started = [subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log)]
        for name in ("first", "second"):
            shutil.copytree(tiny_root, tmp_path / name / "data")
            command = [sys.executable, "-m", "distributed.cli.dask_worker", "--nthreads", "1", "--no-nanny", *quiet]
            command += ["--local-directory", "."]
            started.append(subprocess.Popen(command, cwd=tmp_path / name, stdout=log, stderr=log))
        try:
            while not file.exists():
                time.sleep(0.1)
            yield json.loads(file.read_text())["address"]
        finally:
            for process in started:
                process.kill()
                process.wait()


@pytest.mark.slow
def test_results_are_those_of_one_process_even_if_a_worker_is_killed(dask, tmp_path, monkeypatch):
    config = yaml.safe_load(GRID)
    (tmp_path / "grid.yaml").write_text(GRID)
    killed, original = [], Cluster._look

    def look_and_kill(self, sent):
        original(self, sent)
        for each in sent.values():
            if not killed and cluster.last_checkpoint(each.job.folder):
                process = self.client.run(os.getpid, workers=[each.worker])[each.worker]
                os.kill(process, signal.SIGKILL)
                killed.append(each.job.name)

    monkeypatch.setattr(Cluster, "_look", look_and_kill)
    monkeypatch.setenv("TQDM_DISABLE", "1")
    assert run_board(tmp_path / "grid.yaml", tmp_path / "runs", offline=False, save_every=0, scheduler=dask) == []
    runs = RunFolder(tmp_path / "runs")
    (row,), (task,) = runs.rows(), read_tasks(config)
    assert killed == [row.id]
    assert row.provenance["resumed"]
    monkeypatch.chdir(tmp_path / "second")
    folder = RunFolder(tmp_path / "alone").job_folder(task.job.id)
    options = {"offline": True, "save_every": 60}
    write_json(
        folder / "job.json",
        {"job": vars(task.job), "container": task.container, "trainer": task.trainer, **options},
    )
    alone, files = job.run_job(folder), runs.job_folder(row.id)
    assert (row.metrics, row.defects) == (alone.metrics, alone.defects)
    assert row.provenance["threads"] == alone.provenance["threads"] == 1
    assert row.training["epochs"] == 8
    first, second = (AnoSeg.load_from_checkpoint(path / "model.ckpt").state_dict() for path in (folder, files))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert {path.name for path in files.iterdir()} == {*(path.name for path in folder.iterdir()), "job.log"}
    lines = (files / "images.csv").read_text().replace(str(tmp_path / "first"), str(tmp_path / "second"))
    assert lines == (folder / "images.csv").read_text()
    assert not [path for name in ("first", "second") for path in (tmp_path / name).rglob("row.json")]
