"""What is said of machine and code, where the system tells it and where it does not."""

import os
import sys
from pathlib import Path

import pytest

from anomalib_anoseg.common import machine


def test_processor_is_named_once_for_all():
    assert machine.processor()
    assert machine.describe_machine()["cpu"] == machine.processor()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux describes its processor in a file")
def test_instruction_sets_are_linux_names():
    flags = machine.instruction_sets()
    assert all(" " not in flag for flag in flags)


def test_load_average_is_none_where_the_system_does_not_tell(monkeypatch):
    assert machine.load_average() is None or machine.load_average() >= 0
    monkeypatch.delattr(os, "getloadavg", raising=False)
    assert machine.load_average() is None


def test_packages_that_are_not_installed_have_no_version():
    assert machine.package_version("no-such-package") is None
    assert machine.package_versions(["no-such-package", "torch"]).keys() == {"torch"}


def test_files_that_git_does_not_track_belong_to_no_commit(tmp_path, monkeypatch):
    assert machine.read_commit(tmp_path) == (None, False)
    monkeypatch.setenv("PATH", str(tmp_path))  # no git at all
    assert machine.read_commit(Path(__file__).parent) == (None, False)
