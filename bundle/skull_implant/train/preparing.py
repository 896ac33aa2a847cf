"""Complete skulls in, a training set in the canonical box out."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.frame.canonical_frame import CanonicalFrame, align, bone_points, estimate_frame, to_template
from bundle.skull_implant.frame.canonical_grid import CanonicalBox, to_canonical
from bundle.skull_implant.frame.skull_mask import clean_binary_mask, skull_mask_from_hu
from bundle.skull_implant.frame.vault_template import VaultTemplate, average_template
from bundle.skull_implant.input.image_file import image_extension
from bundle.skull_implant.input.reading import case_name, read_case
from bundle.skull_implant.threads import single_thread
from bundle.skull_implant.train.dataset_folder import PARTS, write_datalist, write_skull
from bundle.skull_implant.volume import Grid, Volume

logger = logging.getLogger(__name__)

Filler = Callable[[np.ndarray, CanonicalFrame, CanonicalBox], np.ndarray]
Inspector = Callable[[np.ndarray, CanonicalFrame, CanonicalBox], None]


@dataclass(frozen=True)
class Source:
    """Files of one complete skull: the skull or CT, and in the SkullFix layout its implant."""

    name: str
    skull: Path
    implant: Path | None = None

    def read_skull(self, threshold_hu: float) -> Volume:
        """Bone mask on the case's own grid."""
        case = read_case(self.skull)
        return (
            clean_binary_mask(case.volume)
            if case.is_mask
            else skull_mask_from_hu(case.volume, threshold_hu=threshold_hu)
        )

    def read_implant(self) -> Volume | None:
        """The official defect's piece, or None."""
        return read_case(self.implant).volume if self.implant else None

    def read_piece(self, grid: Grid) -> np.ndarray | None:
        """The official defect's piece, (X, Y, Z) bool on the skull's grid, or None.

        Raises:
            InputError: it is stored on another grid.
        """
        implant = self.read_implant()
        if implant is None:
            return None
        if not implant.grid.same_as(grid):
            raise InputError(f"{self.name}: its implant must lie on the skull's grid, another arrived; resample it")
        return implant.voxels > 0


def find_sources(folder: Path) -> list[Source]:
    """Skulls in a folder: the SkullFix layout (`complete_skull/`, `implant/`), or each volume file and DICOM folder.

    Raises:
        InputError: there is none, or two have one name.
    """
    skulls, implants = folder / "complete_skull", folder / "implant"
    if skulls.is_dir():
        paths = [path for path in sorted(skulls.iterdir()) if image_extension(path)]
    else:
        paths = [path for path in sorted(folder.glob("*")) if path.is_dir() or image_extension(path)]
    if not paths:
        raise InputError(
            f"{folder}: SOURCE must hold volume files, DICOM folders or complete_skull/, found none; check the path"
        )
    names = [case_name(path) for path in paths]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{folder}: each skull must have a name of its own, more than one is {twice[0]}; rename one")
    return [
        Source(name, path, implants / path.name if skulls.is_dir() and (implants / path.name).is_file() else None)
        for name, path in zip(names, paths, strict=True)
    ]


def build_template(sources: Sequence[Source], threshold_hu: float, rounds: int = 4) -> VaultTemplate:
    """The mean vault of complete skulls: align with an ellipsoid, average, align with the average, and so on.

    Raises:
        InputError: no skull can be read.
    """
    template = VaultTemplate.ellipsoid()
    with ProcessPoolExecutor(initializer=single_thread) as pool:
        points = [found for found in pool.map(partial(_points, threshold_hu=threshold_hu), sources) if len(found)]
        if not points:
            raise InputError(f"the mean vault must be made of at least one skull, none of {len(sources)} can be read")
        for number in range(rounds):
            outlines = pool.map(partial(_outline, template=template), points)
            template = average_template(outlines, template)
            logger.info("mean vault: round %d of %d", number + 1, rounds)
    return template


