"""What every DICOM object that is derived from a CT series has in common: its maker, its patient, whole files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset
from pydicom.charset import convert_encodings, default_encoding
from pydicom.filewriter import correct_ambiguous_vr
from pydicom.uid import generate_uid

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.output.dicom_source import SourceSeries, unchecked_values
from bundle.skull_implant.whole_files import whole_file


@dataclass(frozen=True)
class Creator:
    """What computed an object.

    Args:
        version: of the bundle.
        weights_sha256: hexadecimal; serves as the device's serial number, because it is the weights that tell one
            installation from another.
        name: of the bundle.
    """

    version: str
    weights_sha256: str
    name: str = "Skull implant bundle"

    def equipment(self) -> dict[str, str]:
        """Arguments of highdicom's objects."""
        return {
            "manufacturer": self.name,
            "manufacturer_model_name": self.name,
            "software_versions": self.version,
            "device_serial_number": self.weights_sha256,
        }

    @property
    def uid(self) -> str:
        """The same for every object that this version made with these weights."""
        return str(generate_uid(entropy_srcs=[self.name, self.version, self.weights_sha256]))


def write_derived(path: Path, make: Callable[[], Dataset], source: SourceSeries, creator: Creator) -> list[str]:
    """Make an object, give it the patient and study of its source, and write it, whole or not at all.

    Args:
        path: target, `.dcm`.
        make: returns the object, of no patient yet.
        source: gives patient and study.
        creator: what computed the object.

    Returns:
        Keywords of the source's patient and study attributes that are damaged and were left out.

    Raises:
        InputError: the series' headers are too odd for the object to be made; the reason quotes none of their values.
        OSError: the file cannot be written.
    """
    with unchecked_values(), whole_file(path) as partial:
        try:
            image = make()
            lost = source.give_identity(image)
            image.InstanceCreatorUID = creator.uid
            # Pixel data get their final type; and what was copied byte for byte is said to be in the encoding of the
            # file, or pydicom would decode it and encode it anew.
            correct_ambiguous_vr(image, True)
            image.set_original_encoding(False, True, _encodings(image))
            image.save_as(partial, enforce_file_format=True)
        except (OSError, MemoryError):
            raise
        except Exception as error:  # highdicom and pydicom refuse odd headers in many ways, and may quote them
            rule = "the headers must describe a CT series that can be referred to"
            raise InputError(f"{rule}, {type(error).__name__} arrived; export the series again") from error
    return lost


def _encodings(image: Dataset) -> str | list[str]:
    """Python's names of the character sets that an object declares."""
    declared = image.get("SpecificCharacterSet")
    return convert_encodings(declared) if declared else default_encoding
