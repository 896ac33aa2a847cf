"""DICOM series, written by hand with known places and values, come back as the volume they are, or are refused."""

from __future__ import annotations

import errno
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom import dcmread
from pydicom.uid import (
    ImplicitVRLittleEndian,
    MRImageStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from bundle.skull_implant.errors import CaseRefused, InputError
from bundle.skull_implant.input import dicom_pixels
from bundle.skull_implant.input.dicom_series import find_ct_series, read_dicom_folder
from tests.dicom_files import compress_slice, head_voxels, rotation, write_series


@pytest.mark.parametrize(
    "direction",
    [
        np.eye(3),
        rotation(17.0, 24.0),
        rotation(90.0),  # coronal
        rotation(180.0, 5.0),  # feet last: k runs down
    ],
)
def test_an_oblique_series_in_shuffled_files_comes_back_voxel_for_voxel(tmp_path: Path, direction: np.ndarray) -> None:
    voxels = head_voxels()
    files = write_series(tmp_path, voxels, direction=direction)
    volume, info = read_dicom_folder(tmp_path)
    assert volume.voxels.dtype == np.int16
    np.testing.assert_array_equal(volume.voxels, voxels)
    np.testing.assert_allclose(volume.grid.spacing, (0.5, 0.7, 1.25), atol=1e-8)
    np.testing.assert_allclose(volume.grid.origin, (-11.0, 23.0, -37.0), atol=1e-8)
    np.testing.assert_allclose(np.reshape(volume.grid.direction, (3, 3)), direction, atol=1e-8)
    assert info.pop("reference_files") == files
    assert info.pop("reference_frames") == [0] * 8
    assert info == {"format": "DICOM", "modality": "CT", "series_number": 1, "slice_count": 8}


def test_the_grid_is_the_one_that_itk_reads(tmp_path: Path) -> None:
    write_series(tmp_path, head_voxels(), direction=rotation(-12.0, 31.0))
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path)))
    image = reader.Execute()
    volume, _ = read_dicom_folder(tmp_path)
    np.testing.assert_array_equal(volume.voxels.T, sitk.GetArrayFromImage(image))
    for index in [(0, 0, 0), (11, 9, 7), (3, 5, 2)]:
        expected = image.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose((volume.grid.affine @ [*index, 1.0])[:3], expected, atol=1e-6)


def test_the_ct_series_with_the_most_slices_is_taken_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    write_series(tmp_path / "a", head_voxels((12, 10, 5)), number=2)
    write_series(tmp_path / "b" / "deep", head_voxels((12, 10, 9)), number=3)
    write_series(tmp_path / "c", head_voxels((12, 10, 20)), number=4, modality="MR", storage=MRImageStorage)
    write_series(tmp_path / "d", head_voxels((12, 10, 21)), number=5, kind=("ORIGINAL", "PRIMARY", "LOCALIZER"))
    write_series(tmp_path / "e", head_voxels((12, 10, 22)), number=6, storage=SecondaryCaptureImageStorage)
    (tmp_path / "notes.txt").write_text("not DICOM")
    (tmp_path / "empty").touch()
    volume, info = read_dicom_folder(tmp_path)
    assert (info["series_number"], volume.grid.size) == (3, (12, 10, 9))
    assert "series 3 (9 slices) of 2 CT series" in caplog.text
    assert "Secret" not in caplog.text
    assert [one.number for one in find_ct_series(tmp_path)] == [3, 2]


def test_a_series_is_taken_by_its_number(tmp_path: Path) -> None:
    write_series(tmp_path, head_voxels((12, 10, 5)), number=2)
    write_series(tmp_path, head_voxels((12, 10, 9)), number=3)
    assert read_dicom_folder(tmp_path, series_number=2)[1]["slice_count"] == 5
    with pytest.raises(InputError, match=r"no CT series has the number 7, 3 \(9 slices\), 2 \(5 slices\) arrived"):
        read_dicom_folder(tmp_path, series_number=7)
    write_series(tmp_path / "another", head_voxels((12, 10, 6)), number=2)
    with pytest.raises(InputError, match=r"one CT series must have the number 2, 2 arrived, of 6, 5 slices"):
        read_dicom_folder(tmp_path, series_number=2)


def test_copies_and_time_points_do_not_make_a_series_longer(tmp_path: Path) -> None:
    def repeated(dataset, k):
        dataset.ImagePositionPatient = [-11.0, 23.0, -37.0 + 1.25 * (k % 4)]
        dataset.AcquisitionNumber = 1 + k // 4

    write_series(tmp_path, head_voxels((12, 10, 9)), number=3)
    write_series(tmp_path, head_voxels((12, 10, 16)), number=2, edit=repeated)
    assert [(one.number, one.slice_count) for one in find_ct_series(tmp_path)] == [(3, 9), (2, 4)]


