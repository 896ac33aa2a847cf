"""Whether a scan is fit for the method, decided before the network sees it: refused, or reviewed, with reasons."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bundle.skull_implant.bounding_box import bounding_box
from bundle.skull_implant.errors import CaseRefused
from bundle.skull_implant.input.reading import Case
from bundle.skull_implant.volume import Grid, Volume


@dataclass(frozen=True)
class FitnessRules:
    """When a scan is refused, and when its result needs a second look.

    Args:
        maximum_spacing_mm: largest distance of slices, or of any voxel centers; thicker slices cut steps of more than
            half the vault's thickness into it.
        minimum_height_mm: least extent from foot to head; 179 skulls of SkullFix have 130 mm or more of them scanned,
            and the vault alone takes 90.
        vault_mm: so far below the highest bone, bone at the border is cut off; the neck further down always is.
        review_cut_cm2: area of bone at one border from which a second look is asked for. Of the same skulls, five
            touch the top slice, with 0.1 to 2.1 cm2, and one a side, with 1.5 cm2.
        refused_cut_cm2: area of bone at one border from which the vault is cut off: about 2.3 mm of a sphere of 7 cm.
        metal_hu: metal is at least this; our choice: 12-bit scales end at 3071, where metal ends up, and enamel, which
            is as bright, lies below the vault.
        review_metal_ml: of metal in the vault, from which a second look is asked for; a few screws have it, single
            bright voxels do not.
        review_strap_ml: of what lies around the vault with a gap between, from which a second look is asked for. Every
            sixth of the same skulls has 0.0 to 1.7 there, half of them up to 0.2; a strap of 20 x 150 mm has 6 or more.
    """

    maximum_spacing_mm: float = 3.0
    minimum_height_mm: float = 80.0
    vault_mm: float = 90.0
    review_cut_cm2: float = 0.05
    refused_cut_cm2: float = 10.0
    metal_hu: float = 2800.0
    review_metal_ml: float = 0.1
    review_strap_ml: float = 2.0


def check_scan(case: Case, rules: FitnessRules | None = None) -> None:
    """Refuse a scan with thick slices or with less of a head than its vault.

    Raises:
        CaseRefused: with all reasons.
    """
    rules, grid, reasons = rules or FitnessRules(), case.volume.grid, []
    if max(grid.spacing) > rules.maximum_spacing_mm * (1 + 1e-3):
        rule = f"slices must be at most {rules.maximum_spacing_mm:g} mm apart"
        reasons.append(f"{rule}, {max(grid.spacing):.4g} mm arrived; export the thin reconstruction")
    axis, _ = upward(grid)
    height = grid.size[axis] * grid.spacing[axis]
    if height < rules.minimum_height_mm:
        rule = f"a head scan must reach over at least {rules.minimum_height_mm:g} mm from foot to head"
        found = f"{height:.4g} mm in {grid.size[axis]} slices arrived"
        reasons.append(f"{rule}, {found}; give the whole head")
    if reasons:
        raise CaseRefused(case.name, reasons)


def check_vault(case: Case, skull: Volume, rules: FitnessRules | None = None) -> list[str]:
    """Refuse a vault that the field of view cuts off.

    Args:
        case: the scan.
        skull: its bone, Boolean, on the same grid.
        rules: when to refuse.

    Returns:
        Reasons to look at the result: bone that touches the border, and metal.

    Raises:
        CaseRefused: with all reasons.
    """
    rules = rules or FitnessRules()
    touches = {border: area for border, area in _touches(case, skull, rules).items() if area >= rules.review_cut_cm2}
    cut = [
        f"the vault must lie within the scan, bone of {area:.1f} cm2 at {border} arrived (at most "
        f"{rules.refused_cut_cm2:g}); export it with a larger field of view"
        for border, area in touches.items()
        if area >= rules.refused_cut_cm2
    ]
    if cut:
        raise CaseRefused(case.name, cut)
    reasons = [f"bone of {area:.1f} cm2 touches {border}" for border, area in touches.items()]
    if not case.is_mask:
        metal_ml = _metal_ml(case.volume, skull, rules)
        if metal_ml >= rules.review_metal_ml:
            reasons.append(f"metal of {metal_ml:.1f} ml in the vault, its streaks may look like bone")
    return reasons


def upward(grid: Grid) -> tuple[int, bool]:
    """The axis that runs most along the body, and whether its index grows towards the head."""
    along_body = np.reshape(grid.direction, (3, 3))[2]  # LPS: the third is superior
    axis = int(np.argmax(np.abs(along_body)))
    return axis, bool(along_body[axis] > 0)


def _vault_slab(skull: Volume, vault_mm: float) -> tuple[slice, ...] | None:
    """The part of the grid that holds the upper `vault_mm` of bone, up to the scan's end; None without bone."""
    box = bounding_box(skull.voxels)
    if box is None:
        return None
    axis, grows = upward(skull.grid)
    count = max(1, round(vault_mm / skull.grid.spacing[axis]))
    slab = [slice(None)] * 3
    slab[axis] = slice(max(box[axis].stop - count, 0), None) if grows else slice(0, box[axis].start + count)
    return tuple(slab)


