"""The folder of a board."""

import json

import pytest

from anomalib_anoseg.board.run.run_folder import Board, Job, RunFolder
from anomalib_anoseg.common.files import write_json
from tests.board.conftest import row_of

JOBS = [Job(f"Padim-screw-seed{seed}-0", "Padim", "Padim", "MVTecAD", "screw", seed) for seed in (0, 1)]


@pytest.fixture
def runs(tmp_path):
    runs = RunFolder(tmp_path / "runs")
    runs.write_board(Board("text", JOBS, {"Draem": "no textures"}))
    return runs


def test_board_comes_back(runs):
    assert runs.board() == Board("text", JOBS, {"Draem": "no textures"})


def test_row_makes_a_job_finished_and_forgets_its_error(runs):
    folder = runs.job_folder(JOBS[0].id)
    folder.mkdir(parents=True)
    (folder / "error.txt").write_text("broken")
    assert (runs.missing(), runs.rows(), runs.error(JOBS[0].id)) == (JOBS, [], "broken")
    row = row_of(JOBS[0])
    runs.write_row(row)
    assert (runs.missing(), runs.rows(), runs.error(JOBS[0].id)) == (JOBS[1:], [row], None)
    assert sorted(path.name for path in folder.iterdir()) == ["row.json"]


def test_undefined_figures_become_null(runs):
    runs.write_row(row_of(JOBS[0], metrics={"pixel_IoU": float("nan")}))
    assert runs.rows()[0].metrics == {"pixel_IoU": None}
    assert "NaN" not in (runs.job_folder(JOBS[0].id) / "row.json").read_text()


def test_rows_of_jobs_that_the_board_does_not_name_stay_out(runs):
    runs.write_row(row_of(JOBS[0]))
    runs.write_board(Board("other", JOBS[1:]))
    assert runs.rows() == []


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    write_json(path, {"a": 1})
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}


def test_later_versions_may_write_more(runs):
    runs.write_row(row_of(JOBS[0]))
    path = runs.job_folder(JOBS[0].id) / "row.json"
    write_json(path, json.loads(path.read_text()) | {"colour": "red"})
    assert runs.rows()[0].label == "Padim"


def test_no_board_gets_a_clear_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no board\.json\. Name the folder given as --out"):
        RunFolder(tmp_path).board()


def test_other_schema_gets_a_clear_error(runs):
    write_json(runs.path / "board.json", {"schema": 99})
    with pytest.raises(ValueError, match=r"has schema 99, and this version reads schema 1\. Update"):
        runs.board()
