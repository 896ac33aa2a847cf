"""Skulls made of a formula, posed in a scan as a test wants them: the pose is known, the grid may be oblique."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from bundle.skull_implant.frame.canonical_frame import CanonicalFrame
from bundle.skull_implant.frame.vault_template import VaultTemplate
from bundle.skull_implant.volume import Grid, Volume


def egg_template() -> VaultTemplate:
    """An adult vault that is wider behind than in front, so that nothing but the mid-plane is a symmetry."""
    ellipsoid = VaultTemplate.ellipsoid()
    right, anterior, _ = np.moveaxis(ellipsoid.directions(), -1, 0)
    return VaultTemplate(ellipsoid.radii_mm * (1.0 - 0.12 * right**2 * anterior - 0.04 * anterior**3))


def sphere_template(radius_mm: float = 80.0) -> VaultTemplate:
    return VaultTemplate(np.full((69, 69), radius_mm))


def pose(
    pitch_yaw_roll_deg: tuple[float, float, float] = (0.0, 0.0, 0.0),
    vertex: tuple[float, float, float] = (0.0, 0.0, 0.0),
    scales: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> CanonicalFrame:
    """A head turned about its right, superior and anterior axes, its vertex at patient RAS mm."""
    rotation = Rotation.from_euler("xzy", pitch_yaw_roll_deg, degrees=True).as_matrix()
    return CanonicalFrame(rotation, np.array(vertex), np.array(scales))


def scan_grid(
    frame: CanonicalFrame,
    spacing: tuple[float, float, float] = (2.0, 2.0, 2.0),
    extent_mm: tuple[float, float, float] = (210.0, 240.0, 190.0),
    direction: np.ndarray | None = None,
) -> Grid:
    """A scan whose middle lies 80 mm below a head's vertex; the columns of `direction` are i, j, k in LPS."""
    columns = np.eye(3) if direction is None else direction
    middle = frame.affine[:3] @ [0.0, 0.0, -80.0, 1.0]
    size = tuple(round(extent / step) for extent, step in zip(extent_mm, spacing, strict=True))
    origin = middle - columns @ ((np.array(size) - 1) / 2 * spacing)
    return Grid(
        (size[0], size[1], size[2]), spacing, (origin[0], origin[1], origin[2]), tuple(columns.ravel().tolist())
    )


def canonical_points(grid: Grid, frame: CanonicalFrame) -> np.ndarray:
    """Canonical RAS mm of every voxel of a scan, (3, X, Y, Z)."""
    to_head = np.linalg.inv(frame.affine) @ grid.affine
    index = np.indices(grid.size).reshape(3, -1)
    return (to_head[:3, :3] @ index + to_head[:3, 3:]).reshape(3, *grid.size)


def shell(
    points: np.ndarray,
    frame: CanonicalFrame,
    template: VaultTemplate,
    *,
    wall_mm: float = 7.0,
    grown_mm: float = 0.0,
    lowest_deg: float = 125.0,
) -> np.ndarray:
    """Voxels in the wall of a vault: the template at the head's own size, down to a polar angle, (X, Y, Z) bool.

    Args:
        points: from :func:`canonical_points`.
        frame: gives the vault's size.
        template: outer surface of the vault.
        wall_mm: its thickness.
        grown_mm: thickens the wall on both sides.
        lowest_deg: where the wall ends, seen from the vault's center.
    """
    flat = points.reshape(3, -1).T + np.array([0.0, 0.0, template.vertex_mm * frame.scales[2]])
    scaled = flat / frame.scales
    radius, theta = template.radius(scaled)
    length = np.linalg.norm(flat, axis=1)
    depth = length * (radius / np.maximum(np.linalg.norm(scaled, axis=1), 1e-6) - 1.0)
    wall = (depth > -grown_mm) & (depth < wall_mm + grown_mm) & (theta < lowest_deg)
    return wall.reshape(points.shape[1:])


def face(points: np.ndarray) -> np.ndarray:
    """A clumsy face and spine below the vault, voxels (X, Y, Z) bool: for the fit, nothing but outliers."""
    right, anterior, superior = points
    jaw = (np.abs(right) < 48) & (anterior > 30) & (anterior < 92) & (superior < -105) & (superior > -170)
    return jaw | ((np.hypot(right, anterior + 15) < 22) & (superior < -130))


def skull(grid: Grid, frame: CanonicalFrame, template: VaultTemplate) -> Volume:
    points = canonical_points(grid, frame)
    return Volume(shell(points, frame, template) | face(points), grid)


def ball(points: np.ndarray, center: tuple[float, float, float], radius_mm: float) -> np.ndarray:
    offset = points - np.reshape(center, (3, 1, 1, 1))
    return np.asarray((offset**2).sum(0) < radius_mm**2)
