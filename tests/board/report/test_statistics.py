"""The numbers of a report equal those that one computes by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from anomalib_anoseg.board.report import statistics
from anomalib_anoseg.board.report.collect import collect

T_2 = 4.302652729911275  # Student's t for two degrees of freedom, from a printed table: 4.303
T_1 = 12.706204736432095


def frame_of(*rows):
    """Figures from rows of label, trivial, category, seed and value."""
    columns = ["label", "trivial", "category", "seed", "value"]
    frame = pd.DataFrame(rows, columns=columns).assign(defect="", metric="pixel_AP")
    return frame.assign(variant=frame["label"])


def one(table, **keys):
    for name, value in keys.items():
        table = table[table[name] == value]
    (row,) = table.to_dict("records")
    return row


@pytest.fixture(scope="module")
def frame(board):
    return statistics.figures(collect([board]).jobs)


def test_mean_and_interval_of_a_category(frame):
    row = one(statistics.by_category(frame), label="AnoSeg", category="brick", metric="pixel_AP", defect="")
    assert row["mean"] == pytest.approx((0.77 + 0.80 + 0.83) / 3)
    assert row["half"] == pytest.approx(T_2 * 0.03 / math.sqrt(3))
    assert row["seeds"] == 3


def test_trivial_bar_is_the_best_trivial_row(frame):
    estimates = statistics.by_category(frame)
    keys = {"metric": "image_AUROC", "defect": ""}
    assert one(estimates, label="AnoSeg", category="brick", **keys)["bar"] == pytest.approx(0.60)
    below = estimates[estimates["below"] & (estimates["defect"] == "")]
    assert set(zip(below["label"], below["category"], strict=True)) == {("AnoSeg", "screw")}


def test_defects_have_their_own_bar(frame):
    row = one(statistics.by_category(frame), label="DRAEM", category="screw", defect="stain", metric="pixel_IoU")
    assert (row["mean"], row["bar"]) == (pytest.approx(0.62), pytest.approx(0.61))
    assert not row["below"]


def test_a_figure_equal_to_the_bar_does_not_beat_it():
    frame = frame_of(("A", False, "x", 0, 0.1 + 0.2), ("T", True, "x", 0, 0.3))
    assert one(statistics.by_category(frame), label="A")["below"]


def test_without_trivial_rows_nothing_is_marked():
    row = one(statistics.by_category(frame_of(("A", False, "x", 0, 0.3))), label="A")
    assert math.isnan(row["bar"])
    assert not row["below"]


def test_means_over_categories(frame):
    row = one(statistics.over_categories(frame), label="AnoSeg", metric="pixel_IoU")
    assert row["mean"] == pytest.approx(0.75)
    assert row["half"] == pytest.approx(T_2 * 0.03 / math.sqrt(3))
    assert row["values"] == pytest.approx([0.72, 0.75, 0.78])
    assert row["bar"] == pytest.approx((0.60 + 0.71) / 2)


def test_seeds_without_all_categories_do_not_count():
    rows = [("A", False, "x", seed, 0.5 + seed / 10) for seed in range(3)]
    frame = frame_of(*rows, ("A", False, "y", 0, 0.1), ("A", False, "y", 1, 0.3))
    row = one(statistics.over_categories(frame), label="A")
    assert row["mean"] == pytest.approx((0.3 + 0.45) / 2)
    assert row["half"] == pytest.approx(T_1 * 0.075)
    assert row["seeds"] == 2


def test_no_complete_seed():
    frame = frame_of(("A", False, "x", 0, 0.5), ("A", False, "x", 1, 0.7), ("A", False, "y", 2, 0.2))
    row = one(statistics.over_categories(frame), label="A")
    assert row["mean"] == pytest.approx((0.6 + 0.2) / 2)
    assert row["seeds"] == 0
    assert math.isnan(row["half"])


def test_models_without_a_category_say_so():
    frame = frame_of(("A", False, "x", 0, 0.9), ("B", False, "x", 0, 0.5), ("B", False, "y", 0, 0.5))
    overall = statistics.over_categories(frame)
    assert (one(overall, label="A")["categories"], one(overall, label="A")["of"]) == (1, 2)
    assert math.isnan(one(overall, label="A")["half"])


def test_undefined_figures_are_left_out(make_board, tmp_path):
    def undefine(row):
        row["metrics"]["pixel_AP"] = None
        return row

    frame = statistics.figures(collect([make_board(tmp_path / "runs", cost=False, change=undefine)]).jobs)
    assert "pixel_AP" not in set(frame["metric"])
    assert frame["value"].notna().all()


def test_no_figure_at_all(make_board, tmp_path):
    runs = make_board(tmp_path / "runs", cost=False, change=lambda row: {**row, "metrics": {}, "defects": {}})
    with pytest.raises(ValueError, match=r"No finished job has a figure: all metrics in row\.json are undefined"):
        statistics.figures(collect([runs]).jobs)


def test_of_trivial_models_in_one_row_the_best_counts(make_board, tmp_path):
    def share(row):
        return {**row, "model": "package.ImageStatistics"} if row["trivial"] else row

    frame = statistics.figures(collect([make_board(tmp_path / "runs", change=share)]).jobs)
    trivial = frame[frame["trivial"]]
    assert set(trivial["label"]) == {"Image statistics (best of 2)"}
    assert set(trivial["variant"]) == {"Mean grey"}


def test_ranks(frame):
    ranked = statistics.ranks(statistics.by_category(frame))
    assert list(ranked.index) == ["AnoSeg", "DRAEM"]
    assert ranked["pixel_AP"].to_dict() == {"AnoSeg": 1.5, "DRAEM": 1.5}


def test_ranks_share_ties_and_leave_out_what_a_model_lacks():
    tied = [("A", False, "x", 0, 0.3), ("B", False, "x", 0, 0.1 + 0.2), ("C", False, "x", 0, 0.9)]
    lacking = [("A", False, "y", 0, 0.9), ("B", False, "y", 0, 0.1)]
    ranked = statistics.ranks(statistics.by_category(frame_of(*tied, *lacking)))
    assert ranked["pixel_AP"].to_dict() == {"A": 2.5, "B": 2.5, "C": 1.0}


def test_paired_differences():
    reference = [
        ("R", False, "x", 0, 0.5),
        ("R", False, "x", 1, 0.4),
        ("R", False, "y", 0, 0.2),
        ("R", False, "y", 1, 0.3),
    ]
    model = [("A", False, "x", 0, 0.6), ("A", False, "x", 1, 0.7), ("A", False, "y", 0, 0.1), ("A", False, "y", 1, 0.5)]
    unpaired = [("A", False, "x", 2, 0.9), ("T", True, "x", 0, 0.9)]
    row = one(statistics.paired(frame_of(*reference, *model, *unpaired), "R"))
    assert row["label"] == "A"
    assert row["mean"] == pytest.approx(((0.1 - 0.1) / 2 + (0.3 + 0.2) / 2) / 2)
    assert row["half"] == pytest.approx(T_1 * 0.125)  # the standard error of 0 and 0.25 is 0.125
    assert (row["seeds"], row["pairs"], row["wins"]) == (2, 4, 3)
    assert row["p"] == pytest.approx(0.5)  # t = 1 at one degree of freedom


def test_differences_are_corrected_for_their_number():
    def rows(label, gains):
        return [(label, False, "x", seed, 0.5 + gain) for seed, gain in enumerate(gains)]

    frame = frame_of(
        *rows("R", [0] * 3), *rows("A", [0.1, 0.11, 0.12]), *rows("B", [0.1, -0.1, 0.0]), *rows("C", [0.1] * 3)
    )
    p = statistics.paired(frame, "R").set_index("label")["p"]
    alone = stats.ttest_1samp([0.1, 0.11, 0.12], 0).pvalue
    assert p.to_dict() == pytest.approx({"A": 2 * alone, "B": 1.0, "C": 0.0})
    assert np.isnan(statistics.paired(frame[frame["seed"] == 0], "R")["p"]).all()
