"""The slices of one DICOM CT series as one volume in Hounsfield units, refused unless they form a regular grid."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom

from bundle.skull_implant.dicom_pixels import slice_hounsfield
from bundle.skull_implant.dicom_tags import tag_integer, tag_numbers
from bundle.skull_implant.errors import InputError
from bundle.skull_implant.volume import Grid, Volume

logger = logging.getLogger(__name__)


def stack_slices(
    headers: Sequence[tuple[Path, pydicom.Dataset]], label: str, *, maximum_voxels: int, maximum_tilt_degrees: float
) -> tuple[Volume, list[Path]]:
    """Put slices in order by their place along the normal, whatever their numbers say, and read them in HU.

    Args:
        headers: path and header of each slice, in any order.
        label: what messages call the series.
        maximum_voxels: more are refused before any pixel is read.
        maximum_tilt_degrees: largest angle between the normal and the way from the first slice to the last.

    Returns:
        Volume in HU, voxels `(X, Y, Z)`, and the file of each slice from k = 0 up. Of several slices at one place, the
        one of the lowest acquisition and instance number is taken.

    Raises:
        InputError: slices that differ in size or orientation, are unevenly spaced or tilted, lack a tag, are too many,
            or whose pixels cannot be decoded.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's remarks on sloppy values; what matters is checked here
        slices = _ordered([_Slice.of(dataset, path, label) for path, dataset in headers], label)
        grid = _grid(slices, label, maximum_tilt_degrees)
        if np.prod(grid.size, dtype=object) > maximum_voxels:
            found = " x ".join(str(length) for length in grid.size)
            rule = f"must have at most {maximum_voxels} voxels"
            raise InputError(f"{label}: {rule}, {found} arrived; export it with fewer or smaller slices")
        return Volume(_hounsfield(slices, label), grid), [one.path for one in slices]


@dataclass(frozen=True, eq=False)
class _Slice:
    """Where one slice is: LPS mm of its first pixel's center, and unit vectors along its rows and columns."""

    path: Path
    shape: tuple[int, int]  # rows, columns
    spacing: np.ndarray  # mm from row to row, from column to column
    along_row: np.ndarray
    along_column: np.ndarray
    position: np.ndarray
    order: tuple[int, int]  # acquisition and instance number: which of two slices at one place comes first

    @classmethod
    def of(cls, dataset: pydicom.Dataset, path: Path, label: str) -> _Slice:
        """The slice of a header; InputError if a tag is missing or is no number."""
        rows, columns, samples = (
            int(tag_numbers(dataset, tag, 1, path, label)[0]) for tag in ("Rows", "Columns", "SamplesPerPixel")
        )
        orientation = tag_numbers(dataset, "ImageOrientationPatient", 6, path, label).reshape(2, 3)
        if samples != 1 or np.abs(orientation @ orientation.T - np.eye(2)).max() > 1e-3:
            rule = "a slice must have one value per pixel, and rows perpendicular to columns"
            found = f"{samples} and orientation {orientation.ravel().tolist()}"
            raise InputError(f"{label}, file {path.name}: {rule}, {found} arrived; export the series again")
        along_row = orientation[0] / np.linalg.norm(orientation[0])
        along_column = orientation[1] - (orientation[1] @ along_row) * along_row  # tags have six digits: make it exact
        return cls(
            path,
            (rows, columns),
            tag_numbers(dataset, "PixelSpacing", 2, path, label),
            along_row,
            along_column / np.linalg.norm(along_column),
            tag_numbers(dataset, "ImagePositionPatient", 3, path, label),
            (tag_integer(dataset, "AcquisitionNumber") or 0, tag_integer(dataset, "InstanceNumber") or 0),
        )

    @property
    def normal(self) -> np.ndarray:
        return np.cross(self.along_row, self.along_column)


