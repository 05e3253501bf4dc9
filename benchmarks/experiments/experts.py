"""Experts: several small decoders on one frozen encoder and one memory, each taught by another kind of anomaly.

Encoder and memory of `sgsf_laptop_pretrained` stay as they are, and each expert forges images of its own. So experts
are trained one by one, and what they predict is averaged afterwards: their logits, before the softmax; the image score
is that of the averaged map. Page: experts.md.

    python -m benchmarks.experiments.experts runs/experts --steps 75 --weights datasets/tf_efficientnet_lite0.pth \
        --set datasets/mvtec/{screw,toothbrush} datasets/magnetic_tile/tile datasets/cookie/cookie --csv experts.csv
    python -m benchmarks.experiments.experts --report benchmarks/results/experts.csv

The folder keeps the logits of each expert for all pictures that judge it. Files in it are not made again.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from torch import Tensor
from torchmetrics.functional.classification import binary_average_precision

from anomalib_anoseg.data.defects import DEFECTS
from anomalib_anoseg.models.image_score import score_map
from anomalib_anoseg.transforms.textures import NoiseTextures
from benchmarks.common import BARE, Row, begin, make_parser, preset, write_json
from benchmarks.experiments.drawing import SHARP, WIDE
from benchmarks.experiments.image_scores import auroc, see
from benchmarks.experiments.judging import DEMO, JUDGING_SEED, after_normal
from benchmarks.experiments.kinds import drawn_defects, fit, real_defects
from benchmarks.experiments.trainings import of_preset

Pictures = dict[str, tuple[Tensor, Tensor]]  # images and masks by kind
Team = tuple[tuple[str, int], ...]  # each expert's kind and seed

PRESET = "sgsf_laptop_pretrained"
KINDS = Path(__file__).with_suffix(".yaml")
SHIPPED = ("own", 150)  # the kind and the steps of the preset
ALONE = ("breadth", "patterns")  # no part of a team: what learns from several kinds, and a later kind
# Forged kinds from which no expert learns, as changes of the preset.
UNTAUGHT = {name: {f"kinds.{name}": 1.0} for name in ("scratches", "deformed", "blurred")}
FORGER: dict[str, Any] = {"guidance.kind": "none", "network.width": 0.125}  # of a model that only forges
APART = 10  # between seeds of kinds, so that no two experts begin alike
SORTS = ("one expert", "two of one kind", "two kinds")
JUDGES = ("drawn", "wide", "sharp", "forged", "taught")
FIGURES = (*JUDGES, "choice", "real", "image, wide", "image, real")
GAINS = ("choice", "sharp", "real")


def main() -> None:
    """Train what is missing, or judge all that is there, or only report."""
    options = parse_options()
    begin(options)
    if options.report:
        print(report(pd.read_csv(options.report)))
        return
    kinds = read(options.kinds)
    options.folder.mkdir(parents=True, exist_ok=True)
    for seed, folder, name in product(options.seeds, options.set or [None], options.only or kinds):
        file = options.folder / f"{name_of(folder)},{name},{options.steps},{seed}.npz"
        if not file.exists():
            pictures = judging_pictures(folder, options.size, options.kinds)
            model = make(kinds[name], options.size, seed + APART * list(kinds).index(name), options.weights)
            fit(model, folder, max_steps=options.steps)
            np.savez(file, **dict(look(model.eval(), pictures)))
            print(file.stem, flush=True)
    if options.csv:
        table = pd.DataFrame(row for folder in options.set or [None] for row in judge_all(folder, list(kinds), options))
        write_json(options, rows=table.to_dict("records"))
        table.round(3).to_csv(options.csv, index=False, lineterminator="\n")
        print(report(table))


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, "set", "weights", "threads")
    parser.add_argument("folder", type=Path, nargs="?", help="where the logits of experts are kept")
    parser.add_argument("--kinds", type=Path, default=KINDS, help="YAML: name -> changes of the preset")
    parser.add_argument("--only", nargs="*", help="names of kinds (default: all)")
    parser.add_argument("--size", type=int, default=128, help="side of the images in pixels")
    parser.add_argument("--steps", type=int, default=75, help="of every training")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--csv", type=Path, metavar="PATH", help="judge all that the folder holds, and write a table")
    parser.add_argument("--report", type=Path, metavar="CSV", help="only print the tables of a file that --csv wrote")
    options = parser.parse_args()
    if not options.folder and not options.report:
        parser.error("trainings need a folder, where they are kept")
    return options


def read(kinds: Path) -> dict[str, dict[str, Any]]:
    """Read what experts learn from."""
    content: dict[str, dict[str, Any]] = yaml.safe_load(kinds.read_text(encoding="utf-8"))
    return content


def name_of(folder: Path | None) -> str:
    """Name a set."""
    return folder.name if folder else DEMO


def make(changes: Mapping[str, Any], size: int, seed: int = 0, weights: Path | None = None) -> Any:  # noqa: ANN401
    """Make the model of a kind: the preset with its changes."""
    changes = {"image_size": (size, size)} | dict(changes)
    is_noise = changes.pop("textures", None) == "noise"
    model = of_preset(PRESET, weights, changes, seed=seed, **BARE)
    if is_noise:
        model.augmenter.textures = NoiseTextures()
    return model


@cache
def judging_pictures(folder: Path | None, size: int, kinds: Path) -> Pictures:
    """Make the pictures that judge: held-out good ones, with drawn and with forged defects, and real test pictures."""
    good, drawn = drawn_defects(folder, (size, size))
    taught = {name: changes for name, changes in read(kinds).items() if name not in ALONE}
    return gather(good, drawn, taught | UNTAUGHT, real_defects(folder, (size, size)))


def gather(good: Tensor, drawn: Pictures, kinds: Mapping[str, Any], real: tuple[Tensor, Tensor]) -> Pictures:
    """Gather pictures that judge, with a defect of each of some kinds forged on the good ones."""
    forged: Pictures = {}
    for name, changes in kinds.items():
        augmenter = make({**changes, **FORGER}, good.shape[-1]).augmenter
        generator = torch.Generator().manual_seed(JUDGING_SEED)
        forged[f"forged {name}"] = augmenter.forge(good, generator=generator)
    return {"good": (good, torch.zeros_like(good[:, :1])), **drawn, **forged, "real": real}


def look(model: Any, pictures: Pictures) -> Iterator[tuple[str, Any]]:  # noqa: ANN401
    """Predict logits of anomalous ``(N, H, W)`` for the pictures of each kind."""
    for kind, (images, _) in pictures.items():
        yield kind, dict(see(model, kind, images))[f"{kind}/logits"]


def judge_all(folder: Path | None, kinds: list[str], options: argparse.Namespace) -> Iterator[Row]:
    """Judge each team whose experts are there."""
    files: dict[int, dict[tuple[str, int], Path]] = {}
    for file in sorted(options.folder.glob(f"{name_of(folder)},*.npz")):
        _, name, steps, seed = file.stem.split(",")
        files.setdefault(int(steps), {})[name, int(seed)] = file
    masks = {kind: mask for kind, (_, mask) in judging_pictures(folder, options.size, options.kinds).items()}
    for steps, found in files.items():
        experts = {expert: load(file) for expert, file in found.items()}
        for team in make_teams(kinds, sorted({seed for _, seed in experts})):
            if set(team) <= set(experts):
                names, seeds = zip(*team, strict=True)
                yield {
                    "set": name_of(folder),
                    "experts": " + ".join(names),
                    "steps": steps,
                    "seed": "+".join(map(str, sorted(set(seeds)))),
                    **judge(average([experts[expert] for expert in team]), masks),
                }


def make_teams(kinds: Sequence[str], seeds: Sequence[int]) -> Iterator[Team]:
    """List teams: single experts, two of one kind, two of two, and more in the order of the kinds."""
    special = [name for name in kinds if name not in ALONE]
    teams: list[tuple[str, ...]] = [(name,) for name in kinds]
    teams += [*combinations(special, 2), *(tuple(special[:count]) for count in range(3, len(special) + 1))]
    yield from (tuple((name, seed) for name in team) for seed, team in product(seeds, teams))
    yield from (tuple((name, seed) for seed in pair) for pair, name in product(combinations(seeds, 2), kinds))


def load(file: Path) -> dict[str, Tensor]:
    """Read the logits of an expert."""
    with np.load(file) as content:
        return {kind: torch.from_numpy(content[kind]) for kind in content.files}


def average(experts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Average the logits of experts, as one network with all of them would: before the softmax."""
    return {kind: torch.stack([expert[kind] for expert in experts]).mean(0) for kind in experts[0]}


