"""The cores of the processor, shared among processes that compute at the same time."""

import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager

__all__ = ["limit_threads", "pinned", "share_cores"]

# What OpenMP, MKL and OpenBLAS read when they are loaded.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def share_cores(shares: int) -> list[list[int]]:
    """Divide the cores that this process may use into equal shares; what is left over stays idle.

    Args:
        shares: Number of shares.

    Raises:
        ValueError: If there are fewer cores.

    Example:
        >>> len(share_cores(1)[0]) == len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else True
        True
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    size = len(cores) // shares
    if not size:
        raise ValueError(f"workers must be {len(cores)} or less, one for each core, got {shares}.")
    return [cores[start : start + size] for start in range(0, shares * size, size)]


@contextmanager
def pinned(cores: Sequence[int] | None) -> Generator[None, None, None]:
    """Keep processes that this thread starts in a ``with`` block on some cores, where the system can.

    Args:
        cores: Their numbers; ``None`` for all.
    """
    if cores is None or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def limit_threads(threads: int | None) -> dict[str, str]:
    """Name the environment of a process that computes with so many threads; none for ``None``.

    Example:
        >>> limit_threads(2)["OMP_NUM_THREADS"], limit_threads(None)
        ('2', {})
    """
    return {} if threads is None else dict.fromkeys(THREADS, str(threads))
