"""Errors in one line."""

from anomalib_anoseg.common.messages import one_line


def test_long_errors_become_one_short_line():
    assert len(one_line("x " * 1000)) == 300
    assert one_line("a\n b") == "a b"
    assert one_line(OSError("two\n lines")) == "OSError: two lines"
