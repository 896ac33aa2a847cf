"""Figures that a reader of the method paper recognizes: training curves and box plots of scores."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.scores.score_table import DEFECTS, TASKS, Score, SkullScore
from bundle.skull_implant.whole_files import whole_file

IMPLANT_METRICS = {"dsc": "implant DSC", "bdsc": "boundary DSC (within 10 mm of bone)", "hd95_mm": "HD95, mm"}


def blank_figure(width: float, height: float) -> Figure:
    """A white figure in inches that needs no display."""
    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG file, whole or not at all."""
    with whole_file(path) as partial:
        figure.savefig(partial, format="png", metadata={"Software": None})


def plot_curves(runs: Sequence[str | Path], path: Path) -> None:
    """Training curves of Dice loss, KL divergence and held-out reconstruction DSC, both stages, one color a run.

    Args:
        runs: output folders of training, with `stage1.csv` and, when it has come so far, `stage2.csv`.
        path: target, `.png`.

    Raises:
        InputError: a run has neither `stage1.csv` nor `stage2.csv`, which finetuning has alone.
    """
    figure = blank_figure(15, 4.4)
    axes = figure.subplots(1, 3)
    for color, run in enumerate(runs):
        if not any((Path(run) / f"stage{stage}.csv").is_file() for stage in (1, 2)):
            raise InputError(
                f"{run}/stage1.csv: a run must have its curve, no such file; give the output_dir of a training"
            )
        for stage, style in (("stage1", "--"), ("stage2", "-")):
            rows = _rows(Path(run) / f"{stage}.csv")
            for axis, field in zip(axes, ("dice", "kld", "held_out_dsc"), strict=True):
                points = [(int(row["epoch"]), float(row[field])) for row in rows if row[field]]
                if points:
                    label = f"{Path(run).name}, stage {stage[-1]}"
                    axis.plot(*zip(*points, strict=True), style, color=f"C{color}", label=label)
    titles = ("Dice loss, training", "KL divergence, training", "Reconstruction DSC, validation persons")
    units = ("weighted Dice loss, a volume", "nats, a volume (log scale)", "DSC at the training grid")
    for axis, title, unit in zip(axes, titles, units, strict=True):
        axis.set(title=title, xlabel="epoch of the stage", ylabel=unit)
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(fontsize=8)
    axes[1].set_yscale("log")
    save_figure(figure, path)


def plot_implant_scores(scores: Sequence[Score], part: str, path: Path) -> None:
    """Box plots of implant DSC, boundary DSC and HD95: a row for each defect, a box for each method, a dot a case.

    A failed case is a DSC of 0 and has no distance; how many failed stands beside the distances. The method "nothing",
    which is 0 by definition, is left out.

    Args:
        scores: of all persons; undamaged skulls are passed over.
        part: "validation" or "training".
        path: target, `.png`.
    """
    own = [score for score in scores if score.part == part and score.method != "nothing"]
    defects = [defect for defect in DEFECTS[:-1] if any(score.defect == defect for score in own)]
    methods = list(dict.fromkeys(score.method for score in own))
    figure = blank_figure(15, 1.2 + len(defects) * (0.9 + 0.3 * len(methods)))
    grid = figure.subplots(len(defects), len(IMPLANT_METRICS), sharex="col", sharey=True, squeeze=False)
    for row, defect in enumerate(defects):
        for axis, (metric, label) in zip(grid[row], IMPLANT_METRICS.items(), strict=True):
            cases = [[score for score in own if (score.defect, score.method) == (defect, each)] for each in methods]
            values = [[getattr(s, metric) for s in group if np.isfinite(getattr(s, metric))] for group in cases]
            _boxes(axis, values)
            axis.set_yticks(range(len(methods)), methods)
            if row == len(defects) - 1:
                axis.set_xlabel(label + (" (linear to 1, then log)" if metric == "hd95_mm" else ""))
        grid[row, 0].set_ylabel(f"{defect} defects\nn = {max(map(len, cases))} cases")
        for number, group in enumerate(cases):
            if failed := sum(score.failed for score in group):
                place = grid[row, 2].get_yaxis_transform()
                grid[row, 2].text(0.015, number, f"{failed} failed", transform=place, va="center", fontsize=8)
    for axis in grid[:, :2].flat:
        axis.set_xlim(-0.03, 1.03)
    grid[0, 2].set_xscale("symlog", linthresh=1.0, linscale=0.35)  # a perfect implant has a distance of 0
    grid[0, 2].set_xlim(left=0.0)
    ticks = [0, 1, 2, 5, 10, 20, 50, 100, 200]
    grid[0, 2].set_xticks(ticks, list(map(str, ticks)), minor=False)
    grid[0, 2].minorticks_off()
    figure.suptitle(f"Implant scores of {part} persons: median, quartiles, 1.5 interquartile ranges, every case")
    save_figure(figure, path)


def plot_skull_scores(scores: Sequence[SkullScore], part: str, path: Path) -> None:
    """The method paper's figure 6: whole-skull DSC of reconstruction (REC) and completion (CMP), a panel a model.

    Args:
        scores: of all persons.
        part: "validation" or "training".
        path: target, `.png`.
    """
    own = [score for score in scores if score.part == part]
    methods = list(dict.fromkeys(score.method for score in own))
    figure = blank_figure(0.6 + 4.6 * len(methods), 4.2)
    axes = figure.subplots(1, len(methods), sharey=True, squeeze=False)[0]
    for axis, method in zip(axes, methods, strict=True):
        groups = [[score.dsc for score in own if (score.method, score.task) == (method, task)] for task in TASKS]
        _boxes(axis, groups, vertical=True)
        axis.set_xticks(range(len(TASKS)), [task.replace(" ", "\n") for task in TASKS])
        axis.set(title=f"{method}, n = {max(map(len, groups))} {part} persons")
    axes[0].set_ylabel("whole-skull DSC at the network's grid")
    save_figure(figure, path)


def _boxes(axis: Axes, groups: Sequence[Sequence[float]], vertical: bool = False) -> None:
    """A box and a dot for each value at positions 0, 1, ...; empty groups keep their place."""
    filled = [number for number, group in enumerate(groups) if group]
    if filled:
        axis.boxplot(
            [groups[number] for number in filled],
            positions=filled,
            orientation="vertical" if vertical else "horizontal",
            widths=0.6,
            showfliers=False,
            patch_artist=True,
            boxprops={"facecolor": "#cfe3f1", "edgecolor": "#336688"},
            medianprops={"color": "#b03020", "linewidth": 1.8},
            whiskerprops={"color": "#336688"},
            capprops={"color": "#336688"},
        )
    spread = np.random.default_rng(0)
    for number, group in enumerate(groups):
        beside = number + spread.uniform(-0.17, 0.17, len(group))
        points = (beside, group) if vertical else (group, beside)
        axis.plot(*points, ".", color="black", alpha=0.45, markersize=4, markeredgewidth=0)
    axis.grid(alpha=0.3, axis="y" if vertical else "x")
    if vertical:
        axis.set_xlim(-0.6, len(groups) - 0.4)
    else:
        axis.set_ylim(len(groups) - 0.4, -0.6)  # the first on top


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
