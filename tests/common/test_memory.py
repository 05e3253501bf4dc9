"""Peaks of memory are a process's own, and those of its parts can be told apart."""

import subprocess
import sys

import numpy as np
import pytest

from anomalib_anoseg.common import memory
from anomalib_anoseg.common.memory import available_memory, forget_peak, peak_memory

linux = pytest.mark.skipif(not memory.CLEAR.exists(), reason="only Linux can")


@linux
def test_parts_are_told_apart():
    """In a process of its own: what other tests leave to be freed would count, too."""
    code = """
import numpy as np
from anomalib_anoseg.common.memory import forget_peak, peak_memory
forget_peak()
peaks = [peak_memory()]
block = np.ones(2**26, np.uint8)
peaks.append(peak_memory())
del block
forget_peak()
print(*peaks, peak_memory())
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, during, after = map(float, process.stdout.split())
    assert during == pytest.approx(before + 64, abs=16)
    assert after == pytest.approx(before, abs=16)


@linux
def test_a_process_does_not_inherit_its_parents_peak():
    code = "from anomalib_anoseg.common.memory import peak_memory; print(peak_memory())"
    block = np.ones(2**28, np.uint8)
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    del block
    assert float(found) < 200


def test_without_proc_getrusage_is_asked(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "STATUS", tmp_path / "status")
    monkeypatch.setattr(memory, "CLEAR", tmp_path / "clear_refs")
    forget_peak()
    if sys.platform == "win32":
        assert peak_memory() is None
    else:
        assert 10 < peak_memory() < 100_000


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"meminfo": "MemTotal: 9 kB\nMemAvailable: 4 kB\n"}, 4096),
        ({"meminfo": "MemAvailable: 4 kB\n", "memory.max": "max\n", "memory.current": "7\n"}, 4096),
        ({"meminfo": "MemAvailable: 4 kB\n", "memory.max": "1000\n", "memory.current": "900\n"}, 100),
        ({"memory.max": "1000\n", "memory.current": "1001\n"}, 0),
    ],
)
def test_a_container_limits_what_is_available(tmp_path, monkeypatch, files, expected):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert available_memory() == expected
