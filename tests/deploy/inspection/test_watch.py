"""A camera writes pictures, in parts and late, and each is judged once."""

import io
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import pytest

from anomalib_anoseg.deploy.inspection import watch

from .conftest import make_picture

pytest.importorskip("watchfiles")


@pytest.fixture
def encoded():
    file = io.BytesIO()
    make_picture().save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def take(tmp_path):
    """Take some pictures from the folder while another thread writes; returns when each came, by name."""
    judged = set()

    def take(count, write=lambda: None, own=()):
        found = {}
        with ThreadPoolExecutor(1) as camera:
            begin, writing = time.monotonic(), camera.submit(write)
            shots = watch.follow([tmp_path], own, judged.__contains__)
            for shot in islice(shots, count):
                judged.add(shot.key)
                found[shot.key.path.rpartition("/")[2]] = (time.monotonic() - begin, shot)
            shots.close()
            writing.result()
        return found

    return take


def test_half_written_pictures_are_waited_for(take, encoded, tmp_path):
    (tmp_path / "there.png").write_bytes(encoded)
    half = len(encoded) // 2

    def write():
        with (tmp_path / "slow.png").open("wb") as file:
            file.write(encoded[:half])
            file.flush()
            time.sleep(1.2)  # longer than a written file stays as it is before it is read
            file.write(encoded[half:])
        (tmp_path / ".hidden.png").write_bytes(encoded)
        (tmp_path / "note.txt").write_text("no picture")
        (tmp_path / "late.part").write_bytes(encoded)
        (tmp_path / "late.part").rename(tmp_path / "late.png")

    found = take(3, write)
    assert set(found) == {"there.png", "slow.png", "late.png"}
    assert found["there.png"][0] < 1.2 < found["slow.png"][0]
    assert [shot.problem for _, shot in found.values()] == ["", "", ""]


def test_a_picture_that_stays_broken_is_told_after_a_while(take, encoded, tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "PATIENCE", 0.6)
    (tmp_path / "torn.png").write_bytes(encoded[:-30])
    ((seconds, shot),) = take(1).values()
    assert 0.6 <= seconds < 1.1
    assert "is not an image, or is corrupt" in shot.problem


def test_what_is_judged_is_not_taken_again(take, encoded, tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "LISTED", 0.1)  # looks at all files again and again
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(encoded)
    own = tmp_path / "overlays"
    own.mkdir()
    (own / "a.png").write_bytes(encoded)
    assert set(take(2, own=[own])) == {"a.png", "b.png"}

    def write():
        time.sleep(0.5)
        (own / "b.png").write_bytes(encoded)
        (tmp_path / "gone.png").write_bytes(encoded)
        (tmp_path / "gone.png").unlink()
        time.sleep(0.7)  # enough to take a picture
        (tmp_path / "a.png").write_bytes(encoded)  # a new picture under an old name

    assert set(take(1, write, own=[own])) == {"a.png"}


def test_names_the_library_that_lacks(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "watchfiles", None)
    with pytest.raises(ModuleNotFoundError, match="--watch needs the library watchfiles; `pip install watchfiles`"):
        watch.import_watchfiles()
