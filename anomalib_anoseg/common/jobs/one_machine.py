"""Jobs on this machine: one after another, or several at a time, each with its share of cores and memory."""

import time
from collections import deque
from collections.abc import Callable, Generator
from itertools import accumulate
from typing import Any

from anomalib_anoseg.common.cores import share_cores
from anomalib_anoseg.common.jobs.process import JobProcess, Work, read_epoch
from anomalib_anoseg.common.memory import MIB, available_memory

__all__ = ["OneMachine"]

INTERVAL = 0.2  # seconds between two looks at the processes


class OneMachine:
    """Runs jobs in processes of their own.

    Args:
        workers: Number of processes at a time.
        threads: Threads of each; ``None`` for its share of the cores, and one alone decides for itself.

    Raises:
        ValueError: If there are fewer cores, or a number is not positive.
    """

    def __init__(self, workers: int, threads: int | None) -> None:
        for name, number in {"workers": workers, "threads": threads}.items():
            if number is not None and number < 1:
                raise ValueError(f"{name} must be 1 or more, got {number}.")
        self.workers, self.threads = workers, threads
        self.cores = share_cores(workers) if workers > 1 else [None]

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:  # noqa: ANN401
        """Call a function where the jobs run."""
        return function(*arguments)

    def run(self, jobs: list[Work], show: Callable[[dict[str, str]], None]) -> Generator[str, None, None]:
        """Run jobs, as :meth:`~anomalib_anoseg.common.jobs.process.Place.run` says.

        Yields:
            The name of each job.

        Raises:
            ValueError: If there is not enough memory for so many processes.
        """  # noqa: DOC502 - `_count_memory` raises
        if self.workers > 1:
            self._count_memory(jobs)
        todo, running = deque(jobs), dict[int, tuple[Work, JobProcess]]()
        try:
            while todo or running:
                for place, cores in enumerate(self.cores):
                    if todo and place not in running:
                        job = todo.popleft()
                        threads = self.threads or (None if cores is None else len(cores))
                        running[place] = job, JobProcess(job, threads, cores)
                show({job.name: read_epoch(process.folder) for job, process in running.values()})
                time.sleep(INTERVAL)
                for place, (job, process) in list(running.items()):
                    if not process.is_running():
                        del running[place]
                        process.explain()
                        yield job.name
        finally:
            for _, process in running.values():
                process.stop()

    def _count_memory(self, jobs: list[Work]) -> None:
        """Check that the largest jobs fit beside each other into the memory that is free.

        Raises:
            ValueError: If they do not.
        """
        needs, free = sorted((job.need for job in jobs), reverse=True)[: self.workers], available_memory()
        if free is not None and sum(needs) * MIB > free and len(needs) > 1:
            fit = max(1, sum(need * MIB <= free for need in accumulate(needs)))
            raise ValueError(
                f"workers: {len(needs)} jobs at a time may need {sum(needs):.0f} MiB, and {free / MIB:.0f} MiB of "
                f"memory are free. {fit} {'fits' if fit == 1 else 'fit'}: set --workers {fit}."
            )
