"""The candidates of a case as files to open, print and compare, and their lines in the report."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bundle.skull_implant.steps.candidates import Candidate
from bundle.skull_implant.steps.report import ReviewRules, print_reasons
from bundle.skull_implant.surfaces.print_settings import PrintSettings
from bundle.skull_implant.surfaces.printing import print_implant
from bundle.skull_implant.volume import Volume, write_volume

FOLDER = "candidates"


def write_candidates(
    folder: Path,
    candidates: Sequence[Candidate],
    skull: Volume,
    printed: dict[str, Any],
    printing: PrintSettings,
    rules: ReviewRules,
) -> list[dict[str, Any]]:
    """Write `candidates/<rank>_<name>.nii.gz` and `.stl` of each; the first's are copies of `implant.*`.

    Args:
        folder: of the case, which has `implant.nii.gz` and its surface already.
        candidates: ranked, the recommended implant first; nothing is written if there are none.
        skull: the patient's bone.
        printed: what the recommended implant's surface is like, of :func:`print_implant`.
        printing: how implants are printed.
        rules: what is wrong with a printed implant.

    Returns:
        For `report.json`: of each candidate :meth:`Candidate.figures`, `rank`, `files`, of its surface `thickness_mm`
        and `watertight`, and `reasons` to look at it again.
    """
    rows: list[dict[str, Any]] = []
    target = folder / FOLDER
    for rank, candidate in enumerate(candidates, start=1):
        target.mkdir(exist_ok=True)
        stem = f"{rank}_{candidate.name}"
        if rank == 1:
            shape = printed
            for path in folder.glob("implant.*"):
                shutil.copyfile(path, target / path.name.replace("implant", stem, 1))
        else:
            write_volume(target / f"{stem}.nii.gz", candidate.implant)
            shape = print_implant(target, skull, candidate.implant, printing, name=stem)
        rows.append(
            {
                "rank": rank,
                **candidate.figures(),
                "thickness_mm": shape.get("thickness_mm"),
                "watertight": shape.get("watertight"),
                "reasons": print_reasons({"implant": shape}, printing, rules),
                "files": sorted(f"{FOLDER}/{path.name}" for path in target.glob(f"{stem}.*")),
            }
        )
    return rows


def agreement_figures(percentage: Volume, samples: int) -> dict[str, Any]:
    """For `report.json`: how many samples the map is made of, and the volume that all and that any of them hold.

    Args:
        percentage: uint8, of the samples that hold a voxel.
        samples: how many.
    """
    all_ml, any_ml = (np.count_nonzero(percentage.voxels >= least) * percentage.grid.voxel_ml for least in (100, 1))
    return {"samples": samples, "all_ml": round(float(all_ml), 2), "any_ml": round(float(any_ml), 2)}
