"""A synthetic head CT with a hole in the skull and known truth: for demonstrations and tests, of no patient."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from bundle.skull_implant.mask_morphology import large_components
from bundle.skull_implant.synthetic.modeling_clay import Clay, Point
from bundle.skull_implant.synthetic.synthetic_skull import Anatomy, sculpt, smooth_field
from bundle.skull_implant.volume import Grid, Volume


@dataclass(frozen=True)
class SyntheticHead:
    """A made-up CT and its truth, on one grid.

    Args:
        hu: int16 HU, with hole, noise, head holder and wire.
        complete_skull: Boolean, bone before the hole was made.
        implant: Boolean, the bone that the hole took; `complete_skull AND NOT implant` is the bone in `hu`, but for
            noise and single voxels at the rim.
    """

    hu: Volume
    complete_skull: Volume
    implant: Volume


def synthetic_head(
    seed: int = 0,
    *,
    size: tuple[int, int, int] = (384, 384, 176),
    spacing: tuple[float, float, float] = (0.625, 0.625, 1.0),
    tilt_degrees: tuple[float, float, float] = (6.0, -3.0, 7.0),
    center_mm: tuple[float, float, float] = (4.0, -22.0, -310.0),
    noise_sd_hu: float = 18.0,
    threshold_hu: float = 300.0,
    detail_mm: float = 1.0,
) -> SyntheticHead:
    """A head CT, axial, with a craniectomy of about 7 cm over one temple and the scalp sunken into it.

    Args:
        seed: of everything that varies: size, contours, side and outline of the hole, noise.
        size: voxels; a grid that is too small crops the head.
        spacing: mm.
        tilt_degrees: the head's turn about its left, posterior and superior axes.
        center_mm: LPS position of the grid's center; 8 mm of air stay above the head.
        noise_sd_hu: standard deviation of the noise, correlated over about a voxel in plane.
        threshold_hu: what the truth calls bone, before noise.
        detail_mm: grid on which the head is modeled; 2 or 3 is quick and rough.

    Returns:
        CT and truth. The direction is the identity.
    """
    rng = np.random.default_rng([seed, 1])
    anatomy = sculpt(seed, step_mm=detail_mm)
    hole = _hole(anatomy, rng)
    marrow = _marrow(anatomy, rng)
    origin = (np.array(center_mm) - np.array(spacing) * (np.array(size) - 1) / 2).tolist()
    grid = Grid(size, spacing, (origin[0], origin[1], origin[2]), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
    top_mm = spacing[2] * (size[2] - 1) / 2 - 86.0
    to_head = _turn(tilt_degrees, (center_mm[0], center_mm[1], center_mm[2] + top_mm))
    before = _on_grid(_tissue(anatomy, marrow, np.full_like(hole, -1.0)), anatomy, to_head, grid)
    after = _on_grid(_tissue(anatomy, marrow, hole), anatomy, to_head, grid)
    complete = before >= threshold_hu
    implant = large_components(complete & (after < threshold_hu))
    scan = np.maximum(after, _holder_and_wire(after, grid)) + noise_sd_hu * _noise(size, rng)
    hu = np.clip(np.rint(scan), -1024, 3071).astype(np.int16)
    return SyntheticHead(Volume(hu, grid), Volume(complete, grid), Volume(implant, grid))


def _hole(anatomy: Anatomy, rng: np.random.Generator, radius_mm: float = 35.0) -> np.ndarray:
    """Depth in mm in a cylinder of irregular outline that enters the vault above one temple."""
    x, y, z = anatomy.axes
    side = rng.choice([-1.0, 1.0])
    center = np.array([side * 64.0, rng.uniform(-14, 4), rng.uniform(22, 28)])
    inward = -center / np.square([70.0, 86.0, 70.0])
    inward /= np.linalg.norm(inward)
    forward = np.cross(inward, (side, 0.0, 0.0))
    forward /= np.linalg.norm(forward)
    upward = np.cross(inward, forward)
    u, v, w = (
        (x - center[0]) * e[0] + (y - center[1]) * e[1] + (z - center[2]) * e[2] for e in (forward, upward, inward)
    )
    angle = np.arctan2(v, u)
    outline = radius_mm * np.ones_like(angle)
    for lobes, share in ((2, 0.10), (3, 0.06), (4, 0.03), (7, 0.015)):
        outline += radius_mm * share * np.cos(lobes * angle + rng.uniform(0, 2 * np.pi))
    return np.where(w < 45.0, outline - np.hypot(u, v), -1.0).astype(np.float32)


def _tissue(anatomy: Anatomy, marrow: np.ndarray, hole: np.ndarray, sunken_mm: float = 8.0) -> np.ndarray:
    """HU without noise; where `hole` is positive the wall is gone, and scalp and brain sink."""
    x, y, z = anatomy.axes
    step = anatomy.step_mm
    share = np.clip(hole / 28.0, 0, 1)
    sink = np.float32(sunken_mm) * share * share * (3 - 2 * share)
    skin, vault = anatomy.skin - sink, anatomy.vault - sink
    folds = smooth_field(anatomy.axes, np.random.default_rng(0), 28.0)
    hu = np.full(hole.shape, -1000.0, np.float32)
    _paint(hu, 30.0 + 8.0 * folds, skin, step)
    _paint(hu, -70.0, np.minimum(np.minimum(skin - 2.0, -vault - 1.5), 6.0 - skin), step)  # fat beneath the skin
    _paint(hu, 15.0, 11.5 - np.sqrt((np.abs(x) - 32) ** 2 + (y + 76) ** 2 + (z + 37) ** 2), step)  # eyes
    brain = vault - np.where(hole > 0, np.minimum(anatomy.thickness, 2.0), anatomy.thickness)
    _paint(hu, 8.0, brain, step)
    _paint(hu, 38.0, brain - 2.5, step)
    _paint(hu, 29.0, brain - 8.0 - 3.0 * folds, step)
    _paint(hu, 7.0, _ventricles(anatomy), step)
    bone = np.where(anatomy.vault > -4.0, np.minimum(anatomy.bone, -hole), anatomy.bone)
    _paint(hu, marrow, bone, step)
    _paint(hu, -1000.0, np.minimum(anatomy.air, anatomy.skin + 4.0), step)
    return hu


def _paint(hu: np.ndarray, value: np.ndarray | float, depth: np.ndarray, step_mm: float) -> None:
    """Put a tissue where its depth is positive, mixed over one voxel at its surface, as partial volume does."""
    fraction = np.clip(0.5 + depth / np.float32(step_mm), 0, 1)
    hu += fraction * (value - hu)


def _ventricles(anatomy: Anatomy) -> np.ndarray:
    clay = Clay(anatomy.axes, anatomy.corner, anatomy.step_mm, np.random.default_rng(0))
    depth = clay.empty()
    clay.add(depth, (6.0, -34.0, 14.0), (9.0, 8.0, 22.0), 4.5, 5.0)
    clay.add(depth, (9.0, 8.0, 22.0), (22.0, 34.0, 6.0), 5.0, 6.0)
    clay.add(depth, (22.0, 34.0, 6.0), (30.0, 4.0, -14.0), 6.0, 2.5)
    clay.add(depth, (0.0, -8.0, 4.0), (0.0, 10.0, 4.0), 2.0, 2.0)
    return depth


def _marrow(anatomy: Anatomy, rng: np.random.Generator) -> np.ndarray:
    """HU of bone: dense tables 1.5 mm thick, diploe between them."""
    dense = np.clip(2.0 - anatomy.bone, 0, 1)
    grain = ndimage.gaussian_filter(rng.standard_normal(dense.shape, np.float32), 1.2 / anatomy.step_mm)
    diploe = 620.0 + 90.0 * grain / grain.std()
    return (diploe + dense * (1350.0 - diploe)).astype(np.float32)


def _turn(tilt_degrees: Point, center_mm: Point) -> sitk.Transform:
    """From patient to head coordinates."""
    turn = sitk.Euler3DTransform()
    turn.SetRotation(*np.radians(tilt_degrees).tolist())
    turn.SetTranslation(center_mm)
    return turn.GetInverse()


def _on_grid(values: np.ndarray, anatomy: Anatomy, to_head: sitk.Transform, grid: Grid) -> np.ndarray:
    """Head-frame HU resampled linearly; air outside."""
    image = sitk.GetImageFromArray(values.transpose(2, 1, 0))
    image.SetSpacing((anatomy.step_mm,) * 3)
    image.SetOrigin(anatomy.corner)
    scan = sitk.Resample(image, grid.size, to_head, sitk.sitkLinear, grid.origin, grid.spacing, grid.direction, -1000.0)
    return sitk.GetArrayFromImage(scan).transpose(2, 1, 0)


def _holder_and_wire(scan: np.ndarray, grid: Grid) -> np.ndarray:
    """HU of a curved shell on a foam cushion behind the head, the same in every slice, and of a lead beside it."""
    x, y, z = (o + s * np.arange(n) for o, s, n in zip(grid.origin, grid.spacing, grid.size, strict=True))
    behind = y[np.nonzero((scan > -300).any((0, 2)))[0].max()]
    r = np.hypot(x[:, None] - x.mean(), y[None, :] - (behind + 5.0 - 118.0))
    profile = np.full(r.shape, -1000.0, np.float32)
    low = y[None, :] > behind - 75.0
    profile[(r > 113.0) & (r < 118.0) & low] = -880.0
    profile[(r >= 118.0) & (r < 122.0) & low] = 380.0
    extra = np.repeat(profile[:, :, None], grid.size[2], axis=2)
    for k, height in enumerate(z - z[0]):
        at = (x.mean() - 100.0 + 6.0 * np.sin(height / 25.0), behind - 85.0 - height / 4)
        wire = np.hypot(x[:, None] - at[0], y[None, :] - at[1]) < 1.3
        extra[:, :, k][wire] = 1800.0
    return extra


def _noise(size: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Unit standard deviation, correlated over about a voxel in plane."""
    noise = rng.standard_normal(size, np.float32)
    for axis in (0, 1):
        noise = ndimage.gaussian_filter1d(noise, 0.6, axis=axis, truncate=2.0)
    return noise / np.float32(noise.std())