def _touches(case: Case, skull: Volume, rules: FitnessRules) -> dict[str, float]:
    """Area in cm2 of the vault's bone at each border of the scan: its top, its sides, and a round field of view."""
    scan = case.volume
    if case.tilt is not None:  # the correction put air around what was scanned, whose own borders are meant
        skull, scan = case.tilt.scanned(skull), case.tilt.scanned(scan)
    slab = _vault_slab(skull, rules.vault_mm)
    if slab is None:
        return {}
    bone, spacing = skull.voxels[slab], skull.grid.spacing
    up, grows = upward(skull.grid)
    touches = {}
    for axis in range(3):
        face = np.prod(np.delete(spacing, axis)) / 100.0  # cm2 of a voxel's face
        ends = (("the first", 0), ("the last", -1)) if axis != up else (("the top", -1 if grows else 0),)
        for which, end in ends:
            name = "the top slice" if axis == up else f"{which} {('column', 'row', 'slice')[axis]}"
            touches[name] = float(bone[(slice(None),) * axis + (end,)].sum() * face)
    padding = None if case.is_mask else round_field_of_view(scan.voxels)
    if padding is not None:
        touches["the edge of the round field of view"] = _next_to(bone, padding[slab[:2]], spacing)
    return touches


def round_field_of_view(voxels: np.ndarray, tolerance: float = 0.005) -> np.ndarray | None:
    """Columns `(X, Y)` outside a scanner's round field of view, which have one value in all slices; None if not round.

    Args:
        voxels: HU `(X, Y, Z)`, slices along the last axis.
        tolerance: share of the pixels that may lie on the wrong side of a circle around the middle.
    """
    lowest = voxels.min()
    outside = (voxels[:, :, 0] == lowest) & (voxels[:, :, -1] == lowest)
    if not all(outside[i, j] for i in (0, -1) for j in (0, -1)) or outside.all():
        return None
    outside &= (voxels == lowest).all(axis=2)
    i, j = np.ogrid[: outside.shape[0], : outside.shape[1]]
    squared = (i - (outside.shape[0] - 1) / 2) ** 2 + (j - (outside.shape[1] - 1) / 2) ** 2
    circle = squared > np.count_nonzero(~outside) / np.pi
    return outside if np.mean(circle != outside) <= tolerance else None


def _next_to(bone: np.ndarray, padding: np.ndarray, spacing: tuple[float, float, float]) -> float:
    """Area in cm2 of bone `(X, Y, Z)` in pixels with a padding pixel beside them."""
    edge = np.zeros_like(padding)
    edge[1:] |= padding[:-1]
    edge[:-1] |= padding[1:]
    edge[:, 1:] |= padding[:, :-1]
    edge[:, :-1] |= padding[:, 1:]
    return float(bone[edge & ~padding].sum() * np.sqrt(spacing[0] * spacing[1]) * spacing[2] / 100.0)


def _metal_ml(volume: Volume, skull: Volume, rules: FitnessRules) -> float:
    slab = _vault_slab(skull, rules.vault_mm)
    if slab is None:
        return 0.0
    return float(np.count_nonzero((volume.voxels[slab] >= rules.metal_hu) & skull.voxels[slab]) * volume.grid.voxel_ml)
