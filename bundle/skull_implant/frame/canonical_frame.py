"""The canonical frame: one box of fixed size in mm, anchored on the vault, for every head.

A skull is aligned by its outer vault alone, with a robust fit to a mean vault (:mod:`vault_template`), because scans
differ in tilt, field of view and in how much face they include, and because the hole must not move the frame. The fit
scales the mean vault along its three axes to the person; only rotation and position enter the frame, so that a
millimeter stays a millimeter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from bundle.skull_implant.errors import CaseRefused
from bundle.skull_implant.frame.vault_template import VaultTemplate
from bundle.skull_implant.volume import Grid

# What heads are like, as standard deviations: vaults differ in size and again along each axis, and few heads lie tipped
# in the scanner. Without these numbers depth and superior scale trade off freely, and a hole decides which.
_COMMON_LOG_SCALE, _OWN_LOG_SCALE, _TILT_RAD = 0.05, 0.05, 0.35
_POINTS_PER_INDEPENDENT = 40.0  # neighboring residuals of a person are alike: each this many points count as one
_RESIDUAL_MM = 2.0
_LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class CanonicalFrame:
    """Where a patient's canonical frame lies: RAS axes of the head, origin at the vertex of the fitted vault.

    Args:
        rotation: (3, 3), canonical RAS to patient RAS directions.
        vertex: (3,) patient RAS mm of the canonical origin, the top of the fitted vault on its mid-axis.
        scales: (3,) size of this vault relative to the mean one, right, anterior, superior.
        residual_mm: median distance of the vault's outer surface from the fitted mean vault.
        coverage: share of the vault's directions, 0 to 1, that have bone within reach of the fit.
        tilt_deg: rotation of the head against how the training heads lie in the scanner.
    """

    rotation: np.ndarray
    vertex: np.ndarray
    scales: np.ndarray
    residual_mm: float = 0.0
    coverage: float = 1.0
    tilt_deg: float = 0.0

    @property
    def affine(self) -> np.ndarray:
        """Canonical RAS mm to patient LPS mm, (4, 4)."""
        affine = np.eye(4)
        affine[:3, :3] = _LPS_FROM_RAS @ self.rotation
        affine[:3, 3] = _LPS_FROM_RAS @ self.vertex
        return affine


def bone_points(mask: np.ndarray, grid: Grid, step_mm: float = 1.2) -> np.ndarray:
    """Patient RAS mm (P, 3) of bone voxels about `step_mm` apart."""
    stride = [max(1, round(step_mm / spacing)) for spacing in grid.spacing]
    index = np.argwhere(mask[:: stride[0], :: stride[1], :: stride[2]]) * stride
    points = index @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    return np.asarray(points @ _LPS_FROM_RAS)


def vault_center(points: np.ndarray, depth_mm: float = 90.0) -> np.ndarray:
    """A first guess of the vault's center, RAS mm: the middle of the bone's upper part, 80 mm below its top."""
    top = np.percentile(points[:, 2], 99.99)
    upper = points[points[:, 2] > top - depth_mm]
    low, high = np.percentile(upper, [0.1, 99.9], axis=0)
    return np.array([*(low[:2] + high[:2]) / 2, top - 80.0])


def outermost(points: np.ndarray, center: np.ndarray, template: VaultTemplate) -> np.ndarray:
    """Of points (P, 3), the farthest from the center in each cell of the template's map of directions."""
    relative = points - center
    index, _ = template.plane_index(relative)
    size = template.radii_mm.shape[0]
    cell = np.rint(index).astype(int)
    inside = np.flatnonzero(np.all((cell >= 0) & (cell < size), axis=0))
    key = cell[0, inside] * size + cell[1, inside]
    radius = np.linalg.norm(relative[inside], axis=1)
    order = np.lexsort((radius, key))
    last = np.flatnonzero(np.diff(key[order], append=-1))
    return np.asarray(points[inside[order[last]]])


