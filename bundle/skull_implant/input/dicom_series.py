"""The CT series in a folder of DICOM files, and the one to read.

Needs pydicom 3, so nothing that runs inside MONAI Label may import it.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydicom

from bundle.skull_implant.errors import CaseRefused, InputError
from bundle.skull_implant.input.dicom_directory import listed_instances
from bundle.skull_implant.input.dicom_identity import CT, DAMAGED, NOT_DICOM, Identity, identify
from bundle.skull_implant.input.dicom_slices import SliceRules, stack_slices
from bundle.skull_implant.input.dicom_tags import slice_places, tag_integer
from bundle.skull_implant.volume import Volume

logger = logging.getLogger(__name__)


def read_dicom_folder(
    folder: Path, *, series_number: int | None = None, rules: SliceRules | None = None, maximum_files: int = 20_000
) -> tuple[Volume, dict[str, Any]]:
    """Read the largest CT series at or below a folder.

    Files are told by what is in them, so names, extensions and a DICOMDIR do not matter, and neither does a missing
    preamble. Localizers, other modalities, reports, secondary captures and files that are not DICOM are passed over.
    Nothing that identifies the patient is read.

    Args:
        folder: searched with its subfolders; links to folders are not followed.
        series_number: take the series with this number; None takes the CT series with the most slices.
        rules: which slices make a volume.
        maximum_files: more than these are not one patient's scan, and the search stops.

    Returns:
        Volume in HU, voxels `(X, Y, Z)`: X along the rows, Y along the columns, Z along the slices' normal; `int16`, or
        `float32` where HU are fractions or too large. And `format`, `modality`, `series_number`, `slice_count` and
        `reference_files`, the file of each slice from k = 0 up, and `reference_frames`, which of its frames it is, from
        0; for a tilted gantry also `gantry_tilt_degrees`, `grid` and `tilt`, the CorrectedTilt, because the volume's
        voxels are no longer those of the files; and `acquisitions`, where several that overlap were put together.

    Raises:
        InputError: no CT series, or one that cannot be read.
        CaseRefused: DICOM without a CT series, slices that do not form a volume, or fewer than a DICOMDIR lists.
    """
    series = _chosen(find_ct_series(folder, maximum_files=maximum_files), folder, series_number)
    _refuse_if_copied_in_part(series, folder)
    stack = stack_slices(series.headers, series.label, rules, series.file_numbers)
    info: dict[str, Any] = {
        "format": "DICOM",
        "modality": "CT",
        "series_number": series.number,
        "slice_count": len(stack.files),
        "reference_files": stack.files,
        "reference_frames": stack.frames,
    }
    if stack.acquisitions > 1:
        info["acquisitions"] = stack.acquisitions
    if stack.tilt is not None:
        about = "upright, resampled from the slices of a tilted gantry"
        info |= {"gantry_tilt_degrees": round(stack.tilt.degrees, 2), "grid": about, "tilt": stack.tilt}
    return stack.volume, info


@dataclass(frozen=True)
class CTSeries:
    """The files of one CT series in no particular order.

    Args:
        folder: name of the folder that was searched.
        number: DICOM Series Number, None if it has none.
        headers: path and header of each file, which an enhanced file fills with many slices.
        file_numbers: place of each file among all in the folder, by name, from 1.
        instances: SOP Instance UIDs of all files in the folder, localizers and other series too.
    """

    folder: str
    number: int | None
    headers: Sequence[tuple[Path, pydicom.Dataset]]
    file_numbers: Mapping[Path, int] = field(default_factory=dict)
    instances: Set[str] = frozenset()

    @property
    def slice_count(self) -> int:
        """Places of slices in all files: copies and time points count once."""
        return len(set().union(*(slice_places(dataset) for _, dataset in self.headers)))

    @property
    def label(self) -> str:
        """What messages call it; never a UID, which leads to the patient."""
        return f"{self.folder}: series {'without number' if self.number is None else self.number}"


def find_ct_series(folder: Path, *, maximum_files: int = 20_000) -> list[CTSeries]:
    """The CT series at or below a folder, the one with the most slices first, then by series number.

    Raises:
        InputError: no DICOM at all, too many files, or one that cannot be read.
        CaseRefused: DICOM, but no CT series; the message says what is there.
    """
    groups: dict[str, list[tuple[Path, pydicom.Dataset]]] = defaultdict(list)
    others: Counter[str] = Counter()
    numbers: dict[Path, int] = {}
    instances: set[str] = set()
    links: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's remarks on sloppy values; what matters is checked
        for number, path in enumerate(_files(folder, maximum_files, links), 1):
            numbers[path] = number
            found = _identified(path, f"{folder.name}, file {number} by name")
            if found.header is not None:
                instances.add(str(found.header.get("SOPInstanceUID", "")))
            if found.header is not None and found.kind == CT:
                groups[found.series_uid].append((path, found.header))
            else:
                others[found.kind] += 1
    if not groups:
        kinds = [f"{kind} ({count} files)" for kind, count in others.most_common(5)]
        kinds += [f"links to folders ({len(links)}), which are not followed"] if links else []
        listed = ", ".join(kinds) or "an empty folder"
        reason = f"must hold a CT series, {listed} arrived; give the folder of the axial CT"
        if set(others) <= {NOT_DICOM, DAMAGED}:
            raise InputError(f"{folder.name}: {reason}; other formats are given as a file")
        raise CaseRefused(folder.name, [reason])
    series = [
        CTSeries(folder.name, tag_integer(files[0][1], "SeriesNumber"), files, numbers, instances)
        for files in groups.values()
    ]
    return sorted(series, key=lambda one: (-one.slice_count, one.number is None, one.number or 0))


def _files(folder: Path, maximum: int, links: list[str]) -> Iterator[Path]:
    """Files at or below a folder; names of the links to folders, which are not followed, come into `links`."""

    def refuse(error: OSError) -> None:
        which = "the folder" if Path(error.filename or folder) == folder else "a folder in it"
        raise InputError(f"{folder.name}: {which} cannot be read ({error.strerror}); check its permissions") from error

    count = 0
    for root, folders, names in os.walk(folder, onerror=refuse):  # follows no links, so it cannot go round in circles
        folders.sort()
        links.extend(each for each in folders if Path(root, each).is_symlink())
        for path in (Path(root, name) for name in sorted(names)):
            if not path.is_file():  # a pipe would wait for ever
                continue
            count += 1
            if count > maximum:
                raise InputError(f"{folder.name}: holds more than {maximum} files; give the folder of one scan")
            yield path


def _identified(path: Path, label: str) -> Identity:
    """What a file is; `label` is what messages call it, for export programs put names into those of files."""
    try:
        found = identify(path)
    except OSError as error:
        raise InputError(f"{label}: cannot be read ({error.strerror}); check its permissions") from error
    if found.kind == DAMAGED:
        logger.warning("%s: passed over, a damaged DICOM file (%s)", label, found.damage)
    if found.is_cut:
        name = "enhanced CT" if found.header is not None and "NumberOfFrames" in found.header else "CT slice"
        raise InputError(f"{label}: this {name} is cut off in its header; copy it again, or take it out")
    return found


def _refuse_if_copied_in_part(series: CTSeries, folder: Path) -> None:
    """CaseRefused if a DICOMDIR lists files of the series that are not there: they could be the top of the head."""
    listed = listed_instances(folder).get(str(series.headers[0][1].get("SeriesInstanceUID", "")), set())
    missing = len(listed - series.instances)
    if missing:
        number = "without number" if series.number is None else series.number
        rule = f"series {number}: all {len(listed)} files that the DICOMDIR lists of it must be there and whole"
        raise CaseRefused(folder.name, [f"{rule}, {missing} are not; copy the disc again"])


def _chosen(series: list[CTSeries], folder: Path, number: int | None) -> CTSeries:
    candidates = [one for one in series if number is None or one.number == number]
    if not candidates:
        found = ", ".join(
            f"{'none' if one.number is None else one.number} ({one.slice_count} slices)" for one in series
        )
        raise InputError(
            f"{folder.name}: no CT series has the number {number}, {found} arrived; choose one of these, or give the "
            "folder of one alone"
        )
    if number is not None and len(candidates) > 1:
        slices = ", ".join(str(one.slice_count) for one in candidates)
        raise InputError(
            f"{folder.name}: one CT series must have the number {number}, {len(candidates)} arrived, of {slices} "
            "slices; give the folder of one alone"
        )
    chosen = candidates[0]
    logger.info("%s (%d slices) of %d CT series", chosen.label, chosen.slice_count, len(series))
    return chosen
