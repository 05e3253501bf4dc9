"""The doctor's output: tables, notes, and problems with their remedies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from contextlib import AbstractContextManager

__all__ = ["Findings"]

GAP = 2  # characters between two columns of a table


class Findings:
    """Prints tables at once, and keeps notes and problems for the end.

    Attributes:
        problems: What is broken, each with a remedy.
        notes: What is worth knowing.

    Example:
        >>> findings = Findings()
        >>> findings.problem("The engine is cold.", "start it")
        >>> findings.problems
        ['The engine is cold. Remedy: start it.']
    """

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.notes: list[str] = []
        self._console = Console()

    def problem(self, what: str, remedy: str | None = None) -> None:
        """Keep what is broken, and what to do about it; ``None`` if ``what`` says it."""
        self.problems.append(what if remedy is None else f"{what} Remedy: {remedy}.")

    def note(self, what: str) -> None:
        """Keep what is worth knowing."""
        self.notes.append(what)

    def table(self, title: str, rows: Iterable[Sequence[str]], headings: Sequence[str] = ()) -> None:
        """Print a table; without rows, print nothing."""
        lines = list(rows)
        if not lines:
            return
        table = Table(
            title=title, title_justify="left", show_header=bool(headings), box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
        )
        head = list(headings) or [""] * len(lines[0])
        for heading, width in zip(head, self._widths([head, *lines]), strict=True):
            table.add_column(heading, overflow="fold", width=width)
        for line in lines:
            table.add_row(*map(Text, line))
        self._console.print(table)

    def _widths(self, lines: Sequence[Sequence[str]]) -> list[int | None]:
        """Give each column its longest word and a part of what is left, or nothing if words must be divided."""
        columns = list(zip(*lines, strict=True))
        words = [max((len(word) for cell in column for word in cell.split()), default=0) for column in columns]
        wanted = [max(map(len, column)) - word for column, word in zip(columns, words, strict=True)]
        left = self._console.width - sum(words) - GAP * (len(words) + 1)
        share = min(1, left / max(1, sum(wanted)))
        return [word + int(share * more) if left >= 0 else None for word, more in zip(words, wanted, strict=True)]

    def busy(self, what: str) -> AbstractContextManager[object]:
        """Show on stderr that work is in progress."""
        return Console(stderr=True).status(what)

    def conclude(self) -> None:
        """Print notes and problems."""
        for kind, lines in {"Note": self.notes, "Problem": self.problems}.items():
            for line in lines:
                self._console.print(f"{kind}: {line}", markup=False, highlight=False, soft_wrap=True)
        if not self.problems:
            self._console.print("No problems found.")