@pytest.mark.parametrize(
    ("kind", "rescale_type", "name"),
    [
        (("DERIVED", "SECONDARY", "MIP"), "HU", "CT projection"),
        (("DERIVED", "PRIMARY", "PROJECTION IMAGE", "MINIP"), "", "CT projection"),
        (("ORIGINAL", "PRIMARY", "AXIAL"), "ED", "CT map not in HU"),
    ],
)
def test_what_is_no_ct_in_hu_is_passed_over(
    tmp_path: Path, kind: tuple[str, ...], rescale_type: str, name: str
) -> None:
    def edit(dataset, k):
        dataset.RescaleType = rescale_type

    write_series(tmp_path / "a", head_voxels((12, 10, 9)), number=2, kind=kind, edit=edit)
    with pytest.raises(CaseRefused, match=rf"must hold a CT series, {name} \(9 files\) arrived"):
        read_dicom_folder(tmp_path)
    write_series(tmp_path / "b", head_voxels((12, 10, 5)), number=3)
    assert read_dicom_folder(tmp_path)[1]["series_number"] == 3


def test_a_localizer_within_the_series_is_left_out(tmp_path: Path) -> None:
    def edit(dataset, k):
        if k == 0:
            dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    voxels = head_voxels()
    write_series(tmp_path, voxels, edit=edit)
    np.testing.assert_array_equal(read_dicom_folder(tmp_path)[0].voxels, voxels[:, :, 1:])


def test_fractional_slopes_give_float_hu(tmp_path: Path) -> None:
    voxels = np.linspace(-1000.0, 2000.0, 12 * 10 * 4).reshape(12, 10, 4)
    write_series(tmp_path, voxels, slope=0.5, intercept=-1000.25)
    volume, _ = read_dicom_folder(tmp_path)
    assert volume.voxels.dtype == np.float32
    np.testing.assert_allclose(volume.voxels, np.round((voxels + 1000.25) / 0.5) * 0.5 - 1000.25, atol=1e-3)


def test_each_slice_has_its_own_slope_and_intercept(tmp_path: Path) -> None:
    def edit(dataset, k):
        dataset.RescaleSlope, dataset.RescaleIntercept = (2, -1024) if k == 1 else (1, -1024 + k)

    voxels = np.full((4, 5, 3), -1000, np.int16)  # stored as 24
    write_series(tmp_path, voxels, edit=edit)
    assert read_dicom_folder(tmp_path)[0].voxels[0, 0].tolist() == [-1000, -976, -998]


def test_hu_beyond_int16_stay_exact(tmp_path: Path) -> None:
    voxels = np.full((4, 5, 3), 60000, np.int32)
    write_series(tmp_path, voxels)
    assert (read_dicom_folder(tmp_path)[0].voxels == 60000).all()


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize(("signed", "tag_value"), [(True, -2000), (True, 63536), (False, 63536), (False, 5)])
def test_padding_becomes_air(tmp_path: Path, signed: bool, tag_value: int, implicit: bool) -> None:
    stored = -2000 if signed else tag_value

    def edit(dataset, k):
        if implicit:
            dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        representation = "SS" if tag_value < 0 else "US"
        if not (implicit and signed and tag_value > 0):
            dataset.add_new("PixelPaddingValue", representation, tag_value)
        else:
            dataset.add_new("PixelPaddingValue", "SS", stored)

    voxels = head_voxels()
    expected = voxels.copy()
    expected[0, :, :] = -1024
    padded = voxels.astype(np.int32)
    padded[0, :, :] = stored - 1024
    write_series(tmp_path, padded, signed=signed, edit=edit)
    np.testing.assert_array_equal(read_dicom_folder(tmp_path)[0].voxels, expected)


def test_a_range_of_padding_becomes_air(tmp_path: Path) -> None:
    def edit(dataset, k):
        dataset.add_new("PixelPaddingValue", "US", 10)
        dataset.add_new("PixelPaddingRangeLimit", "US", 0)

    voxels = np.full((4, 5, 3), -1000, np.int16)
    voxels[0, 0], voxels[1, 1], voxels[2, 2] = -1024, -1014, -1013
    write_series(tmp_path, voxels, edit=edit)
    result = read_dicom_folder(tmp_path)[0].voxels[:, :, 1]
    assert (result[0, 0], result[1, 1], result[2, 2], result[3, 3]) == (-1024, -1024, -1013, -1000)


