"""What a file is to somebody who looks for CT series: told by what is in it, whatever its name and with any preamble.

Needs pydicom 3, so nothing that runs inside MONAI Label may import it.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage

NOT_DICOM, DAMAGED, CT = "not DICOM", "damaged DICOM", "CT"
NOT_HU = ("OD", "MGML", "Z_EFF", "ED", "EDW", "PCT")  # DICOM PS3.3 C.11.1.1.2: densities, atomic numbers, perfusion
DEFLATED = b"1.2.840.10008.1.2.1.99"
_TAGS = (
    "SOPClassUID SOPInstanceUID SeriesInstanceUID SeriesNumber Modality ImageType AcquisitionNumber "
    "TemporalPositionIndex InstanceNumber NumberOfFrames Rows Columns PixelSpacing ImageOrientationPatient "
    "ImagePositionPatient SamplesPerPixel RescaleSlope RescaleIntercept RescaleType SharedFunctionalGroupsSequence "
    "PerFrameFunctionalGroupsSequence"
)


@dataclass(frozen=True, eq=False)
class Identity:
    """What a file is.

    Args:
        kind: `NOT_DICOM`, `DAMAGED`, `CT` for slices to stack, or words for other DICOM.
        series_uid: empty where it has none.
        header: the tags that reading a series takes, and those that were asked for; None of what could not be read.
        damage: why it could not be read, without a word of its content.
        is_cut: a CT whose header ends too early, to be refused: passing over it could lose the top of the head.
    """

    kind: str
    series_uid: str = ""
    header: pydicom.Dataset | None = None
    damage: str = ""
    is_cut: bool = False


def identify(path: Path, more_tags: Sequence[str] = (), *, largest_deflated: int = 1 << 22) -> Identity:
    """Read of a file what tells whether it belongs to a CT series.

    Args:
        path: any file.
        more_tags: keywords of further tags to read; by themselves, none that identify the patient are.
        largest_deflated: bytes; larger deflated files count as damaged, for they unpack to a thousand times as much.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(400)
            if not looks_like_dicom(head):
                return Identity(NOT_DICOM)
            if DEFLATED in head and file.seek(0, os.SEEK_END) > largest_deflated:
                raise ValueError("deflated")
            file.seek(0)
            tags = [*_TAGS.split(), *more_tags]
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=tags, force=True)
        # Values are decoded here, when they are asked for, so damaged ones raise here.
        kind, series_uid = _kind(header), str(header.get("SeriesInstanceUID") or "")
        storage = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID")
        if not storage:
            raise ValueError("no SOP class")
        if "PerFrameFunctionalGroupsSequence" in header:
            len(header.PerFrameFunctionalGroupsSequence)
        for tag in more_tags:
            str(header.get(tag))
    except OSError:
        raise
    except Exception as error:  # pydicom raises whatever a damaged file leads it to
        return Identity(DAMAGED, damage=type(error).__name__)
    is_cut = storage == CTImageStorage and "Columns" not in header
    is_cut |= kind == CT and storage != CTImageStorage and "PerFrameFunctionalGroupsSequence" not in header
    return Identity(kind, series_uid, header, is_cut=is_cut)


def looks_like_dicom(head: bytes) -> bool:
    """Whether a file's first bytes are a DICOM preamble or, as in some exports, the first element of a data set.

    That element is of the file's or of the identifying group, and has a value representation or a short even length.
    """
    if head[128:132] == b"DICM":
        return True
    for order in ("<", ">") if len(head) >= 16 else ():
        group, element = struct.unpack_from(f"{order}HH", head)
        if group in (0x0002, 0x0008) and element <= 0x0018:
            length = struct.unpack_from(f"{order}I", head, 4)[0]
            return re.match(rb"UL|UI|CS|OB|DA|SH|LO", head[4:6]) is not None or (length <= 64 and length % 2 == 0)
    return False


def _kind(header: pydicom.Dataset) -> str:
    """`CT` for a slice to stack; else words for what the file is."""
    modality, storage = str(header.get("Modality", "")), header.get("SOPClassUID")
    if modality != "CT":
        return modality if re.fullmatch("[A-Z]{2,16}", modality) else "other DICOM"
    if storage not in (CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage):
        return "CT report or picture"
    image_type = str(header.get("ImageType", ""))
    if "LOCALIZER" in image_type:
        return "CT localizer"
    if re.search(r"\bMI(NI)?P\b|PROJECTION IMAGE", image_type):
        return "CT projection"
    return "CT map not in HU" if str(header.get("RescaleType") or "") in NOT_HU else CT