def prepare_dataset(
    sources: Sequence[Source],
    folder: Path,
    validation: Sequence[str],
    template: VaultTemplate,
    box: CanonicalBox,
    threshold_hu: float,
    defective: Sequence[Source] = (),
    fill: Filler | None = None,
    inspect: Inspector | None = None,
) -> None:
    """Write a training set; a skull that cannot be aligned is named in the log and left out.

    Args:
        sources: complete skulls.
        folder: where to.
        validation: names of the validation cases.
        template: mean vault.
        box: canonical box at the size to store.
        threshold_hu: bone threshold for CT.
        defective: skulls with a hole of their own and no truth, for training.
        fill: gives what fills the hole of a defective skull, :func:`hole_filling.fill_hole` of a completer.
        inspect: raises InputError for a skull without an official defect that is to be left out.

    Raises:
        InputError: no skull is left to train with.
    """
    lists: dict[str, list[dict[str, str]]] = {part: [] for part in PARTS}
    rotations: list[np.ndarray] = []
    holed = [replace(source, name=f"defective_{source.name}") for source in defective]
    every, fillers = [*sources, *holed], [*([None] * len(sources)), *([fill] * len(holed))]
    write = partial(_write_one, folder=folder, template=template, box=box, threshold_hu=threshold_hu, inspect=inspect)
    with ProcessPoolExecutor(initializer=single_thread) as pool:
        for number, (source, (entry, frame, line)) in enumerate(
            zip(every, pool.map(write, every, fillers), strict=True), start=1
        ):
            logger.info("%d of %d: %s: %s", number, len(every), source.name, line)
            if entry and frame:
                part = "defective" if source in holed else "validation" if source.name in validation else "training"
                lists[part].append(entry)
                if part == "training":
                    rotations.append(frame.rotation)
    if not lists["training"]:
        raise InputError(f"{folder}: training must have at least one skull, none is left; see why above")
    usual = Rotation.from_matrix(np.stack(rotations)).mean().as_matrix()
    write_datalist(folder, lists, box, replace(template, usual_rotation=usual))
    logger.info("%s skulls", ", ".join(f"{len(entries)} {part}" for part, entries in lists.items()))


def _points(source: Source, threshold_hu: float) -> np.ndarray:
    """Bone points (P, 3); none for a skull that cannot be read, which is told and left out when it is written."""
    try:
        skull = source.read_skull(threshold_hu)
    except InputError:
        return np.empty((0, 3))
    return bone_points(skull.voxels, skull.grid)


def _outline(points: np.ndarray, template: VaultTemplate) -> np.ndarray:
    parameters, surface = align(points, template)
    return to_template(surface, parameters)


def _write_one(
    source: Source,
    fill: Filler | None,
    folder: Path,
    template: VaultTemplate,
    box: CanonicalBox,
    threshold_hu: float,
    inspect: Inspector | None,
) -> tuple[dict[str, str] | None, CanonicalFrame | None, str]:
    """The datalist entry and frame, or None for a skull left out, and what to tell about it."""
    try:
        skull = source.read_skull(threshold_hu)
        frame = estimate_frame(skull.voxels > 0, skull.grid, template, case=source.name)
        implant = source.read_implant()
        complete = to_canonical(skull, frame, box) > 0.5
        if inspect is not None and implant is None and fill is None:
            inspect(complete, frame, box)
    except InputError as error:
        return None, None, f"left out: {error}"
    piece = None if implant is None else to_canonical(implant, frame, box) > 0.5
    if fill is not None:
        piece = fill(complete, frame, box)
        if not piece.any():
            return None, None, "left out: a defective skull must have a hole, none was found"
        complete |= piece
    entry = write_skull(folder, source.name, complete, piece, frame)
    return entry, frame, f"{frame.residual_mm:.1f} mm from the mean vault, {frame.coverage:.0%} of it there"


def validation_names(names: Sequence[str], split: str, share: float, seed: int) -> list[str]:
    """Names of the validation cases: those that a split file lists, or a random share, at least one.

    Raises:
        InputError: the split file is unreadable or names cases that are not there.
    """
    if not split:
        count = max(1, round(share * len(names)))
        return sorted(np.random.default_rng(seed).permutation(sorted(names))[:count].tolist())
    try:
        listed = [str(name) for name in json.loads(Path(split).read_text())["validation"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{split}: a split must be JSON with a list 'validation'; see configs/skullfix_split.json"
        ) from error
    unknown = sorted(set(listed) - set(names))
    if unknown:
        raise InputError(
            f"{split}: validation cases must be in SOURCE, unknown: {', '.join(unknown[:5])}; give this source's split"
        )
    return listed