def test_one_of_two_slices_at_one_place_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def edit(dataset, k):
        dataset.AcquisitionNumber = 1 if k < 8 else 2
        if k >= 8:
            position = np.array([-11.0, 23.0, -37.0 + 1.25 * (k - 8)])
            dataset.ImagePositionPatient = position.tolist()

    voxels = head_voxels((12, 10, 16))
    write_series(tmp_path, voxels, edit=edit)
    np.testing.assert_array_equal(read_dicom_folder(tmp_path)[0].voxels, voxels[:, :, :8])
    assert "left out 8 of 16 slices" in caplog.text


def test_positions_rounded_to_a_tenth_of_a_millimeter_are_even(tmp_path: Path) -> None:
    def edit(dataset, k):
        dataset.ImagePositionPatient = [0.0, 0.0, round(0.625 * k, 1)]

    write_series(tmp_path, head_voxels((12, 10, 33)), edit=edit)
    assert read_dicom_folder(tmp_path)[0].grid.spacing[2] == pytest.approx(0.625)


@pytest.mark.parametrize("missing", [1, 4, 6])
@pytest.mark.parametrize("step", [0.2, 0.625, 5.0])
def test_a_missing_slice_is_named_by_its_gap(tmp_path: Path, missing: int, step: float) -> None:
    files = write_series(tmp_path, head_voxels(), spacing=(1.0, 1.0, step))
    files[missing].unlink()
    number = dcmread(files[missing - 1]).InstanceNumber
    place = re.escape(f"(-11.0, 23.0, {-37.0 + (missing - 1) * step:.1f}) mm, {missing} of 7")
    found = rf"{step:.4g} mm, then {2 * step:.4g} mm after slice number {number} at {place}"
    with pytest.raises(CaseRefused, match=rf"series 1: slices must be evenly spaced, {found}"):
        read_dicom_folder(tmp_path)


def _unalike(dataset, k):
    if k == 2:
        dataset.Rows = 9


def _turned(dataset, k):
    if k == 2:
        dataset.ImageOrientationPatient = [0, 1, 0, 1, 0, 0]


def _twice(dataset, k):
    if k == 2:
        dataset.ImagePositionPatient = [-11.0, 23.0, -37.0 + 1.25]


def _away(dataset, k):
    if k > 4:
        dataset.ImagePositionPatient = [-11.0, 23.0, -30.0 + 1.25 * k]


@pytest.mark.parametrize("edit", [_unalike, _turned, _twice, _away])
def test_what_ends_in_a_report_names_no_file(tmp_path: Path, edit) -> None:
    for k, path in enumerate(write_series(tmp_path / "case", head_voxels(), edit=edit)):
        path.rename(path.with_name(f"Secret_Name_19010203_{k}"))
    with pytest.raises(CaseRefused) as refused:
        read_dicom_folder(tmp_path / "case")
    (reason,) = refused.value.reasons
    assert "slice number" in reason
    assert "Secret" not in reason
    assert "19010203" not in reason


def _drop(tag):
    def edit(dataset, k):
        if k == 2:
            del dataset[tag]

    return edit


@pytest.mark.parametrize(
    "tag",
    ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept", "Rows"],
)
def test_a_missing_tag_is_named_with_its_file(tmp_path: Path, tag: str) -> None:
    files = write_series(tmp_path, head_voxels(), edit=_drop(tag))
    number = sorted(files).index(files[2]) + 1
    with pytest.raises(InputError, match=rf"series 1, file {number} by name: {tag} must be"):
        read_dicom_folder(tmp_path)


@pytest.mark.parametrize("tag", ["PixelData", "PhotometricInterpretation"])
def test_a_slice_without_pixels_is_named(tmp_path: Path, tag: str) -> None:
    files = write_series(tmp_path, head_voxels(), edit=_drop(tag))
    number = dcmread(files[2]).InstanceNumber
    with pytest.raises(InputError, match=rf"series 1, slice number {number} at .* its pixels cannot be decoded"):
        read_dicom_folder(tmp_path)


