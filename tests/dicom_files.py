"""Tiny DICOM series for tests."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.fileset import FileSet
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

VOXELS = np.zeros((4, 4, 3), np.int16)  # where a test is not about them


def rotation(degrees_about_x: float, degrees_about_z: float = 0.0) -> np.ndarray:
    """3 x 3; its columns are the LPS directions of i, j and k."""
    x, z = np.radians([degrees_about_x, degrees_about_z])
    about_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    about_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    return about_z @ about_x


def head_voxels(size: tuple[int, int, int] = (12, 10, 8)) -> np.ndarray:
    """HU int16 `(X, Y, Z)`: air, and within it a different value in every voxel, so that no mix-up goes unseen."""
    voxels = np.full(size, -1000, np.int16)
    inner = voxels[1:-1, 1:-1, 1:-1]
    inner[...] = np.arange(inner.size).reshape(inner.shape) % 2000 - 100
    return voxels


def write_series(
    folder: Path,
    voxels: np.ndarray,
    *,
    direction: np.ndarray | None = None,
    spacing: tuple[float, float, float] = (0.5, 0.7, 1.25),
    origin: tuple[float, float, float] = (-11.0, 23.0, -37.0),
    number: int = 1,
    modality: str = "CT",
    storage: str = CTImageStorage,
    kind: tuple[str, ...] = ("ORIGINAL", "PRIMARY", "AXIAL"),
    intercept: float = -1024.0,
    slope: float = 1.0,
    signed: bool = False,
    edit: Callable[[Dataset, int], None] = lambda dataset, k: None,
) -> list[Path]:
    """Write HU `(X, Y, Z)` as one series, the numbers of its files and instances shuffled; `edit` may spoil slice k."""
    folder.mkdir(parents=True, exist_ok=True)
    direction = np.eye(3) if direction is None else direction
    shuffled = np.random.default_rng(number).permutation(voxels.shape[2])
    series, files = generate_uid(), []
    for k in range(voxels.shape[2]):
        dataset = Dataset()
        dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.SeriesInstanceUID = storage, generate_uid(), series
        dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = "Secret^Name", "secret-id", "19010203"
        dataset.Modality, dataset.SeriesNumber, dataset.ImageType = modality, number, list(kind)
        dataset.InstanceNumber = int(shuffled[k]) + 1
        dataset.PixelSpacing = [spacing[1], spacing[0]]
        dataset.ImageOrientationPatient = [f"{value:.9f}" for value in direction[:, :2].T.ravel()]
        position = np.asarray(origin) + k * spacing[2] * direction[:, 2]
        dataset.ImagePositionPatient = [f"{value:.9f}" for value in position]
        dataset.RescaleSlope, dataset.RescaleIntercept = slope, intercept
        dataset.Rows, dataset.Columns = voxels.shape[1], voxels.shape[0]
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
        dataset.PixelRepresentation = int(signed)
        stored = np.round((voxels[:, :, k].astype(np.float64) - intercept) / slope)
        dataset.PixelData = np.ascontiguousarray(stored.T.astype("<i2" if signed else "<u2")).tobytes()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        edit(dataset, k)
        path = folder / f"IM{number:02d}_{shuffled[k]:04d}"
        dataset.save_as(path, enforce_file_format=True)
        files.append(path)
    return files


def tilted(degrees: float, spacing: float = 1.25) -> Callable[[Dataset, int], None]:
    """An edit that leans the stack of slices along +y, as a tilted gantry does."""

    def edit(dataset: Dataset, k: int) -> None:
        shift = spacing * k * np.tan(np.radians(degrees))
        dataset.ImagePositionPatient = [f"{value:.6f}" for value in (-11.0, 23.0 + shift, -37.0 + spacing * k)]

    return edit


def write_enhanced(
    path: Path,
    voxels: np.ndarray,
    *,
    direction: np.ndarray | None = None,
    spacing: tuple[float, float, float] = (0.5, 0.7, 1.25),
    origin: tuple[float, float, float] = (-11.0, 23.0, -37.0),
    rescale: Callable[[int], tuple[float, float]] | None = None,
    edit: Callable[[Dataset], None] = lambda dataset: None,
) -> Path:
    """Write HU `(X, Y, Z)` as one enhanced multi-frame file, its frames shuffled.

    Orientation and spacing are shared; so are slope 1 and intercept -1024, unless `rescale` gives each slice its own.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    direction = np.eye(3) if direction is None else direction
    shuffled = np.random.default_rng(5).permutation(voxels.shape[2])
    dataset, shared = Dataset(), Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.SeriesInstanceUID = (
        EnhancedCTImageStorage,
        generate_uid(),
        generate_uid(),
    )
    dataset.PatientName, dataset.PatientID, dataset.Modality, dataset.SeriesNumber = "Secret^Name", "secret-id", "CT", 4
    dataset.ImageType, dataset.InstanceNumber = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], 1
    shared.PlaneOrientationSequence = [_item(ImageOrientationPatient=direction[:, :2].T.ravel().round(9).tolist())]
    shared.PixelMeasuresSequence = [_item(PixelSpacing=[spacing[1], spacing[0]], SliceThickness=spacing[2])]
    if rescale is None:
        shared.PixelValueTransformationSequence = [_item(RescaleIntercept=-1024, RescaleSlope=1, RescaleType="HU")]
    dataset.SharedFunctionalGroupsSequence = [shared]
    groups, stored = [], []
    for k in shuffled:
        group, (slope, intercept) = Dataset(), (rescale or (lambda _: (1.0, -1024.0)))(int(k))
        position = np.asarray(origin) + k * spacing[2] * direction[:, 2]
        group.PlanePositionSequence = [_item(ImagePositionPatient=position.round(9).tolist())]
        group.FrameContentSequence = [_item(FrameAcquisitionNumber=1)]
        if rescale is not None:
            item = _item(RescaleIntercept=intercept, RescaleSlope=slope, RescaleType="HU")
            group.PixelValueTransformationSequence = [item]
        groups.append(group)
        stored.append(np.round((voxels[:, :, k].astype(np.float64) - intercept) / slope).T.astype("<u2"))
    dataset.PerFrameFunctionalGroupsSequence, dataset.NumberOfFrames = groups, len(groups)
    dataset.Rows, dataset.Columns = voxels.shape[1], voxels.shape[0]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    dataset.PixelData = np.stack(stored).tobytes()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    edit(dataset)
    dataset.save_as(path, enforce_file_format=True)
    return path


