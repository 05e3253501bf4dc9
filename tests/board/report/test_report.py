"""The files of a report: their structure, their marks, and what they say plainly."""

import importlib.util
import io
import json
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from jsonargparse import ArgumentParser

from anomalib_anoseg.board.report import plots, report, tables
from anomalib_anoseg.board.report.report import write_report
from anomalib_anoseg.cli.main import main

pytestmark = pytest.mark.usefixtures("quick")
VOID = {"meta", "link", "img", "source", "br"}


class Page(HTMLParser):
    """Tables, headings, images and links of a page; fails on elements that are not closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.sources, self.headings, self.ids, self.anchors = [], [], [], set(), set()
        self.tables, self.alts, self.tags = [], [], set()
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.add(tag)
        self.sources += [attributes[name] for name in ("src", "srcset") if name in attributes]
        if "href" in attributes:
            (self.anchors.add if attributes["href"].startswith("#") else self.sources.append)(attributes["href"])
        if "id" in attributes:
            self.ids.add(attributes["id"])
        if tag == "img":
            self.alts.append(attributes["alt"])
        if tag == "table":
            self.tables.append({"caption": "", "rows": []})
        if tag == "tr":
            self.tables[-1]["rows"].append([])
        if tag in {"td", "th"}:
            self.tables[-1]["rows"][-1].append({"text": "", "class": attributes.get("class", "")})
        elif "td" in self.open and "class" in attributes:
            self.tables[-1]["rows"][-1][-1]["class"] += attributes["class"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "caption" in self.open:
            self.tables[-1]["caption"] += data
        elif "td" in self.open or "th" in self.open:
            self.tables[-1]["rows"][-1][-1]["text"] += data
        elif self.open and self.open[-1] in {"h1", "h2", "h3", "h4"}:
            self.headings.append(data.strip())

    def table(self, caption, index=0):
        return [table for table in self.tables if table["caption"] == caption][index]


@pytest.fixture(scope="module")
def out(board, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    assert write_report([board], folder / "new" / "out", reference="DRAEM") == folder / "new" / "out" / "report.html"
    return folder / "new" / "out"


@pytest.fixture
def quick(monkeypatch):
    """Draw the plots for ``out`` only, which is made before this: they take most of the time."""
    monkeypatch.setattr(plots, "_svg", lambda *_: "<svg/>")


@pytest.fixture(scope="module")
def page(out):
    return Page((out / "report.html").read_text())


def read_markdown(text):
    """Read the tables of a Markdown file with pandas."""
    for block in re.findall(r"(?:^\|.*\n?)+", text, flags=re.MULTILINE):
        lines = [line for line in block.splitlines() if not re.fullmatch(r"[|:\- ]+", line)]
        table = pd.read_csv(io.StringIO("\n".join(lines)), sep="|", skipinitialspace=True)
        table = table.iloc[:, 1:-1].rename(columns=str.strip)
        yield table.map(lambda cell: cell.strip() if isinstance(cell, str) else cell)


def test_page_is_self_contained(page):
    assert page.sources
    assert all(source.startswith("data:") for source in page.sources)
    assert "script" not in page.tags
    assert page.anchors <= {f"#{name}" for name in page.ids}


def test_headings(page):
    assert page.headings[:2] == ["Leaderboard", "Summary"]
    sections = {"Difference to DRAEM", "Categories", "Defects", "IoU curves", "Cost", "Images", "Protocol and origin"}
    assert sections <= set(page.headings)
    assert "AnoSeg, brick, seed 0" in page.headings


def test_numbers_of_rows(page):
    heads = 2
    assert len(page.table("Means over all categories")["rows"]) == heads + 2 + 2 + 1  # models, trivial rows, the best
    assert len(page.table("Average rank over categories (1 is best)")["rows"]) == heads + 2
    assert len(page.table("Difference to DRAEM")["rows"]) == heads + 1
    assert len(page.table("brick")["rows"]) == heads + 4
    assert len(page.table("brick", 1)["rows"]) == heads + 2 * 4  # defects and rows
    assert len(page.table("Cost and accuracy of each exported form")["rows"]) == heads + 2 * 6


def test_figures_of_the_summary(page):
    rows = {row[0]["text"]: row for row in page.table("Means over all categories")["rows"]}
    assert rows["AnoSeg"][1]["text"] == "0.750± 0.075"
    assert rows["AnoSeg"][1]["class"] == "best"
    assert not rows["DRAEM"][1]["class"]
    assert [cell["text"] for cell in rows["AnoSeg"][-3:]] == ["1.50", "3", "2"]
    assert rows["Best trivial row of each category"][1]["text"] == "0.655"


def test_what_does_not_beat_its_trivial_row_is_marked(page):
    marked = {
        (table["caption"], row[0]["text"])
        for table in page.tables[:5]
        for row in table["rows"]
        for cell in row
        if "below" in cell["class"]
    }
    assert marked == {("screw", "AnoSeg")}
    (row,) = [row for row in page.table("screw")["rows"] if row[0]["text"] == "AnoSeg"]
    assert row[1]["text"] == "0.700†± 0.075"


def test_what_int8_costs(page):
    rows = page.table("Cost and accuracy of each exported form")["rows"]
    (row,) = [row for row in rows if row[0]["text"] == "OpenVINO INT8" and row[1]["text"] == "1.60"]
    assert "0.730\N{MINUS SIGN}0.020" in [cell["text"] for cell in row]
    assert [cell["text"] for cell in row[1:4]] == ["1.60", "4.0", "4.8"]
    assert "best" in row[1]["class"]


def test_contact_sheets(page):
    thumbnails = [alt for alt in page.alts if alt.startswith("map of")]
    assert len(thumbnails) == 2 * 2 * 9  # models, categories, images
    assert thumbnails[0] == "map of stain stain2.png"  # the highest IoU
    assert thumbnails[3] == "map of scratch scratch0.png"  # the lowest
    assert thumbnails[6] == "map of good good2.png"  # the highest score


def test_origin(out):
    text = (out / "report.html").read_text()
    for words in ("0123abc", "Some CPU", "torch 2.10.0", "no test image was looked at", "val_split_mode: from_train"):
        assert words in text


def test_nothing_alarming_about_a_complete_board(page, out):
    assert "missing" not in page.ids
    assert "One seed only" not in (out / "report.html").read_text()


def test_markdown_reads_back(out):
    summary, _, paired, brick, *_ = read_markdown((out / "report.md").read_text())
    assert list(summary["Model"][:2]) == ["AnoSeg", "DRAEM"]
    assert summary["pixel AP ↑"][0] == "**0.750** ± 0.075"
    assert paired["pixel AP ↑"][0] == "**+0.015** ± 0.000"
    assert brick["image AUROC ↑"][0] == "**0.800** ± 0.075"


def test_csv_reads_back(out):
    table = pd.read_csv(out / "report.csv")
    row = table[(table["level"] == "category") & (table["label"] == "AnoSeg") & (table["category"] == "screw")]
    row = row[row["metric"] == "pixel_IoU"].iloc[0]
    assert row["mean"] == pytest.approx(0.70)
    assert row["high"] - row["mean"] == pytest.approx(0.0745, abs=1e-4)
    assert row["trivial_bar"] == pytest.approx(0.71)
    assert not row["beats_trivial"]
    assert set(table["level"]) == {"all categories", "category", "defect"}
    assert table[table["trivial"]]["beats_trivial"].isna().all()


def test_equal_input_gives_equal_files(board, out, tmp_path, monkeypatch):
    monkeypatch.undo()
    write_report([board], tmp_path, reference="DRAEM")
    for name in ("report.html", "report.md", "report.csv"):
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes()


def test_missing_jobs_are_named_at_the_top(make_board, tmp_path, caplog):
    runs = make_board(tmp_path / "runs", skip=("DRAEM-screw-seed0", "DRAEM-screw-seed1", "DRAEM-screw-seed2"))
    text = write_report([runs], tmp_path / "out").read_text()
    assert "This board is incomplete: 3 of 24 jobs" in text
    assert text.index("DRAEM-screw-seed2") < text.index('id="summary"')
    assert "MemoryError: too &lt;large&gt;" in text
    assert "Missing: DRAEM-screw-seed2 (MemoryError: too <large>)" in caplog.text
    rows = {row[0]["text"]: row for row in Page(text).table("Means over all categories")["rows"]}
    assert rows["DRAEM"][-1]["text"] == "1 of 2"
    assert not rows["DRAEM"][1]["class"]  # 0.75 on brick alone is not compared
    assert "This board is incomplete" in (tmp_path / "out" / "report.md").read_text()


def test_one_seed_says_so(make_board, tmp_path):
    text = write_report([make_board(tmp_path / "runs", seeds=(4,))], tmp_path / "out", reference="DRAEM").read_text()
    assert "One seed only" in text
    assert "±" not in text.partition('id="reading"')[0]
    rows = {row[0]["text"]: row for row in Page(text).table("brick")["rows"]}
    assert rows["AnoSeg"][1]["text"] == "0.800one seed"


def test_a_board_without_cost_curves_trivial_rows_and_pictures(make_board, tmp_path):
    runs = make_board(tmp_path / "runs", labels=("AnoSeg",), cost=False)
    for path in runs.glob("jobs/*/curve.csv"):
        path.unlink()
    page = Page(write_report([runs], tmp_path / "out").read_text())
    assert "Images" not in page.headings
    assert "IoU curves" not in page.headings
    assert "anomalib-anoseg cost" in (tmp_path / "out" / "report.html").read_text()
    assert all("below" not in cell["class"] for table in page.tables for row in table["rows"] for cell in row)


def test_trivial_rows_alone(make_board, tmp_path):
    runs = make_board(tmp_path / "runs", labels=("Mean grey", "Constant map"))
    assert "0 models on" in write_report([runs], tmp_path / "out").read_text()


def test_names_are_escaped(make_board, tmp_path):
    runs = make_board(tmp_path / "runs", labels=("<b>|$x$",))
    text = write_report([runs], tmp_path / "out", title="A & B").read_text()
    assert "&lt;b&gt;|$x$" in text
    assert "<b>|" not in text
    assert "<title>A &amp; B</title>" in text
    assert r"&lt;b>\|$x$" in (tmp_path / "out" / "report.md").read_text()


def test_markdown_takes_no_markup_from_names_and_messages(make_board, tmp_path):
    bad = "x\n\n<img src=x onerror=alert(1)> [here](javascript:alert(1))\n[y]: javascript:alert(2)"
    runs = make_board(tmp_path / "runs", labels=("AnoSeg", "DRAEM"), skip=("DRAEM-screw-seed1",))
    for path in [runs / "board.json", *runs.glob("jobs/*/row.json")]:
        path.write_text(path.read_text().replace('"DRAEM"', json.dumps(bad)).replace('"2.7.0"', json.dumps(bad)))
    (runs / "jobs" / "DRAEM-screw-seed1" / "error.txt").write_text(f"ValueError: {bad}")
    write_report([runs], tmp_path / "out", title=bad)
    text = (tmp_path / "out" / "report.md").read_text()
    assert "onerror" in text
    assert not re.search(r"<img|\]\(|\]:|^\s*&lt;img", text, flags=re.MULTILINE)


def test_pictures_from_elsewhere_are_not_shown(make_board, tmp_path, caplog):
    runs = make_board(tmp_path / "runs", labels=("AnoSeg",), categories=("brick",), seeds=(0,), side=16)
    table = runs / "jobs" / "AnoSeg-brick-seed0" / "images.csv"
    images = pd.read_csv(table)
    private = tmp_path / "private.png"
    shutil.move(images["image_path"][0], private)
    (runs / "link.png").symlink_to(private)
    os.mkfifo(runs / "pipe.png")
    for path, is_refused in ((private, True), ("../../link.png", True), ("../../pipe.png", False)):
        images.loc[0, "image_path"] = str(path)
        images.to_csv(table, index=False)
        caplog.clear()
        text = write_report([runs], tmp_path / "out").read_text()
        assert text.count("no picture<") == 1
        assert (f"outside of their run's folder and are not shown, such as {path}" in caplog.text) == is_refused


def test_small_copies_are_shown_first(make_board, tmp_path):
    runs = make_board(tmp_path / "runs", labels=("AnoSeg",), categories=("brick",), seeds=(0,), side=16)
    table = runs / "jobs" / "AnoSeg-brick-seed0" / "images.csv"
    images = pd.read_csv(table)
    images = images.assign(picture_path=images["image_path"], truth_path=images["mask_path"])
    images.assign(image_path="/elsewhere/a.png", mask_path="/elsewhere/b.png").to_csv(table, index=False)
    text = write_report([runs], tmp_path / "out").read_text()
    assert "no picture<" not in text
    assert "no truth<" not in text


def test_pictures_can_be_left_out(board, tmp_path):
    page = Page(write_report([board], tmp_path, images=0).read_text())
    assert "Images" not in page.headings
    assert not any(source.startswith("data:image/jpeg") for source in page.sources)


def test_pictures_that_are_gone_are_no_error(make_board, tmp_path):
    runs = make_board(tmp_path / "runs", labels=("AnoSeg",), categories=("brick",), seeds=(0,), side=16)
    for path in [*runs.rglob("stain2*.png"), *runs.rglob("maps/good2.png")]:
        path.unlink()
    text = write_report([runs], tmp_path / "out").read_text()
    assert [text.count(f"no {what}<") for what in ("picture", "truth", "map")] == [1, 1, 2]


def test_models_that_take_no_part_are_named(make_board, tmp_path):
    runs = make_board(tmp_path / "runs", labels=("AnoSeg",))
    board = json.loads((runs / "board.json").read_text())
    (runs / "board.json").write_text(json.dumps({**board, "left_out": {"GLASS": "would download"}}))
    text = write_report([runs], tmp_path / "out").read_text()
    assert "GLASS: would download" in text.partition('id="summary"')[0]


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("forged on held-out images", "no test image was looked at"),
        ("forged on training images", "forged on training images"),
        ("anomalous images", "validation images with real defects"),
        ("none", "do not say where thresholds came from"),
        (None, "do not say where thresholds came from"),
    ],
)
def test_protocol_is_stated(source, sentence, make_board, tmp_path):
    def change(row):
        return {**row, "provenance": {**row["provenance"], "calibrated_on": source}}

    runs = make_board(tmp_path / "runs", labels=("AnoSeg",), seeds=(0,), change=change)
    write_report([runs], tmp_path / "out")
    assert sentence in (tmp_path / "out" / "report.md").read_text()


def test_less_than_an_epoch_is_marked(make_board, tmp_path):
    def short(row):
        epochs = 0.4 if row["label"] == "DRAEM" else 1.0
        training = {**row["training"], "epochs": epochs, "load_begin": 1.25, "load_end": 3.5 + epochs}
        return {**row, "budget": {"seconds": 9, "clock": "cpu"}, "training": training}

    text = (write_report([make_board(tmp_path / "runs", change=short)], tmp_path).parent / "report.md").read_text()
    assert "Less than one epoch, so that some training images were never seen: DRAEM." in text
    assert "9 seconds of CPU time" in text
    assert "- Load average in training: 1.2 to 4.5" in text
    assert "DRAEM less than one epoch" in text
    assert "AnoSeg less than" not in text


def test_different_held_out_images_are_told(make_board, tmp_path):
    def told(change):
        text = (write_report([make_board(tmp_path / "runs", change=change)], tmp_path).parent / "report.md").read_text()
        return "Different images were held out" in text

    def held_out(row, digest):
        return {**row, "provenance": {**row["provenance"], "held_out": {"digest": digest}}}

    assert told(lambda row: held_out(row, row["label"]))
    assert not told(lambda row: held_out(row, row["category"] + str(row["seed"])))


def test_budget_hardware_and_changes_are_stated(make_board, tmp_path):
    def change(row):
        provenance = {**row["provenance"], "dirty": True, "cpu": f"CPU {row['seed']}"}
        return {**row, "budget": {"seconds": 600}, "provenance": provenance}

    write_report([make_board(tmp_path / "runs", labels=("AnoSeg",), change=change)], tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    assert "Every model had the same budget of training: 600 seconds of wall time." in text
    assert "different hardware (CPU)" in text
    assert "0123abc with uncommitted changes" in text


def test_missing_packages_get_one_line(board, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(report, "NEEDED", ("jinja2", "no_such_package"))
    with pytest.raises(SystemExit) as ended:
        main(["report", str(board), "--out", str(tmp_path / "out")])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert 'needs no_such_package, not installed here. Run: pip install "anomalib-anoseg[report]"' in " ".join(
        error.split()
    )
    assert "Traceback" not in error


def test_mean_rank_is_of_what_needs_no_threshold(make_board, tmp_path):
    def change(row):
        better = row["label"] == "AnoSeg"
        figures = {name: 0.9 if better == (name in tables.RANKED) else 0.8 for name in row["metrics"]}
        return {**row, "metrics": figures}

    folder = make_board(tmp_path / "runs", labels=("AnoSeg", "DRAEM"), change=change)
    text = (write_report([folder], tmp_path).parent / "report.md").read_text()
    summary, *_ = read_markdown(text)
    assert list(summary["Mean rank ↓"]) == ["**1.00**", "2.00"]
    assert "Mean rank: over image AUROC, pixel AUROC, pixel AP, pixel AUPRO, pixel best IoU." in text


def test_noisy_latencies_are_marked(make_board, tmp_path):
    folder = make_board(tmp_path / "runs")
    path = next(folder.glob("jobs/AnoSeg-brick-seed0/cost.json"))
    cost = json.loads(path.read_text())
    cost["latency"][0]["noisy"] = True
    path.write_text(json.dumps(cost))
    text = (write_report([folder], tmp_path).parent / "report.md").read_text()
    assert text.count(" noisy ") == 1
    assert "Noisy: medians of some rounds differ by more than a quarter" in text


def test_costs_of_trivial_rows_are_no_form_of_a_model(make_board, tmp_path):
    folder = make_board(tmp_path / "runs", seeds=(0,), categories=("brick",))
    cost = (folder / "jobs" / "AnoSeg-brick-seed0" / "cost.json").read_text()
    (folder / "jobs" / "Meangrey-brick-seed0" / "cost.json").write_text(cost)
    page = Page(write_report([folder], tmp_path).read_text())
    rows = page.table("Cost and accuracy of each exported form")["rows"]
    assert {row[0]["text"] for row in rows[2:] if len(row) == len(rows[2])} == {"AnoSeg", "DRAEM"}


def test_unknown_reference(board, tmp_path):
    with pytest.raises(
        ValueError, match=r"reference 'SGSF' is no model of this report\. Choose one of: AnoSeg, DRAEM,"
    ):
        write_report([board], tmp_path, reference="SGSF")


def test_negative_number_of_images(board, tmp_path):
    with pytest.raises(ValueError, match="images must be 0 or more, got -1"):
        write_report([board], tmp_path, images=-1)


def test_out_is_a_file(board, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"out must be a folder, and .*file is a file"):
        write_report([board], tmp_path / "file")


def test_table_of_images_that_lacks_columns(make_board, tmp_path):
    runs = make_board(tmp_path / "runs", labels=("AnoSeg",), categories=("brick",), seeds=(0,))
    (runs / "jobs" / "AnoSeg-brick-seed0" / "images.csv").write_text("image_path,defect\n")
    with pytest.raises(ValueError, match=r"images.csv lacks the column\(s\) gt_label, pred_score"):
        write_report([runs], tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "images.csv",
            "image_path,defect,gt_label,pred_score\na.png,good,no,0.5\n",
            "gt_label must be a number, got 'no'",
        ),
        ("images.csv", "", "images.csv is no table: No columns"),
        ("curve.csv", "threshold,iou\n0.5,much\n", "iou must be a number, got 'much'"),
        ("curve.csv", "threshold,iou\n0.5,inf\n", "iou must be a number, got 'inf'"),
        ("curve.csv", "threshold\n0.5\n", r"curve.csv lacks the column\(s\) iou"),
    ],
)
def test_tables_that_hold_something_else(name, text, message, make_board, tmp_path):
    runs = make_board(tmp_path / "runs", labels=("AnoSeg",), categories=("brick",), seeds=(0,))
    (runs / "jobs" / "AnoSeg-brick-seed0" / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        write_report([runs], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_packages_that_are_not_installed(board, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "jinja2" else find(name))
    with pytest.raises(ModuleNotFoundError, match=re.escape('jinja2, not installed here. Run: pip install "anomalib-')):
        write_report([board], tmp_path)


def test_arguments_make_a_command_line(tmp_path):
    parser = ArgumentParser()
    parser.add_function_arguments(write_report)
    parsed = parser.parse_args([f"--runs=['{tmp_path}']", "--out=there", "--reference=DRAEM", "--images=2"])
    assert [Path(str(run)) for run in parsed.runs] == [tmp_path]
    assert (str(parsed.out), parsed.reference, parsed.images) == ("there", "DRAEM", 2)
