"""Plates and balls made of a formula, on a grid that may be oblique or anisotropic."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from bundle.skull_implant.volume import Grid, Volume

IDENTITY = np.eye(3)
OBLIQUE = Rotation.from_euler("xyz", [20, -15, 30], degrees=True).as_matrix()


def volume(voxels: np.ndarray, spacing: tuple[float, float, float], direction: np.ndarray = IDENTITY) -> Volume:
    return Volume(voxels.astype(np.uint8), Grid(voxels.shape, spacing, (0.0, 0.0, 0.0), tuple(direction.ravel())))


def drawn(
    inside: object, center: np.ndarray, half_mm: float, direction: np.ndarray, spacing: tuple[float, float, float]
) -> Volume:
    """A mask on a grid around `center` (LPS mm) of what `inside(points relative to center, mm)` says."""
    size = tuple(int(2 * half_mm / step) + 1 for step in spacing)
    origin = center - direction @ ((np.array(size) - 1) / 2 * spacing)
    grid = Grid(size, spacing, tuple(origin), tuple(direction.ravel()))
    points = np.stack(np.indices(size), axis=-1) @ grid.affine[:3, :3].T + origin - center
    return Volume(inside(points).astype(np.uint8), grid)  # type: ignore[operator]


def ball(radius_mm: float = 6.0, center: np.ndarray | None = None, direction: np.ndarray = IDENTITY) -> Volume:
    place = np.zeros(3) if center is None else center
    return drawn(
        lambda points: np.linalg.norm(points, axis=-1) <= radius_mm, place, radius_mm + 2, direction, (0.5, 0.6, 1.0)
    )


def shell_cap(inner_mm: float = 40.0, outer_mm: float = 45.0, direction: np.ndarray = OBLIQUE) -> Volume:
    """A bowl: what lies between two spheres, within 25 degrees of an oblique axis."""
    axis = np.array([2.0, 3.0, 6.0]) / 7.0

    def inside(points: np.ndarray) -> np.ndarray:
        points = points + axis * (inner_mm + outer_mm) / 2.0
        radius = np.linalg.norm(points, axis=-1)
        return (radius >= inner_mm) & (radius <= outer_mm) & (points @ axis >= radius * np.cos(np.radians(25)))

    return drawn(inside, np.array([5.0, 60.0, -20.0]), 30.0, direction, (0.5, 0.6, 1.0))
