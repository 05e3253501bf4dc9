"""Exported files are whole and of one version, or absent."""

import errno
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from anomalib_anoseg import AnoSeg
from anomalib_anoseg.deploy import export

FILES = {"torch": ["model.pt"], "onnx": ["model.onnx", "model.onnx.data"], "openvino": ["model.xml", "model.bin"]}


class Host:
    """Exports as anomalib does, some bytes in place of a network, and fails if told to."""

    fails = False
    version = "old"

    def export(self, kind, root, *args, **kwargs):
        del args, kwargs
        folder = Path(root) / "weights" / kind
        folder.mkdir(parents=True)
        for name in FILES[kind]:
            (folder / name).write_text(self.version)
        if self.fails:
            (folder / FILES[kind][-1]).write_text("")
            raise OSError(errno.ENOSPC, "No space left on device")
        return folder / FILES[kind][0]

    def to_torch(self, _model, *args, **kwargs):
        return self.export("torch", *args, **kwargs)

    def to_onnx(self, _model, *args, **kwargs):
        return self.export("onnx", *args, **kwargs)

    def to_openvino(self, _model, *args, **kwargs):
        return self.export("openvino", *args, **kwargs)


@pytest.mark.parametrize("kind", list(FILES))
def test_an_export_that_fails_leaves_the_one_before(kind, tmp_path, monkeypatch):
    host, model = Host(), AnoSeg((64, 64), network={"width": 0.05})
    model.load_state_dict(model.state_dict())
    monkeypatch.setattr(export, "_host", lambda: host)
    monkeypatch.setattr(export, "write_onnx_metadata", lambda *_: None)
    monkeypatch.setattr(export, "read_openvino_record", lambda _: json.dumps(host.version))
    monkeypatch.setattr(export, "describe", lambda *_: SimpleNamespace(to_json=lambda: json.dumps(host.version)))
    folder = tmp_path / "weights" / kind

    def is_of(version):
        found = {path.name: path.read_text() for path in folder.iterdir()}
        return found == dict.fromkeys(FILES[kind], version) | {"metadata.json": f'"{version}"\n'}

    write = getattr(model, f"to_{kind}")

    assert write(tmp_path) == folder / FILES[kind][0]
    host.fails, host.version = True, "new"
    with pytest.raises(OSError, match=r"No space left .* unchanged: '.*model\.\w+'"):
        write(tmp_path)
    assert is_of("old")
    host.fails = False
    write(tmp_path)
    assert is_of("new")


def test_the_files_of_anomalib_itself_are_moved(tmp_path):
    model = AnoSeg((64, 64), network={"width": 0.05})
    model.load_state_dict(model.state_dict())
    path = model.to_torch(tmp_path, "part")
    assert path == tmp_path / "weights" / "torch" / "part.pt"
    assert sorted(path.parent.iterdir()) == [path.with_name("metadata.json"), path]
    model = torch.load(path, weights_only=False)["model"]
    assert isinstance(model, AnoSeg)
    assert json.loads(model.record) == json.loads(path.with_name("metadata.json").read_text("utf-8"))
