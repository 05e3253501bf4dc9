"""Jobs on a cluster: folders travel, the dead are replaced, and others' versions are refused.

``tests/board/run/test_cluster.py`` has a real one.
"""

import sys
import time
from types import ModuleType, SimpleNamespace

import pytest

from anomalib_anoseg.common.files import pack, write_json, write_texts
from anomalib_anoseg.common.jobs import cluster
from anomalib_anoseg.common.jobs.cluster import Attempt, Cluster
from anomalib_anoseg.common.jobs.process import Work


class FakeClient:
    """A scheduler whose workers hand back a row at once, as long as they live."""

    def __init__(self, *_, **__):
        self.workers, self.versions, self.sent, self.asked = {"a": 3, "b": 1}, {}, [], []
        self.deaths = 0  # of the next workers that get a job

    def nthreads(self):
        return dict(self.workers)

    def run(self, function, *arguments, workers, **_):
        self.asked.append((function.__name__, *arguments))
        if function is cluster.read_versions:
            return {worker: self.versions.get(worker, cluster.read_versions()) for worker in workers}
        return {}

    def scatter(self, packed, **_):
        return packed

    def submit(self, _function, job, _packed, threads, *, workers, **_):
        self.sent.append((job.name, *workers, threads))
        status = "finished"
        if self.deaths:
            self.deaths -= 1
            self.workers[f"after {workers[0]}"] = self.workers.pop(workers[0])
            status = "pending"

        def result(**_):
            folder = self.place / job.name
            write_texts({folder / "row.json": "{}", folder / "maps" / "0000.png": "new"})
            return pack(folder)

        return SimpleNamespace(status=status, done=lambda: status == "finished", result=result)

    def cancel(self, futures, **_):
        self.asked.append(("cancel", len(futures)))

    def close(self):
        self.asked.append(("close",))


def resolve(address):
    if address.count(":") != 2:
        raise ValueError(f"missing port number in address {address!r}")


@pytest.fixture
def there(tmp_path, monkeypatch):
    """A cluster with two workers that is not there, and the lines that it says."""
    module = ModuleType("distributed")
    module.Client = FakeClient
    module.comm = ModuleType("distributed.comm")
    module.comm.resolve_address = resolve
    monkeypatch.setitem(sys.modules, "distributed", module)
    monkeypatch.setitem(sys.modules, "distributed.comm", module.comm)
    monkeypatch.setattr(cluster, "INTERVAL", 0)
    said = []
    place = Cluster("tcp://there:8786", None, said.append)
    place.client.place = tmp_path / "there"
    return place, said


@pytest.fixture
def jobs(tmp_path):
    """Two jobs with the files of an earlier attempt."""
    folders = [tmp_path / "jobs" / name for name in ("job0", "job1")]
    for folder in folders:
        write_texts({folder / "maps" / "0001.png": "old", folder / "work" / "training" / "epoch=1.ckpt": "old"})
    return [Work(folder.name, folder, "module") for folder in folders]


def test_each_worker_gets_a_job_and_its_folder_comes_back_whole(there, jobs):
    place, said = there
    assert set(place.run(jobs, lambda _: None)) == {"job0", "job1"}
    assert sorted((worker, threads) for _, worker, threads in place.client.sent) == [("a", 3), ("b", 1)]
    assert not said
    for each in jobs:
        folder = each.folder
        assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == {
            "row.json",
            "maps/0000.png",
        }


def test_the_job_of_a_dead_worker_runs_on_another(there, jobs):
    place, said = there
    place.client.deaths = 1
    assert set(place.run(jobs, lambda _: None)) == {"job0", "job1"}
    assert len(place.client.sent) == 3
    assert len(said) == 1 and "its worker" in said[0] and said[0].endswith("is lost.")


def test_a_job_that_takes_all_its_workers_with_it_is_given_up(there, jobs):
    place, _ = there
    place.client.deaths = 3
    assert list(place.run(jobs[:1], lambda _: None)) == ["job0"]
    assert len(place.client.sent) == 3
    assert (
        jobs[0].folder / "error.txt"
    ).read_text() == "3 workers died while they ran it, possibly for lack of memory."


def test_an_interrupted_board_ends_what_is_out_there(there, jobs):
    place, _ = there
    running = place.run(jobs, lambda _: None)
    next(running)
    running.close()
    (left,) = [job.name for job in jobs if not (job.folder / "row.json").exists()]
    assert place.client.asked[-2:] == [("stop", [left]), ("cancel", 1)]


def test_workers_of_other_versions_are_refused(there, jobs):
    place, said = there
    place.client.versions["a"] = cluster.read_versions() | {"torch": "1.0", "python": "2.7"}
    list(place.run(jobs, lambda _: None))
    assert {worker for _, worker, _ in place.client.sent} == {"b"}
    (line,) = said
    assert "a is not used: python is 2.7 there and" in line
    assert f"torch is 1.0 there and {cluster.read_versions()['torch']} here" in line
    place.client.versions = {"after a": ModuleNotFoundError("No module named 'anomalib_anoseg'")}
    place.client.workers = {"a": 1, "after a": 1}
    with pytest.raises(ValueError, match="scheduler: no worker has the versions of this process"):
        list(place.run(jobs, lambda _: None))
    assert "anomalib-anoseg of this version is not installed there (ModuleNotFoundError: No module" in said[-1]


def test_a_scheduler_that_is_lost_gets_a_line(there, jobs, monkeypatch):
    place, _ = there
    monkeypatch.setattr(place.client, "nthreads", lambda: (_ for _ in ()).throw(OSError("Timed out")))
    with pytest.raises(ValueError, match=r"no Dask scheduler answers at 'tcp://there:8786' \(OSError: Timed out\)"):
        list(place.run(jobs, lambda _: None))


@pytest.mark.usefixtures("there")
def test_what_is_no_address_gets_a_line():
    with pytest.raises(
        ValueError, match=r"scheduler must be an address such as tcp://.*, got 'there' \(ValueError: miss"
    ):
        Cluster("there", None, print)


def test_without_dask_a_line_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ModuleNotFoundError, match=r'scheduler: .* pip install "anomalib-anoseg\[cluster\]"'):
        Cluster("tcp://there:8786", None, print)


def test_a_worker_hands_over_each_checkpoint_once(tmp_path, monkeypatch):
    folder = tmp_path / "job0"
    monkeypatch.setattr(cluster, "under_way", {"job0": Attempt(folder, 0.0)})
    assert cluster.look({}) == {}, "another board's"
    assert cluster.look({"job0": ""}) == {"job0": ("", "", None)}
    write_texts({folder / "work" / "training" / "epoch=3.ckpt": "whole"})
    write_json(folder / "work" / "progress.json", {"epoch": 4, "max_epochs": 9})
    assert cluster.look({"job0": "epoch=2.ckpt"}) == {"job0": (", epoch 4 of 9", "epoch=3.ckpt", b"whole")}
    assert cluster.look({"job0": "epoch=3.ckpt"}) == {"job0": (", epoch 4 of 9", "", None)}
    assert cluster.under_way["job0"].seen > time.monotonic() - 60
    cluster.stop(["job0", "unknown"])
    assert cluster.under_way["job0"].seen < time.monotonic() - 60