def judge(logits: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Row:
    """Measure pixel AP by each judge, and image AUROC of the map's score as the model computes it."""
    return judge_maps(*maps_and_scores(logits), masks)


def judge_maps(maps: Mapping[str, Tensor], scores: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Row:
    """Measure pixel AP of maps by each judge, and image AUROC of scores."""
    has_defect = {kind: mask.flatten(1).any(1) for kind, mask in masks.items()}
    bad = {kind: values for kind, values in maps.items() if kind not in {"good", "real"}}
    ap = {kind: precision(*after_normal(maps["good"], (values, masks[kind]))) for kind, values in bad.items()}
    untaught = [f"forged {name}" for name in UNTAUGHT]
    judges = {
        "drawn": list(DEFECTS),
        "wide": list(WIDE),
        "sharp": list(SHARP),
        "forged": untaught,
        "taught": [kind for kind in ap if kind.startswith("forged ") and kind not in untaught],
    }
    means = {judge: float(np.mean([ap[kind] for kind in kinds])) for judge, kinds in judges.items() if kinds}
    drawn = torch.cat([scores[kind][has_defect[kind]] for kind in WIDE])
    return means | {
        "choice": (means["wide"] + means["forged"]) / 2,
        "real": precision(maps["real"], masks["real"]),
        "image, wide": auroc(scores["good"], drawn),
        "image, real": auroc(scores["real"][~has_defect["real"]], scores["real"][has_defect["real"]]),
    }


def maps_and_scores(logits: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Make anomaly maps ``(N, 1, H, W)`` and image scores ``(N,)`` as the model does."""
    maps = {kind: values.sigmoid()[:, None] for kind, values in logits.items()}
    return maps, scores_of(maps)


def scores_of(maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Score maps ``(N, 1, H, W)`` as the model does: ``(N,)``."""
    window = preset(PRESET)["network"]["score_window"]
    return {kind: score_map(values, window) for kind, values in maps.items()}


def precision(maps: Tensor, masks: Tensor) -> float:
    """Measure average precision over all pixels."""
    return binary_average_precision(maps.flatten(), masks.flatten().int()).item()


def report(table: pd.DataFrame) -> str:
    """Tabulate each team beside one expert as shipped, two kinds beside two of one, and the judges beside real AP."""
    table = table.assign(seed=table["seed"].astype(str), size=1 + table["experts"].str.count(r"\+"))
    single = table[(table["size"] == 1) & (table["seed"] == "0") & (table["steps"] == table["steps"].min())]
    diverse = (diversity(rows) for _, rows in table.groupby("steps"))
    tables = [compare(table), *diverse, rank(table), rank(single).add_suffix(", single experts")]
    return "\n\n".join(shown.round(3).to_markdown() for shown in tables if len(shown))


def compare(table: pd.DataFrame) -> pd.DataFrame:
    """Average each team over sets and seeds, with its gains over one expert as shipped, of equal seeds."""
    shipped = table[(table["experts"] == SHIPPED[0]) & (table["steps"] == SHIPPED[1])].set_index(["set", "seed"])
    table, team = table.assign(all=table["steps"] * table["size"]), ["all", "steps", "experts"]
    for figure in GAINS:
        values = shipped[figure].to_dict()
        before = [
            np.mean([values.get((name, one), np.nan) for one in seed.split("+")])
            for name, seed in zip(table["set"], table["seed"], strict=True)
        ]
        table[f"gain, {figure}"] = table[figure] - before
    by_team = table.groupby(team)
    means = by_team[list(FIGURES)].mean()
    means.insert(0, "trainings", by_team.size())
    for gain in (f"gain, {figure}" for figure in GAINS):
        means[gain], means[f"{gain}, s.e."] = by_team[gain].mean(), by_team[gain].sem()
    means["worst set"] = table.groupby([*team, "set"])["gain, choice"].mean().groupby(team).min()
    each = table.pivot_table(index=team, columns="set", values="real").add_prefix("real, ")
    return means.join(each).sort_values(["all", "choice"], ascending=[True, False])


def diversity(table: pd.DataFrame) -> pd.DataFrame:
    """Compare two kinds with two experts of one kind and with one expert, as means over all kinds and pairs.

    Below stands the difference of both sorts of two, and its standard error over sets.
    """
    table = pd.concat(rows[has_twins(rows)] for _, rows in table.groupby("set"))
    names = table["experts"].str.split(" + ", regex=False)
    sorts = names.map(lambda team: SORTS[len(team) + len(set(team)) - 2]).rename("team")
    by_set = table.groupby([sorts, "set"])[list(FIGURES)].mean()
    means = by_set.groupby("team").mean()
    if not {*SORTS} <= set(means.index):
        return means.iloc[:0]
    gain = by_set.loc[SORTS[2]] - by_set.loc[SORTS[1]]
    return pd.concat([means.loc[list(SORTS)], pd.DataFrame({"difference": gain.mean(), "s.e.": gain.sem()}).T])


def has_twins(table: pd.DataFrame) -> pd.Series:
    """Find teams of two at most, of kinds with two seeds: so each expert is in as many teams of either sort."""
    names = table["experts"].str.split(" + ", regex=False)
    twins = {team[0] for team in names if len(team) == 2 and len(set(team)) == 1} - {*ALONE}
    return (table["size"] <= 2) & names.map(lambda team: set(team) <= twins)


def rank(table: pd.DataFrame) -> pd.DataFrame:
    """Compute Spearman's correlation of each judge with real AP over the teams: on each set, and the mean."""
    means = table.groupby(["set", "steps", "experts"])[list(FIGURES)].mean()
    ranks = {
        name: {judge: part[judge].corr(part["real"], "spearman") for judge in (*JUDGES, "choice")}
        for name, part in means.groupby("set")
    }
    return pd.DataFrame(ranks).assign(mean=lambda correlations: correlations.mean(axis=1))


if __name__ == "__main__":
    main()