def _set(tag, value, only=2):
    def edit(dataset, k):
        if k == only:
            setattr(dataset, tag, value)

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_set("Rows", 9), "slices must be of one size, 12 x 10 at 0.5 mm and 12 x 9 at 0.5 mm"),
        (_set("PixelSpacing", [0.7, 0.6]), "slices must be of one size, 12 x 10 at 0.5 mm and 12 x 10 at 0.6 mm"),
        (_set("ImageOrientationPatient", [0, 1, 0, 1, 0, 0]), "slices must be parallel"),
        (_set("ImageOrientationPatient", [1, 0, 0, 1, 0, 0]), "rows perpendicular to columns"),
        (_set("ImageOrientationPatient", [0, 0, 0, 0, 0, 0]), "rows perpendicular to columns"),
        (_set("SamplesPerPixel", 3), "one value per pixel"),
        (_set("PixelSpacing", [0.7]), "PixelSpacing must be 2 numbers"),
        (_set("PixelData", b"\0" * 20), "its pixels cannot be decoded"),
    ],
)
def test_an_odd_slice_is_refused(tmp_path: Path, edit, message: str) -> None:
    write_series(tmp_path, head_voxels(), edit=edit)
    with pytest.raises(InputError, match=message):
        read_dicom_folder(tmp_path)


def test_a_single_slice_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path, head_voxels((12, 10, 1)))
    with pytest.raises(InputError, match="at least 2 slices, 1 arrived"):
        read_dicom_folder(tmp_path)


def test_huge_claims_are_refused_before_pixels_are_read(tmp_path: Path) -> None:
    def edit(dataset, k):
        dataset.Rows = dataset.Columns = 60000

    write_series(tmp_path, head_voxels(), edit=edit)
    with pytest.raises(InputError, match="at most 1000000000 voxels, 60000 x 60000 x 8 arrived"):
        read_dicom_folder(tmp_path)


def test_mr_is_refused_by_name(tmp_path: Path) -> None:
    write_series(tmp_path, head_voxels(), modality="MR", storage=MRImageStorage)
    with pytest.raises(InputError, match=r"must hold a CT series, MR \(8 files\) arrived"):
        read_dicom_folder(tmp_path)


def test_links_to_folders_are_told(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    write_series(tmp_path / "elsewhere", head_voxels())
    (tmp_path / "study" / "series").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"links to folders \(1\), which are not followed arrived; give the folder"):
        read_dicom_folder(tmp_path / "study")


def test_a_full_folder_for_temporary_files_is_not_the_scans_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_series(tmp_path, head_voxels())
    monkeypatch.setattr(dicom_pixels, "_stored", full)
    with pytest.raises(InputError, match=r"temporary files must have room, got: No space left on device; .* TMPDIR"):
        read_dicom_folder(tmp_path)


def test_folders_without_dicom_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="an empty folder arrived"):
        read_dicom_folder(tmp_path)
    (tmp_path / "scan.nii.gz").write_bytes(b"x" * 500)
    with pytest.raises(InputError, match=r"not DICOM \(1 files\) arrived"):
        read_dicom_folder(tmp_path)


def test_a_slice_cut_off_in_its_header_is_not_passed_over(tmp_path: Path) -> None:
    files = write_series(tmp_path, head_voxels())
    files[-1].write_bytes(files[-1].read_bytes()[:380])
    number = sorted(files).index(files[-1]) + 1
    with pytest.raises(InputError, match=rf", file {number} by name: this CT slice is cut off"):
        read_dicom_folder(tmp_path)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.9])
def test_a_slice_cut_off_anywhere_is_refused(tmp_path: Path, share: float) -> None:
    files = write_series(tmp_path, head_voxels())
    data = files[-1].read_bytes()
    files[-1].write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InputError, match=r"file \d by name: this CT slice|slice number \d at .* its pixels"):
        read_dicom_folder(tmp_path)


def test_noise_after_a_dicom_preamble_does_no_harm(tmp_path: Path) -> None:
    voxels = head_voxels()
    write_series(tmp_path, voxels)
    noise = np.random.default_rng(0)
    for index in range(20):
        (tmp_path / f"noise{index}").write_bytes(bytes(128) + b"DICM" + noise.bytes(300))
    np.testing.assert_array_equal(read_dicom_folder(tmp_path)[0].voxels, voxels)


