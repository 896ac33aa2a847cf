"""The slices of one DICOM CT series as one volume in Hounsfield units, refused unless they form a regular grid."""

from __future__ import annotations

import logging
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom

from bundle.skull_implant.errors import CaseRefused, InputError
from bundle.skull_implant.input.dicom_frames import Frame, frames_of
from bundle.skull_implant.input.dicom_pixels import hounsfield_of_file
from bundle.skull_implant.input.gantry_tilt import CorrectedTilt, GantryTilt
from bundle.skull_implant.volume import Grid, Volume

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SliceRules:
    """Which slices make a volume.

    Args:
        maximum_voxels: more are refused before any pixel is read.
        ignored_tilt_degrees: largest angle between the slices' normal and the way from the first slice to the last that
            is taken for rounding; a quarter of a degree shears a head of 200 mm by 0.9 mm.
        maximum_tilt_degrees: more gantry tilt than this is refused, less is corrected; scanners lean by 30 at most.
        maximum_bend_mm: a gantry leans the same way in every slice; slices further than this from the straight line
            through first and last are not tilted but displaced.
    """

    maximum_voxels: int = 1_000_000_000
    ignored_tilt_degrees: float = 0.25
    maximum_tilt_degrees: float = 31.0
    maximum_bend_mm: float = 0.5


@dataclass(frozen=True)
class Stack:
    """A series as a volume.

    Args:
        volume: HU, voxels `(X, Y, Z)`.
        files: of each slice from k = 0 up; one file many times where it holds many frames.
        frames: of each slice, its place among the frames of its file, from 0.
        tilt: gantry tilt that was corrected, so that the volume's voxels are not those of the files; None without.
        acquisitions: overlapping ones that the slices were put together from; 1 where one has them all.
    """

    volume: Volume
    files: list[Path]
    frames: list[int]
    tilt: CorrectedTilt | None = None
    acquisitions: int = 1