def _ordered(slices: list[_Slice], label: str) -> list[_Slice]:
    """Alike slices in the order of their place along the normal, one for each place."""
    first = slices[0]
    for other in slices[1:]:
        if other.shape != first.shape or not np.allclose(other.spacing, first.spacing, rtol=1e-3):
            sizes = (f"{one.shape[1]} x {one.shape[0]} at {one.spacing[1]:.4g} mm" for one in (first, other))
            found = f"{' and '.join(sizes)} (file {other.path.name}) arrived"
            raise InputError(f"{label}: slices must be of one size, {found}; export one series of equal slices")
        if not np.allclose([other.along_row, other.along_column], [first.along_row, first.along_column], atol=1e-3):
            found = f"{first.path.name} and {other.path.name} of two orientations arrived"
            raise InputError(f"{label}: slices must be parallel, {found}; export one series of parallel slices")
    depths = {one: float(one.position @ first.normal) for one in slices}
    ranked = sorted(slices, key=lambda one: (round(depths[one], 2), one.order))
    kept = ranked[:1]
    for one in ranked[1:]:
        if depths[one] - depths[kept[-1]] >= 0.01:  # mm; nearer is the same place, up to the digits of the tags
            kept.append(one)
    if len(kept) < len(ranked):
        dropped = len(ranked) - len(kept)
        logger.warning("%s: left out %d of %d slices, at a place where another is", label, dropped, len(ranked))
    return kept


def _grid(slices: list[_Slice], label: str, maximum_tilt_degrees: float) -> Grid:
    """The grid of slices in order; InputError unless they are evenly spaced along their normal."""
    first = slices[0]
    if len(slices) < 2:
        raise InputError(f"{label}: must have at least 2 slices, 1 arrived; give the whole series")
    way = np.array([one.position for one in slices]) - first.position
    depth = way @ first.normal
    step = float(depth[-1]) / (len(slices) - 1)
    gaps = np.diff(depth)
    # Positions rounded to 0.1 mm are within 0.05 mm of even; a missing slice is at least half a step off.
    if np.abs(depth - step * np.arange(len(slices))).max() > min(max(0.1, 0.1 * step), 0.3 * step):
        usual, odd = float(np.median(gaps)), int(np.argmax(np.abs(gaps - np.median(gaps))))
        found = f"{usual:.4g} mm, then {gaps[odd]:.4g} mm after slice {odd + 1} (file {slices[odd].path.name}) arrived"
        raise InputError(f"{label}: slices must be evenly spaced, {found}; export one whole reconstruction")
    sideways = np.linalg.norm(way - np.outer(depth, first.normal), axis=1).max()
    tilt = float(np.degrees(np.arctan2(sideways, depth[-1])))
    if tilt > maximum_tilt_degrees:
        rule = f"slices must follow each other along their normal to {maximum_tilt_degrees:g} degrees"
        raise InputError(f"{label}: {rule}, {tilt:.3g} degrees arrived; export it without gantry tilt")
    return Grid(
        (first.shape[1], first.shape[0], len(slices)),
        (float(first.spacing[1]), float(first.spacing[0]), step),
        (float(first.position[0]), float(first.position[1]), float(first.position[2])),
        tuple(np.column_stack([first.along_row, first.along_column, first.normal]).ravel().tolist()),
    )


def _hounsfield(slices: list[_Slice], label: str) -> np.ndarray:
    """HU `(X, Y, Z)`."""
    stack = np.empty((len(slices), *slices[0].shape), np.float32)  # (Z, Y, X); exact for whole numbers up to 2**24

    def fill(index: int) -> bool:
        stack[index], whole = slice_hounsfield(slices[index].path, slices[index].shape, label)
        return whole

    with ThreadPoolExecutor() as pool:
        whole = all(list(pool.map(fill, range(len(slices)))))
    limits = np.iinfo(np.int16)
    fits = whole and stack.min() >= limits.min and stack.max() <= limits.max
    return (stack.astype(np.int16) if fits else stack).transpose(2, 1, 0)
