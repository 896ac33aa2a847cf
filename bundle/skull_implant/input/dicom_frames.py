"""Where the frames of a CT file lie and how their values become HU: one in a classic file, many in an enhanced one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.input.dicom_tags import tag_integer, tag_numbers

# Sequences of an enhanced file and what a classic file has of them at its top level; PS3.3, C.7.6.16.2 and C.8.15.3.
FUNCTIONAL_GROUPS = {
    "PlanePositionSequence": {"ImagePositionPatient": "ImagePositionPatient"},
    "PlaneOrientationSequence": {"ImageOrientationPatient": "ImageOrientationPatient"},
    "PixelMeasuresSequence": {"PixelSpacing": "PixelSpacing", "SliceThickness": "SliceThickness"},
    "PixelValueTransformationSequence": {"RescaleSlope": "RescaleSlope", "RescaleIntercept": "RescaleIntercept"},
    "FrameContentSequence": {
        "FrameAcquisitionNumber": "AcquisitionNumber",
        "TemporalPositionIndex": "TemporalPositionIndex",
    },
    "CTImageFrameTypeSequence": {"FrameType": "ImageType"},
}


@dataclass(frozen=True, eq=False)
class Frame:
    """One slice: where it is, and how its stored values become HU.

    Args:
        path: the file that holds it.
        index: which frame of the file, from 0.
        shape: rows, columns.
        spacing: mm from row to row, from column to column.
        along_row: unit vector, LPS, from one column to the next.
        along_column: unit vector from one row to the next.
        position: LPS mm of the first pixel's center.
        slope: HU of one stored unit.
        intercept: HU of the stored value 0.
        acquisition: temporal position and acquisition number; of slices at one place, the lowest comes first.
        number: instance or frame number; orders slices of one acquisition, and says nothing of their place.
    """

    path: Path
    index: int
    shape: tuple[int, int]
    spacing: np.ndarray
    along_row: np.ndarray
    along_column: np.ndarray
    position: np.ndarray
    slope: float
    intercept: float
    acquisition: tuple[int, int]
    number: int

    @property
    def normal(self) -> np.ndarray:
        """Unit vector, LPS, along which the slices are stacked."""
        return np.cross(self.along_row, self.along_column)

    @property
    def name(self) -> str:
        """What messages call it, by its number in viewers; never its file, for export programs put names there."""
        x, y, z = self.position
        return f"slice number {self.number} at ({x:.1f}, {y:.1f}, {z:.1f}) mm"


def frames_of(dataset: pydicom.Dataset, path: Path, label: str) -> list[Frame]:
    """The frames of a CT file, localizers among them left out.

    Args:
        dataset: header without pixels.
        path: its file.
        label: what messages call the file; never by its name.

    Raises:
        InputError: a tag is missing or is no number, or an enhanced file's groups do not match its frames.
    """
    if "PerFrameFunctionalGroupsSequence" not in dataset:
        return [_frame(dataset, 0, path, label)]
    groups = dataset.PerFrameFunctionalGroupsSequence
    claimed = int(tag_numbers(dataset, "NumberOfFrames", 1, label)[0])
    if claimed != len(groups):
        rule = f"NumberOfFrames and the per-frame groups must agree, {claimed} and {len(groups)} arrived"
        raise InputError(f"{label}: {rule}; export the series again")
    headers = [classic_header(dataset, index) for index in range(len(groups))]
    return [
        _frame(header, index, path, label)
        for index, header in enumerate(headers)
        if "LOCALIZER" not in str(header.get("ImageType", ""))
    ]


def classic_header(dataset: pydicom.Dataset, index: int) -> pydicom.Dataset:
    """The header that frame `index` of an enhanced file would have as a classic file: its own groups, then shared."""
    header = pydicom.Dataset()
    for tag in ("Rows", "Columns", "SamplesPerPixel", "ImageType"):
        if tag in dataset:
            header[tag] = dataset[tag]
    header.InstanceNumber = index + 1
    shared = dataset.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()]
    for sequence, tags in FUNCTIONAL_GROUPS.items():
        for group in (shared[0], dataset.PerFrameFunctionalGroupsSequence[index]):
            items = group.get(sequence)
            for there, here in tags.items() if items else ():
                if there in items[0]:
                    header.add_new(here, items[0][there].VR, items[0][there].value)
    return header


def _frame(dataset: pydicom.Dataset, index: int, path: Path, label: str) -> Frame:
    def numbers(tag: str, count: int) -> np.ndarray:
        return tag_numbers(dataset, tag, count, label)

    rows, columns, samples = (int(numbers(tag, 1)[0]) for tag in ("Rows", "Columns", "SamplesPerPixel"))
    orientation = numbers("ImageOrientationPatient", 6).reshape(2, 3)
    if samples != 1 or np.abs(orientation @ orientation.T - np.eye(2)).max() > 1e-3:
        rule = "a slice must have one value per pixel, and rows perpendicular to columns"
        found = f"{samples} and orientation {orientation.ravel().tolist()}"
        raise InputError(f"{label}: {rule}, {found} arrived; export the series again")
    along_row = orientation[0] / np.linalg.norm(orientation[0])
    along_column = orientation[1] - (orientation[1] @ along_row) * along_row  # tags have six digits: make it exact
    return Frame(
        path=path,
        index=index,
        shape=(rows, columns),
        spacing=numbers("PixelSpacing", 2),
        along_row=along_row,
        along_column=along_column / np.linalg.norm(along_column),
        position=numbers("ImagePositionPatient", 3),
        slope=float(numbers("RescaleSlope", 1)[0]),
        intercept=float(numbers("RescaleIntercept", 1)[0]),
        acquisition=(
            tag_integer(dataset, "TemporalPositionIndex") or 0,
            tag_integer(dataset, "AcquisitionNumber") or 0,
        ),
        number=tag_integer(dataset, "InstanceNumber") or 0,
    )
