"""The CT series in a folder of DICOM files, and the one to read.

Needs pydicom 3, so nothing that runs inside MONAI Label may import it.
"""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage

from bundle.skull_implant.dicom_slices import stack_slices
from bundle.skull_implant.dicom_tags import tag_integer
from bundle.skull_implant.errors import InputError
from bundle.skull_implant.volume import Volume

logger = logging.getLogger(__name__)


def read_dicom_folder(
    folder: Path,
    *,
    series_number: int | None = None,
    maximum_voxels: int = 1_000_000_000,
    maximum_tilt_degrees: float = 0.25,
    maximum_files: int = 20_000,
) -> tuple[Volume, dict[str, Any]]:
    """Read the largest CT series at or below a folder.

    Localizers, other modalities, secondary captures and files that are not DICOM are passed over. Nothing that
    identifies the patient is read.

    Args:
        folder: searched with its subfolders; links to folders are not followed.
        series_number: take the series with this number; None takes the CT series with the most slices.
        maximum_voxels: more are refused before any pixel is read.
        maximum_tilt_degrees: largest angle between the slices' normal and the way from the first slice to the last; a
            quarter of a degree shears a head of 200 mm by 0.9 mm.
        maximum_files: more than these are not one patient's scan, and the search stops.

    Returns:
        Volume in HU, voxels `(X, Y, Z)`: X along the rows, Y along the columns, Z along the slices' normal; `int16`, or
        `float32` where HU are fractions or too large. And `format`, `modality`, `series_number`, `slice_count` and
        `reference_files`, the file of each slice from k = 0 up.

    Raises:
        InputError: no CT series, or one whose slices do not form a volume.
    """
    series = _chosen(find_ct_series(folder, maximum_files=maximum_files), folder, series_number)
    volume, files = stack_slices(
        series.headers, series.label, maximum_voxels=maximum_voxels, maximum_tilt_degrees=maximum_tilt_degrees
    )
    info = {"format": "DICOM", "modality": "CT", "series_number": series.number, "slice_count": len(files)}
    return volume, {**info, "reference_files": files}


@dataclass(frozen=True)
class CTSeries:
    """The files of one CT series in no particular order.

    Args:
        folder: name of the folder that was searched.
        number: DICOM Series Number, None if it has none.
        headers: path and header of each file.
    """

    folder: str
    number: int | None
    headers: Sequence[tuple[Path, pydicom.Dataset]]

    @property
    def label(self) -> str:
        """What messages call it; never a UID, which leads to the patient."""
        return f"{self.folder}: series {'without number' if self.number is None else self.number}"


def find_ct_series(folder: Path, *, maximum_files: int = 20_000) -> list[CTSeries]:
    """The CT series at or below a folder, the one with the most slices first, then by series number.

    Raises:
        InputError: there is none (the message says what is there), too many files, or one that cannot be read.
    """
    groups: dict[str, list[tuple[Path, pydicom.Dataset]]] = defaultdict(list)
    others: Counter[str] = Counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's remarks on sloppy values; what matters is checked
        for path in _files(folder, maximum_files):
            kind, series_uid, dataset = _identified(path)
            if dataset is not None and kind == "CT":
                groups[series_uid].append((path, dataset))
            else:
                others[kind] += 1
    if not groups:
        found = ", ".join(f"{kind} ({count} files)" for kind, count in others.most_common(5)) or "an empty folder"
        raise InputError(f"{folder.name}: must hold a CT series, {found} arrived; {_advice(others)}")
    series = [CTSeries(folder.name, tag_integer(files[0][1], "SeriesNumber"), files) for files in groups.values()]
    return sorted(series, key=lambda one: (-len(one.headers), one.number is None, one.number or 0))


def _files(folder: Path, maximum: int) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        name = Path(error.filename or folder).name
        raise InputError(f"{name}: the folder cannot be read ({error.strerror}); check its permissions") from error

    count = 0
    for root, folders, names in os.walk(folder, onerror=refuse):  # follows no links, so it cannot go round in circles
        folders.sort()
        for path in (Path(root, name) for name in sorted(names)):
            if not path.is_file():  # a pipe would wait for ever
                continue
            count += 1
            if count > maximum:
                raise InputError(f"{folder.name}: holds more than {maximum} files; give the folder of one scan")
            yield path


def _identified(path: Path) -> tuple[str, str, pydicom.Dataset | None]:
    """What a file is, its series, and of DICOM the tags that matter here, none of them about the patient."""
    tags = (
        "SOPClassUID SeriesInstanceUID SeriesNumber Modality ImageType AcquisitionNumber InstanceNumber Rows Columns "
        "PixelSpacing ImageOrientationPatient ImagePositionPatient SamplesPerPixel"
    )
    try:
        with path.open("rb") as file:
            if file.read(132)[128:] != b"DICM":
                return "not DICOM", "", None
            file.seek(0)
            dataset = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=tags.split())
        # Values are decoded here, when they are asked for, so damaged ones raise here.
        kind, series_uid = _kind(dataset), str(dataset.get("SeriesInstanceUID"))
        is_ct = dataset.file_meta.get("MediaStorageSOPClassUID") == CTImageStorage
    except OSError as error:
        raise InputError(f"{path.name}: cannot be read ({error.strerror}); check its permissions") from error
    except Exception as error:  # pydicom raises whatever a damaged file leads it to
        logger.warning("%s: passed over, a damaged DICOM file (%s)", path.name, type(error).__name__)
        return "damaged DICOM", "", None
    if is_ct and "Columns" not in dataset:  # passing over slices that were cut off could lose the top of the head
        raise InputError(f"{path.name}: this CT slice is cut off in its header; copy it again, or take it out")
    return kind, series_uid, dataset


def _kind(dataset: pydicom.Dataset) -> str:
    """`CT` for a slice to stack; else words for what the file is."""
    modality, storage = str(dataset.get("Modality", "")), dataset.get("SOPClassUID")
    if storage in (EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage):
        return "enhanced CT"
    if modality != "CT":
        return modality if re.fullmatch("[A-Z]{2,16}", modality) else "other DICOM"
    if storage != CTImageStorage:
        return "CT report or picture"
    return "CT localizer" if "LOCALIZER" in str(dataset.get("ImageType", "")) else "CT"


def _advice(others: Counter[str]) -> str:
    if others["enhanced CT"]:
        return "convert it to classic CT, one file per slice"
    return "give the folder of the axial CT; other formats are given as a file"


def _chosen(series: list[CTSeries], folder: Path, number: int | None) -> CTSeries:
    candidates = [one for one in series if number is None or one.number == number]
    if not candidates:
        found = ", ".join(f"{one.number} ({len(one.headers)} slices)" for one in series)
        raise InputError(f"{folder.name}: no CT series has the number {number}, {found} arrived; choose one of these")
    chosen = candidates[0]
    logger.info("%s (%d slices) of %d CT series", chosen.label, len(chosen.headers), len(series))
    return chosen
