"""A case to work on: a CT in HU or a skull mask, from an image file or a DICOM folder, checked before any work."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bundle.skull_implant.errors import CaseRefused, InputError
from bundle.skull_implant.input.gantry_tilt import CorrectedTilt
from bundle.skull_implant.input.image_file import image_extension, read_header, read_voxels
from bundle.skull_implant.volume import Grid, Volume


@dataclass(frozen=True)
class Case:
    """One readable input.

    Args:
        name: file name without its extensions, or the DICOM folder's name.
        volume: CT in HU (`int16`, or `float32` where stored so), or a mask (`uint8`, 0 and 1); voxels `(X, Y, Z)`.
        is_mask: the voxels are a skull mask, not HU.
        source: what a report may say of the input: format, file or folder name, sha256 of voxels and grid; for DICOM
            also modality, series number and slice count; what is doubtful of a file's `orientation`. Nothing of the
            patient.
        reference_files: for DICOM, the file of each slice from k = 0 up, for what is written back; not for reports.
        tilt: for DICOM, the gantry tilt that was corrected, so that the volume's slices are not those of the files.
        reference_frames: for DICOM, which frame of its file each slice is, from 0.
    """

    name: str
    volume: Volume
    is_mask: bool
    source: dict[str, Any]
    reference_files: tuple[Path, ...] = ()
    tilt: CorrectedTilt | None = None
    reference_frames: tuple[int, ...] = ()


def read_case(
    path: str | Path,
    *,
    series_number: int | None = None,
    minimum_slices: int = 20,
    minimum_extent_mm: float = 60.0,
    minimum_spacing_mm: float = 0.05,
    maximum_spacing_mm: float = 10.0,
    maximum_voxels: int = 1_000_000_000,
    air_hu: float = -200.0,
    minimum_air_share: float = 0.001,
) -> Case:
    """Read a CT or a skull mask.

    Voxels that are all 0 or 1 are a mask, everything else must be HU. HU are told by their air, because every head scan
    shows some, and offset HU (air at 0), MR and windowed pictures show none; our choice.

    Args:
        path: `.nii.gz`, `.nii`, `.nrrd`, `.nhdr`, `.mha`, `.mhd`, a folder with a DICOM CT series, or its DICOMDIR.
        series_number: of the DICOM series to read; None takes the CT series with the most slices.
        minimum_slices: fewest voxels along any axis.
        minimum_extent_mm: shortest edge of the volume; half a head.
        minimum_spacing_mm: smallest distance of voxel centers.
        maximum_spacing_mm: largest distance of voxel centers.
        maximum_voxels: more are refused before they are read; 512 x 512 x 400 is a tenth of the default.
        air_hu: a CT has values below this.
        minimum_air_share: of the voxels, at least so many are below `air_hu`.

    Returns:
        The case, with the grid exactly as ITK reads it.

    Raises:
        InputError: the input cannot be read, or breaks one of the rules above; one line that says which and what to do.
        CaseRefused: it can be read, but is no CT of a head: too small, without air, or slices that form no volume.
    """
    path = checked_path(path)
    if series_number is not None and not path.is_dir():
        raise InputError(f"{path.name}: series_number is of a DICOM folder, a file arrived; leave it out")
    limits = _GridLimits(minimum_slices, minimum_extent_mm, minimum_spacing_mm, maximum_spacing_mm, maximum_voxels)
    files: tuple[Path, ...] = ()
    frames: tuple[int, ...] = ()
    tilt: CorrectedTilt | None = None
    if path.is_dir():
        try:  # lazy: the bundle runs beside MONAI Label, which needs pydicom < 3
            from bundle.skull_implant.input.dicom_series import read_dicom_folder
            from bundle.skull_implant.input.dicom_slices import SliceRules
        except ImportError as error:
            rule = "a DICOM folder needs pydicom 3"
            raise InputError(f"{path.name}: {rule}, this environment has another; give an image file") from error

        name = case_name(path)
        rules = SliceRules(maximum_voxels=maximum_voxels)
        volume, info = read_dicom_folder(path, series_number=series_number, rules=rules)
        files, frames = tuple(info.pop("reference_files")), tuple(info.pop("reference_frames"))
        tilt = info.pop("tilt", None)
        limits.check(volume.grid, name, name)
    else:
        header = read_header(path)
        name = case_name(path)
        limits.check(header.grid, path.name, name)
        volume, info = read_voxels(header), {"format": header.format}
        if header.doubt:
            info["orientation"] = header.doubt
    is_mask = _is_mask(volume.voxels, path.name)
    if not is_mask:
        _check_hu(volume.voxels, path.name, name, air_hu, minimum_air_share)
    volume = Volume(_smallest_type(volume.voxels, is_mask), volume.grid)
    return Case(name, volume, is_mask, {"name": path.name, **info, "sha256": content_hash(volume)}, files, tilt, frames)


def case_name(path: str | Path) -> str:
    """What a case is called: the file's name without its image extensions, or the folder's name."""
    path = folder_of_dicomdir(Path(os.path.abspath(path)))  # a name for `.` too
    extension = "" if path.is_dir() else image_extension(path) or ""
    return path.name[: len(path.name) - len(extension)] or "case"


def content_hash(volume: Volume) -> str:
    """sha256 of grid and voxels, hexadecimal, whatever the file's compression and voxel type were."""
    grid = volume.grid
    digest = hashlib.sha256(repr((volume.voxels.dtype.str, grid.size)).encode())
    digest.update(np.asarray([*grid.spacing, *grid.origin, *grid.direction], "<f8").tobytes())
    digest.update(np.ascontiguousarray(volume.voxels.T).data)  # ITK's own order, so usually no copy
    return digest.hexdigest()


