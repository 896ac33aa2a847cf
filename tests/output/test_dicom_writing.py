"""A written CT series comes back exactly, through readers that are not ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.output.dicom_writing import write_ct_series
from bundle.skull_implant.volume import Grid, Volume

OBLIQUE = tuple(float(x) for x in Rotation.from_euler("xyz", [12, -7, 20], degrees=True).as_matrix().ravel())
PLAIN = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def ramp(direction: tuple[float, ...] = PLAIN) -> Volume:
    """Every voxel another value, from -1024."""
    grid = Grid((7, 5, 4), (0.451172, 0.6, 1.25), (-101.7, 33.333333333, -415.25), direction)
    return Volume(np.arange(140, dtype=np.int16).reshape(7, 5, 4) * 29 - 1024, grid)


@pytest.mark.parametrize("direction", [PLAIN, OBLIQUE], ids=["plain", "oblique"])
def test_gdcm_reads_back_the_same_hu_on_the_same_grid(tmp_path: Path, direction: tuple[float, ...]) -> None:
    volume = ramp(direction)

    write_ct_series(tmp_path / "ct", volume)

    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path / "ct"))
    again = Volume.from_image(sitk.ReadImage(names))
    np.testing.assert_array_equal(again.voxels, volume.voxels)
    assert again.grid.size == volume.grid.size
    np.testing.assert_allclose(again.grid.affine, volume.grid.affine, atol=1e-9)


def test_each_slice_is_where_the_standard_says(tmp_path: Path) -> None:
    volume = ramp(OBLIQUE)

    files = write_ct_series(tmp_path / "ct", volume)

    for k, path in enumerate(files):
        image = pydicom.dcmread(path)
        i, j = 6, 3
        row, column = np.array(image.ImageOrientationPatient[:3]), np.array(image.ImageOrientationPatient[3:])
        # DICOM PS3.3 C.7.6.2.1.1: PixelSpacing is (between rows, between columns)
        point = image.ImagePositionPatient + row * i * image.PixelSpacing[1] + column * j * image.PixelSpacing[0]
        np.testing.assert_allclose(point, (volume.grid.affine @ (i, j, k, 1))[:3], atol=1e-9)
        assert image.pixel_array[j, i] + image.RescaleIntercept == volume.voxels[i, j, k]
        assert image.InstanceNumber == k + 1


def test_files_are_valid_ct_of_plainly_no_one(tmp_path: Path) -> None:
    files = write_ct_series(tmp_path / "ct", ramp())

    images = [pydicom.dcmread(path) for path in files]
    first = images[0]
    assert first.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian
    assert first.SOPClassUID == pydicom.uid.CTImageStorage
    assert (str(first.PatientName), first.PatientID, first.InstitutionName) == ("SYNTHETIC^DEMO", "DEMO-0000", "none")
    assert len({image.SOPInstanceUID for image in images}) == 4
    assert len({image.SeriesInstanceUID for image in images}) == 1
    assert len({first.StudyInstanceUID, first.SeriesInstanceUID, first.FrameOfReferenceUID}) == 3
    assert all(image.SOPInstanceUID.is_valid for image in images)


def test_uids_follow_from_the_seed_or_are_new(tmp_path: Path) -> None:
    def series(name: str, seed: str | None) -> str:
        return str(pydicom.dcmread(write_ct_series(tmp_path / name, ramp(), uid_seed=seed)[0]).SeriesInstanceUID)

    assert series("a", "x") == series("b", "x")
    assert len({series("c", "y"), series("d", None), series("e", None), series("f", "x")}) == 4


def test_an_existing_folder_is_refused_and_replaced_only_when_asked(tmp_path: Path) -> None:
    write_ct_series(tmp_path / "ct", ramp())
    (tmp_path / "ct" / "other.txt").write_text("mine")

    with pytest.raises(InputError, match=r"ct: already there.*--overwrite"):
        write_ct_series(tmp_path / "ct", ramp())
    assert len(write_ct_series(tmp_path / "ct", ramp(), overwrite=True)) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["ct"]


def test_what_cannot_be_stored_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    volume = ramp()
    mirrored = Grid(volume.grid.size, volume.grid.spacing, volume.grid.origin, (-1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))

    with pytest.raises(InputError, match=r"HU from -2048 to .*clip"):
        write_ct_series(tmp_path / "ct", Volume(np.minimum(volume.voxels, -2048), volume.grid))
    with pytest.raises(InputError, match=r"no rotation \(determinant -1.000\)"):
        write_ct_series(tmp_path / "ct", Volume(volume.voxels, mirrored))
    assert not list(tmp_path.iterdir())
