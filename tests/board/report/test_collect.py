"""Run folders are read, put together, and refused with a clear word."""

import json
import os
import shutil

import pytest

from anomalib_anoseg.board.report.collect import budget_of, collect


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_everything_is_there(board):
    collection = collect([board])
    assert collection.labels == ["AnoSeg", "DRAEM", "Mean grey", "Constant map"]
    assert collection.models == ["AnoSeg", "DRAEM"]
    assert collection.categories == ["brick", "screw"]
    assert collection.seeds == [0, 1, 2]
    assert (len(collection.jobs), collection.expected) == (24, 24)
    assert not collection.missing
    assert not collection.notes


def test_missing_jobs_are_named_with_their_error(make_board, tmp_path):
    folder = make_board(tmp_path / "runs", skip=("DRAEM-screw-seed2", "DRAEM-screw-seed1"))
    (folder / "jobs" / "DRAEM-screw-seed1" / "error.txt").unlink()
    missing = collect([folder]).missing
    assert [(job.id, job.reason) for job in missing] == [
        ("DRAEM-screw-seed1", "not started"),
        ("DRAEM-screw-seed2", "MemoryError: too <large>"),
    ]


def test_of_a_long_error_the_line_that_names_it_counts(make_board, tmp_path):
    folder = make_board(tmp_path / "runs", skip=("DRAEM-screw-seed2",))
    error = folder / "jobs" / "DRAEM-screw-seed2" / "error.txt"
    error.write_text("Traceback:\n  raise ValueError\npickle.UnpicklingError: refused\n\nCheck the documentation.\n")
    assert collect([folder]).missing[0].reason == "pickle.UnpicklingError: refused"
    error.write_text("Killed\n")
    assert collect([folder]).missing[0].reason == "Killed"


def test_folders_are_put_together(make_board, tmp_path):
    first = make_board(tmp_path / "first", seeds=(0, 1), skip=("AnoSeg-brick-seed1",))
    second = make_board(tmp_path / "second", seeds=(1, 2))
    collection = collect([first, second, first])
    assert collection.seeds == [0, 1, 2]
    assert not collection.missing
    assert len(collection.jobs) == 24
    assert len(collection.notes) == 7  # all jobs of seed 1 but the one that the first folder lacks
    assert set(collection.configs) == {"first", "second"}


def test_of_a_job_in_two_folders_the_later_counts(make_board, tmp_path):
    def later(row):
        row["provenance"]["finished"] = "2027-01-01T00:00:00+01:00"
        return row

    old, new = make_board(tmp_path / "old"), make_board(tmp_path / "new", change=later)
    for folders in ([old, new], [new, old]):
        collection = collect(folders)
        assert {job.folder.parents[1] for job in collection.jobs} == {new}
        assert str(new) in collection.notes[0]
        assert str(old) not in collection.notes[0]


def test_equal_jobs_with_different_ids_count_once(make_board, tmp_path):
    first, second = (make_board(tmp_path / name, labels=("AnoSeg",), seeds=(0,)) for name in ("first", "second"))
    path = second / "jobs" / "AnoSeg-brick-seed0"
    path.rename(path.with_name("other"))
    edit_json(path.with_name("other") / "row.json", id="other")
    text = (second / "board.json").read_text()
    (second / "board.json").write_text(text.replace('"AnoSeg-brick-seed0"', '"other"'))
    collection = collect([first, second])
    assert len(collection.jobs) == 2
    assert "are the same job" in " ".join(collection.notes)


def test_finished_jobs_of_an_earlier_grid_are_left_out(make_board, tmp_path):
    folder = make_board(tmp_path / "runs")
    jobs = json.loads((folder / "board.json").read_text())["jobs"]
    edit_json(folder / "board.json", jobs=[job for job in jobs if job["id"] != "DRAEM-brick-seed0"])
    collection = collect([folder])
    assert len(collection.jobs) == 23
    assert collection.notes == [
        f"{folder} holds finished jobs that its board.json does not name; left out: DRAEM-brick-seed0."
    ]


def test_one_name_for_different_settings_is_told_apart(make_board, tmp_path):
    def narrow(row):
        return {**row, "id": f"narrow-{row['id']}", "settings": {**row["settings"], "width": 0.25}}

    wide = make_board(tmp_path / "wide", labels=("AnoSeg",))
    small = make_board(tmp_path / "small", labels=("AnoSeg",), change=narrow)
    text = (small / "board.json").read_text()
    (small / "board.json").write_text(text.replace('"AnoSeg-', '"narrow-AnoSeg-'))
    collection = collect([wide, small])
    assert collection.labels == ["AnoSeg (width=default)", "AnoSeg (width=0.25)"]
    assert "told apart by width" in collection.notes[0]
    assert len(collection.jobs) == 12


