"""The doctor's tables: no word is divided if the terminal is wide enough for all, and nothing is lost if it is not."""

import pytest

from anomalib_anoseg.cli.doctor.comparison import HEADINGS
from anomalib_anoseg.cli.doctor.output import Findings

ROW = "onnxruntime float32", "FP32", "bf16 (43 of 45 layers)", "0.9917", "anomalous", "0.0e+00", "7.8e-05", "12.7"


@pytest.fixture
def printed(monkeypatch, capsys):
    def show(width):
        monkeypatch.setenv("COLUMNS", str(width))
        Findings().table("Predictions", [ROW], HEADINGS)
        return capsys.readouterr().out

    return show


@pytest.mark.parametrize("width", [80, 200])
def test_words_stay_whole(printed, width):
    out = printed(width)
    assert set(" ".join((*HEADINGS, *ROW)).split()) <= set(out.split())
    assert max(map(len, out.splitlines())) <= width


def test_a_narrow_terminal_loses_nothing(printed):
    lines = printed(40).splitlines()
    assert max(map(len, lines)) <= 40
    assert sorted("".join(lines).replace(" ", "").replace("─", "")) == sorted(
        "".join(("Predictions", *HEADINGS, *ROW)).replace(" ", "")
    )
