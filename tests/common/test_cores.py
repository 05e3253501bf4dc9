"""Processes that compute at the same time have cores of their own."""

import os
import subprocess
import sys

import pytest

from anomalib_anoseg.common.cores import pinned, share_cores

linux = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="only Linux can")


@linux
def test_shares_are_equal_and_apart(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {2, 3, 5, 7, 8})
    assert share_cores(2) == [[2, 3], [5, 7]]
    assert share_cores(5) == [[2], [3], [5], [7], [8]]
    with pytest.raises(ValueError, match="workers must be 5 or less, one for each core, got 6"):
        share_cores(6)


@linux
def test_a_process_stays_on_its_cores_and_this_one_does_not():
    before = os.sched_getaffinity(0)
    last = max(before)
    code = "import os; print(*os.sched_getaffinity(0))"
    with pinned([last]):
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.split() == [str(last)]
    assert os.sched_getaffinity(0) == before
