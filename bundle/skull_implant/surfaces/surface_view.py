"""Shaded pictures of masks in 3-D, drawn with numpy alone: no display, no OpenGL, the same on every machine.

Orthographic rays walk through smoothed occupancies to the first surface, which is lit by its gradient. Empty space is
crossed in steps as long as the distance to the next bone allows (Hart 1996, sphere tracing).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from bundle.skull_implant.surfaces.scene import Scene


@dataclass(frozen=True)
class View:
    """Where the viewer is.

    Args:
        toward: LPS direction from the head to the viewer, any length.
        up: LPS direction that points up in the picture; where it nearly agrees with `toward`, anterior is up.
    """

    toward: tuple[float, float, float]
    up: tuple[float, float, float] = (0.0, 0.0, 1.0)

    @property
    def axes(self) -> np.ndarray:
        """Unit LPS vectors to the right of the picture, up, and to the viewer, (3, 3) rows."""
        toward = np.asarray(self.toward, dtype=float) / np.linalg.norm(self.toward)
        up = np.asarray(self.up, dtype=float)
        if np.linalg.norm(np.cross(up, toward)) < 0.2 * np.linalg.norm(up):
            up = np.array([0.0, -1.0, 0.0])
        right = np.cross(up, toward)
        right /= np.linalg.norm(right)
        return np.stack([right, np.cross(toward, right), toward])

    @property
    def name(self) -> str:
        """The direction in words: `back, left, above`."""
        words = {1: ("front", "back"), 0: ("right", "left"), 2: ("below", "above")}
        toward = self.axes[2]  # 0.38 is 22 degrees toward a side
        return ", ".join(sides[int(toward[axis] > 0)] for axis, sides in words.items() if abs(toward[axis]) > 0.38)


def render_surface(
    scene: Scene, view: View, *, width: int = 530, height: int = 440, supersampling: int = 2
) -> np.ndarray:
    """A shaded picture of a scene's surface.

    Args:
        scene: what there is to see.
        view: from where.
        width: pixels.
        height: pixels.
        supersampling: rays along each side of a pixel where the picture has edges; elsewhere one ray is enough.

    Returns:
        (height, width, 4) float32 RGBA in 0..1, transparent where there is nothing.
    """
    grid_rays, step = _rays(scene, view, width, height)
    rays, start = grid_rays.reshape(-1, 3), _first_chance(scene, view, grid_rays, step).ravel()
    image, depth = _cast(scene, view, rays, start)
    around = _surroundings(depth.reshape(height, width), step, scene.grid.spacing[0])
    image[:, :3] *= _openness(depth, around, scene.grid.spacing[0])[:, None]
    edge = _edges(image.reshape(height, width, 4))
    offsets = (np.arange(supersampling) - (supersampling - 1) / 2) / supersampling * step
    aside = (offsets[:, None, None, None] * view.axes[0] + offsets[:, None, None] * view.axes[1]).reshape(-1, 1, 3)
    repeated = np.tile(edge, len(aside))
    samples, depth = _cast(scene, view, (rays[edge] + aside).reshape(-1, 3), start[repeated])
    samples[:, :3] *= _openness(depth, around[repeated], scene.grid.spacing[0])[:, None]
    image[edge] = samples.reshape(len(aside), -1, 4).mean(axis=0)
    image[:, :3] = np.clip(image[:, :3] / np.maximum(image[:, 3:], 1e-6), 0.0, 1.0)
    return image.reshape(height, width, 4)


def _rays(scene: Scene, view: View, columns: int, rows: int) -> tuple[np.ndarray, float]:
    """Starting points just before the scene, (rows, columns, 3), and the way from ray to ray, both in voxels."""
    right, up, toward = view.axes
    placed = scene.frame @ view.axes.T
    low, high = placed.min(axis=0) - 4.0, placed.max(axis=0) + 4.0
    step = 1.03 * max((high[0] - low[0]) / columns, (high[1] - low[1]) / rows)
    across = (low[0] + high[0]) / 2 + (np.arange(columns) - (columns - 1) / 2) * step
    down = (low[1] + high[1]) / 2 - (np.arange(rows) - (rows - 1) / 2) * step
    starts = across[None, :, None] * right + down[:, None, None] * up + high[2] * toward
    return starts, float(step)


def _first_chance(scene: Scene, view: View, rays: np.ndarray, step: float) -> np.ndarray:
    """How far each ray (rows, columns, 3) and its pixel meet nothing for sure, in voxels; infinite: all the way.

    A point on the surface has a voxel of the shell within the diagonal of a voxel: a ray need not look before that.
    """
    right, up, toward = ((scene.shell - rays[0, 0]) @ view.axes.T).T
    column, row = np.rint(right / step).astype(np.intp), np.rint(-up / step).astype(np.intp)
    rows, columns = rays.shape[:2]
    first = np.full((rows, columns), np.inf, np.float32)
    inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
    np.minimum.at(first, (row[inside], column[inside]), -toward[inside].astype(np.float32))
    reach = int(np.ceil(np.sqrt(3.0) / step + 1.0))
    return np.asarray(ndimage.minimum_filter(first, 2 * reach + 1) - np.float32(np.sqrt(3.0)))


def _cast(scene: Scene, view: View, rays: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lit RGBA (N, 4) and depth (N,) in voxels of rays (N, 3) that begin at `start` (N,); a miss is infinitely deep."""
    depth = _trace(scene, -view.axes[2], rays, start)
    hit = np.isfinite(depth)
    points = rays[hit] - depth[hit, None] * view.axes[2]
    image = np.zeros((len(rays), 4), np.float32)
    image[hit, :3] = _color(scene, points) * _light(scene.solid, points, view.axes)[:, None]
    image[hit, 3] = 1.0
    return image, depth


