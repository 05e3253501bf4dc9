"""Jobs on the workers of a Dask cluster, without a shared file system.

A job's folder travels to its worker and comes back, as one archive. Each worker runs one job at a time. Which one runs
where is decided here and not by the scheduler, which would start the job of a dead worker from nothing: meanwhile its
checkpoints come here, and it goes on from the last one elsewhere.
"""

from __future__ import annotations

import platform
import shutil
import time
from collections import Counter, deque
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from anomalib_anoseg import __version__
from anomalib_anoseg.common.files import PART, pack, unpack, write_texts, written_whole
from anomalib_anoseg.common.jobs.process import DONE, FAILED, JobProcess, Work, read_epoch
from anomalib_anoseg.common.machine import package_versions, read_commit
from anomalib_anoseg.common.messages import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from distributed import Client, Future

__all__ = ["Cluster"]

# Packages of equal versions here and there, beside Python and this one.
PACKAGES = ("anomalib", "distributed", "kornia", "lightning", "numpy", "timm", "torch", "torchmetrics", "torchvision")
INTERVAL = 0.5  # seconds between two looks at the workers
PATIENCE = 60.0  # seconds after which a job ends at which nobody looks any more
CONNECTING = 10.0  # seconds
TRANSFER = 600.0  # seconds that a finished folder may take
MAX_DEATHS = 3  # workers that a job may lose

# ------------------------------------------------------------------------------------------------------ on the workers


@dataclass
class Attempt:
    """A job under way in this worker's process: its folder, and when somebody last looked at it."""

    folder: Path
    seen: float


under_way: dict[str, Attempt] = {}


def run_there(job: Work, packed: bytes, threads: int) -> bytes:
    """Run a job in a folder of the worker's own, and return what is in it then."""
    from distributed import get_worker  # noqa: PLC0415 - installed with an extra

    with TemporaryDirectory(dir=get_worker().local_directory) as place:
        folder = Path(place, *job.folder.parts[-2:])
        unpack(packed, folder)
        under_way[job.name] = attempt = Attempt(folder, time.monotonic())
        process = JobProcess(replace(job, folder=folder), threads)
        try:
            while process.is_running() and time.monotonic() < attempt.seen + PATIENCE:
                time.sleep(0.2)
        finally:
            process.stop()
            del under_way[job.name]
        process.explain()
        return pack(folder)


def look(known: dict[str, str]) -> dict[str, tuple[str, str, bytes | None]]:
    """Say how far jobs are, and hand over their last checkpoints, unless these are the known ones."""
    found = {}
    for name in under_way.keys() & known.keys():
        attempt = under_way[name]
        attempt.seen = time.monotonic()
        checkpoint = last_checkpoint(attempt.folder)
        is_new = checkpoint is not None and checkpoint.name != known[name]
        news = (checkpoint.name, checkpoint.read_bytes()) if is_new else ("", None)  # type: ignore[union-attr]
        found[name] = (read_epoch(attempt.folder), *news)
    return found


def stop(names: list[str]) -> None:
    """End jobs."""
    for name in names:
        if name in under_way:
            under_way[name].seen = -PATIENCE


def last_checkpoint(folder: Path) -> Path | None:
    """Find the last checkpoint of a job's training, which is written whole."""
    found = (folder / "work" / "training").glob("*.ckpt")
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def read_versions() -> dict[str, str | None]:
    """Read the versions that results depend on."""
    found = {"python": platform.python_version(), "anomalib-anoseg": __version__}
    commit = read_commit(Path(__file__).parents[2])[0]
    return {**found, "anomalib-anoseg's commit": commit, **package_versions(PACKAGES)}


# ------------------------------------------------------------------------------------------------------------ here


@dataclass
class Sent:
    """A job that is out there."""

    job: Work
    worker: str
    future: Future[bytes]
    state: str = ""


