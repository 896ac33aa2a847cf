"""What an implant leaves open: one that fits where it is, and is missing elsewhere, must not pass for good.

Seen from the vault's center a hole is the rays around an implant that meet no bone.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from bundle.skull_implant.bounding_box import bounding_box
from bundle.skull_implant.frame.canonical_frame import CanonicalFrame
from bundle.skull_implant.frame.canonical_grid import CanonicalBox, crop_grid, to_canonical
from bundle.skull_implant.frame.vault_rays import VaultRays, vault_radius
from bundle.skull_implant.frame.vault_template import VaultTemplate
from bundle.skull_implant.volume import Volume


@dataclass(frozen=True)
class CoverRules:
    """What counts as a hole (our choice).

    Args:
        rays: cast as far as the vault goes; further down an undamaged head has openings of its own.
        rim_mm: rays this near to bone say nothing, so that a saw's cut, a gap and a seam are no part of the hole.
        orbit_deg: polar angle from which on, in front, undamaged heads have openings of their own, at the orbits.
        orbit_front: cosine of the angle to straight ahead within which that is, in the horizontal plane.
    """

    rays: VaultRays = field(
        default_factory=lambda: VaultRays(lowest_deg=95.0, inside_mm=20.0, outside_mm=8.0, step_mm=1.0)
    )
    rim_mm: float = 4.0
    orbit_deg: float = 68.0
    orbit_front: float = 0.7

    def of_the_orbits(self) -> np.ndarray:
        """Rays (N, N) bool that may meet an undamaged head's own openings."""
        directions = self.rays.plane.directions()
        ahead = directions[..., 1] > self.orbit_front * np.linalg.norm(directions[..., :2], axis=-1)
        return np.asarray(ahead & (self.rays.polar_deg > self.orbit_deg))


@dataclass(frozen=True)
class HoleCover:
    """What an implant closes of a vault, and what it does not.

    Args:
        share: of the rays through the implant's holes that meet the implant; NaN where it lies in no hole of the vault.
        left_open_mm2: of the vault's surface, the largest area on whose rays lies neither bone nor implant, but for
            the orbits; 0 without one. What runs on below the vault counts for nothing.
    """

    share: float
    left_open_mm2: float

    @property
    def best_dsc(self) -> float:
        """Of an implant that closes this share of its hole, at best; 1 where the share is not known."""
        return 1.0 if np.isnan(self.share) else 2.0 * self.share / (1.0 + self.share)


def hole_cover(
    implant: Volume,
    bone_share: np.ndarray,
    frame: CanonicalFrame,
    box: CanonicalBox,
    template: VaultTemplate,
    rules: CoverRules | None = None,
) -> HoleCover:
    """How far an implant closes the holes of a vault.

    Args:
        implant: nonzero inside, on the scan's grid.
        bone_share: (X, Y, Z) share of the patient's bone, canonical.
        frame: of this case.
        box: of `bone_share`.
        template: mean vault.
        rules: what counts as a hole.
    """
    rules = rules or CoverRules()
    rays, scales = rules.rays, frame.scales
    filled, bone = (
        np.asarray((rays.sample(each, box, scales, template) >= 0.4).any(1)).reshape(rays.shape)
        for each in (_share(implant, frame, box), bone_share)
    )
    return HoleCover(
        _closed_share(filled, bone, rules, np.deg2rad(rays.step_deg) * template.vertex_mm),
        _left_open_mm2(filled | bone | rules.of_the_orbits(), rays, scales, template),
    )


def _share(implant: Volume, frame: CanonicalFrame, box: CanonicalBox) -> np.ndarray:
    """Of the implant in canonical voxels, (X, Y, Z)."""
    window = bounding_box(implant.voxels, margin=(4, 4, 4))
    if window is None:
        return np.zeros(box.spatial_size, np.float32)
    piece = implant.voxels[window]
    part = crop_grid(implant.grid, [each.start for each in window], piece.shape)
    return to_canonical(Volume(piece, part), frame, box)


def _closed_share(filled: np.ndarray, bone: np.ndarray, rules: CoverRules, ray_mm: float) -> float:
    """Of the rays (N, N) through the holes beside an implant that meet it; NaN without such a hole."""
    inside = ndimage.distance_transform_edt(~bone) * ray_mm > rules.rim_mm
    openings, _ = ndimage.label(inside & (rules.rays.polar_deg <= rules.rays.lowest_deg))
    beside = ndimage.distance_transform_edt(~filled) * ray_mm <= rules.rim_mm + ray_mm if filled.any() else filled
    hole = np.asarray(np.isin(openings, np.setdiff1d(openings[beside], 0)))
    return float(filled[hole].mean()) if hole.any() else float("nan")


def _left_open_mm2(solid: np.ndarray, rays: VaultRays, scales: np.ndarray, template: VaultTemplate) -> float:
    """Area, on the fitted vault, of the largest opening among rays (N, N) that does not reach the lowest ones."""
    openings, count = ndimage.label(~solid & (rays.polar_deg <= rays.lowest_deg))
    ends = openings[(rays.polar_deg > rays.lowest_deg - rays.step_deg) & (openings > 0)]
    closed = np.setdiff1d(np.arange(1, count + 1), ends)
    if not len(closed):
        return 0.0
    directions = rays.plane.directions().reshape(-1, 3)
    radius = vault_radius(directions, scales, template).reshape(rays.shape)
    polar, step = np.deg2rad(rays.polar_deg), np.deg2rad(rays.step_deg)
    cell_mm2 = (step * radius) ** 2 * np.sinc(polar / np.pi)  # an equidistant map widens what lies far from its middle
    return float(np.max(ndimage.sum(cell_mm2, openings, closed)))
