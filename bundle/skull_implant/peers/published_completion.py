"""A case through a published network: bone in, decoded skull and implant on the scan's own grid out."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.input.reading import case_name
from bundle.skull_implant.mask_morphology import large_components, opened
from bundle.skull_implant.peers.published import PublishedVAE
from bundle.skull_implant.train.preparing import Source
from bundle.skull_implant.volume import Volume, write_volume
from bundle.skull_implant.whole_files import check_writable

logger = logging.getLogger(__name__)

RESULTS = ("skull", "decoded", "implant", "completed")


def complete_with_published(
    path: str | Path,
    output_dir: str | Path,
    network: PublishedVAE,
    *,
    gamma: float = 1.0,
    defect_class: str = "cranial",
    opening_mm: float = 0.0,
    threshold_hu: float = 300.0,
    overwrite: bool = False,
) -> list[Path]:
    """Write skull, decoded skull, implant and completed skull of one case to `output_dir/<case>/`.

    Args:
        path: of a mask or CT.
        output_dir: folder of the results.
        network: imported.
        gamma: 0 reconstructs, 1 completes, more thickens.
        defect_class: cranial or facial.
        opening_mm: 0 leaves the implant as published, decoded minus bone; else it is opened with a ball of this radius
            and its largest piece kept.
        threshold_hu: bone is at least this; not used for masks.
        overwrite: replace earlier results.

    Returns:
        The files written.

    Raises:
        InputError: bad input or settings, or results that are already there.
    """
    if not np.isfinite(gamma) or abs(gamma) > 10 or not 0 <= opening_mm <= 20:
        raise InputError(
            f"gamma must lie between -10 and 10 and opening_mm between 0 and 20, got {gamma:g} and {opening_mm:g}; "
            "1 and 0 are the paper's"
        )
    if gamma:
        network.step(defect_class)  # refuses before anything is read
    name = case_name(path)
    folder = Path(output_dir) / name
    targets = {kind: folder / f"{kind}.nii.gz" for kind in RESULTS}
    there = [target for target in targets.values() if target.exists()]
    if there and not overwrite:
        raise InputError(f"{there[0]}: already there; name another folder or pass --overwrite")
    check_writable(folder)
    skull = Source(name, Path(path)).read_skull(threshold_hu)
    decoded = network.complete(skull.voxels, gamma, defect_class)
    implant = decoded & ~skull.voxels
    if opening_mm:
        implant = large_components(opened(implant, skull.grid.spacing, opening_mm))
    voxels = {"skull": skull.voxels, "decoded": decoded, "implant": implant, "completed": skull.voxels | implant}
    for kind, target in targets.items():
        write_volume(target, Volume(voxels[kind], skull.grid))
    logger.info("%s: implant %.1f ml", name, implant.sum() * skull.grid.voxel_ml)
    return list(targets.values())
