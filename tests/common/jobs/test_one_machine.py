"""Several jobs at a time on one machine: each has its share of cores and memory, and all of them end."""

from dataclasses import replace
from pathlib import Path

import pytest

from anomalib_anoseg.common.jobs import one_machine
from anomalib_anoseg.common.jobs.one_machine import OneMachine
from anomalib_anoseg.common.jobs.process import Work
from anomalib_anoseg.common.memory import MIB

JOBS = [Work(f"job{number}", Path(f"job{number}"), "module", need=2048) for number in range(5)]
NAMES = [job.name for job in JOBS]


class FakeProcess:
    """Runs as many looks long as the number in the name of its job says."""

    running, begun, ended = [], [], []

    def __init__(self, job, threads, cores):
        self.folder, self.left = job.folder, int(job.name[-1])
        self.running.append(self)
        self.begun.append((threads, cores, len(self.running)))

    def is_running(self):
        self.left -= 1
        return self.left >= 0

    def explain(self):
        self.running.remove(self)

    def stop(self):
        self.ended.append(self.folder.name)


@pytest.fixture
def fake(monkeypatch):
    for name in ("running", "begun", "ended"):
        monkeypatch.setattr(FakeProcess, name, [])
    monkeypatch.setattr(one_machine, "JobProcess", FakeProcess)
    monkeypatch.setattr(
        one_machine, "share_cores", lambda shares: [[2 * share, 2 * share + 1] for share in range(shares)]
    )
    monkeypatch.setattr(one_machine, "INTERVAL", 0)
    monkeypatch.setattr(one_machine, "available_memory", lambda: 100_000 * MIB)
    return FakeProcess


def test_jobs_run_beside_each_other_on_cores_of_their_own(fake):
    shown = []
    ended = OneMachine(2, None).run(JOBS, lambda states: shown.append(set(states)))
    assert set(ended) == set(NAMES)
    assert max(count for *_, count in fake.begun) == 2
    assert {(threads, tuple(cores)) for threads, cores, _ in fake.begun} == {(2, (0, 1)), (2, (2, 3))}
    assert {"job0", "job1"} in shown


def test_one_at_a_time_is_left_to_its_libraries(fake):
    assert list(OneMachine(1, None).run(JOBS, lambda _: None)) == NAMES
    assert fake.begun == [(None, None, 1)] * 5


def test_a_number_of_threads_is_that_of_every_job(fake):
    for workers in (1, 2):
        list(OneMachine(workers, 1).run(JOBS, lambda _: None))
    assert {threads for threads, *_ in fake.begun} == {1}


def test_what_runs_ends_with_the_board(fake):
    running = OneMachine(2, None).run(JOBS[3:], lambda _: None)
    assert next(running) == NAMES[3]
    running.close()
    assert fake.ended == ["job4"]


@pytest.mark.parametrize(
    ("free", "workers", "fit"),
    [(4095, 2, "1 fits: set --workers 1"), (6200, 4, "3 fit: set --workers 3"), (10, 2, "1 fits")],
)
def test_memory_is_counted_before_anything_starts(fake, monkeypatch, free, workers, fit):
    monkeypatch.setattr(one_machine, "available_memory", lambda: free * MIB)
    with pytest.raises(
        ValueError, match=rf"workers: {workers} jobs at a time may need .* {free} MiB of memory .* {fit}"
    ):
        list(OneMachine(workers, None).run(JOBS, lambda _: None))
    assert not fake.begun


def test_the_largest_needs_count(fake, monkeypatch):
    monkeypatch.setattr(one_machine, "available_memory", lambda: 3000 * MIB)
    jobs = [replace(job, need=need) for job, need in zip(JOBS, (1000, 1900, 1000), strict=False)]
    assert len(list(OneMachine(2, None).run(jobs, lambda _: None))) == len(fake.begun) == 3
    with pytest.raises(ValueError, match=r"3 jobs at a time may need 3900 MiB, and 3000 MiB .* 2 fit: set --workers 2"):
        list(OneMachine(3, None).run(jobs, lambda _: None))


@pytest.mark.usefixtures("fake")
def test_one_job_needs_no_room_for_two(monkeypatch):
    monkeypatch.setattr(one_machine, "available_memory", lambda: 2100 * MIB)
    assert list(OneMachine(2, None).run(JOBS[:1], lambda _: None)) == NAMES[:1]
