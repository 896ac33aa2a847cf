"""Figures of the latent space that a reader of the method paper recognizes: the codes' PCA and the gamma sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from sklearn.decomposition import PCA

from bundle.skull_implant.frame.canonical_grid import CanonicalBox
from bundle.skull_implant.model.network import DEFECT_CLASSES, LATENT_CLASSES, SkullCompleter
from bundle.skull_implant.scores.figures import blank_figure, save_figure

COLORS = {"complete": "#2a9d43", "cranial": "#d1372c", "facial": "#2b62c4"}
# Of each slice: the canonical axis across it, the axes to the right and up the picture, their names.
PLANES = {
    "axial": (2, (0, 1), ("right", "anterior")),
    "coronal": (1, (0, 2), ("right", "superior")),
    "sagittal": (0, (1, 2), ("anterior", "superior")),
}


@dataclass(frozen=True)
class ClassCodes:
    """Standardized codes of skulls, each complete and with defects.

    Args:
        codes: (N, latent_size).
        kinds: (N,) index in :data:`LATENT_CLASSES`.
        persons: how many there are.
    """

    codes: np.ndarray
    kinds: np.ndarray
    persons: int


def plot_latents(models: dict[str, tuple[ClassCodes, ClassCodes]], path: Path) -> None:
    """The method paper's figure 4: codes of the three classes along their first two principal components.

    The components are those of the training codes; large circles are the training centroids of the classes; the arrows
    are DEV, from a defective centroid to the complete one, of exactly the codes shown.

    Args:
        models: name -> codes of training and of validation persons.
        path: target, `.png`.
    """
    figure = blank_figure(0.4 + 6.4 * len(models), 6.4)
    for axis, (name, (training, validation)) in zip(
        figure.subplots(1, len(models), squeeze=False)[0], models.items(), strict=True
    ):
        pca = PCA(2, svd_solver="full").fit(training.codes)
        for kind, label in enumerate(LATENT_CLASSES):
            for part, style in ((training, {"marker": "."}), (validation, {"marker": "x"})):
                points = pca.transform(part.codes[part.kinds == kind])
                axis.scatter(*points.T, color=COLORS[label], s=28, alpha=0.6, linewidths=1.2, **style)
        centroids = pca.transform(np.stack([training.codes[training.kinds == k].mean(0) for k in range(3)]))
        for place in centroids[1:]:
            arrow = {"arrowstyle": "-|>,head_width=0.3,head_length=0.6", "lw": 2.0, "color": "black", "shrinkA": 0}
            axis.annotate("", centroids[0], place, arrowprops={**arrow, "shrinkB": 0}, zorder=6)
        axis.scatter(*centroids.T, color=list(COLORS.values()), s=190, edgecolors="black", linewidths=1.4, zorder=5)
        share = 100 * pca.explained_variance_ratio_
        axis.set(
            title=f"{name}: {training.persons} training, {validation.persons} validation persons",
            xlabel=f"principal component 1 of the standardized code ({share[0]:.0f} % of variance)",
            ylabel=f"principal component 2 of the standardized code ({share[1]:.0f} % of variance)",
        )
        axis.set_aspect("equal", adjustable="datalim")
        axis.grid(alpha=0.3)
        axis.legend(handles=_latent_legend(), fontsize=8, loc="best", framealpha=0.9)
    save_figure(figure, path)


@torch.no_grad()
def gamma_sweep(network: SkullCompleter, bone: np.ndarray, defect_class: str, gammas: Sequence[float]) -> np.ndarray:
    """Probability of skull after `z + gamma * DEV(z)` for each gamma, (len(gammas), X, Y, Z).

    Args:
        network: trained.
        bone: (X, Y, Z), share of bone, with a defect.
        defect_class: of the defect.
        gammas: steps along DEV.
    """
    device = network.dev.device
    code = network.encode(torch.as_tensor(bone, dtype=torch.float32, device=device)[None, None])
    step = network.step(code, torch.tensor([DEFECT_CLASSES.index(defect_class)], device=device))
    return np.concatenate([network.decode(code + gamma * step)[0].cpu().numpy() for gamma in gammas])


def plot_gamma_sweep(
    bone: np.ndarray,
    piece: np.ndarray,
    decoded: np.ndarray,
    gammas: Sequence[float],
    box: CanonicalBox,
    title: str,
    path: Path,
) -> None:
    """The method paper's figure 5 in slices: the input, then what each gamma decodes; the missing piece is outlined.

    Args:
        bone: (X, Y, Z), share of bone, with a defect.
        piece: (X, Y, Z), share of the bone that is missing; the slices go through its middle.
        decoded: (len(gammas), X, Y, Z), from :func:`gamma_sweep`.
        gammas: steps along DEV.
        box: of the volumes.
        title: one line.
        path: target, `.png`.
    """
    index = np.argwhere(piece > 0.5) if (piece > 0.5).any() else np.argwhere(bone > 0.5)
    middle = index[((index - index.mean(0)) ** 2).sum(1).argmin()]
    volumes = [bone, *decoded]
    names = ["input", *(rf"$\gamma$ = {gamma:g}" for gamma in gammas)]
    figure = blank_figure(0.9 + 2.5 * len(volumes), 8.2)
    heights = [box.size_mm[up] / box.size_mm[across] for _, (across, up), _ in PLANES.values()]
    grid = figure.subplots(len(PLANES), len(volumes), height_ratios=heights, squeeze=False)
    for row, (plane, (axis_across, axes, words)) in enumerate(PLANES.items()):
        cut = tuple(int(middle[axis]) if axis == axis_across else slice(None) for axis in range(3))
        extent = [edge for axis in axes for edge in _edges(box, axis)]
        for column, volume in enumerate(volumes):
            picture = grid[row, column]
            picture.imshow(volume[cut].T, origin="lower", extent=extent, cmap="gray", vmin=0, vmax=1)
            _outline(picture, piece[cut].T, extent)
            if row == 0:
                picture.set_title(names[column])
            if column:
                picture.set_yticklabels([])
            else:
                picture.set_ylabel(f"{plane}\n{words[1]}, mm")
            if axes[0] == 0:
                picture.invert_xaxis()  # radiological convention: the patient's right is on the left
            picture.set_xlabel(f"{words[0]}, mm", fontsize=8)
            picture.tick_params(labelsize=7)
    figure.suptitle(title)
    save_figure(figure, path)


def _latent_legend() -> list[Line2D]:
    def handle(label: str, color: str, marker: str, size: float = 7, edge: str = "none") -> Line2D:
        return Line2D(
            [], [], linestyle="", color=color, marker=marker, markersize=size, label=label, markeredgecolor=edge
        )

    classes = [handle(label, color, "s") for label, color in COLORS.items()]
    parts = [handle("training", "gray", "."), handle("validation", "gray", "x", edge="gray")]
    centroid = handle("training centroid", "gray", "o", 10, edge="black")
    return [*classes, *parts, centroid, Line2D([], [], color="black", lw=2, label="DEV")]


def _edges(box: CanonicalBox, axis: int) -> tuple[float, float]:
    low = float(box.affine[axis, 3] - box.spacing_mm[axis] / 2)
    return low, low + box.size_mm[axis]


def _outline(axis: Axes, piece: np.ndarray, extent: Sequence[float]) -> None:
    """The half-way contour of a piece, over a picture of it with this extent; nothing where it is not cut."""
    if piece.max() > 0.5 and piece.min() < 0.5:
        rows, columns = piece.shape
        x = extent[0] + (np.arange(columns) + 0.5) * (extent[1] - extent[0]) / columns
        y = extent[2] + (np.arange(rows) + 0.5) * (extent[3] - extent[2]) / rows
        axis.contour(x, y, piece, levels=[0.5], colors="#f2b134", linewidths=0.9)