def test_accelerators_are_told_apart(make_board, tmp_path):
    cpu = make_board(tmp_path / "cpu", labels=("AnoSeg",), seeds=(0,), change=lambda row: {**row, "accelerator": "cpu"})
    gpu = make_board(
        tmp_path / "gpu", labels=("AnoSeg",), seeds=(1,), change=lambda row: {**row, "accelerator": "cuda"}
    )
    assert collect([cpu, gpu]).labels == ["AnoSeg (accelerator=cpu)", "AnoSeg (accelerator=cuda)"]


def test_a_label_is_trivial_or_not(make_board, tmp_path):
    folder = make_board(tmp_path / "runs", labels=("AnoSeg",), categories=("brick",), seeds=(0, 1))
    edit_json(folder / "jobs" / "AnoSeg-brick-seed1" / "row.json", trivial=True)
    assert collect([folder]).labels == ["AnoSeg (trivial=False)", "AnoSeg (trivial=True)"]


def test_trainer_settings_are_told_apart(make_board, tmp_path):
    def fast(row):
        return {**row, "trainer": {"precision": "bf16-mixed"}}

    plain = make_board(tmp_path / "plain", labels=("AnoSeg",), seeds=(0,))
    other = make_board(tmp_path / "fast", labels=("AnoSeg",), seeds=(1,), change=fast)
    collection = collect([plain, other])
    assert collection.labels == ["AnoSeg (trainer.precision=default)", "AnoSeg (trainer.precision=bf16-mixed)"]
    assert "told apart by trainer.precision" in collection.notes[0]


def test_different_data_of_one_name_is_not_averaged(make_board, tmp_path):
    def read(root, **more):
        return lambda row: {**row, "data": {"root": root, "seed": row["seed"], "num_workers": row["seed"], **more}}

    first = make_board(tmp_path / "first", categories=("tile",), seeds=(0, 1), change=read("a"))
    second = make_board(tmp_path / "second", categories=("tile",), seeds=(2,), change=read("b"))
    collection = collect([first, second])
    assert collection.categories == ["tile (root=a)", "tile (root=b)"]
    assert "tile stands for different data, which is not averaged; told apart by root." in collection.notes[0]
    labelled = make_board(
        tmp_path / "labelled",
        categories=("tile",),
        seeds=(2,),
        change=lambda row: {**read("b")(row), "data_label": "tile (Huang)"},
    )
    collection = collect([first, labelled])
    assert collection.categories == ["tile", "tile (Huang)"]
    assert not collection.notes


def test_jobs_go_by_the_labels_of_their_board(make_board, tmp_path):
    folder = make_board(tmp_path / "runs", labels=("AnoSeg",))
    (folder / "board.json").write_text((folder / "board.json").read_text().replace('"AnoSeg"', '"AnoSeg (width=1)"'))
    assert collect([folder]).labels == ["AnoSeg (width=1)"]


def test_data_sets_are_named_where_there_are_several(make_board, tmp_path):
    def other(row):
        return {**row, "dataset": "VisA"} if row["category"] == "screw" else row

    assert collect([make_board(tmp_path / "runs", change=other)]).categories == ["MVTecAD brick", "VisA screw"]


def test_a_data_set_without_categories_goes_by_its_name(make_board, tmp_path):
    assert collect([make_board(tmp_path / "runs", categories=("",))]).categories == ["MVTecAD"]


def test_trivial_models_of_one_class_share_a_row(make_board, tmp_path):
    def share(row):
        return {**row, "model": "package.ImageStatistics"} if row["label"] == "Mean grey" else row

    def contrast(row):
        return {**row, "model": "package.ImageStatistics", "trivial": True}

    first = make_board(tmp_path / "first", change=share)
    second = make_board(tmp_path / "second", labels=("Contrast",), change=contrast)
    labels = collect([first, second]).labels
    assert labels == ["AnoSeg", "DRAEM", "Image statistics (best of 2)", "Constant map"]


def test_models_that_are_left_out_are_kept_in_mind(make_board, tmp_path):
    folder = make_board(tmp_path / "runs")
    edit_json(folder / "board.json", left_out={"GLASS": "would download its backbone"})
    assert collect([folder]).left_out == {"GLASS": "would download its backbone"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: None, "is not a run folder: it does not exist. Name a folder that"),
        (lambda folder: folder.mkdir(), "is not a run folder: it has no board.json"),
        (lambda folder: folder.write_text(""), "is not a run folder: it is a file"),
    ],
)
def test_what_is_no_run_folder(make, message, tmp_path):
    make(tmp_path / "runs")
    with pytest.raises(ValueError, match=message):
        collect([tmp_path / "runs"])


def test_no_folder_at_all():
    with pytest.raises(ValueError, match=r"runs is empty\. Name at least one folder"):
        collect([])


