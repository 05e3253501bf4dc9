"""The largest memory that this process has used, in MiB (2**20 bytes) everywhere.

On Linux the kernel's own mark of the address space is read, because a new process takes over what ``getrusage`` says of
its parent, which may be larger than it ever gets itself; and because the mark can be set back between two parts of a
job. Where there is no ``/proc``, ``getrusage`` is what there is, and parts cannot be told apart.
"""

import contextlib
import sys
from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
MIB = 2**20


def peak_memory(accelerator: str = "cpu") -> float | None:
    """Measure the largest memory since the last :func:`forget_peak`; ``None`` where the system does not tell.

    Args:
        accelerator: ``"cuda"`` for what the process's tensors took of the GPU, else its resident memory.

    Example:
        >>> 10 < peak_memory() < 100_000
        True
    """
    if accelerator == "cuda":
        import torch  # noqa: PLC0415 - processes that measure another library do without it

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
    """Set the mark back to what is in use now, where the system can."""
    if accelerator == "cuda":
        import torch  # noqa: PLC0415

        torch.cuda.reset_peak_memory_stats()
        return
    with contextlib.suppress(OSError):
        if CLEAR.exists():
            CLEAR.write_text("5", encoding="ascii")
