"""A training on a CPU writes to memory that it has freed, and the system gets it back afterwards."""

import platform
from types import SimpleNamespace

import pytest
import torch

from anomalib_anoseg import AnoSeg
from anomalib_anoseg.training import reused_memory
from anomalib_anoseg.training.reused_memory import ReusedMemory

BLOCKS, PAGES = 4, 2**14  # blocks of 64 MiB, in pages of 4 kB
COUNT = f"""
import os
import resource
from types import SimpleNamespace
import torch
from anomalib_anoseg.training.reused_memory import ReusedMemory

def pages(blocks={BLOCKS}, size={PAGES}):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(blocks):
        torch.ones(1024 * size)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1])

trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("DEVICE")))
found, memory = [pages()], ReusedMemory()
memory.setup(trainer, None, "fit")
pages()
found.append(pages())
held = resident()
if not os.fork():
    os._exit(0)
before_fork = held - resident()
os.wait()
pages()
held = resident()
memory.ENDS
given_back = held - resident()
print(before_fork, *found, pages(), given_back, pages(20, 1024))
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives large blocks back at once")
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("ends", ['teardown(trainer, None, "fit")', "on_exception(trainer, None, ValueError())"])
def test_pages_are_cleared_once_on_a_cpu_and_given_back(fork, tmp_path, device, ends):
    done = fork("-c", COUNT.replace("DEVICE", device).replace("ENDS", ends), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    before_fork, before, during, after, given_back, smaller_blocks = map(int, done.stdout.split()[-6:])
    if before < BLOCKS * PAGES / 2:
        pytest.skip("the system's pages are larger than 4 kB")
    if device == "cpu":
        assert during < before / 20
        assert given_back > PAGES / 2
        assert before_fork > PAGES / 2, "the pages of a worker are copied as soon as this process writes to them"
    else:
        assert during > before / 2
    assert after > before / 4
    assert smaller_blocks < 20 * 1024 / 4, "blocks that glibc itself would keep are given back"


def test_other_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(reused_memory.ctypes, "CDLL", lambda _: pytest.fail("asked for"))
    cpu = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cpu")))
    memory = ReusedMemory()
    memory.setup(cpu, None, "fit")
    memory.teardown(cpu, None, "fit")


def test_every_training_has_it():
    assert any(isinstance(callback, ReusedMemory) for callback in AnoSeg((64, 64)).configure_callbacks())