def _item(**tags: object) -> Dataset:
    item = Dataset()
    for tag, value in tags.items():
        setattr(item, tag, value)
    return item


def without_preamble(path: Path, keep_meta: bool) -> None:
    """Take the preamble of a file away, and its file meta information too unless that is to be kept."""
    data = path.read_bytes()
    length = int.from_bytes(data[140:144], "little")  # of the group, given by its first element
    path.write_bytes(data[132:] if keep_meta else data[144 + length :])


def compress_slice(path: Path, compressor: str, signed: bool) -> None:
    """Write a file of a series anew with SimpleITK's compression."""
    plain = sitk.ReadImage(str(path), imageIO="GDCMImageIO")
    image = sitk.Cast(plain, sitk.sitkInt16 if signed else sitk.sitkUInt16)
    for key in plain.GetMetaDataKeys():
        image.SetMetaData(key, plain.GetMetaData(key))
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.KeepOriginalImageUIDOn()
    writer.UseCompressionOn()
    writer.SetCompressor(compressor)
    writer.SetFileName(str(path.with_suffix(".dcm")))
    writer.Execute(image)
    path.unlink()


def write_disc(folder: Path, voxels: np.ndarray) -> Path:
    """A disc with a DICOMDIR, a CT series with a localizer among its files, and a series of another patient."""

    def edit(dataset: Dataset, k: int) -> None:
        dataset.StudyInstanceUID, dataset.StudyID, dataset.AccessionNumber = f"1.2.{dataset.SeriesNumber}", "1", "2"
        dataset.StudyDate, dataset.StudyTime = "20000101", "000000"
        dataset.PatientID = f"secret-id-{dataset.SeriesNumber}"

    def localizer(dataset: Dataset, k: int) -> None:
        edit(dataset, k)
        dataset.SeriesInstanceUID = dcmread(files[0]).SeriesInstanceUID

    files = write_series(folder / "files", voxels, spacing=(3.0, 3.25, 4.5), edit=edit)
    files += write_series(folder / "other", voxels[:, :, :9], number=2, edit=edit)
    files += write_series(folder / "scout", voxels[:, :, :1], kind=("ORIGINAL", "PRIMARY", "LOCALIZER"), edit=localizer)
    disc = FileSet()
    for path in files:
        disc.add(path)
    disc.write(folder / "disc")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # of pydicom's own temporary folder
        del disc
        gc.collect()
    return folder / "disc"