def estimate_frame(
    mask: np.ndarray,
    grid: Grid,
    template: VaultTemplate,
    *,
    start_pitch_deg: tuple[float, ...] = (-25.0, 0.0, 25.0),
    maximum_residual_mm: float = 4.0,
    minimum_coverage: float = 0.35,
    maximum_filled: float = 0.05,
    case: str = "skull",
) -> CanonicalFrame:
    """Align a skull with the mean vault.

    The outer points are fitted by iteratively reweighted Gauss-Newton steps with a Geman-McClure weight (our choice,
    because a hole's rim, a head strap and the face are far outliers that must lose all influence), from several
    pitches, the one free axis that no symmetry pins down.

    Args:
        mask: (X, Y, Z) bool, bone.
        grid: its grid.
        template: mean vault.
        start_pitch_deg: rotations about the right-left axis to start from.
        maximum_residual_mm: a vault that fits worse is not one.
        minimum_coverage: a vault with bone in fewer directions is not one.
        maximum_filled: share of the vault's bone that may lie deep inside it. It was 0 in each of 14 skulls, 0.15 to
            0.25 in solid things (boxes of noise).
        case: name for the error.

    Raises:
        CaseRefused: there is no vault to align.
    """
    points = bone_points(mask, grid)
    if len(points) < 500:
        raise CaseRefused(
            case, [f"a skull must have a vault, found {len(points)} bone points at 1.2 mm; check threshold_hu"]
        )
    parameters, surface = align(points, template, start_pitch_deg)
    filled = _filled(points, parameters, template)
    reasons = []
    if filled > maximum_filled:
        rule = f"a vault must be hollow, at most {maximum_filled:.0%} of its bone deep inside"
        reasons.append(f"{rule}, got {filled:.0%}; give a head CT")
    return _accept(surface, parameters, template, maximum_residual_mm, minimum_coverage, case, reasons)


def align(
    points: np.ndarray, template: VaultTemplate, start_pitch_deg: tuple[float, ...] = (-25.0, 0.0, 25.0)
) -> tuple[np.ndarray, np.ndarray]:
    """Fit the mean vault to bone points.

    Args:
        points: (P, 3) patient RAS mm.
        template: mean vault.
        start_pitch_deg: rotations about the right-left axis to start from.

    Returns:
        Rotation vector, center in RAS mm and log scales (9,), and the outer points that were fitted, (Q, 3) RAS mm.
    """
    center = vault_center(points)
    surface = outermost(points, center, template)
    fits = [_fit(surface, _start(center, pitch), template, scales_mm=(12.0, 8.0, 6.0)) for pitch in start_pitch_deg]
    best = min(fits, key=lambda fit: _robust_cost(surface, fit, template))
    for _ in range(3):  # the outer points depend on the center, so take them anew
        surface = outermost(points, best[3:6], template)
        best = _fit(surface, best, template, scales_mm=(6.0,), steps=30)
    return best, surface


def to_template(points: np.ndarray, parameters: np.ndarray) -> np.ndarray:
    """Patient RAS points (P, 3) in the template's frame: rotated and scaled, mm from the vault's center."""
    rotation = Rotation.from_rotvec(parameters[:3]).as_matrix()
    return np.asarray((points - parameters[3:6]) @ rotation / np.exp(parameters[6:9]))


def _start(center: np.ndarray, pitch_deg: float) -> np.ndarray:
    parameters = np.zeros(9)
    parameters[0] = np.deg2rad(pitch_deg)
    parameters[3:6] = center
    return parameters


def _residuals(points: np.ndarray, parameters: np.ndarray, template: VaultTemplate) -> tuple[np.ndarray, np.ndarray]:
    """Radial distance from the template in mm (P,), and weight 0 to 1 that fades out below the vault (P,)."""
    local = to_template(points, parameters)
    radius, theta = template.radius(local)
    return np.linalg.norm(local, axis=1) - radius, np.clip((130.0 - theta) / 10.0, 0.0, 1.0)


