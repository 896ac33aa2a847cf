"""One picture per case that tells a surgeon at a glance what was designed: three slices, three views."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import ndimage

from bundle.skull_implant.bounding_box import bounding_box
from bundle.skull_implant.surfaces.scene import Color, Scene
from bundle.skull_implant.surfaces.surface_view import View, render_surface
from bundle.skull_implant.volume import Volume
from bundle.skull_implant.whole_files import whole_file

# Of each slice: the LPS axis across it, the LPS directions to the right and down the picture, the letters at its sides.
SLICES = {
    "axial": (2, (1, 0, 0), (0, 1, 0), "RLAP"),
    "coronal": (1, (1, 0, 0), (0, 0, -1), "RLSI"),
    "sagittal": (0, (0, 1, 0), (0, 0, -1), "APSI"),
}


def render_preview(
    skull: Volume,
    implant: Volume,
    path: Path,
    *,
    title: str = "",
    bone_color: Color = (0.93, 0.89, 0.80),
    implant_color: Color = (0.06, 0.62, 0.78),
    dots_per_inch: int = 100,
) -> None:
    """Write a 16 x 10 inch picture of a skull with a hole and its implant, whole or not at all.

    Slices are cut along the patient's axes, whatever the grid's, in radiological convention (the patient's right is on
    the left). The picture holds nothing but the masks and the title.

    Args:
        skull: the skull with the hole, nonzero inside.
        implant: the implant, on the skull's grid or another; may be empty, which the picture then says.
        path: target, `.png`.
        title: one line at the top; the caller keeps it free of patient data.
        bone_color: RGB in 0..1.
        implant_color: RGB in 0..1.
        dots_per_inch: 100 gives 1600 x 1000 pixels.

    Raises:
        ValueError: the skull is empty.
    """
    if not skull.voxels.any():
        raise ValueError("the skull is empty: there is nothing to draw")
    colors = (bone_color, implant_color)
    scene = Scene.from_masks([skull, implant], colors)
    figure = Figure(figsize=(16, 10), dpi=dots_per_inch, facecolor="black")
    FigureCanvasAgg(figure)
    _headline(figure, title, implant, colors)
    focus = _focus(implant, scene)
    for column, name in enumerate(SLICES):
        _draw_slice(figure.add_axes(_cell(0, column)), name, skull, implant, focus, scene, colors)
    _draw_views(figure, scene, dots_per_inch)
    with whole_file(path) as partial:
        figure.savefig(partial, format="png", facecolor="black", metadata={"Software": None})


def implant_view(scene: Scene, *, turn_degrees: float = 0.0, highest_degrees: float = 90.0) -> View:
    """The view straight at the implant, label 1 of a scene; at the patient's left front if there is none.

    Args:
        scene: bone is label 0, the implant label 1.
        turn_degrees: walk this far around the head toward the face, so that it is seen where the implant sits; away
            from the face if the implant is nearly there.
        highest_degrees: look down or up no steeper than this.
    """
    implant = np.argwhere(scene.occupancy[1] > 0.5)
    toward = implant.mean(axis=0) - _head_center(scene) if len(implant) else np.array([0.7, -1.0, 0.35])
    azimuth = np.arctan2(toward[0], -toward[1])  # 0 at the face, positive to the patient's left
    limit = np.radians(highest_degrees)
    elevation = np.clip(np.arctan2(toward[2], np.hypot(toward[0], toward[1])), -limit, limit)
    if len(implant):  # an implant near the face is seen better from farther aside
        turn, side = np.radians(turn_degrees), 1.0 if azimuth >= 0 else -1.0
        azimuth -= side * turn if abs(azimuth) >= turn else -side * turn
    level = np.cos(elevation)
    return View((level * np.sin(azimuth), -level * np.cos(azimuth), np.sin(elevation)))


def _head_center(scene: Scene) -> np.ndarray:
    """Middle of the braincase, in voxels: the bone's box, of it only the upper 140 mm (our choice: an adult vault)."""
    bone = scene.frame
    upper = bone[bone[:, 2] > bone[:, 2].max() - 140.0 / scene.grid.spacing[2]]
    return np.asarray((upper.min(axis=0) + upper.max(axis=0)) / 2.0)


def _focus(implant: Volume, scene: Scene) -> np.ndarray:
    """LPS mm of the point that all slices cross: the implant's voxel next to its centroid, else the head's center."""
    box = bounding_box(implant.voxels)
    if box is None:
        return np.asarray(scene.grid.affine[:3] @ [*_head_center(scene), 1.0])
    voxels = np.argwhere(implant.voxels[box]) + [side.start for side in box]
    away_mm = (voxels - voxels.mean(axis=0)) * np.array(implant.grid.spacing)
    return np.asarray(implant.grid.affine[:3] @ [*voxels[(away_mm**2).sum(axis=1).argmin()], 1.0])


def _headline(figure: Figure, title: str, implant: Volume, colors: tuple[Color, Color]) -> None:
    """Title on the left, what the colors mean on the right."""
    figure.text(0.012, 0.975, title, color="white", fontsize=17, va="center", weight="bold")
    volume_ml = np.count_nonzero(implant.voxels) * implant.grid.voxel_ml
    text = f"implant {volume_ml:.1f} ml" if volume_ml else "no implant"
    figure.text(0.988, 0.975, text, color=colors[1] if volume_ml else "orange", fontsize=17, va="center", ha="right")


