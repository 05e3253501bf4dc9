"""A folder of pictures becomes results, each once, whatever happens in between."""

import csv
import errno
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from anomalib_anoseg.deploy.inspection import inspection, journal
from anomalib_anoseg.deploy.inspection.journal import Journal
from anomalib_anoseg.deploy.inspection.shots import Key

from .conftest import make_picture


def test_each_picture_has_a_result_in_its_own_coordinates(inspect, parts, tmp_path, capsys):
    results = inspect(parts, overlays="all", masks=True)
    assert [line["label"] for line in results.values()] == ["normal"] * 3 + ["anomalous"]
    bad = results["bad/0.png"]
    assert bad["path"] == str(parts / "bad" / "0.png")
    assert (bad["threshold"], bad["size"]) == (0.5, [32, 24])
    assert bad["score"] == pytest.approx(0.8)
    assert len(bad["regions"]) == 1
    assert (bad["regions"][0]["box"], bad["regions"][0]["centroid"]) == ([8, 4, 16, 12], [11.5, 7.5])
    assert "." in bad["time"] and bad["time"].endswith("+00:00")
    out = tmp_path / "out"
    mask = np.asarray(Image.open(out / bad["mask"]).convert("L"))
    expected = np.zeros((24, 32), np.uint8)
    expected[4:12, 8:16] = 255
    expected[[4, 4, 11, 11], [8, 15, 8, 15]] = 0  # bilinear: 0.2 + 0.6 * 0.625 ** 2 is below 0.5
    assert np.array_equal(mask, expected)
    overlay = np.asarray(Image.open(out / bad["overlay"])).astype(int)
    assert overlay[8, 12, 0] > overlay[8, 12, 1] + 60  # reddish
    assert len(list((out / "overlays").iterdir())) == len(list((out / "masks").iterdir())) == 4  # two are named 0
    rows = list(csv.DictReader((out / "results.csv").open(encoding="utf-8")))
    assert [row["label"] for row in rows] == ["normal"] * 3 + ["anomalous"]
    assert rows[3] | {"time": ""} == {
        "path": bad["path"],
        "label": "anomalous",
        "score": str(bad["score"]),
        "threshold": "0.5",
        "regions": "1",
        "anomalous_pixels": "60",
        "largest_box": "8 4 16 12",
        "time": "",
        "error": "",
    }
    assert capsys.readouterr().out.startswith("3 normal, 1 anomalous, 0 unreadable; 4 judged now.")


def test_coco_lists_pictures_and_boxes(inspect, parts, tmp_path):
    (parts / "1.png").write_bytes(b"torn")
    results = inspect(parts, coco=True)
    content = json.loads((tmp_path / "out" / "coco.json").read_text(encoding="utf-8"))
    pictures = {picture["id"]: picture for picture in content["images"]}
    assert [picture["file_name"] for picture in pictures.values()] == [
        line["path"] for line in results.values() if "error" not in line
    ]
    (box,) = content["annotations"]
    assert pictures[box["image_id"]] | {"id": 0} == {
        "id": 0,
        "file_name": str(parts / "bad" / "0.png"),
        "width": 32,
        "height": 24,
        "label": "anomalous",
        "score": results["bad/0.png"]["score"],
    }
    assert (box["bbox"], box["area"], box["category_id"]) == ([8, 4, 8, 8], 60, content["categories"][0]["id"])
    make_picture(size=(40, 24)).save(parts / "bad" / "0.png")  # a good picture under its name
    inspect(parts, coco=True)
    content = json.loads((tmp_path / "out" / "coco.json").read_text(encoding="utf-8"))
    assert (len(content["images"]), content["annotations"]) == (3, [])


@pytest.mark.parametrize(("wanted", "count"), [("all", 4), ("anomalous", 1), ("none", 0)])
def test_overlays_are_those_asked_for(inspect, parts, tmp_path, wanted, count):
    results = inspect(parts, overlays=wanted)
    assert len(list((tmp_path / "out").glob("overlays/*.jpg"))) == count
    assert sum("overlay" in line for line in results.values()) == count
    assert not any("mask" in line for line in results.values())