def _fit(
    points: np.ndarray, start: np.ndarray, template: VaultTemplate, scales_mm: tuple[float, ...], steps: int = 8
) -> np.ndarray:
    """Robust Gauss-Newton over rotation vector, center and log scales (9 numbers), with falling outlier scales."""
    parameters = start.copy()
    delta = np.array([1e-3] * 3 + [0.1] * 3 + [1e-3] * 3)
    prior = _prior() * _RESIDUAL_MM**2 * len(points) / _POINTS_PER_INDEPENDENT
    for scale_mm in scales_mm:
        for _ in range(steps):
            residual, vault = _residuals(points, parameters, template)
            weight = vault / (1.0 + (residual / scale_mm) ** 2) ** 2
            jacobian = np.empty((len(points), 9))
            for column in range(9):
                moved = parameters.copy()
                moved[column] += delta[column]
                jacobian[:, column] = (_residuals(points, moved, template)[0] - residual) / delta[column]
            normal = jacobian.T @ (jacobian * weight[:, None]) + prior
            gradient = jacobian.T @ (residual * weight) + prior @ parameters
            step = np.linalg.solve(normal + 1e-6 * np.eye(9), gradient)
            parameters = parameters - step
            if np.abs(step / delta).max() < 0.5:
                break
    return parameters


def _prior() -> np.ndarray:
    """Precision (9, 9) of rotation vector, center and log scales; rotations are free, not to pull a tipped head up."""
    precision = np.zeros((9, 9))
    precision[6:, 6:] = np.linalg.inv(_COMMON_LOG_SCALE**2 * np.ones((3, 3)) + _OWN_LOG_SCALE**2 * np.eye(3))
    return precision


def _robust_cost(points: np.ndarray, parameters: np.ndarray, template: VaultTemplate, scale_mm: float = 6.0) -> float:
    """Minus the robust number of points on the vault: a fit cannot win by leaving the bone behind, nor by tipping."""
    residual, vault = _residuals(points, parameters, template)
    squared = (residual / scale_mm) ** 2
    turn = Rotation.from_matrix(template.usual_rotation.T) * Rotation.from_rotvec(parameters[:3])
    tipped = 0.5 * (turn.magnitude() / _TILT_RAD) ** 2
    return float(_POINTS_PER_INDEPENDENT * tipped - (vault / (1.0 + squared)).sum())


def _filled(points: np.ndarray, parameters: np.ndarray, template: VaultTemplate) -> float:
    """Share of the upper vault's bone points that lie deep inside it."""
    local = to_template(points, parameters)
    radius, theta = template.radius(local)
    depth = np.linalg.norm(local, axis=1) / radius
    upper = (theta < 75.0) & (depth < 1.15)
    return float(np.mean(depth[upper] < 0.6)) if upper.any() else 1.0


def _accept(
    surface: np.ndarray,
    parameters: np.ndarray,
    template: VaultTemplate,
    maximum_residual_mm: float,
    minimum_coverage: float,
    case: str,
    reasons: list[str],
) -> CanonicalFrame:
    residual, vault = _residuals(surface, parameters, template)
    near = (np.abs(residual) < 10.0) & (vault > 0)
    local = to_template(surface[near], parameters)
    index, _ = template.plane_index(local)
    cells = np.unique(np.rint(index).astype(int), axis=1).shape[1]
    half_angle_cells = np.pi * (100.0 / template.step_deg) ** 2
    coverage = min(1.0, cells / half_angle_cells)
    typical = float(np.median(np.abs(residual[near]))) if near.any() else np.inf
    scales = np.exp(parameters[6:9])
    if typical > maximum_residual_mm or not np.all((scales > 0.7) & (scales < 1.3)):
        reasons.append(
            f"the bone must be shaped like a vault (median distance <= {maximum_residual_mm} mm, size 0.7 to 1.3), "
            f"got {typical:.1f} mm and sizes {np.round(scales, 2).tolist()}; give a head CT"
        )
    if coverage < minimum_coverage:
        reasons.append(
            f"at least {minimum_coverage:.0%} of the vault must be bone, got {coverage:.0%}; scan the whole vault"
        )
    if reasons:
        raise CaseRefused(case, reasons)
    rotation = Rotation.from_rotvec(parameters[:3]).as_matrix()
    vertex = parameters[3:6] + rotation @ np.array([0.0, 0.0, template.vertex_mm * scales[2]])
    tilt_deg = np.rad2deg(Rotation.from_matrix(template.usual_rotation.T @ rotation).magnitude())
    return CanonicalFrame(rotation, vertex, scales, typical, coverage, float(tilt_deg))
