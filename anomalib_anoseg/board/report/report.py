"""The report of a board: one self-contained HTML page, a Markdown table and a CSV."""

import base64
import importlib.util
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomalib_anoseg.common.files import write_texts
from anomalib_anoseg.common.messages import escape_markdown

if TYPE_CHECKING:  # imported where they are used, so that a command line that only needs this module starts fast
    import pandas as pd

    from anomalib_anoseg.board.report.records import Collection

logger = logging.getLogger(__name__)

PAGE, MARKDOWN, CSV = "report.html", "report.md", "report.csv"
NEEDED = ("jinja2", "matplotlib", "pandas", "tabulate")
MEANS = "Bold: best of the models. \N{DAGGER}: not above the best trivial row, so the figure shows no skill beyond it."
INTERVALS = "\N{PLUS-MINUS SIGN}: half of Student's 95 % interval over seeds."
PAIRED = (
    "Each figure minus that of {} with the same category and seed; positive is better. All differences that are not "
    "bold are undecided."
)
ONE_SEED = (
    "Nothing here says how much a figure would change with another seed: there are no intervals, and small differences "
    "mean nothing."
)
DEFECTS = "The images of each kind of defect together with all good images of the category."
UNMEASURED = (
    "Latency, file sizes and the accuracy of exported models have not been measured: run `anomalib-anoseg cost` on the "
    "run folder and write the report again."
)


def write_report(
    runs: list[Path],
    out: Path = Path("report"),
    reference: str | None = None,
    title: str = "Leaderboard",
    images: int = 4,
) -> Path:
    """Write the report of one or more boards; return the path of its page.

    Everything is computed from the run folders alone; equal input gives equal files. Several folders are merged into
    one board: a job in more than one of them counts once, the later finished one.

    Args:
        runs: Folders that ``anomalib-anoseg board`` wrote.
        out: Folder of the report; ``report.html``, ``report.md`` and ``report.csv`` in it are overwritten.
        reference: Model that all others are compared with, by its name in the report, such as ``DRAEM``.
        title: Heading of the page.
        images: Images per group in contact sheets; 0 leaves pictures out, for a page that may be shared although the
            data set may not.

    Raises:
        ValueError: If a folder is no run folder, no job has finished, the reference is unknown, or an argument is out
            of its range.
    """
    check_packages()
    from anomalib_anoseg.board.report.collect import collect  # noqa: PLC0415

    if images < 0:
        raise ValueError(f"images must be 0 or more, got {images}. 0 leaves pictures out.")
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"out must be a folder, and {out} is a file. Name another one.")
    collection = collect([Path(run) for run in runs])
    if reference is not None and reference not in collection.labels:
        known = ", ".join(collection.labels)
        raise ValueError(f"reference {reference!r} is no model of this report. Choose one of: {known}.")
    for missing in collection.missing:
        logger.warning("Missing: %s (%s)", missing.id, missing.reason)
    contents = _contents(collection, reference, images)
    texts = {out / CSV: _csv(contents["estimates"], contents["overall"])}
    for name in (PAGE, MARKDOWN):
        template = _environment(name).get_template(f"{name}.j2")
        texts[out / name] = template.render(title=title, collection=collection, **contents)
    write_texts(texts)
    return out / PAGE


def check_packages() -> None:
    """Check that the packages that only the report needs are installed.

    Raises:
        ModuleNotFoundError: If one is not.
    """
    absent = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if absent:
        raise ModuleNotFoundError(
            f'The report needs {", ".join(absent)}, not installed here. Run: pip install "anomalib-anoseg[report]"'
        )


