"""The origin of a measurement: the machine, and the versions of code and packages."""

import os
import platform
import subprocess  # noqa: S404 - git alone
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from typing_extensions import TypedDict


class Machine(TypedDict, total=False):
    """System and hardware, as far as they are known."""

    python: str | None
    platform: str | None
    cpu: str | None
    cores: int | None
    threads: int | None
    gpu: str | None


@cache
def read_cpuinfo() -> tuple[tuple[str, str], ...]:
    """Read Linux's description of the processor, field by field; empty on other systems."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    fields = (line.partition(":") for line in lines)
    return tuple((name.strip(), value.strip()) for name, _, value in fields)


def processor() -> str:
    """Name the processor."""
    names = [value for name, value in read_cpuinfo() if name == "model name"]
    return names[0] if names else platform.processor() or platform.machine()


def instruction_sets() -> set[str]:
    """List the instruction sets of the processor by Linux's names; empty if unknown."""
    return {flag for name, value in read_cpuinfo() if name in {"flags", "Features"} for flag in value.split()}


def load_average() -> float | None:
    """Return the load average of the last minute; ``None`` if the system does not report it."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def package_version(package: str) -> str | None:
    """Return the version of an installed package; ``None`` if it is not installed."""
    with suppress(PackageNotFoundError):
        return version(package)
    return None


def package_versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of those packages that are installed.

    Example:
        >>> list(package_versions(["torch", "no-such-package"]))
        ['torch']
    """
    return {package: found for package in packages if (found := package_version(package)) is not None}


def describe_machine() -> Machine:
    """Describe system and hardware as this process sees them.

    Example:
        >>> sorted(describe_machine())
        ['cores', 'cpu', 'gpu', 'platform', 'python', 'threads']
    """
    import torch  # noqa: PLC0415 - processes that measure another library must not load it

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def read_commit(folder: Path) -> tuple[str | None, bool]:
    """Read the commit of a folder's files, and if they differ from it; ``(None, False)`` if git does not track them.

    A package installed into an environment inside a repository belongs to none of its commits.
    """
    if not _git(folder, "ls-files", "."):
        return None, False
    return _git(folder, "rev-parse", "HEAD"), bool(_git(folder, "status", "--porcelain", "."))


def _git(folder: Path, *arguments: str) -> str:
    """Run git; the answer is empty without git or a repository."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    except OSError:
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""