def _cell(row: int, column: int) -> tuple[float, float, float, float]:
    """Left, bottom, width, height of one of the six pictures, in shares of the figure."""
    return (0.004 + column / 3, 0.49 - row * 0.455, 1 / 3 - 0.008, 0.455)


def _draw_slice(
    axes: Axes, name: str, skull: Volume, implant: Volume, focus: np.ndarray, scene: Scene, colors: tuple[Color, Color]
) -> None:
    """One slice through `focus` with letters for the patient's sides and a scale bar."""
    normal, right, down, letters = SLICES[name]
    low, high = _slice_box(scene, normal, focus)
    extent, center = high - low, (low + high) / 2.0
    pixels = (520, 460)
    pixel_mm = 1.2 * max(extent @ np.abs(right) / pixels[0], extent @ np.abs(down) / pixels[1], 50.0 / 220.0)
    across = (np.arange(pixels[0]) - (pixels[0] - 1) / 2) * pixel_mm
    along = (np.arange(pixels[1]) - (pixels[1] - 1) / 2) * pixel_mm
    points = center + across[None, :, None] * np.array(right) + along[:, None, None] * np.array(down)
    bone, part = (sample_slice(mask, points)[..., None] for mask in (skull, implant))
    image = bone * np.array(colors[0]) * 0.92
    image = image * (1 - part) + part * np.array(colors[1])
    axes.imshow(np.clip(image, 0, 1), interpolation="bilinear")
    if part.max() > 0.5 > part.min():
        axes.contour(part[..., 0], levels=[0.5], colors="white", linewidths=0.7, alpha=0.9)
    axes.set_axis_off()
    for letter, place in zip(letters, ((0.03, 0.5), (0.97, 0.5), (0.5, 0.965), (0.5, 0.04)), strict=True):
        axes.text(*place, letter, transform=axes.transAxes, color="0.85", fontsize=14, ha="center", va="center")
    axes.text(0.03, 0.965, name, transform=axes.transAxes, color="0.6", fontsize=13, va="center")
    bar = np.array([pixels[0] * 0.97 - 50.0 / pixel_mm, pixels[0] * 0.97])
    axes.plot(bar, [pixels[1] * 0.965] * 2, color="0.85", linewidth=2)
    axes.text(bar.mean(), pixels[1] * 0.95, "50 mm", color="0.7", fontsize=10, ha="center", va="bottom")


def _slice_box(scene: Scene, normal: int, focus: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """LPS mm of the lower and upper corner of what a slice through `focus` cuts; of everything if it cuts nothing."""
    level = int(np.rint((focus[normal] - scene.grid.origin[normal]) / scene.grid.spacing[normal]))
    cut = np.insert(np.argwhere(scene.solid.take(level, axis=normal) > 0.3), normal, level, axis=1)
    inside = cut if len(cut) else scene.frame
    low, high = (scene.grid.affine[:3] @ [*corner, 1.0] for corner in (inside.min(axis=0), inside.max(axis=0)))
    low[normal] = high[normal] = focus[normal]
    return low, high


def sample_slice(mask: Volume, points: np.ndarray) -> np.ndarray:
    """A mask at LPS points (H, W, 3), from 0 to 1 within a third of a voxel at its rim, 0 outside the image."""
    index = points @ mask.grid.inverse_affine[:3, :3].T + mask.grid.inverse_affine[:3, 3]
    plain = mask.voxels.dtype == np.uint8 and mask.voxels.max() <= 1  # the usual case, without a copy
    voxels = mask.voxels if plain else (mask.voxels != 0).astype(np.uint8)
    values = ndimage.map_coordinates(voxels, index.transpose(2, 0, 1), order=1, output=np.float32)
    return np.clip(3.0 * values - 1.0, 0.0, 1.0)


def _draw_views(figure: Figure, scene: Scene, dots_per_inch: int) -> None:
    """The lower row: with the hole, completed, straight at the implant; without one, three sides of the skull."""
    bone = scene.only(0)
    if scene.occupancy[1].any():
        oblique, straight = implant_view(scene, turn_degrees=40.0, highest_degrees=30.0), implant_view(scene)
        pictures = [
            (bone, oblique, f"skull, from {oblique.name}"),
            (scene, oblique, f"completed, from {oblique.name}"),
            (scene, straight, f"straight at the implant: from {straight.name}"),
        ]
    else:
        views = View((0.7, -1.0, 0.35)), View((-1.0, 0.8, 0.45)), View((0.0, -0.05, 1.0))
        pictures = [(bone, view, f"skull, from {view.name}; no implant") for view in views]
    _ = scene.shell, scene.clear, bone.shell, bone.clear  # once, before the threads would each compute them
    with ThreadPoolExecutor() as pool:  # the heavy part is compiled code that lets other threads run
        size = {"width": int(5.2 * dots_per_inch), "height": int(4.5 * dots_per_inch)}
        images = list(pool.map(lambda picture: render_surface(picture[0], picture[1], **size), pictures))
    for column, (image, (_, _, label)) in enumerate(zip(images, pictures, strict=True)):
        axes = figure.add_axes(_cell(1, column))
        axes.imshow(image, interpolation="bilinear")
        axes.set_anchor("N")
        axes.set_axis_off()
        figure.text(_cell(1, column)[0] + 0.01, 0.018, label, color="0.6", fontsize=13, va="center")
