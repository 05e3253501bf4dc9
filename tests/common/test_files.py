import errno
import os
import stat
from pathlib import Path

import pytest

from anomalib_anoseg.common import files
from anomalib_anoseg.common.files import write_json, write_texts, written_whole


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write(path, text="new"):
    with written_whole(path) as place:
        place.write_text(text)


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, failure):
    path = tmp_path / "model.ckpt"
    path.write_text("old")
    with pytest.raises(type(failure)) as caught, written_whole(path) as place:
        place.write_text("ne")
        raise failure
    assert path.read_text() == "old"
    assert names(tmp_path) == ["model.ckpt"]
    if isinstance(failure, OSError):
        assert caught.value.errno == errno.ENOSPC
        assert str(path) in str(caught.value)


def test_the_new_file_is_on_the_disk_before_it_takes_the_place(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda number: (done.append("sync"), fsync(number)))
    monkeypatch.setattr(Path, "replace", lambda self, target: (done.append("replace"), replace(self, target)))
    write(tmp_path / "file")
    assert done[:2] == ["sync", "replace"]


@pytest.mark.parametrize("killed_at", [1, 2, 3, 4])
def test_a_file_never_stands_beside_companions_of_another_version(tmp_path, monkeypatch, killed_at):
    path, companion = tmp_path / "model.xml", tmp_path / "model.bin"
    for version in ("old", "new"):
        if version == "new":
            calls, replace = [], Path.replace

            def stop(self, target, calls=calls, replace=replace):
                calls.append(target)
                if len(calls) == killed_at:
                    raise KeyboardInterrupt
                return replace(self, target)

            monkeypatch.setattr(Path, "replace", stop)
        try:
            with written_whole(path) as place:
                place.write_text(version)
                place.with_suffix(".bin").write_text(version)
        except KeyboardInterrupt:
            assert version == "new"
    assert path.exists() == (killed_at == 1)  # before the first is moved
    monkeypatch.undo()
    with written_whole(path) as place:
        place.write_text("newest")
        place.with_suffix(".bin").write_text("newest")
    assert (path.read_text(), companion.read_text()) == ("newest", "newest")


@pytest.mark.parametrize("exists", [False, True])
def test_folders_appear_at_once(tmp_path, exists):
    folder = tmp_path / "preview"
    if exists:  # as a mount point does
        folder.mkdir()
        number = folder.stat().st_ino
    with written_whole(folder) as place:
        (place / "normal").mkdir(parents=True)
        (place / "sheet.png").write_text("sheet")
        assert not [path for path in tmp_path.rglob("sheet.png") if ".part" not in str(path)]
    assert names(folder) == ["normal", "sheet.png"]
    assert names(tmp_path) == ["preview"]
    assert not exists or folder.stat().st_ino == number


@pytest.mark.parametrize("blocked", ["model.xml", "model.bin", "model.new"])
def test_a_file_that_cannot_be_replaced_leaves_all_as_they_were(tmp_path, monkeypatch, blocked):
    replace = Path.replace

    def refuse(self, target):
        if self.name == blocked and self.parent.name != ".old":  # as Windows does while a program reads it
            raise PermissionError(errno.EACCES, "Permission denied", str(self), None, str(target))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    path = tmp_path / "model.xml"
    for name in ("model.xml", "model.bin"):
        (tmp_path / name).write_text("old")
    message = rf"Permission denied; what was there before is unchanged: '{tmp_path / blocked}'$"
    with pytest.raises(PermissionError, match=message), written_whole(path) as place:
        for suffix in (".xml", ".bin", ".new"):
            place.with_suffix(suffix).write_text("new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"model.xml": "old", "model.bin": "old"}


@pytest.mark.parametrize("written", [[], ["model.bin"]])
def test_a_place_that_stays_empty_leaves_the_old_file(tmp_path, written):
    path = tmp_path / "model.xml"
    path.write_text("old")
    with pytest.raises(FileNotFoundError, match=r"unchanged: '.*model.xml'"), written_whole(path) as place:
        for name in written:
            place.with_name(name).write_text("new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"model.xml": "old"}


def test_a_folder_in_the_place_of_a_companion_stays(tmp_path):
    path, folder = tmp_path / "model.xml", tmp_path / "model.bin"
    path.write_text("old")
    (folder / "inside").mkdir(parents=True)
    message = rf"; what was there before is unchanged: '{folder}'$"
    with pytest.raises(OSError, match=message), written_whole(path) as place:
        place.write_text("new")
        place.with_suffix(".bin").write_text("new")
    assert path.read_text() == "old"
    assert (folder / "inside").is_dir()


def test_a_folder_that_cannot_be_synced_costs_nothing(tmp_path, monkeypatch):
    def fsync(number):
        if stat.S_ISDIR(os.fstat(number).st_mode):  # as some network file systems answer
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "fsync", fsync)
    write(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "new"


def test_the_place_has_the_permissions_of_any_new_folder(tmp_path):
    (tmp_path / "any").mkdir()
    with written_whole(tmp_path / "file") as place:
        place.touch()
        assert place.parent.stat().st_mode == (tmp_path / "any").stat().st_mode


def test_leftovers_of_ended_processes_are_removed_and_others_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "node", lambda: "gpu")
    removed = (".part-gpu-4194999-a", ".part-x-1-d")
    kept = (".part-gpu-1-b", ".part-other-4194999-c", ".part-gpu-12-777-x")  # the last is that of a machine gpu-12
    for name in (*removed, *kept):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_text("ha")
    monkeypatch.setattr(files, "_is_running", lambda process: process == 1)
    for name in (".part-gpu-1-b", ".part-x-1-d"):  # more than an hour old
        os.utime(tmp_path / name, (0, 0))
    write(tmp_path / "file")
    assert names(tmp_path) == sorted(["file", *kept])


def test_links_keep_pointing_at_the_file(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "new"


@pytest.fixture
def fill_disk(monkeypatch):
    """Fill the disk after so many more files; as on a real one, the error names no file."""

    def fill(files):
        left = iter([True] * files)

        def fsync(_):
            if not next(left, False):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", fsync)

    return fill


def test_files_that_belong_together_stay_together(tmp_path, fill_disk):
    page, table = tmp_path / "page.html", tmp_path / "table.csv"
    page.write_text("old page")
    fill_disk(1)
    with pytest.raises(OSError, match=r"No space left on device; what was there before is unchanged: '.*table.csv'"):
        write_texts({page: "new page", table: "new table"})
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("page.html", "old page")]


def test_old_content_is_there_until_the_new_one_is(tmp_path, fill_disk):
    path = tmp_path / "row.json"
    write_json(path, 1)
    fill_disk(0)
    with pytest.raises(OSError, match="No space"):
        write_json(path, 2)
    assert path.read_text() == "1\n"
    assert list(tmp_path.iterdir()) == [path]
