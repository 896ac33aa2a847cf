"""How well an implant meets the bone at the rim of its hole, in mm, without knowing the piece that is missing.

Two lengths that a surgeon feels with a finger, each at the outer and at the inner table of the vault:

- gap: along the skull's surface, across the rim, from the edge of the implant to the edge of the bone, each looked
  for just below its own surface; 0 where they touch.
- step: along the surface's normal, from the bone's surface to the implant's, where they would meet. Both are carried
  there by a plane through their own surface over some mm, so that neither the vault's curvature (which both planes
  leave alike), nor the voxels' stairs, nor an edge that is rounded by a voxel is a step.

They are measured on rays from the vault's center (:mod:`rim_rays`), on the scan's own voxels. Our choice: published
work scores the piece (Dice, Hausdorff), not the seam.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from bundle.skull_implant.design.rim_rays import BONE, IMPLANT, RimTables, rim_tables, sample_mask
from bundle.skull_implant.frame.canonical_frame import CanonicalFrame
from bundle.skull_implant.frame.vault_rays import VaultRays, vault_center
from bundle.skull_implant.frame.vault_template import VaultTemplate
from bundle.skull_implant.volume import Volume


@dataclass(frozen=True)
class RimScore:
    """One figure for the rim: gap and size of the step at the outer and at the inner table, mm; NaN without a rim."""

    gap_outer_mm: float
    gap_inner_mm: float
    step_outer_mm: float
    step_inner_mm: float


NO_RIM = RimScore(np.nan, np.nan, np.nan, np.nan)


@dataclass(frozen=True)
class RimRules:
    """How the rim is measured.

    Args:
        rays: about as dense as a scan's voxels: 0.4 degrees are half a mm.
        reach_mm: bone further from the implant's edge, along the surface, is not across a gap.
        level_mm: bone whose table lies further above or below the implant's is another bone: the skull base.
        bridge_mm: cavities up to this wide are part of the wall.
        fit_mm: each side's plane is laid through its surface up to this far from the rim.
        edge_mm: surface nearer to its own edge is left out of the plane.
        wall_mm: so is what lies this much deeper than a ray beside it: through a gap, rays meet the wall of the hole.
        robust_mm: surface this far off the plane counts a quarter.
        rounds: of weighing.
        fewest: rays of a plane.
        depths_mm: below its surface each edge is looked for, because voxels round it; the median gap of these
            counts, because a gap goes through the wall, and a dent in the bone does not.
        most: points of a rim; more are thinned out evenly.
    """

    rays: VaultRays = field(
        default_factory=lambda: VaultRays(step_deg=0.4, lowest_deg=118.0, inside_mm=24.0, outside_mm=12.0)
    )
    reach_mm: float = 10.0
    level_mm: float = 8.0
    bridge_mm: float = 3.0
    fit_mm: float = 6.0
    edge_mm: float = 1.0
    wall_mm: float = 1.0
    robust_mm: float = 0.5
    rounds: int = 4
    fewest: int = 30
    depths_mm: tuple[float, ...] = (0.8, 1.3, 1.8)
    most: int = 200


@dataclass(frozen=True)
class Rim:
    """Every point of the rim that was measured, the outer table first, then the inner one.

    Args:
        gap_mm: (P,) each, at the edge of the implant.
        step_mm: (Q,) each; positive where the implant lies further out than the bone.
    """

    gap_mm: tuple[np.ndarray, np.ndarray]
    step_mm: tuple[np.ndarray, np.ndarray]

    def score(self, percentile: float = 50.0) -> RimScore:
        """A percentile over the rim, by default the median, of the gaps and of the sizes of the steps."""
        found = [
            float(np.percentile(np.abs(v), percentile)) if len(v) else np.nan for v in (*self.gap_mm, *self.step_mm)
        ]
        return RimScore(*found)


def rim_gap_and_step(
    implant: np.ndarray,
    skull: Volume,
    frame: CanonicalFrame,
    template: VaultTemplate,
    rules: RimRules | None = None,
) -> RimScore:
    """Median gap and step of :func:`measure_rim`, which has the arguments."""
    return measure_rim(implant, skull, frame, template, rules).score()


def measure_rim(
    implant: np.ndarray,
    skull: Volume,
    frame: CanonicalFrame,
    template: VaultTemplate,
    rules: RimRules | None = None,
) -> Rim:
    """Gap and step along the rim of a cranial implant, of all its pieces together.

    A point of the rim is a ray through the edge of the implant's table that has bone of the same table within
    `reach_mm`. Where there is none, as where a hole runs into the skull base, nothing is measured, and neither is an
    opening in the implant itself: an implant that leaves half of its hole open has a rim where it has an edge near
    bone, which is why these figures stand beside the Dice coefficient and not in its place.

    Args:
        implant: (X, Y, Z), nonzero inside.
        skull: the patient's bone without the implant, nonzero inside, on the same grid.
        frame: of this case.
        template: mean vault. Only the vault has tables: of a facial implant nothing is measured but what lies above
            the rays' `lowest_deg`.
        rules: how it is measured.

    Returns:
        Without points for an empty implant, or one without bone around it.

    Raises:
        ValueError: the masks differ in size.
    """
    if implant.shape != skull.voxels.shape:
        raise ValueError(f"implant {implant.shape} and skull {skull.voxels.shape} must share a grid")
    rules = rules or RimRules()
    tables = rim_tables(
        implant,
        skull,
        frame,
        template,
        rays=rules.rays,
        around_mm=rules.reach_mm + rules.fit_mm,
        bridge_mm=rules.bridge_mm,
    )
    if tables is None:
        return Rim((np.zeros(0), np.zeros(0)), (np.zeros(0), np.zeros(0)))
    to_index = skull.grid.inverse_affine @ frame.affine
    to_index[:3, 3] += to_index[:3, :3] @ vault_center(frame.scales, template)
    (gap_outer, step_outer), (gap_inner, step_inner) = (
        _along_table(tables, table, (implant, skull.voxels), to_index, rules) for table in (0, 1)
    )
    return Rim((gap_outer, gap_inner), (step_outer, step_inner))


def _along_table(
    tables: RimTables, table: int, masks: tuple[np.ndarray, np.ndarray], to_index: np.ndarray, rules: RimRules
) -> tuple[np.ndarray, np.ndarray]:
    """Gaps and steps of one table's rim.

    Args:
        tables: of bone and implant.
        table: 0 outer, 1 inner.
        masks: implant and bone, (X, Y, Z).
        to_index: (4, 4), mm from the vault's center to voxel index.
        rules: how it is measured.
    """
    implant, bone = tables.owner[table] == IMPLANT, tables.owner[table] == BONE
    nothing = np.zeros(0), np.zeros(0)
    if not implant.any():
        return nothing
    height = tables.height_mm[table]
    to_implant = ndimage.distance_transform_edt(~implant, return_distances=False, return_indices=True)
    bone &= np.abs(np.where(bone, height, np.inf) - height[tuple(to_implant)]) <= rules.level_mm
    edge = np.argwhere(_outer_edge(implant, bone, tables.cast))
    if not (len(edge) and bone.any()):
        return nothing
    edge = edge[:: 1 + len(edge) // rules.most]
    on_vault = tables.direction * tables.radius_mm[..., None]  # without heights, so that a step is no distance
    here = on_vault[tuple(edge.T)]
    away, nearest = cKDTree(on_vault[bone]).query(here, distance_upper_bound=rules.reach_mm)
    facing = np.isfinite(away)
    rim, away = (here[facing] + on_vault[bone][nearest[facing]]) / 2, away[facing]
    step_mm = np.deg2rad(rules.rays.step_deg) * float(np.median(tables.radius_mm))
    inward = -1.0 if table == 0 else 1.0
    sides = [_Side(on_vault, height, mask, inward, rules, step_mm) for mask in (implant, bone)]
    seams = [_seam(point, sides) for point in rim]
    known = [number for number, seam in enumerate(seams) if seam is not None]
    if not known:
        return nothing
    surfaces, ways, steps = (np.array(part) for part in zip(*(seam for seam in seams if seam is not None), strict=True))
    rays = rim[known] / np.linalg.norm(rim[known], axis=1, keepdims=True)
    gaps = np.stack(
        [
            _gaps(surfaces + inward * depth * rays[:, None], ways, away[known], masks, to_index, rules.reach_mm)
            for depth in rules.depths_mm
        ]
    )
    gap = np.median(np.where(np.isnan(gaps), np.inf, gaps), axis=0)
    return gap[np.isfinite(gap)], steps


def _outer_edge(implant: np.ndarray, bone: np.ndarray, cast: np.ndarray) -> np.ndarray:
    """Rays of the implant (U, V) beside rays without it, but not those around an opening in the implant itself."""
    open_rays, _ = ndimage.label(~implant)
    with_bone = np.unique(open_rays[bone])
    outside = np.isin(open_rays, with_bone[with_bone > 0]) & cast
    return np.asarray(implant & ndimage.binary_dilation(outside))


class _Side:
    """The surface of bone or implant beside the rim.

    Args:
        on_vault: (U, V, 3), where the rays meet the fitted outer vault, mm from the vault's center.
        height: (U, V) mm of the surface above it.
        mask: (U, V), the rays of this side.
        inward: -1 if the wall lies below the surface, 1 if above.
        rules: how the rim is measured.
        step_mm: between rays.
    """

    def __init__(
        self, on_vault: np.ndarray, height: np.ndarray, mask: np.ndarray, inward: float, rules: RimRules, step_mm: float
    ) -> None:
        used = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1] * step_mm > rules.edge_mm
        depth = np.where(mask, inward * height, 1e3)
        used &= depth - ndimage.minimum_filter(depth, size=3) <= rules.wall_mm
        self.feet, self.height = on_vault[used], height[used]
        self.tree = cKDTree(self.feet) if len(self.feet) else None
        self.rules = rules

    def plane(self, rim: np.ndarray, axes: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """The plane through the surface near a point of the rim; None where there is too little of it.

        Args:
            rim: (3,) on the fitted vault.
            axes: (3, 3), rows: two across the ray through the rim, and the ray.

        Returns:
            Height along the ray above the rim and the two slopes, (3,); the surface's mean place across the ray, (2,).
        """
        near = self.tree.query_ball_point(rim, self.rules.fit_mm) if self.tree is not None else []
        if len(near) < self.rules.fewest:
            return None
        feet = self.feet[near]
        points = feet * (1.0 + self.height[near] / np.linalg.norm(feet, axis=1))[:, None] - rim
        x, y, z = axes @ points.T
        design = np.stack([np.ones_like(x), x, y], axis=1)
        weight = np.ones_like(x)
        for _ in range(self.rules.rounds):
            normal = design.T @ (design * weight[:, None]) + 1e-6 * np.eye(3)
            plane = np.linalg.solve(normal, design.T @ (weight * z))
            weight = 1.0 / np.square(1.0 + np.square((z - design @ plane) / self.rules.robust_mm))
        return plane, np.array([x.mean(), y.mean()])


def _seam(rim: np.ndarray, sides: list[_Side]) -> tuple[np.ndarray, np.ndarray, float] | None:
    """Where both surfaces would meet at a point of the rim (3,), mm from the vault's center.

    Returns:
        Points of implant and bone on the ray (2, 3); the ways along each surface from implant to bone, (2, 3), unit
        across the ray; and the step along the mean normal, positive where the implant lies further out.
    """
    ray = rim / np.linalg.norm(rim)
    first = np.cross(ray, np.eye(3)[np.argmin(np.abs(ray))])
    first /= np.linalg.norm(first)
    axes = np.stack([first, np.cross(ray, first), ray])
    implant, bone = (side.plane(rim, axes) for side in sides)
    if implant is None or bone is None:
        return None
    across = bone[1] - implant[1]
    across /= max(float(np.linalg.norm(across)), 1e-9)
    points = np.stack([rim + plane[0] * ray for plane, _ in (implant, bone)])
    ways = np.stack([np.append(across, plane[1:] @ across) @ axes for plane, _ in (implant, bone)])
    slopes = (implant[0][1:] + bone[0][1:]) / 2
    return points, ways, float((implant[0][0] - bone[0][0]) / np.sqrt(1.0 + slopes @ slopes))


def _gaps(
    points: np.ndarray,
    ways: np.ndarray,
    away: np.ndarray,
    masks: tuple[np.ndarray, np.ndarray],
    to_index: np.ndarray,
    reach_mm: float,
    step_mm: float = 0.1,
    overlap_mm: float = 2.0,
) -> np.ndarray:
    """From the last of the implant to the first of the bone on lines across the rim, (P,) mm; NaN where one is not met.

    Args:
        points: (P, 2, 3) of the implant's and of the bone's line, mm from the vault's center.
        ways: (P, 2, 3) of the lines, implant to bone, unit across the ray.
        away: (P,) from the edge of the implant to the nearest bone, across which the points are the middle.
        masks: implant and bone, (X, Y, Z).
        to_index: (4, 4), mm from the vault's center to voxel index.
        reach_mm: to both sides.
        step_mm: along the lines.
        overlap_mm: implant over bone is looked for this far.
    """
    x = np.arange(-reach_mm, reach_mm + step_mm, step_mm)
    lines = points[:, :, None] + ways[:, :, None] * x[:, None]  # (P, 2, K, 3)
    index = np.moveaxis(lines @ to_index[:3, :3].T + to_index[:3, 3], -1, 0)
    implant, bone = (sample_mask(mask, index[:, :, number]) > 0.5 for number, mask in enumerate(masks))
    bone &= x >= -away[:, None] / 2 - overlap_mm
    first = np.argmax(bone, axis=1)
    implant &= np.arange(len(x)) < first[:, None]
    last = len(x) - 1 - np.argmax(implant[:, ::-1], axis=1)
    length = np.linalg.norm(ways, axis=-1).mean(1)  # along the surface, of one mm across the ray
    gap = np.maximum(0.0, (first - last - 1) * step_mm) * length
    return np.where(bone.any(1) & implant.any(1), gap, np.nan)