def _trace(scene: Scene, direction: np.ndarray, rays: np.ndarray, start: np.ndarray) -> np.ndarray:
    """How far each ray runs to the half-way surface, in voxels."""
    depth = np.full(len(rays), np.inf, np.float32)
    ray = np.flatnonzero(np.isfinite(start))
    at, before = start[ray], np.zeros(len(ray), np.float32)
    last = np.array(scene.solid.shape) - 1.0  # the border is empty, so a ray outside may step as from the border
    while len(ray):
        points = rays[ray] + at[:, None] * direction
        value = ndimage.map_coordinates(scene.solid, points.T, order=1)
        found = value >= 0.5
        overshot = (value[found] - 0.5) / np.maximum(value[found] - before[found], 1e-6)
        depth[ray[found]] = at[found] - np.minimum(overshot, 1.0)
        left = ((points < 0.0) & (direction < 0.0)) | ((points > last) & (direction > 0.0))  # not: yet to enter
        keep = ~found & ~left.any(axis=1)
        ray, before = ray[keep], value[keep]
        block = (np.clip(points[keep], 0.0, last) / 4.0).astype(np.intp)
        at = at[keep] + np.maximum(scene.clear[tuple(block.T)], np.float32(1.0))
    return depth


def _light(solid: np.ndarray, points: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Brightness of surface points, (N,): a key light over the viewer's left shoulder, a weak one from the right."""
    reach = 2.0  # voxels; a wider gradient hides the scan's slices, a narrower one keeps sutures
    corners = np.array([(1, -1, -1), (-1, 1, -1), (-1, -1, 1), (1, 1, 1)]) * reach / np.sqrt(3.0)
    normal = np.zeros_like(points)  # four corners of a cube give the gradient as six points on the axes do
    for corner in corners:
        normal -= ndimage.map_coordinates(solid, (points + corner).T, order=1)[:, None] * corner
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-6)
    seen = normal @ axes.T  # right, up, toward the viewer
    key = np.clip(seen @ np.array([-0.45, 0.55, 0.70]), 0.0, None)
    fill = np.clip(seen @ np.array([0.75, 0.05, 0.65]), 0.0, None)
    return np.asarray(0.16 + 0.72 * key + 0.22 * fill)


def _color(scene: Scene, points: np.ndarray) -> np.ndarray:
    """RGB of surface points, (N, 3) or (1, 3): that of the label that fills most there, with a narrow blend."""
    if len(scene.colors) == 1:
        return np.array(scene.colors)
    share = np.stack([ndimage.map_coordinates(label, points.T, order=1) for label in scene.occupancy])
    share = np.maximum(share, 1e-6) ** 6
    return np.asarray((share / share.sum(axis=0)).T @ np.array(scene.colors))


def _edges(image: np.ndarray) -> np.ndarray:
    """Flat indices of pixels that differ from a neighbor by more than the eye forgives."""
    differs = np.zeros(image.shape[:2], bool)
    for axis in (0, 1):
        jump = (np.abs(np.diff(image, axis=axis)) > 0.06).any(axis=-1)
        for side in ((0, 1), (1, 0)):  # both pixels of a pair
            differs |= np.pad(jump, [side if axis == other else (0, 0) for other in (0, 1)])
    return np.flatnonzero(differs)


def _surroundings(depth: np.ndarray, step: float, spacing_mm: float) -> np.ndarray:
    """Mean depth of what is seen within about 1.5 and 6 mm of each pixel, in voxels, (rows * columns, 2)."""
    seen = np.isfinite(depth)
    depth = np.where(seen, depth, 0.0)
    means = []
    for reach_mm in (1.5, 6.0):
        sigma = reach_mm / (step * spacing_mm)
        weight = ndimage.gaussian_filter(seen.astype(np.float32), sigma, truncate=2.5)
        means.append(ndimage.gaussian_filter(depth, sigma, truncate=2.5) / np.maximum(weight, 1e-3))
    return np.stack(means, axis=-1).reshape(-1, 2)


def _openness(depth: np.ndarray, around: np.ndarray, spacing_mm: float) -> np.ndarray:
    """How much of the light around reaches each point, 0.2..1: less in pits, and less far from the viewer."""
    shade = np.ones(len(depth), np.float32)
    hit = np.isfinite(depth)
    for column, strength in enumerate((0.10, 0.05)):  # per mm below the surroundings, at most 6 mm
        below_mm = (depth[hit] - around[hit, column]) * spacing_mm
        shade[hit] *= 1.0 - strength * np.clip(below_mm, -0.5, 6.0)
    shade[hit] *= 1.0 - 0.25 * np.clip(depth[hit] * spacing_mm / 200.0, 0.0, 1.0)
    return shade