def test_nothing_finished(make_board, tmp_path):
    folder = make_board(tmp_path / "runs", labels=("AnoSeg",), categories=("brick",), seeds=(0,))
    (folder / "jobs" / "AnoSeg-brick-seed0" / "row.json").unlink()
    with pytest.raises(ValueError, match=r"No job in .* has finished \(1 should exist\). Run the board again"):
        collect([folder])
    (folder / "jobs" / "AnoSeg-brick-seed0" / "error.txt").write_text("Traceback\nValueError: no images\n")
    with pytest.raises(ValueError, match="AnoSeg-brick-seed0 stopped with: ValueError: no images"):
        collect([folder])


@pytest.mark.parametrize(
    "name", ["board.json", "jobs/AnoSeg-brick-seed0/row.json", "jobs/AnoSeg-brick-seed0/cost.json"]
)
def test_files_that_cannot_be_read(name, board, tmp_path):
    folder = tmp_path / "runs"
    shutil.copytree(board, folder)
    path = folder / name
    edit_json(path, schema=2)
    with pytest.raises(ValueError, match=f"{path} has schema 2, and this version reads schema 1. Update"):
        collect([folder])
    path.write_text("{")
    with pytest.raises(ValueError, match=f"{path} is not valid JSON .*. Remove it"):
        collect([folder])
    path.write_text("[]")
    with pytest.raises(ValueError, match="has schema None"):
        collect([folder])


def test_rows_that_lack_something(make_board, tmp_path):
    def without(row):
        return {name: value for name, value in row.items() if name not in {"metrics", "trivial"}}

    with pytest.raises(ValueError, match=r"row\.json lacks metrics, trivial\. Remove it and run its job again"):
        collect([make_board(tmp_path / "runs", change=without)])


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("row", {"metrics": {"pixel_IoU": "high"}}, r"wrong at metrics\.pixel_IoU: .* number, got 'high'"),
        ("row", {"metrics": [0.5]}, "wrong at metrics"),
        ("row", {"seed": "first"}, r"wrong at seed: .*, got 'first'"),
        ("row", {"label": None}, "wrong at label"),
        ("row", {"provenance": {"finished": "yesterday"}}, r"wrong at provenance\.finished"),
        ("row", {"budget": {"seconds": "600"}}, r"wrong at budget\.seconds"),
        ("row", {"training": {"epochs": 1e300}}, r"wrong at training\.epochs"),
        ("cost", {"latency": [{"precision": "INT8"}]}, r"lacks latency\.0\.runtime"),
        ("cost", {"left_out": "nothing"}, "wrong at left_out"),
        ("../../board", {"jobs": "all"}, "wrong at jobs"),
        (
            "../../board",
            {"jobs": [{"id": "../../..", "label": "a", "category": "b", "seed": 0}]},
            r"wrong at jobs\.0\.id",
        ),
    ],
)
def test_wrong_types_are_a_line_with_the_file(name, changes, message, make_board, tmp_path):
    folder = make_board(tmp_path / "runs", labels=("AnoSeg",), categories=("brick",), seeds=(0,))
    path = folder / "jobs" / "AnoSeg-brick-seed0" / f"{name}.json"
    edit_json(path, **changes)
    with pytest.raises(ValueError, match=message) as refused:
        collect([folder])
    assert path.name in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_pipe_in_place_of_a_row_is_no_file(make_board, tmp_path):
    folder = make_board(tmp_path / "runs", labels=("AnoSeg",), categories=("brick",), seeds=(0,))
    path = folder / "jobs" / "AnoSeg-brick-seed0" / "row.json"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ValueError, match=r"row\.json is no file"):
        collect([folder])


def test_budgets_are_never_mixed(make_board, tmp_path):
    def limit(row):
        return {**row, "budget": {"seconds": 600}}

    own, equal = make_board(tmp_path / "own"), make_board(tmp_path / "equal", change=limit)
    assert budget_of(collect([equal]).jobs[0]) == "600 seconds of wall time"
    for key in [job["id"] for job in json.loads((equal / "board.json").read_text())["jobs"]]:
        (equal / "jobs" / key / "row.json").write_text(
            (equal / "jobs" / key / "row.json").read_text().replace(f'"{key}"', f'"timed-{key}"')
        )
    text = (equal / "board.json").read_text()
    (equal / "board.json").write_text(text.replace('"id": "', '"id": "timed-'))
    message = f"must not be mixed in one report: each model's own length in {own}, 600 seconds of wall time in {equal}"
    with pytest.raises(ValueError, match=message):
        collect([own, equal])


def test_equal_names_in_one_board(make_board, tmp_path):
    folder = make_board(tmp_path / "runs", labels=("AnoSeg",), seeds=(0, 1))
    edit_json(folder / "jobs" / "AnoSeg-brick-seed1" / "row.json", seed=0)
    with pytest.raises(ValueError, match="of one board have equal label, category and seed"):
        collect([folder])
