"""From an implant's mask to the files that are printed, and a check of what these files hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from scipy import ndimage

from bundle.skull_implant.bounding_box import bounding_box
from bundle.skull_implant.surfaces.bone_gap import BoneSurface, rim_gap_mm
from bundle.skull_implant.surfaces.clearance import Clearance
from bundle.skull_implant.surfaces.print_settings import PrintSettings
from bundle.skull_implant.surfaces.solid import Solid, solid
from bundle.skull_implant.surfaces.surface import implant_surface, surface_report, write_surface
from bundle.skull_implant.surfaces.thickness import plate_chords_mm, thickness_mm
from bundle.skull_implant.volume import Volume


def print_implant(
    folder: Path,
    skull: Volume,
    implant: Volume,
    settings: PrintSettings,
    *,
    name: str = "implant",
    maximum_overlap_mm: float = 0.5,
) -> dict[str, Any]:
    """Write the implant's surface, read it again, and measure it.

    Args:
        folder: gets `implant.stl` or what the settings name.
        skull: the patient's bone, on the implant's grid.
        implant: nonzero inside; not empty.
        settings: formats, triangles, clearance, thickness.
        name: of the files, without suffix.
        maximum_overlap_mm: a surface that few triangles make reach further into bone gets more of them.

    Returns:
        For `report.json`: `holes`, pieces of the mask; `cleared_ml`, what the clearance took off the mask; and, unless
        that was all or nearly all, of the files `watertight`, `surface_volume_ml`, `surface_volume_error` as a share of
        the volume of the mask without what was cleared, `pieces`, `openings`, `triangles`, and of the shape
        `thickness_mm`, `thinner_than_minimum` as a share of its middle surface, `gap_mm` as :func:`rim_gap_mm` has it.
    """
    bone = BoneSurface(skull, implant)
    clearance = Clearance(bone, settings.clearance_mm) if settings.clearance_mm > 0 else None
    shape = solid(implant, clearance=clearance)
    mask_ml = float(np.count_nonzero(implant.voxels) * implant.grid.voxel_ml)
    found: dict[str, Any] = {
        "holes": ndimage.label(implant.voxels[bounding_box(implant.voxels)])[1],
        "cleared_ml": round(mask_ml - float(shape.volume_mm3) / 1000.0, 2),
    }
    surface = _fitting_surface(shape, bone, settings.triangles, maximum_overlap_mm)
    chords = plate_chords_mm(implant, clearance=clearance)
    if not len(surface.faces) or not len(chords):
        return found
    files = [folder / f"{name}.{suffix}" for suffix in settings.mesh]
    for path in files:
        write_surface(path, surface)
    checks = [surface_report(trimesh.load_mesh(path)) for path in files]  # of what a printer's software will see
    found |= checks[0] | {"watertight": all(check["watertight"] for check in checks)}
    surface_ml = found.pop("volume_ml")
    found["surface_volume_ml"] = round(surface_ml, 2)
    found["surface_volume_error"] = round(1000.0 * surface_ml / float(shape.volume_mm3) - 1.0, 4)
    found["thickness_mm"] = {key: round(value, 2) for key, value in thickness_mm(chords).items()}
    found["thinner_than_minimum"] = round(float(np.mean(chords < settings.minimum_thickness_mm)), 3)
    samples = 10_000 if clearance is None else len(surface.faces)  # a clearance is checked on every triangle
    gap = rim_gap_mm(surface, bone, rim_mm=3.0 + settings.clearance_mm, maximum_samples=samples)
    found["gap_mm"] = {key: round(value, 2) for key, value in gap.items()}
    return found


def _fitting_surface(
    shape: Solid, bone: BoneSurface, triangles: int, maximum_overlap_mm: float, enough: int = 200_000
) -> trimesh.Trimesh:
    """A surface of at most so many triangles, or of the fewest with which it stays out of the bone.

    A jagged rim cannot be followed by a thousand triangles, and a piece that reaches into bone does not fit; one with
    more triangles than asked for does, and is marked for review. A clearance is kept with any number.
    """
    surface = implant_surface(shape, maximum_triangles=triangles)
    while shape.clearance is None and triangles < enough and len(surface.faces):
        if rim_gap_mm(surface, bone, maximum_samples=len(surface.faces)).get("min", 0.0) >= -maximum_overlap_mm:
            break
        triangles *= 2
        finer = implant_surface(shape, maximum_triangles=triangles)
        if len(finer.faces) == len(surface.faces):  # the voxels' own surface
            break
        surface = finer
    return surface