def stack_slices(
    headers: Sequence[tuple[Path, pydicom.Dataset]],
    label: str,
    rules: SliceRules | None = None,
    numbers: Mapping[Path, int] | None = None,
) -> Stack:
    """Put slices in order by their place along the normal, whatever their numbers say, and read them in HU.

    Of several slices at one place, that of the first acquisition with a slice at every place is taken, or, where none
    has them all, that of the first acquisition there. Slices that a tilted gantry sheared are moved in
    their planes onto an upright grid, because an image with perpendicular axes cannot say where sheared ones are.

    Args:
        headers: path and header of each file, in any order.
        label: what messages call the series, `folder: series 1`.
        rules: which slices make a volume.
        numbers: what messages call the files, whose names may be the patient's; None for their places by name.

    Raises:
        InputError: a tag is missing, there are too many voxels, or pixels cannot be decoded.
        CaseRefused: slices that differ in size or orientation, are unevenly spaced or displaced, or two different ones
            at one place in one acquisition.
    """
    rules = rules or SliceRules()
    numbers = numbers or {path: number for number, path in enumerate(sorted(path for path, _ in headers), 1)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's remarks on sloppy values; what matters is checked here
        frames = [
            frame
            for path, dataset in headers
            for frame in frames_of(dataset, path, f"{label}, file {numbers[path]} by name")
        ]
        slices, acquisitions = _ordered(frames, label)
        grid, tilt = _grid(slices, label, rules)
        if np.prod(grid.size, dtype=object) > rules.maximum_voxels:
            found = " x ".join(str(length) for length in grid.size)
            rule = f"must have at most {rules.maximum_voxels} voxels"
            raise InputError(f"{label}: {rule}, {found} arrived; export it with fewer or smaller slices")
        volume = Volume(_hounsfield(slices, label), grid)
    files, places = [one.path for one in slices], [one.index for one in slices]
    if tilt is None:
        return Stack(volume, files, places, acquisitions=acquisitions)
    logger.warning("%s: gantry tilt of %.1f degrees, resampled to an upright grid", label, tilt.degrees)
    upright, corrected = tilt.corrected(volume)
    return Stack(upright, files, places, corrected, acquisitions)


def _refused(label: str, reason: str) -> CaseRefused:
    case, _, series = label.rpartition(": ")
    return CaseRefused(case, [f"{series}: {reason}"])


def _ordered(frames: list[Frame], label: str) -> tuple[list[Frame], int]:
    """Alike slices in the order of their place along the normal, one for each place, and of how many acquisitions.

    Acquisitions that lie behind one another count as one: between overlapping ones the head may have moved.
    """
    if len(frames) < 2:
        raise _refused(label, f"must have at least 2 slices, {len(frames)} arrived; give the whole series")
    first = frames[0]
    for other in frames[1:]:
        if other.shape != first.shape or not np.allclose(other.spacing, first.spacing, rtol=1e-3):
            sizes = (f"{one.shape[1]} x {one.shape[0]} at {one.spacing[1]:.4g} mm" for one in (first, other))
            found = f"{' and '.join(sizes)} ({other.name}) arrived"
            raise _refused(label, f"slices must be of one size, {found}; export one series of equal slices")
        if not np.allclose([other.along_row, other.along_column], [first.along_row, first.along_column], atol=1e-3):
            found = f"{first.name} and {other.name} of two orientations arrived"
            raise _refused(label, f"slices must be parallel, {found}; export one series of parallel slices")
    depths = {one: float(one.position @ first.normal) for one in frames}
    ranked = sorted(frames, key=lambda one: (round(depths[one], 2), one.acquisition, one.number))
    places = [[ranked[0]]]
    for one in ranked[1:]:
        if depths[one] - depths[places[-1][0]] < 0.01:  # mm; nearer is the same place, up to the digits of the tags
            places[-1].append(one)
        else:
            places.append([one])
    repeats = [place for place in places if len(place) > 1]
    if not repeats:
        return ranked, 1
    _check_repeats(repeats, label)
    everywhere = set.intersection(*({one.acquisition for one in place} for place in places))
    chosen = [next(one for one in place if not everywhere or one.acquisition == min(everywhere)) for place in places]
    logger.warning(
        "%s: left out %d of %d slices, at a place where another is; %s is taken",
        label,
        len(ranked) - len(chosen),
        len(ranked),
        "the first whole acquisition" if everywhere else "there the first acquisition",
    )
    return chosen, len({one.acquisition for one in chosen})


def _check_repeats(repeats: list[list[Frame]], label: str) -> None:
    """Refuse two slices at one place that neither are equal nor belong to two acquisitions."""
    for place in repeats:
        rivals = [one for one in place if one.acquisition == place[0].acquisition]
        if len(rivals) == 1:
            continue
        pixels = [next(hounsfield_of_file(one.path, [one], label))[1] for one in rivals]
        for rival, other in zip(rivals[1:], pixels[1:], strict=True):
            if not np.array_equal(pixels[0], other):
                found = f"{rivals[0].name} and {rival.name} arrived, with other pixels"
                rule = "an acquisition must have one slice at a place"
                raise _refused(label, f"{rule}, {found}; export one reconstruction of one time")


def _grid(slices: list[Frame], label: str, rules: SliceRules) -> tuple[Grid, GantryTilt | None]:
    """The grid of slices in order, upright, and how they lie on it; refused unless evenly spaced."""
    first = slices[0]
    if len(slices) < 2:
        raise _refused(label, "must have at least 2 slices at different places, 1 arrived; give the whole series")
    way = np.array([one.position for one in slices]) - first.position
    depth = way @ first.normal
    step = float(depth[-1]) / (len(slices) - 1)
    gaps = np.diff(depth)
    # Positions rounded to 0.1 mm are within 0.05 mm of even; a missing slice is at least half a step off.
    if np.abs(depth - step * np.arange(len(slices))).max() > min(max(0.1, 0.1 * step), 0.3 * step):
        usual, odd = float(np.median(gaps)), int(np.argmax(np.abs(gaps - np.median(gaps))))
        found = f"{usual:.4g} mm, then {gaps[odd]:.4g} mm after {slices[odd].name}, {odd + 1} of {len(slices)}, arrived"
        raise _refused(label, f"slices must be evenly spaced, {found}; export one whole reconstruction")
    grid = Grid(
        (first.shape[1], first.shape[0], len(slices)),
        (float(first.spacing[1]), float(first.spacing[0]), step),
        (float(first.position[0]), float(first.position[1]), float(first.position[2])),
        tuple(np.column_stack([first.along_row, first.along_column, first.normal]).ravel().tolist()),
    )
    sideways = np.stack([way @ first.along_row, way @ first.along_column], axis=1)  # mm, (slices, 2)
    tilt = GantryTilt(sideways[-1] / depth[-1])
    if np.degrees(np.arctan2(np.linalg.norm(sideways, axis=1).max(), depth[-1])) <= rules.ignored_tilt_degrees:
        return grid, None
    bend = np.linalg.norm(sideways - np.outer(depth, tilt.shear), axis=1).max()
    if tilt.degrees > rules.maximum_tilt_degrees or bend > rules.maximum_bend_mm:
        found = f"{tilt.degrees:.3g} degrees and {bend:.2g} mm arrived"
        rule = f"gantry tilt must be at most {rules.maximum_tilt_degrees:g} degrees, straight to "
        raise _refused(label, f"{rule}{rules.maximum_bend_mm:g} mm, {found}; export it without gantry tilt")
    return grid, tilt


def _hounsfield(slices: list[Frame], label: str) -> np.ndarray:
    """HU `(X, Y, Z)`, `int16` where all of them fit."""
    stack = np.empty((len(slices), *slices[0].shape), np.float32)  # (Z, Y, X); exact for whole numbers up to 2**24
    files: dict[Path, list[int]] = defaultdict(list)
    for index in sorted(range(len(slices)), key=lambda index: slices[index].index):
        files[slices[index].path].append(index)

    def fill(path: Path) -> None:
        for index, (_, pixels) in zip(
            files[path], hounsfield_of_file(path, [slices[index] for index in files[path]], label), strict=True
        ):
            stack[index] = pixels

    with ThreadPoolExecutor() as pool:
        list(pool.map(fill, files))
    whole = all(one.slope.is_integer() and one.intercept.is_integer() for one in slices)
    limits = np.iinfo(np.int16)
    fits = whole and stack.min() >= limits.min and stack.max() <= limits.max
    return (stack.astype(np.int16) if fits else stack).transpose(2, 1, 0)
