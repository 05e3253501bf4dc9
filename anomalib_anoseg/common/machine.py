"""What a figure was made with: the machine, and the versions of code and packages."""

import os
import platform
import subprocess  # noqa: S404 - git alone
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


@cache
def read_cpuinfo() -> tuple[tuple[str, str], ...]:
    """Read Linux's description of the processor, field by field; nothing elsewhere."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    fields = (line.partition(":") for line in lines)
    return tuple((name.strip(), value.strip()) for name, _, value in fields)


def processor() -> str:
    """Name the processor."""
    names = [value for name, value in read_cpuinfo() if name == "model name"]
    return names[0] if names else platform.processor() or platform.machine()


def instruction_sets() -> set[str]:
    """List the instruction sets of the processor by Linux's names; none where it does not tell."""
    return {flag for name, value in read_cpuinfo() if name in {"flags", "Features"} for flag in value.split()}


def load_average() -> float | None:
    """Give the mean number of processes that wanted to run in the last minute; ``None`` if the system does not tell."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def package_version(package: str) -> str | None:
    """Give the version of an installed package; ``None`` if it is not installed."""
    with suppress(PackageNotFoundError):
        return version(package)
    return None


def package_versions(packages: Iterable[str]) -> dict[str, str]:
    """Give the versions of those packages that are installed.

    Example:
        >>> list(package_versions(["torch", "no-such-package"]))
        ['torch']
    """
    return {package: found for package in packages if (found := package_version(package)) is not None}


def describe_machine() -> dict[str, Any]:
    """Describe system and hardware as this process sees them.

    Example:
        >>> sorted(describe_machine())
        ['cores', 'cpu', 'gpu', 'platform', 'python', 'threads']
    """
    import torch  # noqa: PLC0415 - processes that measure another library do without it

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def read_commit(folder: Path) -> tuple[str | None, bool]:
    """Read commit of a folder's files, and whether they differ from it; ``(None, False)`` if git does not track them.

    A package that is installed into an environment inside of a repository belongs to no commit of it.
    """
    if not _git(folder, "ls-files", "."):
        return None, False
    return _git(folder, "rev-parse", "HEAD"), bool(_git(folder, "status", "--porcelain", "."))


def _git(folder: Path, *arguments: str) -> str:
    """Ask git; an empty answer if there is no git or no repository."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    except OSError:
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""