def test_a_damaged_file_is_passed_over_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    voxels = head_voxels()
    files = write_series(tmp_path, voxels)
    data = files[0].read_bytes()
    files[0].write_bytes(data.replace(b"\x20\x00\x0e\x00UI", b"\x20\x00\x0e\x00II"))  # no such value representation
    np.testing.assert_array_equal(read_dicom_folder(tmp_path)[0].voxels, voxels[:, :, 1:])
    assert f", file {sorted(files).index(files[0]) + 1} by name: passed over, a damaged DICOM file" in caplog.text


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "header cut": lambda data: data[:380],
    "pixels cut": lambda data: data[: len(data) - 100],
    "no position": lambda data: data.replace(b"\x20\x00\x32\x00DS", b"\x21\x00\x32\x00DS"),
    "no pixels": lambda data: data.replace(b"\xe0\x7f\x10\x00OW", b"\xe0\x7f\x11\x00OW"),
    "no such representation": lambda data: data.replace(b"\x20\x00\x0e\x00UI", b"\x20\x00\x0e\x00II"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_no_message_has_the_name_of_a_file_or_of_a_folder_below(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Export programs put names of patients there; the case's own folder is named by the user."""
    files = write_series(tmp_path / "case" / "ZWIEBEL_FISCH", head_voxels())
    for path in files:
        path.rename(path.with_name(f"FISCH_{path.name}"))
    path = sorted((tmp_path / "case" / "ZWIEBEL_FISCH").iterdir())[3]
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    told = ""
    try:
        read_dicom_folder(tmp_path / "case")
    except InputError as error:
        told = str(error)
    told += caplog.text
    assert "case" in told
    assert "FISCH" not in told
    assert "ZWIEBEL" not in told


def test_a_file_that_cannot_be_opened_is_not_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(tmp_path / "case", head_voxels())

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path / "case" / "IM01_0001"))

    monkeypatch.setattr("bundle.skull_implant.input.dicom_pixels._stored_padding", refuse)
    with pytest.raises(InputError, match=r"decoded \(Permission denied\)") as caught:
        read_dicom_folder(tmp_path / "case")
    assert "IM01" not in str(caught.value)


def test_links_in_a_circle_and_pipes_do_not_hang(tmp_path: Path) -> None:
    write_series(tmp_path / "series", head_voxels())
    (tmp_path / "series" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "series" / "self").symlink_to(tmp_path / "series" / "self")
    os.mkfifo(tmp_path / "series" / "pipe")
    assert read_dicom_folder(tmp_path)[1]["slice_count"] == 8


def test_too_many_files_stop_the_search(tmp_path: Path) -> None:
    write_series(tmp_path, head_voxels())
    with pytest.raises(InputError, match="holds more than 5 files; give the folder of one scan"):
        read_dicom_folder(tmp_path, maximum_files=5)


@pytest.mark.parametrize("compressor", ["JPEG", "JPEG2000"])  # JPEG: lossless, the common one in archives
@pytest.mark.parametrize("signed", [False, True])
def test_compressed_slices_are_decoded(tmp_path: Path, compressor: str, signed: bool) -> None:
    voxels = head_voxels((16, 16, 4))
    for path in write_series(tmp_path, voxels, signed=signed, intercept=0.0 if signed else -1024.0):
        compress_slice(path, compressor, signed)
    assert dcmread(tmp_path / "IM01_0000.dcm").file_meta.TransferSyntaxUID.is_compressed
    np.testing.assert_array_equal(read_dicom_folder(tmp_path)[0].voxels, voxels)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"\xff\xc3\x00\x0b\x10", b"\xff\xc3\x00\x0b\x55", "16 x 16 x 1 of 85 bits"),  # GDCM ends the process
        (b"\xff\xc3\x00\x0b\x10\x00\x10", b"\xff\xc3\x00\x0b\x10\xff\x10", "65296 x 16 x 1 of 16 bits"),
        (b"\xfe\xff\x00\xe0\x00\x00\x00\x00", b"\xfe\xff\x00\xe0\x00\x00\x00\xde", "do not fit together"),  # 4 GB
        (b"\xff\xd8\xff\xc3", b"\xff\xd8\x00\xc3", "has no header"),
        (b"\xff\xd8\xff\xc3", b"\xff\x00\xff\xc3", "has no header"),
    ],
)
def test_damaged_compressed_slices_are_refused(tmp_path: Path, old: bytes, new: bytes, reason: str) -> None:
    for path in write_series(tmp_path, head_voxels((16, 16, 3)), signed=True, intercept=0.0):
        compress_slice(path, "JPEG", signed=True)
    path = tmp_path / "IM01_0001.dcm"
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))
    with pytest.raises(InputError, match=rf"slice number \d at .* its pixels cannot be decoded \(.*{reason}\)"):
        read_dicom_folder(tmp_path)


def test_run_length_encoded_slices_are_decoded(tmp_path: Path) -> None:
    voxels = head_voxels()
    for path in write_series(tmp_path, voxels, signed=True, intercept=0.0):
        dataset = dcmread(path)
        dataset.compress(RLELossless, generate_instance_uid=False)
        dataset.save_as(path)
    np.testing.assert_array_equal(read_dicom_folder(tmp_path)[0].voxels, voxels)
