"""Processes that work in the folder of a job."""

import json
import os
import subprocess  # noqa: S404 - our own modules are started
import sys
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from anomalib_anoseg.common.cores import limit_threads, pinned
from anomalib_anoseg.common.files import write_json, write_texts
from anomalib_anoseg.common.isolation import isolated

__all__ = ["DONE", "FAILED", "JobProcess", "Place", "Work", "ask", "read_epoch"]

DONE, FAILED, LOG = "row.json", "error.txt", "job.log"
TAIL = 20  # lines of the log that tell why a process ended


@dataclass(frozen=True)
class Work:
    """What is to be done in the folder of a job.

    Attributes:
        name: Name of the job.
        folder: Its folder.
        module: Full name of the module whose ``main()`` does the work of the folder named on its command line.
        environment: Variables of its process.
        need: MiB of memory that it may take.
    """

    name: str
    folder: Path
    module: str
    environment: Mapping[str, str] = field(default_factory=dict)
    need: float = 0.0


class Place(Protocol):
    """Where jobs run."""

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:  # noqa: ANN401
        """Call a function where the jobs run."""

    def run(self, jobs: list[Work], show: Callable[[dict[str, str]], None]) -> Generator[str, None, None]:
        """Run jobs.

        Args:
            jobs: The jobs.
            show: Called often with the state of what is running, by the job's name.

        Yields:
            The name of each job that has ended, and whose results are in its folder.

        Raises:
            ValueError: If the place cannot run them.
        """


class JobProcess:
    """Runs a job in a process of its own.

    Args:
        job: The job.
        threads: Threads of the process; ``None`` leaves their number to its libraries.
        cores: Cores that it is kept on; ``None`` for all.
    """

    def __init__(self, job: Work, threads: int | None = None, cores: Sequence[int] | None = None) -> None:
        self.folder = job.folder
        (job.folder / FAILED).unlink(missing_ok=True)
        environment = os.environ | dict(job.environment) | limit_threads(threads)
        with (job.folder / LOG).open("a", encoding="utf-8") as log, pinned(cores):
            command = [sys.executable, "-c", isolated(job.module), str(job.folder)]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)  # noqa: S603

    def is_running(self) -> bool:
        """Tell whether it runs."""
        return self._process.poll() is None

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()

    def explain(self) -> None:
        """Leave a reason if it has ended without a result, and left none itself."""
        if any((self.folder / name).is_file() for name in (DONE, FAILED)):
            return
        code = self._process.wait()
        reason = f"was killed by signal {-code}, possibly for lack of memory" if code < 0 else f"ended with {code}"
        lines = (self.folder / LOG).read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL:]
        write_texts({self.folder / FAILED: "\n".join([*lines, f"The job's process {reason}."])})


def ask(module: str, question: Any, environment: Mapping[str, str]) -> Any:  # noqa: ANN401
    """Let a module's ``main()`` answer a question in a process of its own, in the file in which it finds it.

    Returns:
        The answer; ``None`` if the process failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "question.json"
        write_json(path, question)
        command = [sys.executable, "-c", isolated(module), str(path)]
        ended = subprocess.run(command, capture_output=True, check=False, env=os.environ | dict(environment))  # noqa: S603
        return json.loads(path.read_text(encoding="utf-8")) if ended.returncode == 0 else None


def read_epoch(folder: Path) -> str:
    """Say how far the training of a job is; nothing before it."""
    try:
        progress = json.loads((folder / "work" / "progress.json").read_text(encoding="utf-8"))
        total = progress["max_epochs"]
        return f", epoch {progress['epoch']}" + (f" of {total}" if total and total < 10_000 else "")  # noqa: PLR2004
    except (OSError, ValueError, LookupError, TypeError):  # read while it may be written
        return ""
