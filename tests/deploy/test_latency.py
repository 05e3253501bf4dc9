"""Forms of models take turns, each in a process of its own, and what goes wrong there is told."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from anomalib_anoseg.deploy.latency import Worker, WorkerError, measure_in_turns, summarise
from anomalib_anoseg.deploy.runtimes import Form


class FakeWorker:
    def __init__(self, name, turns, fails=False):
        self.name, self.turns, self.fails = name, turns, fails

    def time_calls(self, batch, seconds):
        self.turns.append((self.name, batch, seconds))
        if self.fails and batch > 1:
            raise WorkerError("too large")
        return [1.0, 2.0]


def test_workers_take_turns():
    turns, done = [], []
    workers = {"A": FakeWorker("A", turns), "B": FakeWorker("B", turns, fails=True)}
    samples, failed = measure_in_turns(workers, (1, 4), 2, 0.5, lambda: done.append(1))
    assert [name for name, batch, _ in turns if batch == 1] == ["A", "B", "A", "B"]
    assert [name for name, batch, _ in turns if batch == 4] == ["A", "B", "A"]
    assert samples.keys() == {("A", 1), ("B", 1), ("A", 4)}
    assert samples["A", 4] == [[1.0, 2.0]] * 2
    assert failed == {("B", 4): "too large"}
    assert len(done) == 8


def test_summaries():
    quiet = summarise([[1.0, 2.0, 3.0], [2.0, 2.0, 9.0]])
    assert (quiet["median_ms"], quiet["rounds"], quiet["calls"], quiet["spread"]) == (2.0, 2, 6, 0.0)
    assert quiet["p95_ms"] == pytest.approx(np.percentile([1, 2, 3, 2, 2, 9], 95))
    assert not quiet["noisy"]
    assert summarise([[1.0], [1.3]])["noisy"]
    assert not summarise([[1.0], [1.2]])["noisy"]


@pytest.fixture
def pictures_file(tmp_path):
    np.save(tmp_path / "pictures.npy", np.zeros((1, 3, 64, 64), np.float32))
    return tmp_path / "pictures.npy"


def test_a_worker_tells_why_it_cannot_load(tmp_path, pictures_file, monkeypatch):
    (tmp_path / "numpy.py").write_text("raise SystemExit('a file of the current folder ran')")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WorkerError, match=r"FileNotFoundError: There is no file .*model.onnx; export the model first"):
        Worker(Form("onnxruntime", "float32"), tmp_path / "model.onnx", pictures_file)


def test_a_worker_that_is_late_is_ended(tmp_path, pictures_file):
    with pytest.raises(WorkerError, match=r"no answer within 0.01 s"):
        Worker(Form("onnxruntime", "float32"), tmp_path / "model.onnx", pictures_file, timeout=0.01)


def test_a_worker_that_dies_is_told(pictures_file, tmp_path):
    path = tmp_path / "model.onnx"
    image = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 64, 64])
    score = helper.make_tensor_value_info("pred_score", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("GlobalMaxPool", ["input"], ["pred_score"])], "x", [image], [score])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    with Worker(Form("onnxruntime", "float32"), path, pictures_file) as worker:
        assert len(worker.time_calls(1, 0.0)) == 3
        with pytest.raises(WorkerError, match="TypeError"):
            worker.time_calls("many", 0.0)
        worker._process.kill()
        with pytest.raises(WorkerError, match=r"its process ended with exit status -?[0-9]+: it said nothing"):
            worker.time_calls(1, 0.0)
