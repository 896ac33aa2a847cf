"""Pictures of the answers of MONAI Label's server, as Slicer's file of segments holds them: slices, 3-D, by gamma."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import slicerio
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import ndimage

from bundle.skull_implant.scores.figures import blank_figure, save_figure
from bundle.skull_implant.slicer.answering import IMPLANT, SKULL
from bundle.skull_implant.surfaces.preview import SLICES, implant_view
from bundle.skull_implant.surfaces.scene import Color, Scene
from bundle.skull_implant.surfaces.surface_view import render_surface
from bundle.skull_implant.volume import Grid, Volume

COLORS: dict[str, Color] = {"skull": (0.95, 0.84, 0.57), "implant": (0.06, 0.62, 0.78)}
VALUES = {"skull": SKULL, "implant": IMPLANT}


def write_segmentation(path: Path, labels: Volume) -> None:
    """A label map of 1 = skull, 2 = implant as Slicer's `.seg.nrrd`, with the segments' names and colors."""
    segmentation = slicerio.create_segmentation(labels.grid.size, labels.grid.affine)
    for name, value in VALUES.items():
        segment = {"id": name, "name": name, "color": list(COLORS[name])}
        slicerio.add_segment(segmentation, labels.voxels == value, segment)
    slicerio.write_segmentation(str(path), segmentation)


def read_segments(path: Path) -> dict[str, Volume]:
    """The masks of a `.seg.nrrd` by their segments' names, on its own grid."""
    segmentation = slicerio.read_segmentation(str(path))
    affine = np.asarray(segmentation["ijkToLPS"])
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    axes = tuple((affine[:3, :3] / spacing).ravel().tolist())
    masks = {name: slicerio.segment_mask(segmentation, name) for name in slicerio.segment_names(segmentation)}
    return {
        name: Volume(mask, Grid(mask.shape, tuple(spacing.tolist()), tuple(affine[:3, 3].tolist()), axes))
        for name, mask in masks.items()
    }


def draw_segments(scan: Volume, segments: Mapping[str, Volume], path: Path, window_hu: tuple[float, float]) -> None:
    """Three slices of the scan through the implant with both segments over it, and both in 3-D.

    Args:
        scan: CT in HU.
        segments: masks named skull and implant.
        path: target, `.png`.
        window_hu: black and white of the slices.
    """
    figure = _black_figure(11.0, 9.0)
    implant = segments["implant"]
    focus = np.asarray(implant.grid.affine[:3] @ [*np.argwhere(implant.voxels).mean(axis=0), 1.0])
    places = {"axial": (0.0, 0.5), "coronal": (0.0, 0.0), "sagittal": (0.5, 0.0)}
    for name, (left, bottom) in places.items():
        _draw_slice(figure.add_axes((left, bottom, 0.495, 0.495)), name, scan, segments, focus, window_hu)
    view = figure.add_axes((0.5, 0.5, 0.495, 0.495))
    view.imshow(_render(segments, 660, 540))
    view.set_axis_off()
    for number, name in enumerate(VALUES):
        view.text(0.04, 0.94 - 0.07 * number, name, color=COLORS[name], fontsize=16, transform=view.transAxes)
    save_figure(figure, path)


def draw_gammas(answers: Mapping[float, Mapping[str, Volume]], path: Path) -> None:
    """The segments of several gammas in 3-D, side by side, with the implant's volume under each.

    Args:
        answers: gamma to masks named skull and implant.
        path: target, `.png`.
    """
    figure = _black_figure(5.0 * len(answers), 4.6)
    for number, (gamma, segments) in enumerate(answers.items()):
        axes = figure.add_axes((number / len(answers), 0.1, 1 / len(answers), 0.9))
        axes.imshow(_render(segments, 500, 410))
        axes.set_axis_off()
        volume = np.count_nonzero(segments["implant"].voxels) * segments["implant"].grid.voxel_ml
        text = f"gamma {gamma:g}: {volume:.1f} ml"
        figure.text((number + 0.5) / len(answers), 0.05, text, color="white", fontsize=15, ha="center", va="center")
    save_figure(figure, path)


def _black_figure(width: float, height: float) -> Figure:
    figure = blank_figure(width, height)
    figure.set_layout_engine("none")  # every picture is put where it goes
    figure.set_facecolor("black")
    return figure


def _render(segments: Mapping[str, Volume], width: int, height: int) -> np.ndarray:
    scene = Scene.from_masks([segments[name] for name in VALUES], [COLORS[name] for name in VALUES])
    view = implant_view(scene, turn_degrees=40.0, highest_degrees=30.0)
    return render_surface(scene, view, width=width, height=height)


def _draw_slice(
    axes: Axes,
    name: str,
    scan: Volume,
    segments: Mapping[str, Volume],
    focus: np.ndarray,
    window_hu: tuple[float, float],
    pixel_mm: float = 0.5,
    edge_mm: float = 250.0,
) -> None:
    """One slice of the scan through `focus`, in radiological convention, with the segments over it."""
    normal, right, down, _ = SLICES[name]
    middle = np.asarray(scan.grid.affine[:3] @ [*(np.array(scan.grid.size) - 1) / 2, 1.0])
    middle[normal] = focus[normal]
    steps = np.arange(-edge_mm / 2, edge_mm / 2, pixel_mm)
    points = middle + steps[None, :, None] * np.array(right) + steps[:, None, None] * np.array(down)
    index = points @ scan.grid.inverse_affine[:3, :3].T + scan.grid.inverse_affine[:3, 3]  # (H, W, 3)
    hu = ndimage.map_coordinates(scan.voxels, index.transpose(2, 0, 1), np.float32, order=1, cval=-1000.0)
    low, high = window_hu
    image = np.repeat(np.clip((hu - low) / (high - low), 0, 1)[..., None], 3, axis=2)
    for segment, mask in segments.items():
        inside = ndimage.map_coordinates(mask.voxels.astype(np.float32), index.transpose(2, 0, 1), order=1)
        share = 0.45 * np.clip(inside, 0, 1)[..., None]
        image = image * (1 - share) + share * np.array(COLORS[segment])
        if inside.max() > 0.5:
            axes.contour(inside, levels=[0.5], colors=[COLORS[segment]], linewidths=1.1)
    axes.imshow(image, interpolation="bilinear")
    axes.set_axis_off()
    axes.text(0.03, 0.95, name, color="0.7", fontsize=13, transform=axes.transAxes)
