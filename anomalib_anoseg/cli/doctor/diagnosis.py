"""The subcommand `doctor`, which runs the checks of the other modules and prints what they find."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from anomalib.data import AnomalibDataModule  # noqa: TC002 - the command line reads the types

from anomalib_anoseg.cli.doctor.comparison import compare, load_runtimes
from anomalib_anoseg.cli.doctor.data_set import examine_data
from anomalib_anoseg.cli.doctor.environment import list_machine, list_registration, list_versions
from anomalib_anoseg.cli.doctor.models import (
    TestedModel,
    describe_record,
    find_files,
    fit_picture,
    list_thresholds,
    load_checkpoint,
    load_picture,
    read_record,
)
from anomalib_anoseg.cli.doctor.output import Findings

if TYPE_CHECKING:
    from anomalib_anoseg.deploy.record import Appearance

__all__ = ["doctor"]


def doctor(
    model: Path | dict[str, Any] | None = None,
    image: Path | None = None,
    model_class: str | None = None,
    threads: int = 1,
    tolerance: float = 1e-3,
    calls: int = 10,
    data: AnomalibDataModule | None = None,
    trainer: dict[str, Any] | str | None = None,
) -> list[str]:
    """Show what is installed, whether a model's runtimes agree, and which files of a data set cannot be used.

    All runtimes see the same picture as it is, and a checkpoint's are compared with what `anomalib test` and `predict`
    make of it. Files that take another size get it resized. OpenVINO is shown twice: computing in float32, and in the
    precision that it chooses for the processor. The tolerance does not apply to FP16 and INT8 files, nor to the
    precision that OpenVINO chooses. Of a data set all pictures and masks are read; what cannot be used, and what
    misleads a test, is listed with the remedy. With a model, too, it says whether they look like the good pictures that
    were held out.

    Args:
        model: A checkpoint (.ckpt), which is exported for the comparison; an exported file (.pt, .onnx, .xml), which is
            compared with those beside it; or a folder with exports (weights/torch, weights/onnx, weights/openvino). A
            .pt is a pickle and is loaded only if the environment variable TRUST_REMOTE_CODE is 1.
        image: A picture to compare on. Without one, a picture of a brick wall.
        model_class: Name or class path of a checkpoint's model, if neither its folder nor the row beside it names it.
        threads: Threads of each library.
        tolerance: Largest allowed difference of scores and maps in float32; values lie in [0, 1].
        calls: Predictions that are timed after one to warm up; the latency shown is their median.
        data: A data module, whose files are all examined, without downloading any.
        trainer: Ignored. With ``data``, so is the model, except its ``ignore_mask``, which is compared with the
            pictures.

    Returns:
        list[str]: Problems, each with a remedy; empty if there are none. The command then exits with 0, else with 1.
    """
    del trainer
    ignore_mask = None
    if isinstance(model, dict):  # what the command line adds to a file stands beside the file's arguments
        ignore_mask = {**model.get("init_args", {}), **model}.get("ignore_mask")
    if isinstance(model, dict) or (data is not None and model is not None and model.suffix in {".yaml", ".yml"}):
        model = None
    _check(model, image, threads, tolerance, calls)
    findings = Findings()
    findings.table("Registration", list_registration(findings))
    findings.table("Versions", list_versions(findings))
    findings.table("Machine", list_machine())
    appearance = None
    if model is not None:
        appearance = _examine(model, image, model_class, threads, tolerance, calls, findings)
    if data is not None:
        examine_data(data, findings, ignore_mask, appearance)
    findings.conclude()
    return findings.problems


def _examine(
    model: Path,
    image: Path | None,
    model_class: str | None,
    threads: int,
    tolerance: float,
    calls: int,
    findings: Findings,
) -> Appearance | None:
    """Show what a model's files say and predict; return how the good pictures look that were held out, if they tell."""
    is_checkpoint = model.suffix == ".ckpt"
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        loaded, name = load_picture(image)
        with findings.busy("exporting and loading"):
            tested = load_checkpoint(model, model_class) if is_checkpoint else None
            files = find_files(model, tested, loaded.shape[-2:], Path(folder), findings)
            runtimes = load_runtimes(files, threads, findings, trusted=is_checkpoint)
        record = read_record(runtimes, findings)
        findings.table("Record", describe_record(record) if record else [])
        findings.table("Thresholds of raw scores", *list_thresholds(model, runtimes, findings))
        if not runtimes:
            return None
        picture, title = fit_picture(loaded, name, [runtime.input_size for runtime in runtimes], findings)
        if is_checkpoint:
            runtimes = [TestedModel(tested), *runtimes]
        headings, rows = compare(runtimes, picture, tolerance, calls, findings)
        findings.table(title, rows, headings)
    return None if record is None else record.appearance


def _check(model: Path | None, image: Path | None, threads: int, tolerance: float, calls: int) -> None:
    if image is not None and model is None:
        raise ValueError("image needs a model that predicts it; give --model, too")
    for name, path in {"model": model, "image": image}.items():
        if path is not None and not path.exists():
            raise ValueError(f"{name} names {path}, which does not exist")
        if path is not None and not (path.is_file() or path.is_dir()):  # a pipe would wait for its writer
            raise ValueError(f"{name} names {path}, which is neither a file nor a folder")
    for name, value in {"threads": threads, "calls": calls}.items():
        if value < 1:
            raise ValueError(f"{name} must be 1 or more, got {value}")
    if not tolerance > 0:
        raise ValueError(f"tolerance must be positive, got {tolerance}")
