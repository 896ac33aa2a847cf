"""Write a CT volume as a DICOM series: one file a slice, as a scanner would."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import format_number_as_ds

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.volume import Grid, Volume


def write_ct_series(
    folder: Path,
    volume: Volume,
    *,
    patient_name: str = "SYNTHETIC^DEMO",
    patient_id: str = "DEMO-0000",
    series_description: str = "Synthetic head, no patient",
    uid_seed: str | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Write CT Image Storage files, Explicit VR Little Endian, all of them or none.

    Stored values are unsigned 16 bit with rescale intercept -1024 and slope 1, so whole HU come back exactly. Slice
    k of the volume is file number k + 1; a row of pixels runs along i, a column along j.

    Args:
        folder: is created; takes its name only when every file is written.
        volume: HU, voxels `(X, Y, Z)`, from -1024 to 64511; any direction that is a rotation.
        patient_name: DICOM person name; plainly no one's unless given.
        patient_id: the same.
        series_description: shown by viewers.
        uid_seed: the same text gives the same UIDs; None draws new ones.
        overwrite: replace an existing folder, with all that is in it.

    Returns:
        The files, in the order of k.

    Raises:
        InputError: the folder exists, or values or direction cannot be written.
    """
    _check(folder, volume, overwrite)
    study, series, frame = (_uid(uid_seed, kind) for kind in ("study", "series", "frame of reference"))
    partial = folder.with_name(f".partial.{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        for k in range(volume.grid.size[2]):
            slice_ = _slice(volume, k, _uid(uid_seed, f"slice {k}"))
            slice_.PatientName, slice_.PatientID = patient_name, patient_id
            slice_.SeriesDescription = series_description
            slice_.StudyInstanceUID, slice_.SeriesInstanceUID, slice_.FrameOfReferenceUID = study, series, frame
            slice_.save_as(partial / f"IM{k + 1:04d}.dcm", enforce_file_format=True)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return sorted(folder.iterdir())


def _check(folder: Path, volume: Volume, overwrite: bool) -> None:
    if folder.exists() and not overwrite:
        raise InputError(f"{folder}: already there; name another folder or pass --overwrite")
    low, high = float(volume.voxels.min()), float(volume.voxels.max())
    if not (low >= -1024 and high <= 64511):
        raise InputError(f"{folder}: HU from {low:g} to {high:g} cannot be stored, -1024 to 64511 can; clip them")
    turn = np.reshape(volume.grid.direction, (3, 3))
    if not np.allclose(turn.T @ turn, np.eye(3), atol=1e-5) or np.linalg.det(turn) < 0:
        raise InputError(
            f"{folder}: the direction is no rotation (determinant {np.linalg.det(turn):.3f}); flip an axis"
        )


def _uid(seed: str | None, kind: str) -> str:
    return generate_uid(entropy_srcs=None if seed is None else ["skull implant bundle", seed, kind])


def _slice(volume: Volume, k: int, uid: str) -> FileDataset:
    """One image, all but what names patient, study and series."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, uid
    image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    image.Modality, image.Manufacturer, image.InstitutionName = "CT", "none", "none"
    image.StudyDate = image.SeriesDate = image.ContentDate = "20000101"
    image.StudyTime = image.SeriesTime = image.ContentTime = "000000"
    image.PatientBirthDate = image.PatientSex = image.ReferringPhysicianName = ""
    image.AccessionNumber = image.PositionReferenceIndicator = image.KVP = ""
    image.StudyID, image.SeriesNumber, image.AcquisitionNumber, image.InstanceNumber = "1", 1, 1, k + 1
    image.PatientPosition, image.BurnedInAnnotation = "HFS", "NO"
    _place(image, volume.grid, k)
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 0
    image.RescaleIntercept, image.RescaleSlope, image.RescaleType = -1024, 1, "HU"
    image.WindowCenter, image.WindowWidth = 400, 2000
    stored = np.rint(volume.voxels[:, :, k].T.astype(np.float64)) + 1024  # (X, Y) -> (rows, columns)
    image.PixelData = stored.astype("<u2").tobytes()
    return image


def _place(image: FileDataset, grid: Grid, k: int) -> None:
    """Image plane attributes; a decimal string holds 16 characters, so about 1e-11 mm is lost at most."""
    direction = np.reshape(grid.direction, (3, 3))
    corner = grid.affine @ (0.0, 0.0, float(k), 1.0)
    image.Columns, image.Rows = grid.size[0], grid.size[1]
    image.PixelSpacing = [format_number_as_ds(float(grid.spacing[1])), format_number_as_ds(float(grid.spacing[0]))]
    image.SliceThickness = format_number_as_ds(float(grid.spacing[2]))
    image.ImagePositionPatient = [format_number_as_ds(float(x)) for x in corner[:3]]
    image.ImageOrientationPatient = [format_number_as_ds(float(x)) for x in (*direction[:, 0], *direction[:, 1])]