def _contents(collection: "Collection", reference: str | None, images: int) -> dict[str, Any]:
    """Compute everything that the templates show."""
    from anomalib_anoseg.board.report import origin, plots, sheets, statistics, tables  # noqa: PLC0415
    from anomalib_anoseg.common.thumbnails import draw_color_bar, to_uri  # noqa: PLC0415

    jobs, labels, models, categories = collection.jobs, collection.labels, collection.models, collection.categories
    frame = statistics.figures(jobs)
    estimates, overall = statistics.by_category(frame), statistics.over_categories(frame)
    ranked = statistics.ranks(estimates)
    single_seed = len(collection.seeds) == 1
    means = [
        tables.summary(overall, ranked, labels, origin.short_of_an_epoch(jobs)),
        plots.intervals(overall, models),
        tables.rank_table(ranked, labels) if len(models) > 1 and not ranked.empty else None,
    ]
    sections: dict[str, tuple[str, str, list[Any]]] = {
        "summary": ("Summary", MEANS if single_seed else f"{MEANS} {INTERVALS}", means),
        "paired": (f"Difference to {reference}", "", []),
        "categories": ("Categories", "", [tables.category_table(estimates, name, labels) for name in categories]),
        "defects": ("Defects", DEFECTS, [tables.category_table(estimates, name, labels, True) for name in categories]),
        "curves": ("IoU curves", "", [plots.iou_curves(jobs, labels, categories)]),
        "cost": _costs(collection, overall),
    }
    if reference:
        differences = statistics.paired(frame, reference)
        table = tables.paired_table(differences, labels, reference)
        sections["paired"] = (f"Difference to {reference}", PAIRED.format(reference), [table])
    shown = {name: (title, text, [part for part in parts if part]) for name, (title, text, parts) in sections.items()}
    return {
        "estimates": estimates,
        "overall": overall,
        "warnings": _warnings(collection, single_seed),
        "sections": {name: section for name, section in shown.items() if section[2]},
        "protocol": origin.protocol(collection),
        "facts": origin.facts(collection),
        "settings": origin.settings_table(jobs),
        "sheets": sheets.contact_sheets(jobs, images) if images else [],
        "color_bar": to_uri(draw_color_bar()) if images else "",
    }


def _costs(collection: "Collection", overall: "pd.DataFrame") -> tuple[str, str, list[Any]]:
    """Show what each model costs, and say if most of it was not measured."""
    from anomalib_anoseg.board.report import cost_tables, plots  # noqa: PLC0415

    jobs, models = collection.jobs, collection.models
    forms = cost_tables.forms(jobs)
    parts = [
        cost_tables.model_table(jobs, models) if models else None,
        cost_tables.form_table(jobs, models),
        plots.against_cost(forms, "median_1", "latency, batch 1 (ms)", models),
        plots.against_cost(forms, "file_mb", "file size (MB)", models),
        plots.against_parameters(overall, cost_tables.models(jobs)["parameters"], models),
    ]
    return "Cost", UNMEASURED if forms.empty else "", parts


def _warnings(collection: "Collection", single_seed: bool) -> list[tuple[str, str, list[str]]]:
    """Say what a reader must know first: a heading, a text, and a list."""
    jobs = [f"{job.label}, {job.category}, seed {job.seed} ({job.id}): {job.reason}" for job in collection.missing]
    is_are = "is" if len(jobs) == 1 else "are"
    incomplete = f"This board is incomplete: {len(jobs)} of {collection.expected} jobs {is_are} missing."
    left_out = [f"{label}: {why}" for label, why in collection.left_out.items()]
    warnings = [
        (incomplete, "Means of models that lack a category are not compared with the others.", jobs),
        ("Not on this board", "", left_out),
        ("How the folders were put together", "", collection.notes),
    ]
    return [entry for entry in warnings if entry[2]] + ([("One seed only.", ONE_SEED, [])] if single_seed else [])


def _environment(name: str) -> Any:  # noqa: ANN401
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape  # noqa: PLC0415
    from markupsafe import Markup  # noqa: PLC0415

    environment = Environment(
        loader=PackageLoader("anomalib_anoseg.board.report"),
        autoescape=select_autoescape(["html.j2"]),
        finalize=lambda value: value if name == PAGE or isinstance(value, Markup) else escape_markdown(value),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["svg_uri"] = lambda svg: "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
    return environment


def _csv(estimates: "pd.DataFrame", overall: "pd.DataFrame") -> str:
    """Write all means and intervals as one long table; an empty cell is an undefined figure."""
    import pandas as pd  # noqa: PLC0415

    both = pd.concat([overall.assign(level="all categories"), estimates.assign(level="category")], ignore_index=True)
    both.loc[both["defect"].fillna("") != "", "level"] = "defect"
    both["low"], both["high"] = both["mean"] - both["half"], both["mean"] + both["half"]
    both["trivial_bar"] = both["bar"]
    both["beats_trivial"] = (~both["below"]).where(both["bar"].notna() & ~both["trivial"])
    columns = ["level", "label", "trivial", "variant", "category", "defect", "metric", "mean", "low", "high", "seeds"]
    return str(both[[*columns, "trivial_bar", "beats_trivial"]].to_csv(index=False, lineterminator="\n"))
