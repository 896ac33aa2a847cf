"""How much of its hole an implant closes: one that fits where it is, and is missing elsewhere, must not pass for good.

Seen from the vault's center a hole is the rays around an implant that meet no bone.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from bundle.skull_implant.bounding_box import bounding_box
from bundle.skull_implant.frame.canonical_frame import CanonicalFrame
from bundle.skull_implant.frame.canonical_grid import CanonicalBox, crop_grid, to_canonical
from bundle.skull_implant.frame.vault_rays import VaultRays
from bundle.skull_implant.frame.vault_template import VaultTemplate
from bundle.skull_implant.volume import Volume


@dataclass(frozen=True)
class CoverRules:
    """What counts as a hole (our choice).

    Args:
        rays: cast as far as the vault goes; further down an undamaged head has openings of its own.
        rim_mm: rays this near to bone say nothing, so that a saw's cut, a gap and a seam are no part of the hole.
    """

    rays: VaultRays = field(
        default_factory=lambda: VaultRays(lowest_deg=95.0, inside_mm=20.0, outside_mm=8.0, step_mm=1.0)
    )
    rim_mm: float = 4.0


def hole_cover(
    implant: Volume,
    bone_share: np.ndarray,
    frame: CanonicalFrame,
    box: CanonicalBox,
    template: VaultTemplate,
    rules: CoverRules | None = None,
) -> float:
    """Share of the rays through an implant's holes that meet the implant; NaN where it lies in no hole of the vault.

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
    window = bounding_box(implant.voxels, margin=(4, 4, 4))
    if window is None:
        return float("nan")
    piece = implant.voxels[window]
    part = crop_grid(implant.grid, [each.start for each in window], piece.shape)
    share = to_canonical(Volume(piece, part), frame, box)
    filled, bone = (
        np.asarray((rays.sample(each, box, scales, template) >= 0.4).any(1)).reshape(rays.shape)
        for each in (share, bone_share)
    )
    ray_mm = np.deg2rad(rays.step_deg) * template.vertex_mm
    inside = ndimage.distance_transform_edt(~bone) * ray_mm > rules.rim_mm
    openings, _ = ndimage.label(inside & (rays.polar_deg <= rays.lowest_deg))
    beside = ndimage.distance_transform_edt(~filled) * ray_mm <= rules.rim_mm + ray_mm if filled.any() else filled
    hole = np.asarray(np.isin(openings, np.setdiff1d(openings[beside], 0)))
    return float(filled[hole].mean()) if hole.any() else float("nan")
