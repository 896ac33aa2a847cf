"""What a DICOM object made from a CT series takes over from it: places and references, patient and study.

Needs pydicom 3, so nothing that runs inside MONAI Label may import it.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pydicom
from pydicom import DataElement, Dataset
from pydicom.config import disable_value_validation
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataelem import RawDataElement
from pydicom.tag import BaseTag, Tag
from pydicom.valuerep import STR_VR

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.input.dicom_frames import classic_header

# Without these nothing can refer to a slice or lie where it lies.
REQUIRED = ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"]
PLACE = ["Rows", "Columns", "PixelSpacing", "SliceThickness", "ImageOrientationPatient", "ImagePositionPatient"]
GROUPS = ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"]  # of an enhanced file
OPTIONAL = ["Modality", "PositionReferenceIndicator"]
OPTIONAL += ["LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"]
# Every public attribute of these groups is of the modules Patient, Patient Study or Clinical Trial; those of General
# Study are scattered over other groups.
PATIENT_GROUPS = (0x0010, 0x0012)
STUDY = [
    "SpecificCharacterSet",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "StudyDescription",
    "AccessionNumber",
    "IssuerOfAccessionNumberSequence",
    "ReferringPhysicianName",
    "ConsultingPhysicianName",
    "PhysiciansOfRecord",
    "NameOfPhysiciansReadingStudy",
    "RequestingService",
    "AdmittingDiagnosesDescription",
    "ReferencedStudySequence",
    "ProcedureCodeSequence",
]
# DICOM's type 2: present in every object, though perhaps empty.
ALWAYS_PRESENT = ["PatientName", "PatientID", "PatientBirthDate", "PatientSex", "ReferringPhysicianName"]
ALWAYS_PRESENT += ["StudyDate", "StudyTime", "StudyID", "AccessionNumber"]


@dataclass(frozen=True)
class SourceSeries:
    """Headers of the CT slices that a volume was read from.

    Args:
        slices: of each slice from k = 0 up, what names and places it; nothing of the patient.
        first: the first slice's whole header, as it is stored.
        frame_numbers: of each slice, its number in its enhanced file, from 1; None for a classic file.
    """

    slices: Sequence[Dataset]
    first: Dataset
    frame_numbers: Sequence[int | None]

    @classmethod
    def read(cls, files: Sequence[Path], frames: Sequence[int] = ()) -> SourceSeries:
        """Read the headers of slices in the order of k; their pixels stay on the disk.

        Args:
            files: of each slice; an enhanced file again for each of its frames.
            frames: of each slice, its place among the frames of its file, from 0; the first ones if not given.

        Raises:
            InputError: a file cannot be read any more, or lacks what an object that refers to it must know.
        """
        with unchecked_values():
            headers: dict[Path, Dataset] = {}
            slices, numbers = [], []
            for number, (path, frame) in enumerate(zip(files, frames or [0] * len(files), strict=True), 1):
                if path not in headers:
                    headers[path] = _header(path, number, [*REQUIRED, *PLACE, *OPTIONAL, *GROUPS])
                slices.append(_placed(headers[path], frame, number))
                numbers.append(frame + 1 if GROUPS[1] in headers[path] else None)
            for keyword in ("StudyInstanceUID", "FrameOfReferenceUID"):
                found = len({str(one[keyword].value) for one in slices})
                if found > 1:
                    rule = f"{keyword} must be the same in all slices"
                    raise InputError(f"{rule}, {found} different ones arrived; export the series again")
            return cls(slices, _header(files[0], 1), numbers)

    def give_identity(self, target: Dataset) -> list[str]:
        """Copy the patient's and the study's attributes to another object of the same study.

        Text is copied byte for byte, together with its character set and whatever it looks like, because archives tell
        by it that two objects are of one patient.

        Args:
            target: gets the attributes; of those that every object must have, the ones that are missing become empty.

        Returns:
            Keywords of damaged attributes, which were left out.
        """
        for keyword in ALWAYS_PRESENT:
            setattr(target, keyword, None)
        tags = [tag for tag in self.first.keys() if tag.group in PATIENT_GROUPS]  # noqa: SIM118 - decodes no values
        tags += [Tag(keyword) for keyword in STUDY if keyword in self.first]
        lost = []
        for tag in tags:
            try:
                if keyword_for_tag(tag):
                    target[tag] = _copied(self.first, tag)
            except Exception:  # pydicom raises whatever a damaged value leads it to
                lost.append(keyword_for_tag(tag))
        return lost


@contextlib.contextmanager
def unchecked_values() -> Iterator[None]:
    """Let pydicom and highdicom take sloppy values as they are, without remarks, which could quote a name."""
    loggers = {each: each.level for each in map(logging.getLogger, ("pydicom", "highdicom"))}
    with warnings.catch_warnings(), disable_value_validation():
        warnings.simplefilter("ignore")
        try:
            for each in loggers:
                each.setLevel(logging.CRITICAL)
            yield
        finally:
            for each, level in loggers.items():
                each.setLevel(level)


def _header(path: Path, number: int, keywords: list[str] | None = None) -> Dataset:
    # A message ends in the report, so it gives a slice's number and no file's name: export programs put names there.
    try:
        # By force, because some exports leave out the preamble; what is no DICOM at all has none of REQUIRED.
        return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=keywords, force=True)
    except Exception as error:  # it was read before, so it was changed or removed since
        found = type(error).__name__
        raise InputError(f"slice {number} must still be in its place, {found} arrived; run the case again") from error


def _placed(stored: Dataset, frame: int, number: int) -> Dataset:
    """Of one slice what names and places it, from the header of its file."""
    placed, place = Dataset(), stored
    with contextlib.suppress(Exception):  # a frame that is not there any more lacks what is looked for next
        place = classic_header(stored, frame) if GROUPS[1] in stored else stored
    for keyword in (*REQUIRED, *PLACE, *OPTIONAL):
        header = place if keyword in PLACE else stored
        with contextlib.suppress(Exception):  # missing, empty or damaged
            if header[keyword].value not in (None, ""):
                placed[keyword] = header[keyword]
    missing = [keyword for keyword in REQUIRED if keyword not in placed]
    if missing:
        raise InputError(f"slice {number} must have a {missing[0]}, none arrived; export the series again")
    return placed


def _copied(source: Dataset, tag: BaseTag) -> DataElement | RawDataElement:
    """An attribute with its standard value representation, ready to be written."""
    stored, representation = source.get_item(tag), dictionary_VR(tag)
    if isinstance(stored, RawDataElement) and representation in STR_VR:
        text = stored.value or b""
        text += (b"\0" if representation == "UI" else b" ") * (len(text) % 2)
        return stored._replace(VR=representation, length=len(text), value=text, is_implicit_VR=False)
    element = DataElement(tag, representation, source[tag].value)
    probe = Dataset()
    probe.add(element)
    probe.SpecificCharacterSet = source.get("SpecificCharacterSet")
    pydicom.dcmwrite(BytesIO(), probe, implicit_vr=False, little_endian=True)  # raises for values that have no encoding
    return element
