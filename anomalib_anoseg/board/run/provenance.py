"""Where a figure comes from: code, versions, hardware, and what the process used."""

import os
import platform
import subprocess  # noqa: S404 - git alone
import sys
from importlib import metadata
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch

from anomalib_anoseg import __version__

PACKAGES = ("anomalib", "kornia", "lightning", "numpy", "timm", "torch", "torchmetrics", "torchvision")


def describe_surroundings() -> dict[str, Any]:
    """Describe code, versions and hardware of this process.

    Example:
        >>> sorted(describe_surroundings())
        ['commit', 'cores', 'cpu', 'dirty', 'gpu', 'platform', 'python', 'threads', 'versions']
    """
    commit, dirty = read_commit(Path(__file__).parent)
    return {
        "commit": commit,
        "dirty": dirty,
        "versions": {"anomalib-anoseg": __version__} | {name: metadata.version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu_name(),
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


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def class_path(found: type) -> str:
    """Name the shortest path under which a class can be imported.

    Example:
        >>> from anomalib_anoseg import AnoSeg
        >>> class_path(AnoSeg)
        'anomalib_anoseg.AnoSeg'
    """
    for module in accumulate(found.__module__.split("."), "{}.{}".format):
        if getattr(sys.modules.get(module), found.__name__, None) is found:
            return f"{module}.{found.__name__}"
    return f"{found.__module__}.{found.__qualname__}"