class Cluster:
    """Runs jobs on the workers of a Dask scheduler.

    Args:
        address: Of the scheduler.
        threads: Threads of each job; ``None`` for those of its worker.
        tell: Prints a line.

    Raises:
        ModuleNotFoundError: If Dask is not installed.
        ValueError: If there is no such scheduler.
    """

    def __init__(self, address: str, threads: int | None, tell: Callable[[str], None]) -> None:
        self.address, self.threads, self.tell = address, threads, tell
        self.versions = read_versions()
        self.refused: dict[str, str] = {}  # why, by worker; "" for those in use
        try:
            from distributed import Client  # noqa: PLC0415 - installed with an extra
            from distributed.comm import resolve_address  # noqa: PLC0415

            resolve_address(address)
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                'scheduler: Dask is not installed. Run: pip install "anomalib-anoseg[cluster]"', name=error.name
            ) from error
        except (OSError, ValueError) as error:
            raise ValueError(
                f"scheduler must be an address such as tcp://10.0.0.5:8786, got {address!r} ({one_line(error)})."
            ) from error
        with self._naming_the_scheduler():
            self.client: Client = Client(address, timeout=CONNECTING, set_as_default=False)

    def close(self) -> None:
        """Take leave of the scheduler."""
        self.client.close()

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:  # noqa: ANN401
        """Call a function on one of the workers, as soon as there is one."""
        with self._naming_the_scheduler():
            while not (workers := self._workers()):
                time.sleep(INTERVAL)
            return self.client.submit(function, *arguments, workers=list(workers), pure=False).result()

    def run(self, jobs: list[Work], show: Callable[[dict[str, str]], None]) -> Generator[str]:
        """Run jobs, as :meth:`~anomalib_anoseg.common.jobs.process.Place.run` says.

        Yields:
            The name of each job.

        Raises:
            ValueError: If the scheduler is lost, or all workers are refused.
        """  # noqa: DOC502 - `_naming_the_scheduler` and `_workers` raise
        todo, deaths, sent = deque(jobs), Counter[str](), dict[str, Sent]()
        with self._naming_the_scheduler():
            try:
                while todo or sent:
                    workers = self._workers()
                    idle = workers.keys() - {each.worker for each in sent.values()}
                    for worker, job in zip(idle, list(todo), strict=False):
                        with suppress(OSError, TimeoutError):  # it may be lost by now
                            sent[job.name] = self._send(job, worker, self.threads or workers[worker])
                            todo.remove(job)
                    self._look(sent)
                    show({name: each.state for name, each in sent.items()})
                    time.sleep(INTERVAL)
                    for each in list(sent.values()):
                        if is_lost := self._is_lost(each, workers):
                            deaths[each.job.name] += 1
                            self.tell(f"{each.job.name}: its worker {each.worker} is lost.")
                        if is_lost and deaths[each.job.name] < MAX_DEATHS:
                            todo.appendleft(sent.pop(each.job.name).job)
                        elif is_lost or each.future.done():
                            self._receive(sent.pop(each.job.name), is_lost)
                            yield each.job.name
            finally:
                self._cancel(sent)

    def _workers(self) -> dict[str, int]:
        """Ask for the threads of each worker, without those of other versions, which a line names.

        Raises:
            ValueError: If there are no others.
        """
        found = self.client.nthreads()
        for worker in found.keys() - self.refused.keys():
            self.refused[worker] = self._find_difference(worker)
            if self.refused[worker]:
                self.tell(f"{worker} is not used: {self.refused[worker]}")
        reasons = [self.refused[worker] for worker in found]
        if reasons and all(reasons):
            raise ValueError(f"scheduler: no worker has the versions of this process. {reasons[0]}")
        return {worker: threads for worker, threads in found.items() if not self.refused[worker]}

    def _find_difference(self, worker: str) -> str:
        """Say how a worker's versions differ from those here."""
        answer = self.client.run(read_versions, workers=[worker], on_error="return").get(worker, {})
        if isinstance(answer, BaseException):
            return f"anomalib-anoseg of this version is not installed there ({one_line(answer)})."
        names = [name for name in self.versions | answer if self.versions.get(name) != answer.get(name)]
        return ", ".join(f"{name} is {answer.get(name)} there and {self.versions.get(name)} here" for name in names)

    def _send(self, job: Work, worker: str, threads: int) -> Sent:
        packed = self.client.scatter(pack(job.folder), workers=[worker], hash=False)
        future = self.client.submit(run_there, job, packed, threads, workers=[worker], pure=False)
        return Sent(job, worker, future)

    def _look(self, sent: dict[str, Sent]) -> None:
        """Note how far the jobs are, and keep their new checkpoints."""
        before = {name: last_checkpoint(each.job.folder) for name, each in sent.items()}
        known = {name: path.name if path else "" for name, path in before.items()}
        workers = [each.worker for each in sent.values()]
        answers = self.client.run(look, known, workers=workers, on_error="ignore") if workers else {}
        for name, (state, checkpoint, content) in (item for found in answers.values() for item in found.items()):
            sent[name].state = state
            if content is not None:
                with written_whole(sent[name].job.folder / "work" / "training" / checkpoint) as place:
                    place.write_bytes(content)
                if (old := before[name]) is not None:
                    old.unlink()

    def _is_lost(self, each: Sent, workers: dict[str, int]) -> bool:
        if each.future.status == "error":
            return type(each.future.exception()).__name__ == "KilledWorker"
        return each.worker not in workers or each.future.status in {"cancelled", "lost"}

    def _receive(self, each: Sent, is_lost: bool) -> None:
        """Put a job's folder in its place, its row last."""
        folder = each.job.folder
        if is_lost:
            reason = f"{MAX_DEATHS} workers died while they ran it, possibly for lack of memory."
            write_texts({folder / FAILED: reason})
            return
        try:
            packed = each.future.result(timeout=TRANSFER)
        except Exception as error:  # noqa: BLE001 - whatever happened there
            write_texts({folder / FAILED: f"On the worker {each.worker}: {one_line(error)}"})
            return
        with written_whole(folder) as place:
            unpack(packed, place)
            row = place / DONE
            text = row.read_text(encoding="utf-8") if row.is_file() else None
            row.unlink(missing_ok=True)
            for old in folder.iterdir():
                if old.is_dir() and not old.name.startswith(PART):
                    shutil.rmtree(old)
        if text is not None:
            write_texts({folder / DONE: text})

    def _cancel(self, sent: dict[str, Sent]) -> None:
        """End what is out there, after its last checkpoints have come here."""
        if not sent:
            return
        with suppress(OSError):
            self._look(sent)
            workers = [each.worker for each in sent.values()]
            self.client.run(stop, list(sent), workers=workers, on_error="ignore")
            self.client.cancel([each.future for each in sent.values()], force=True)

    @contextmanager
    def _naming_the_scheduler(self) -> Generator[None]:
        """Say in a line that there is no answer.

        Raises:
            ValueError: Instead of Dask's errors.
        """  # noqa: DOC501
        try:
            yield
        except (OSError, TimeoutError) as error:
            if getattr(error, "errno", None) is not None:  # of a file
                raise
            raise ValueError(
                f"scheduler: no Dask scheduler answers at {self.address!r} ({one_line(error)}). Start "
                "`dask scheduler`, name the address that it prints, and run the same command to go on."
            ) from error
