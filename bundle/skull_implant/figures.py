"""Figures that a reader of the method paper recognizes."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bundle.skull_implant.errors import InputError


def plot_curves(runs: Sequence[str | Path], path: Path) -> None:
    """Training curves of Dice loss, KL divergence and held-out reconstruction DSC, both stages, one color a run.

    Args:
        runs: output folders of training, with `stage1.csv` and, when it has come so far, `stage2.csv`.
        path: target, `.png`.

    Raises:
        InputError: a run has no `stage1.csv`.
    """
    figure = Figure(figsize=(15, 4.2), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 3)
    for color, run in enumerate(runs):
        for stage, style in (("stage1", "--"), ("stage2", "-")):
            rows = _rows(Path(run) / f"{stage}.csv", required=stage == "stage1")
            for axis, field in zip(axes, ("dice", "kld", "held_out_dsc"), strict=True):
                points = [(int(row["epoch"]), float(row[field])) for row in rows if row[field]]
                if points:
                    label = f"{Path(run).name}, stage {stage[-1]}"
                    axis.plot(*zip(*points, strict=True), style, color=f"C{color}", label=label)
    titles = (
        "Dice loss a sample, training",
        "KL divergence a sample, training",
        "reconstruction DSC, validation persons",
    )
    for axis, title in zip(axes, titles, strict=True):
        axis.set(title=title, xlabel="epoch")
        axis.grid(alpha=0.3)
    axes[1].set_yscale("log")
    axes[0].legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")


def _rows(path: Path, required: bool) -> list[dict[str, str]]:
    if not path.is_file():
        if required:
            raise InputError(f"{path}: a run must have its curve, no such file; give the output_dir of a training")
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
