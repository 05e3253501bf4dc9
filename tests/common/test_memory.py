"""Peaks of memory are a process's own, and those of its parts can be told apart."""

import subprocess
import sys

import numpy as np
import pytest

from anomalib_anoseg.common import memory
from anomalib_anoseg.common.memory import forget_peak, peak_memory

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
