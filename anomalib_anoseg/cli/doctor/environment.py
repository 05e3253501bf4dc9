"""The state of registration, versions and the machine, as rows of tables."""

from __future__ import annotations

import logging
import os
import platform
import sys
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch

from anomalib_anoseg._autoload import registration
from anomalib_anoseg.common.machine import instruction_sets, package_version, processor
from anomalib_anoseg.common.messages import one_line
from anomalib_anoseg.deploy.openvino_core import openvino_core

if TYPE_CHECKING:
    from anomalib_anoseg.cli.doctor.output import Findings

__all__ = ["list_machine", "list_registration", "list_versions"]

CORE = ("anomalib-anoseg", "anomalib", "torch", "torchvision", "lightning", "torchmetrics", "kornia", "timm")
EXPORT = ("onnx", "onnxscript", "onnxruntime", "openvino", "nncf")
# Instruction sets that decide how fast a network runs, and in which precision OpenVINO computes by default.
FLAGS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16", "i8mm")
SWITCH = "ANOMALIB_ANOSEG_AUTOLOAD"
Rows = list[tuple[str, str]]


def list_registration(findings: Findings) -> Rows:
    """List whether the start-up hook is active and which models anomalib knows by name."""
    is_off = os.environ.get(SWITCH) == "0"
    is_active = "anomalib_anoseg._autoload" in sys.modules
    if is_off:
        findings.note(f"{SWITCH}=0 switches registration off; unset it to register the models by name.")
    elif not is_active:
        findings.problem(
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
            reason = _why_not_registered(entry_point.name) or "no reason was logged"
            findings.problem(f"{entry_point.name} is not registered: {reason}.", "see the reason")
    return rows


def _why_not_registered(name: str) -> str:
    """Register again, which changes nothing for other models, and return what is logged about this one."""
    logged: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: logged.append(record.getMessage())  # type: ignore[method-assign]
    registration.logger.addHandler(handler)
    try:
        registration.register()
    finally:
        registration.logger.removeHandler(handler)
    return "; ".join(line for line in logged if f" {name} " in line)


def list_versions(findings: Findings) -> Rows:
    """List versions; packages that only export needs may be missing."""
    rows = [("python", f"{platform.python_version()} on {platform.platform()}")]
    installed = {package: package_version(package) for package in (*CORE, *EXPORT)}
    rows += [(package, version or "not installed") for package, version in installed.items()]
    missing = [package for package, version in installed.items() if version is None]
    if missing:
        findings.note(
            f"Not installed: {', '.join(missing)}. Export to ONNX and OpenVINO needs them: "
            "`pip install 'anomalib-anoseg[openvino]'`."
        )
    return rows


def list_machine() -> Rows:
    """List processor, devices and the default precision of the libraries."""
    flags = instruction_sets()
    rows = [
        ("processor", f"{processor()}, {os.cpu_count()} cores"),
        ("instruction sets (selected)", ", ".join(name for name in FLAGS if name in flags) or "unknown"),
        ("torch devices", ", ".join(_torch_devices())),
        ("torch threads", str(torch.get_num_threads())),
        ("torch computes in", f"{torch.get_default_dtype()}, matrix products: {torch.get_float32_matmul_precision()}"),
    ]
    return [*rows, *_openvino_rows()]


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
        core = openvino_core()
        hint = core.get_property("CPU", "INFERENCE_PRECISION_HINT").to_string()
    except Exception as error:  # noqa: BLE001 - OpenVINO raises its own kinds on processors that it does not support
        return [("OpenVINO", f"does not start: {one_line(str(error))}")]
    return [("OpenVINO devices", ", ".join(core.available_devices)), ("OpenVINO computes in by default", hint)]
