"""The state of registration, versions and the machine, as rows of tables."""

from __future__ import annotations

import logging
import os
import platform
import sys
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from anomalib_anoseg._autoload import registration

if TYPE_CHECKING:
    from anomalib_anoseg.cli.doctor.output import Findings

__all__ = ["list_machine", "list_registration", "list_versions", "processor"]

CORE = ("anomalib-anoseg", "anomalib", "torch", "torchvision", "lightning", "torchmetrics", "kornia", "timm")
EXPORT = ("onnx", "onnxscript", "onnxruntime", "openvino", "nncf")
# Instruction sets that decide how fast a network runs, and in which precision OpenVINO computes by itself.
FLAGS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16", "i8mm")
SWITCH = "ANOMALIB_ANOSEG_AUTOLOAD"
Rows = list[tuple[str, str]]


def list_registration(findings: Findings) -> Rows:
    """List whether the start-up hook is active and which models anomalib knows by name."""
    is_off = os.environ.get(SWITCH) == "0"
    is_active = "anomalib_anoseg._autoload" in sys.modules
    if is_off:
        findings.note(f"{SWITCH}=0 switches registration off; unset it if names shall be known.")
    elif not is_active:
        findings.trouble(
            "Python did not read anomalib_anoseg.pth at its start, so anomalib knows the models by class path only.",
            "install the package with pip (a folder on PYTHONPATH is not enough), or call anomalib_anoseg.register()",
        )
    rows = [
        ("start-up hook anomalib_anoseg.pth", "active" if is_active else "not active"),
        (SWITCH, os.environ.get(SWITCH, "not set")),
    ]
    host: Any = import_module("anomalib.models")
    for entry_point in metadata.entry_points(group=registration.GROUP):
        is_known = getattr(getattr(host, entry_point.attr, None), "__module__", None) == entry_point.module
        rows.append((f"{entry_point.name} = {entry_point.value}", "known to anomalib" if is_known else "not known"))
        if not is_known and is_active and not is_off:
            reason = _why_not_registered(entry_point.name) or "nothing was said about it"
            findings.trouble(f"{entry_point.name} is not registered: {reason}.", "see the reason")
    return rows


def _why_not_registered(name: str) -> str:
    """Register again, which changes nothing for the others, and catch what is said about one model."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    registration.logger.addHandler(handler)
    try:
        registration.register()
    finally:
        registration.logger.removeHandler(handler)
    return "; ".join(line for line in said if f" {name} " in line)


def list_versions(findings: Findings) -> Rows:
    """List versions; what only export needs may be missing."""
    rows = [("python", f"{platform.python_version()} on {platform.platform()}")]
    installed = {package: _version(package) for package in (*CORE, *EXPORT)}
    rows += [(package, version or "not installed") for package, version in installed.items()]
    missing = [package for package, version in installed.items() if version is None]
    if missing:
        findings.note(
            f"Not installed: {', '.join(missing)}. Export to ONNX and OpenVINO needs them: "
            "`pip install 'anomalib-anoseg[openvino]'`."
        )
    return rows


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def list_machine() -> Rows:
    """List processor, devices and the precision that the libraries choose by themselves."""
    flags = _flags()
    rows = [
        ("processor", f"{processor()}, {os.cpu_count()} cores"),
        ("of its instruction sets", ", ".join(name for name in FLAGS if name in flags) or "unknown"),
        ("torch devices", ", ".join(_torch_devices())),
        ("torch threads", str(torch.get_num_threads())),
        ("torch computes in", f"{torch.get_default_dtype()}, matrix products: {torch.get_float32_matmul_precision()}"),
    ]
    return [*rows, *_openvino_rows()]


def processor() -> str:
    """Name the processor."""
    names = [value for name, value in _cpuinfo() if name == "model name"]
    return names[0] if names else platform.processor() or platform.machine()


def _flags() -> set[str]:
    return {flag for name, value in _cpuinfo() if name in {"flags", "Features"} for flag in value.split()}


def _cpuinfo() -> list[tuple[str, str]]:
    """Read Linux's description of the processor, field by field; nothing elsewhere."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    fields = (line.partition(":") for line in lines)
    return [(name.strip(), value.strip()) for name, _, value in fields]


def _torch_devices() -> list[str]:
    devices = ["cpu"]
    if torch.cuda.is_available():
        devices += [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("mps")
    return devices


def _openvino_rows() -> Rows:
    if find_spec("openvino") is None:
        return []
    try:
        core: Any = import_module("openvino").Core()
        hint = core.get_property("CPU", "INFERENCE_PRECISION_HINT").to_string()
    except Exception as error:  # noqa: BLE001 - OpenVINO raises its own kinds on processors that it does not support
        return [("OpenVINO", f"does not start: {' '.join(str(error).split())}")]
    return [("OpenVINO devices", ", ".join(core.available_devices)), ("OpenVINO computes in, unless told", hint)]