@dataclass(frozen=True)
class _GridLimits:
    slices: int
    extent_mm: float
    minimum_spacing_mm: float
    maximum_spacing_mm: float
    voxels: int

    def check(self, grid: Grid, name: str, case: str) -> None:
        """Raise InputError or CaseRefused if no head scan has this grid."""
        size = _times(grid.size)
        extent = np.multiply(grid.size, grid.spacing)
        if np.prod(grid.size, dtype=object) > self.voxels:
            raise InputError(f"{name}: must have at most {self.voxels} voxels, {size} arrived; resample or crop it")
        if not all(self.minimum_spacing_mm <= step <= self.maximum_spacing_mm for step in grid.spacing):
            rule = f"spacing must be {self.minimum_spacing_mm:g} to {self.maximum_spacing_mm:g} mm"
            raise InputError(f"{name}: {rule}, {_times(grid.spacing)} mm arrived; correct the header or export again")
        if not (np.isfinite(grid.origin).all() and _is_orthonormal(grid.direction)):
            found = ", ".join(f"{value:.4g}" for value in (*grid.direction, *grid.origin))
            rule = "orientation must be three perpendicular axes at a finite origin"
            raise InputError(f"{name}: {rule}, {found} arrived; resample it to perpendicular axes or export again")
        if min(grid.size) < self.slices:
            rule = f"must have at least {self.slices} voxels along each axis"
            raise CaseRefused(case, [f"{rule}, {size} arrived; give the whole head"])
        if extent.min() < self.extent_mm:
            rule = f"must reach over at least {self.extent_mm:g} mm along each axis"
            raise CaseRefused(case, [f"{rule}, {_times(extent)} mm arrived; give the whole head"])


def _is_orthonormal(direction: tuple[float, ...], tolerance: float = 1e-3) -> bool:
    """Handedness is free. 1e-3 is a shear of 0.2 mm over a head; headers in single precision stay below 1e-6."""
    axes = np.reshape(direction, (3, 3))
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() <= tolerance)  # False too where there are NaN


def _times(numbers: Iterable[float]) -> str:
    return " x ".join(f"{number:.6g}" for number in numbers)


def checked_path(path: str | Path) -> Path:
    """The absolute path of a file or folder that is there; links stay as they are, for the sake of the name.

    Raises:
        InputError: it is not named, not there, cannot be reached, is a device, or has characters that are not text.
    """
    if not str(path):  # the current folder else; MONAI Label hands it on for an image that its datastore does not have
        raise InputError(
            "the input must be a file or folder, none was named; MONAI Label: give an image of the server's folder"
        )
    path = Path(os.path.abspath(path))
    # SimpleITK ends the process at a surrogate (a name that is not UTF-8), and a line break would split our one line.
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in str(path)):
        raise InputError(f"{path.name!a}: the path has characters that are not text; rename it")
    try:
        if not path.exists():
            raise InputError(f"{path.name}: no such file or folder; check the path")
        if not (path.is_dir() or path.is_file()):
            raise InputError(f"{path.name}: neither a file nor a folder (a device or a pipe); give a file or a folder")
    except OSError as error:  # no permission, or a name too long
        raise InputError(f"{path.name[:80]}: cannot be read ({error.strerror}); check path and permissions") from error
    return folder_of_dicomdir(path)


def folder_of_dicomdir(path: Path) -> Path:
    """The folder whose files a DICOMDIR lists; any other path as it is."""
    try:
        return path.parent if path.name.upper() == "DICOMDIR" and path.is_file() else path
    except (OSError, ValueError):  # a name too long, or with a zero byte
        return path


def _is_mask(voxels: np.ndarray, name: str) -> bool:
    """Whether all voxels are 0 or 1; refuses constant volumes, values that are no numbers, and other labels."""
    low, high = float(voxels.min()), float(voxels.max())  # both are NaN if any voxel is
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError(f"{name}: voxels must be finite numbers, NaN or infinity arrived; replace them by air (-1000)")
    if low == high:
        raise InputError(f"{name}: every voxel is {low:g}, so there is nothing to see; check the export")
    if low < 0 or high > 255:
        return False
    whole = voxels.astype(np.uint8)
    if not np.array_equal(whole, voxels):
        rule = "a mask must hold 0 and 1, a CT must be in HU"
        raise InputError(f"{name}: {rule}, fractions of {low:g} to {high:g} arrived; threshold the mask or give the CT")
    if high == 1:
        return True
    values = np.unique(whole)
    listed = ", ".join(str(value) for value in values[:5]) + (f" ... {values[-1]}" if len(values) > 5 else "")
    raise InputError(f"{name}: a mask must hold 0 and 1, {listed} arrived; save the skull alone as 1 and the rest as 0")


def _check_hu(voxels: np.ndarray, name: str, case: str, air_hu: float, minimum_air_share: float) -> None:
    low, high = float(voxels.min()), float(voxels.max())
    arrived = f"{low:g} to {high:g} arrived"
    if low < -32768 or high > 65535:
        raise InputError(f"{name}: HU must be -32768 to 65535, {arrived}; export the CT in Hounsfield units")
    if np.count_nonzero(voxels < air_hu) < minimum_air_share * voxels.size:
        rule = f"a CT in HU must show air (below {air_hu:g} HU)"
        raise CaseRefused(case, [f"{rule}, {arrived}; give a CT and no MR, and subtract 1024 if its air is at 0"])


def _smallest_type(voxels: np.ndarray, is_mask: bool) -> np.ndarray:
    if is_mask:
        return voxels.astype(np.uint8, copy=False)
    fits = np.issubdtype(voxels.dtype, np.integer) and voxels.max() <= np.iinfo(np.int16).max
    return voxels.astype(np.int16 if fits else np.float32, copy=False)