def test_a_picture_that_cannot_be_judged_does_not_stop_the_line(inspect, parts, tmp_path, capsys):
    whole = (parts / "1.png").read_bytes()
    (parts / "1.png").write_bytes(whole[: len(whole) // 2])
    Image.new("I;16", (32, 24)).save(parts / "2.png")
    results = inspect(parts)
    assert "1.png is not an image, or is corrupt" in results["parts/1.png"]["error"]
    assert "more than 8 bits a channel" in results["parts/2.png"]["error"]
    assert "label" not in results["parts/1.png"]
    assert results["bad/0.png"]["label"] == "anomalous"
    assert "1 normal, 1 anomalous, 2 unreadable" in capsys.readouterr().out
    assert "corrupt" in (tmp_path / "out" / "results.csv").read_text(encoding="utf-8")
    (parts / "1.png").write_bytes(whole)  # mended, so judged
    assert inspect(parts)["parts/1.png"]["label"] == "normal"
    assert "2 normal, 1 anomalous, 1 unreadable; 2 judged now." in capsys.readouterr().out


def test_a_file_that_fails_on_a_picture_says_which(inspect, parts, monkeypatch):
    def fail(*_):
        raise RuntimeError("no\nmemory")

    monkeypatch.setattr(inspection.Session, "judge", fail)
    assert inspect(parts)["parts/0.png"]["error"] == "RuntimeError: no memory"
    monkeypatch.undo()
    assert inspect(parts)["parts/0.png"]["label"] == "normal"  # the next start tries again


def test_what_is_judged_is_not_judged_again(inspect, parts, tmp_path, capsys):
    first = inspect(parts)
    make_picture(0.3).save(parts / "3.png")
    make_picture(bright=0.9).save(parts / "0.png")  # a new picture under an old name
    os.utime(parts / "0.png", ns=(time.time_ns(), time.time_ns() + 10**9))
    results = inspect(parts)
    assert "2 judged now" in capsys.readouterr().out.splitlines()[-1]
    lines = (tmp_path / "out" / "results.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 6
    assert results["bad/0.png"] == first["bad/0.png"]
    assert results["parts/0.png"]["label"] == "anomalous"


def test_a_picture_named_twice_is_judged_once(inspect, parts, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(parts)
    monkeypatch.chdir(tmp_path)
    assert len(inspect(parts, parts / "0.png", "link", "parts/bad")) == 4
    assert len((tmp_path / "out" / "results.jsonl").read_text(encoding="utf-8").splitlines()) == 4


def test_a_torn_line_is_repaired(inspect, parts, tmp_path):
    whole = inspect(parts)
    file = tmp_path / "out" / "results.jsonl"
    for removed in (1, 40):  # the end of the line; half of it
        file.write_bytes(file.read_bytes()[:-removed])
        again = inspect(parts)
        assert list(again) == list(whole)
        assert again["bad/0.png"]["score"] == whole["bad/0.png"]["score"]
        assert len(file.read_bytes().splitlines()) == 4


def test_a_foreign_line_is_named(inspect, parts, tmp_path):
    inspect(parts)
    file = tmp_path / "out" / "results.jsonl"
    first, *others = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text("".join([first, '{"note": "mine"}\n', *others]), encoding="utf-8")
    with pytest.raises(ValueError, match=r"Line 2 of .*results.jsonl is no result of an inspection. Remove the line"):
        inspect(parts)


def test_results_of_another_file_or_rate_are_not_mixed(inspect, parts, make_model, tmp_path):
    inspect(parts, rate=0.05)
    assert json.loads((tmp_path / "out" / "inspection.json").read_text())["thresholds"] == {"image": 0.6, "pixel": 0.55}
    with pytest.raises(ValueError, match=r"--out: .*out has results with --rate 0.05. Use that, or name another"):
        inspect(parts)
    with pytest.raises(ValueError, match=r"has results of another file \(.*model.onnx\). Name another folder"):
        inspect(parts, path=make_model("other.onnx", {}))
    (tmp_path / "out" / "inspection.json").unlink()
    with pytest.raises(ValueError, match=r"has results, but no inspection.json that says by which file"):
        inspect(parts, rate=0.05)


def test_two_inspections_do_not_share_a_folder(inspect, parts, tmp_path):
    with Journal(tmp_path / "out", {}), pytest.raises(ValueError, match="another inspection writes to"):
        inspect(parts)
    assert len(inspect(parts, out=tmp_path / "another")) == 4


@pytest.mark.slow
def test_a_lock_ends_with_its_process(tmp_path):
    hold = "from filelock import FileLock; lock = FileLock('.lock'); lock.acquire(); print('held', flush=True); input()"
    holder = subprocess.Popen(
        [sys.executable, "-c", hold], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="another inspection writes to"):
            Journal(tmp_path, {})
    finally:
        holder.kill()
        holder.communicate()
    with Journal(tmp_path, {}) as opened:
        assert str(opened.tally) == "0 normal, 0 anomalous, 0 unreadable"


def test_a_drive_without_locks_is_named(inspect, parts, tmp_path, monkeypatch, capsys):
    def fail(*_, **__):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(journal.FileLock, "acquire", fail)
    assert len(inspect(parts)) == 4
    assert (
        f"{tmp_path / 'out'} cannot be locked (OSError: [Errno {errno.ENOLCK}] No locks available)"
        in capsys.readouterr().err
    )


def test_a_folder_that_may_not_be_written_is_no_drive_without_locks(inspect, parts, monkeypatch, capsys):
    def fail(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", "out/.lock")

    monkeypatch.setattr(journal.FileLock, "acquire", fail)
    with pytest.raises(PermissionError):
        inspect(parts)
    assert "cannot be locked" not in capsys.readouterr().err


def test_a_service_without_stderr_gets_its_results(inspect, parts, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    assert len(inspect(parts)) == 4


def test_results_within_the_folder_are_no_pictures(inspect, parts):
    for _ in range(2):
        results = inspect(parts, out=parts, overlays="all", masks=True)
        assert len(results) == 4
    assert len(inspect(parts, out=parts / "again", overlays="all", masks=True)) == 4
    assert len(inspect(parts, out=parts / "another")) == 4


def test_a_full_disk_is_no_fault_of_the_picture(inspect, parts, monkeypatch):
    def fill(*_, **__):
        raise OSError(28, "No space left on device", "overlay.jpg")

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", fill)
        with pytest.raises(OSError, match="No space left"):
            inspect(parts / "bad")
    assert inspect(parts / "bad")["bad/0.png"]["label"] == "anomalous"


def test_a_journal_writes_all_of_a_line_or_tells(tmp_path):
    with Journal(tmp_path, {}) as opened:
        file = opened._file

        class Slow:
            def write(self, text):
                return file.write(text[:7])

        opened._file = Slow()
        opened.append(Key("/a.png", 1, 2), {"label": "normal"})
    assert json.loads((tmp_path / "results.jsonl").read_text())["label"] == "normal"


def test_arguments_that_name_nothing_are_refused(inspect, parts, tmp_path):
    with pytest.raises(ValueError, match=r"PICTURES: there is no file or folder .*none.png. Name one that there is."):
        inspect(tmp_path / "none.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"PICTURES: there are no pictures \(.bmp, .*\) in .*empty."):
        inspect(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"--watch follows folders. Name a folder that the camera writes to."):
        inspect(parts / "0.png", watch=True)


def test_long_names_fit(inspect, tmp_path):
    path = tmp_path / f"{'ä' * 120}.png"
    make_picture(bright=0.8).save(path)
    (line,) = inspect(path).values()
    assert (tmp_path / "out" / line["overlay"]).is_file()
