"""What lies around the vault and is no part of it: head straps, bandages and holders that reach the mask."""

from __future__ import annotations

import numpy as np

from bundle.skull_implant.frame.canonical_frame import CanonicalFrame, bone_points
from bundle.skull_implant.frame.vault_template import VaultTemplate
from bundle.skull_implant.volume import Volume


def strap_ml(
    skull: Volume,
    frame: CanonicalFrame,
    template: VaultTemplate,
    *,
    highest_deg: float = 90.0,
    gap_mm: float = 2.5,
    outside_mm: float = 3.0,
    vault_mm: float = 10.0,
    cell_deg: float = 2.0,
) -> float:
    """Volume in ml of what lies outside the vault's outer table with a gap between them; our choice of a rule.

    Bone of the vault is one plate seen from its center: whatever comes again behind a gap, and further out than the
    mean vault fitted to this head, is no bone of it. A strap on the scalp has the scalp between, 3 mm or more. Bone
    that bulges has no gap, and diploe lies inside.

    Args:
        skull: bone mask, nonzero inside.
        frame: of this head.
        template: mean vault.
        highest_deg: polar angle from the vertex down to which it is looked for; cheekbones and mastoids lie below.
        gap_mm: narrower gaps are none; on grids coarser than 1.4 mm, 1.75 times their distance of points.
        outside_mm: of the mean vault, so far out or further.
        vault_mm: what lies before the gap is the vault's plate if it is this near to the mean vault.
        cell_deg: width of the bundles of rays; 2 degrees are 2.6 mm at the vault.
    """
    points = bone_points(skull.voxels, skull.grid)
    stride = [max(1, round(1.2 / step)) for step in skull.grid.spacing]
    center = np.array([0.0, 0.0, template.vertex_mm * frame.scales[2]])
    local = ((points - frame.vertex) @ frame.rotation + center) / frame.scales
    radius = np.linalg.norm(local, axis=1)
    expected, theta = template.radius(local)
    upper = (theta < highest_deg) & (radius > expected - vault_mm)
    local, radius, excess = local[upper], radius[upper], (radius - expected)[upper]
    index, _ = template.plane_index(local)
    column, row = np.rint(index * template.step_deg / cell_deg).astype(np.int64)
    order = np.lexsort((radius, column, row))
    cell, radius, excess = (column + (row << 20))[order], radius[order], excess[order]
    starts = np.diff(cell, prepend=-1) != 0
    steps = np.multiply(stride, skull.grid.spacing)
    gaps = np.diff(radius, prepend=radius[:1]) > max(gap_mm, 1.75 * steps.max())
    gaps &= ~starts & (excess > outside_mm)
    passed = np.cumsum(gaps)
    before = np.maximum.accumulate(np.where(starts, passed - gaps, 0))
    behind = passed > before
    return float(np.count_nonzero(behind) * np.prod(steps) / 1000.0)
