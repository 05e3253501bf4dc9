"""The peak memory of this process, always in MiB (2**20 bytes), and the memory that is left.

On Linux the kernel's own peak (``VmHWM``) is read. It can be reset between two parts of a job, while that of
``getrusage`` cannot, and starts from the peak of the parent process, which may be larger than this process ever gets.
Without ``/proc``, ``getrusage`` is used, and the parts of a job cannot be separated.
"""

import contextlib
import sys
from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
MEMINFO, CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
MIB = 2**20


def peak_memory(accelerator: str = "cpu") -> float | None:
    """Measure the peak memory since the last :func:`forget_peak`; ``None`` if the system does not report it.

    Args:
        accelerator: ``"cuda"`` for the GPU memory of the process's tensors, else its resident memory.

    Example:
        >>> 10 < peak_memory() < 100_000
        True
    """
    if accelerator == "cuda":
        import torch  # noqa: PLC0415 - processes that measure another library must not load it

        return torch.cuda.max_memory_allocated() / MIB
    if STATUS.is_file():
        lines = dict(line.split(":", 1) for line in STATUS.read_text(encoding="utf-8").splitlines() if ":" in line)
        return int(lines["VmHWM"].split()[0]) * 1024 / MIB if "VmHWM" in lines else None
    try:
        import resource  # noqa: PLC0415 - not on Windows
    except ModuleNotFoundError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MIB


def forget_peak(accelerator: str = "cpu") -> None:
    """Reset the peak to the memory in use now, if the system allows it."""
    if accelerator == "cuda":
        import torch  # noqa: PLC0415

        torch.cuda.reset_peak_memory_stats()
        return
    with contextlib.suppress(OSError):
        if CLEAR.exists():
            CLEAR.write_text("5", encoding="ascii")


def available_memory() -> int | None:
    """Bytes that this process may still take without swapping, also in a container; ``None`` if the system hides it.

    Example:
        >>> available_memory() is None or available_memory() > 0
        True
    """
    found = []
    with contextlib.suppress(OSError, ValueError, LookupError):
        lines = dict(line.split(":", 1) for line in MEMINFO.read_text(encoding="utf-8").splitlines() if ":" in line)
        found.append(int(lines["MemAvailable"].split()[0]) * 1024)
    with contextlib.suppress(OSError, ValueError):  # the limit is "max" if there is none
        found.append(int((CGROUP / "memory.max").read_text()) - int((CGROUP / "memory.current").read_text()))
    return max(0, min(found)) if found else None
