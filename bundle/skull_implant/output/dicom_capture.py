"""The preview as a DICOM Secondary Capture, for viewers that show nothing but DICOM.

Needs pydicom 3, so nothing that runs inside MONAI Label may import it.
"""

from __future__ import annotations

from pathlib import Path

import highdicom as hd
import numpy as np
from matplotlib.image import imread
from pydicom.uid import generate_uid

from bundle.skull_implant.output.dicom_derived import Creator, write_derived
from bundle.skull_implant.output.dicom_source import SourceSeries


def write_secondary_capture(
    path: Path, picture: Path, source: SourceSeries, creator: Creator, *, series_number: int = 9002
) -> list[str]:
    """Write a picture as an uncompressed RGB Secondary Capture of the source's study, whole or not at all.

    Args:
        path: target, `.dcm`.
        picture: a PNG file with nothing of the patient in it.
        source: gives patient and study.
        creator: what drew the picture.
        series_number: of the new series.

    Returns:
        Keywords of the source's patient and study attributes that are damaged and were left out.

    Raises:
        InputError: the series' headers are too odd for the object to be made.
        OSError: the picture cannot be read, or the file not be written.
    """
    pixels = np.rint(255 * imread(picture)[..., :3]).astype(np.uint8)  # (rows, columns, RGBA) in 0..1 -> RGB

    def make() -> hd.sc.SCImage:
        image = hd.sc.SCImage(
            pixel_array=pixels,
            photometric_interpretation="RGB",
            bits_allocated=8,
            coordinate_system="PATIENT",
            study_instance_uid=source.slices[0].StudyInstanceUID,
            series_instance_uid=generate_uid(),
            series_number=series_number,
            series_description="Preview of the implant, research only",
            sop_instance_uid=generate_uid(),
            instance_number=1,
            patient_orientation=("L", "P"),
            **creator.equipment(),
        )
        image.PatientOrientation = None  # six views in one picture have none, but highdicom asks for one
        image.ConversionType = "WSD"  # made at a workstation
        image.BurnedInAnnotation, image.BodyPartExamined = "NO", "SKULL"
        return image

    return write_derived(path, make, source, creator)
