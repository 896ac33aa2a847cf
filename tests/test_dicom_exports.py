"""What hospitals export is read: odd folders, lost preambles, enhanced files, tilted gantries, repeats, any padding."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    BasicTextSRStorage,
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    XRayRadiationDoseSRStorage,
    generate_uid,
)
from scipy import ndimage

from bundle.skull_implant.errors import CaseRefused, InputError
from bundle.skull_implant.input.dicom_identity import looks_like_dicom
from bundle.skull_implant.input.dicom_series import find_ct_series, read_dicom_folder
from bundle.skull_implant.input.dicom_slices import SliceRules
from bundle.skull_implant.input.reading import case_name, read_case
from tests.dicom_files import (
    compress_slice,
    head_voxels,
    rotation,
    tilted,
    without_preamble,
    write_disc,
    write_enhanced,
    write_series,
)


@pytest.mark.parametrize("keep_meta", [True, False])
@pytest.mark.parametrize("syntax", [None, ImplicitVRLittleEndian])
def test_files_without_a_preamble_are_read(tmp_path: Path, keep_meta: bool, syntax: str | None) -> None:
    def edit(dataset: Dataset, k: int) -> None:
        dataset.file_meta.TransferSyntaxUID = syntax or dataset.file_meta.TransferSyntaxUID

    voxels = head_voxels()
    files = write_series(tmp_path, voxels, edit=edit)
    for path in files[::2]:  # some exports mix both
        without_preamble(path, keep_meta)
    volume, info = read_dicom_folder(tmp_path)
    np.testing.assert_array_equal(volume.voxels, voxels)
    assert info["reference_files"] == files


def test_big_endian_files_without_a_preamble_are_read(tmp_path: Path) -> None:
    voxels = head_voxels()
    for path in write_series(tmp_path, voxels):
        dataset = dcmread(path)
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
        del dataset.file_meta
        dcmwrite(path, dataset, implicit_vr=False, little_endian=False, force_encoding=True)
    np.testing.assert_array_equal(read_dicom_folder(tmp_path)[0].voxels, voxels)


@pytest.mark.parametrize(
    "head",
    [b"", b"#!/bin/sh\n" * 20, bytes(400), b"\x08\x00\x05\x00" + b"zz" * 200, b"\x1f\x8b\x08\x00" * 50, b"BM" * 99],
)
def test_other_files_do_not_look_like_dicom(head: bytes) -> None:
    assert not looks_like_dicom(head)


def test_a_disc_that_was_copied_in_part_is_refused_however_its_files_are_called_now(tmp_path: Path) -> None:
    disc = write_disc(tmp_path, head_voxels((24, 22, 21)))
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, path in enumerate(sorted(each for each in disc.rglob("*") if each.is_file())):
        path.rename(flat / (path.name.lower() if path.name == "DICOMDIR" else f"{number:03d}.bin"))
    assert read_case(flat).volume.grid.size == (24, 22, 21)
    places = {dcmread(path).get("ImagePositionPatient", [0, 0, -99])[2]: path for path in flat.glob("*.bin")}
    places[max(places)].unlink()  # the top of the head: the other slices are evenly spaced
    with pytest.raises(
        CaseRefused, match=r"series 1: all 22 files that the DICOMDIR lists .* 1 are not; copy the disc"
    ):
        read_case(flat)
    assert read_case(flat, series_number=2, minimum_slices=5, minimum_extent_mm=1.0).volume.grid.size == (24, 22, 9)


@pytest.mark.parametrize("length", [0, 200, 1500, -40])
def test_a_damaged_dicomdir_is_not_needed(tmp_path: Path, length: int) -> None:
    disc = write_disc(tmp_path, head_voxels((24, 22, 21)))
    content = (disc / "DICOMDIR").read_bytes()
    (disc / "DICOMDIR").write_bytes(content[:length])
    assert read_case(disc).volume.grid.size == (24, 22, 21)
    bent = bytearray(content)
    at = content.index(b"\x04\x00\x00\x14") + 8  # offset of a next record: now its own, a circle
    bent[at : at + 4] = content[content.index(b"\x04\x00\x00\x12") + 8 :][:4]
    (disc / "DICOMDIR").write_bytes(bytes(bent))
    assert read_case(disc).volume.grid.size == (24, 22, 21)


def test_an_export_with_a_dicomdir_is_read_by_folder_and_by_dicomdir(tmp_path: Path) -> None:
    voxels = head_voxels((24, 22, 21))
    write_disc(tmp_path, voxels)
    for path in (tmp_path / "disc").rglob("IM*"):
        if path.is_file():
            without_preamble(path, keep_meta=True)
    by_folder, by_file = read_case(tmp_path / "disc"), read_case(tmp_path / "disc" / "DICOMDIR")
    np.testing.assert_array_equal(by_folder.volume.voxels, voxels)
    assert by_file.source == by_folder.source
    assert by_file.name == by_folder.name == case_name(tmp_path / "disc" / "DICOMDIR") == "disc"


def test_reports_pictures_and_localizers_of_two_patients_are_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    voxels = head_voxels()
    series = write_series(tmp_path / "DICOM" / "A1" / "B", voxels, number=3)
    write_series(tmp_path / "DICOM" / "A2", head_voxels((12, 10, 7)), number=9)
    write_series(tmp_path / "DICOM" / "A1" / "C", head_voxels((12, 10, 2)), number=1, kind=("ORIGINAL", "LOCALIZER"))
    for name, storage in (("dose", XRayRadiationDoseSRStorage), ("text", BasicTextSRStorage)):
        report = dcmread(series[0])
        report.SOPClassUID, report.Modality, report.SOPInstanceUID = storage, "SR", generate_uid()
        del report.PixelData, report.Rows, report.Columns
        report.save_as(tmp_path / "DICOM" / "A1" / "B" / name)  # even with the series' own UID
    volume, info = read_dicom_folder(tmp_path)
    np.testing.assert_array_equal(volume.voxels, voxels)
    assert (info["series_number"], info["slice_count"]) == (3, 8)
    assert "series 3 (8 slices) of 2 CT series" in caplog.text
    assert "ecret" not in caplog.text


@pytest.mark.parametrize("direction", [np.eye(3), rotation(17.0, 24.0)])
def test_an_enhanced_file_comes_back_voxel_for_voxel(tmp_path: Path, direction: np.ndarray) -> None:
    voxels = head_voxels()
    path = write_enhanced(tmp_path / "deep" / "file", voxels, direction=direction)
    volume, info = read_dicom_folder(tmp_path)
    np.testing.assert_array_equal(volume.voxels, voxels)
    np.testing.assert_allclose(volume.grid.spacing, (0.5, 0.7, 1.25), atol=1e-8)
    np.testing.assert_allclose(volume.grid.origin, (-11.0, 23.0, -37.0), atol=1e-8)
    np.testing.assert_allclose(np.reshape(volume.grid.direction, (3, 3)), direction, atol=1e-8)
    assert (info["series_number"], info["slice_count"], info["reference_files"]) == (4, 8, [path] * 8)


def test_each_frame_of_an_enhanced_file_has_its_own_slope_and_intercept(tmp_path: Path) -> None:
    voxels = np.round(head_voxels() / 2.0) * 2.0
    write_enhanced(tmp_path / "file", voxels, rescale=lambda k: (2.0, -1024.0) if k % 2 else (1.0, -1000.0 - k))
    np.testing.assert_array_equal(read_dicom_folder(tmp_path)[0].voxels, voxels)


def test_an_enhanced_file_competes_by_its_frames(tmp_path: Path) -> None:
    write_enhanced(tmp_path / "file", head_voxels())
    write_series(tmp_path, head_voxels((12, 10, 5)), number=2)
    assert [(one.number, one.slice_count) for one in find_ct_series(tmp_path)] == [(4, 8), (2, 5)]


def test_an_enhanced_localizer_frame_is_left_out(tmp_path: Path) -> None:
    def edit(dataset: Dataset) -> None:
        kind = Dataset()
        kind.FrameType = ["ORIGINAL", "PRIMARY", "LOCALIZER", "NONE"]
        last = [float(group.PlanePositionSequence[0].ImagePositionPatient[2]) for group in groups(dataset)]
        groups(dataset)[int(np.argmax(last))].CTImageFrameTypeSequence = [kind]

    def groups(dataset: Dataset) -> list[Dataset]:
        return dataset.PerFrameFunctionalGroupsSequence

    voxels = head_voxels()
    write_enhanced(tmp_path / "file", voxels, edit=edit)
    np.testing.assert_array_equal(read_dicom_folder(tmp_path)[0].voxels, voxels[:, :, :-1])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda dataset: setattr(dataset, "NumberOfFrames", 4000),
            "NumberOfFrames and the per-frame groups must agree",
        ),
        (lambda dataset: delattr(dataset, "PerFrameFunctionalGroupsSequence"), "this enhanced CT is cut off"),
        (
            lambda dataset: delattr(dataset, "SharedFunctionalGroupsSequence"),
            "ImageOrientationPatient must be 6 numbers",
        ),
        (lambda dataset: delattr(dataset, "Rows"), "Rows must be a number"),
        (lambda dataset: setattr(dataset, "PixelData", bytes(100)), "its pixels cannot be decoded"),
    ],
)
def test_a_spoiled_enhanced_file_is_refused(tmp_path: Path, spoil, message: str) -> None:
    write_enhanced(tmp_path / "file", head_voxels(), edit=spoil)
    with pytest.raises(InputError, match=message):
        read_dicom_folder(tmp_path)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEGLosslessSV1])
def test_compressed_enhanced_files_are_decoded(tmp_path: Path, syntax: str) -> None:
    voxels = head_voxels((16, 16, 5))
    path = write_enhanced(tmp_path / "file", voxels)
    dataset = dcmread(path)
    if syntax == JPEGLosslessSV1:  # SimpleITK can write it, a frame at a time
        frames = []
        stored = dataset.pixel_array
        for classic in write_series(tmp_path / "classic", stored.transpose(2, 1, 0).astype(np.int32) - 1024):
            compress_slice(classic, "JPEG", signed=False)
            frames.append(next(generate_frames(dcmread(classic.with_suffix(".dcm")).PixelData, number_of_frames=1)))
            classic.with_suffix(".dcm").unlink()
        dataset.PixelData = encapsulate(frames)
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    elif syntax == JPEGLSLossless:
        pytest.importorskip("jpeg_ls", reason="no encoder for JPEG-LS")
        dataset.compress(syntax, generate_instance_uid=False)
    else:
        dataset.compress(syntax, generate_instance_uid=False)
    dataset.save_as(path)
    np.testing.assert_array_equal(read_dicom_folder(tmp_path)[0].voxels, voxels)


# A JPEG-LS frame of 4 x 4 pixels of 12 bits, made by CharLS: 0, 100, ... 1500.
JPEG_LS_FRAME = (
    "ffd8fff7000b0b0004000401011100ffda0008010100000000809c09c09c00000100143180a0000001031184c611e602f988ffd9"
)


def test_jpeg_ls_slices_are_decoded(tmp_path: Path) -> None:
    def edit(dataset: Dataset, k: int) -> None:
        dataset.file_meta.TransferSyntaxUID = JPEGLSLossless
        dataset.BitsStored, dataset.HighBit = 12, 11
        dataset.PixelData = encapsulate([bytes.fromhex(JPEG_LS_FRAME)])
        dataset["PixelData"].is_undefined_length = True

    write_series(tmp_path, np.full((4, 4, 3), -1000, np.int16), edit=edit)
    expected = np.arange(0, 1600, 100).reshape(4, 4).T - 1024
    np.testing.assert_array_equal(read_dicom_folder(tmp_path)[0].voxels[:, :, 1], expected)


def test_a_jpeg_2000_frame_of_another_size_is_refused(tmp_path: Path) -> None:
    for path in write_series(tmp_path, head_voxels((16, 16, 3))):
        compress_slice(path, "JPEG2000", signed=False)
    path = tmp_path / "IM01_0001.dcm"
    data = bytearray(path.read_bytes())
    start = data.index(b"\xff\x4f\xff\x51")
    data[start + 8 : start + 12] = (60000).to_bytes(4, "big")
    path.write_bytes(data)
    with pytest.raises(InputError, match="the compressed frame is 16 x 60000 x 1 of 16 bits"):
        read_dicom_folder(tmp_path)


def test_a_large_deflated_file_is_not_unpacked(tmp_path: Path) -> None:
    def edit(dataset: Dataset, k: int) -> None:
        dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian

    voxels = head_voxels()
    write_series(tmp_path, voxels, edit=edit)
    np.testing.assert_array_equal(read_dicom_folder(tmp_path)[0].voxels, voxels)
    path = next(tmp_path.iterdir())
    path.write_bytes(path.read_bytes()[:500] + bytes(5_000_000))
    with pytest.raises(InputError, match=r"damaged DICOM \(1 files\)"):
        read_dicom_folder(_alone(path))


def _alone(path: Path) -> Path:
    folder = path.parent / "alone"
    folder.mkdir()
    path.rename(folder / path.name)
    return folder


def test_values_below_air_become_air(tmp_path: Path) -> None:
    voxels = head_voxels()
    voxels[0] = -2000  # as scanners write outside their round field of view, without a tag
    write_series(tmp_path, voxels, signed=True, intercept=0.0)
    expected = voxels.copy()
    expected[0] = -1024
    np.testing.assert_array_equal(read_dicom_folder(tmp_path)[0].voxels, expected)


@pytest.mark.parametrize("signed", [False, True])
def test_bits_above_those_that_count_are_ignored(tmp_path: Path, signed: bool) -> None:
    def edit(dataset: Dataset, k: int) -> None:
        dataset.BitsStored, dataset.HighBit = 12, 11
        stored = np.frombuffer(dataset.PixelData, "<u2") & 0x0FFF  # negative values lose their sign bits
        dataset.PixelData = (stored | (0 if signed else 0x8000)).astype("<u2").tobytes()  # an overlay of old times

    voxels = head_voxels()
    write_series(tmp_path, voxels, signed=signed, intercept=0.0 if signed else -1024.0, edit=edit)
    np.testing.assert_array_equal(read_dicom_folder(tmp_path)[0].voxels, voxels)


def test_a_padding_value_beyond_the_stored_bits_becomes_air(tmp_path: Path) -> None:
    def edit(dataset: Dataset, k: int) -> None:
        dataset.BitsStored, dataset.HighBit = 12, 11
        dataset.add_new("PixelPaddingValue", "US", 63536)

    voxels = head_voxels().astype(np.int32)
    voxels[0] = 63536 - 1024
    write_series(tmp_path, voxels, edit=edit)
    assert (read_dicom_folder(tmp_path)[0].voxels[0] == -1024).all()


def _twice(acquisition: int, changed: bool):
    """Slices 8 to 15 repeat the places of 0 to 7, and their pixels too unless `changed`."""

    def edit(dataset: Dataset, k: int) -> None:
        dataset.AcquisitionNumber = 1 if k < 8 else acquisition
        dataset.ImagePositionPatient = [-11.0, 23.0, -37.0 + 1.25 * (k % 8)]
        if k >= 8 and not changed:
            dataset.PixelData = first[k - 8]
        first.setdefault(k, dataset.PixelData)

    first: dict[int, bytes] = {}
    return edit


def test_equal_slices_at_one_place_are_kept_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    voxels = head_voxels((12, 10, 16))
    write_series(tmp_path, voxels, edit=_twice(acquisition=1, changed=False))
    np.testing.assert_array_equal(read_dicom_folder(tmp_path)[0].voxels, voxels[:, :, :8])
    assert "left out 8 of 16 slices" in caplog.text


def test_different_slices_at_one_place_of_one_acquisition_are_refused(tmp_path: Path) -> None:
    write_series(tmp_path, head_voxels((12, 10, 16)), edit=_twice(acquisition=1, changed=True))
    with pytest.raises(CaseRefused, match=r"one slice at a place, .* arrived, with other pixels; export one"):
        read_dicom_folder(tmp_path)


def test_of_two_acquisitions_the_first_is_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    voxels = head_voxels((12, 10, 16))
    write_series(tmp_path, voxels, edit=_twice(acquisition=2, changed=True))
    np.testing.assert_array_equal(read_dicom_folder(tmp_path)[0].voxels, voxels[:, :, :8])
    assert "the first whole acquisition is taken" in caplog.text


def _begun_again(aborted: int, whole: bool):
    """Acquisition 1 ends after `aborted` slices; acquisition 2 has all, or those from 2 before its end on."""

    def edit(dataset: Dataset, k: int) -> None:
        dataset.AcquisitionNumber = 1 if k < aborted else 2
        place = k if k < aborted else k - aborted if whole else k - 2
        dataset.ImagePositionPatient = [-11.0, 23.0, -37.0 + 1.25 * place]

    return edit


def test_of_an_aborted_and_a_whole_acquisition_the_whole_one_is_taken(tmp_path: Path) -> None:
    """Between the two the patient may have moved: slices of both would be a head with a step."""
    voxels = head_voxels((12, 10, 16))
    write_series(tmp_path, voxels, edit=_begun_again(aborted=4, whole=True))
    volume, info = read_dicom_folder(tmp_path)
    np.testing.assert_array_equal(volume.voxels, voxels[:, :, 4:])
    assert "acquisitions" not in info


def test_overlapping_acquisitions_of_which_none_is_whole_are_counted(tmp_path: Path) -> None:
    voxels = head_voxels((12, 10, 16))
    write_series(tmp_path, voxels, edit=_begun_again(aborted=8, whole=False))
    volume, info = read_dicom_folder(tmp_path)
    np.testing.assert_array_equal(volume.voxels, np.delete(voxels, [8, 9], axis=2))
    assert info["acquisitions"] == 2


@pytest.mark.parametrize("degrees", [4.0, -15.0, 25.0])
def test_gantry_tilt_is_corrected_onto_an_upright_grid(
    tmp_path: Path, degrees: float, caplog: pytest.LogCaptureFixture
) -> None:
    """A slope in space, sampled by tilted slices, is the same slope on the upright grid, wherever it was sampled."""
    size, spacing, origin = (12, 30, 8), (0.5, 0.7, 1.25), (-11.0, 23.0, -37.0)
    lean = np.tan(np.radians(degrees))

    def slope(grid_origin, shear: float, shape) -> np.ndarray:
        i, j, k = np.indices(shape)
        x = grid_origin[0] + i * spacing[0]
        y = grid_origin[1] + j * spacing[1] + shear * k * spacing[2]
        return 20.0 * x + 10.0 * y + 30.0 * (origin[2] + k * spacing[2]) + 1000.0

    voxels = np.rint(slope(origin, lean, size)).astype(np.int16)
    files = write_series(tmp_path, voxels, edit=tilted(degrees))
    volume, info = read_dicom_folder(tmp_path)
    added = int(np.ceil(7 * spacing[2] * abs(lean) / spacing[1]))
    assert volume.grid.size == (12, 30 + added, 8)
    assert volume.grid.spacing == pytest.approx(spacing)
    assert volume.grid.origin == pytest.approx((-11.0, 23.0 - (added * spacing[1] if degrees < 0 else 0.0), -37.0))
    covered = volume.voxels > -900
    assert covered.sum(axis=(0, 1)).min() >= 12 * 28
    expected = slope(volume.grid.origin, 0.0, volume.grid.size)
    inner = ndimage.binary_erosion(covered, np.ones((1, 3, 1)))
    assert np.abs(volume.voxels - expected)[inner].max() <= 1.0  # HU, rounded twice
    assert (info["slice_count"], info["gantry_tilt_degrees"]) == (8, pytest.approx(abs(degrees), abs=0.01))
    assert "upright" in info["grid"]
    assert info["reference_files"] == files
    assert f"gantry tilt of {abs(degrees):.1f} degrees, resampled" in caplog.text


def test_a_tilt_by_whole_pixels_moves_them_unchanged(tmp_path: Path) -> None:
    voxels = head_voxels()
    write_series(tmp_path, voxels, edit=tilted(np.degrees(np.arctan(2 * 0.7 / 1.25))), spacing=(0.5, 0.7, 1.25))
    volume, _ = read_dicom_folder(tmp_path, rules=SliceRules(maximum_tilt_degrees=50.0))
    for k in range(8):
        np.testing.assert_array_equal(volume.voxels[:, 2 * k : 2 * k + 10, k], voxels[:, :, k])
        assert (np.delete(volume.voxels[:, :, k], np.s_[2 * k : 2 * k + 10], axis=1) == -1024).all()


def test_a_tilt_that_no_gantry_has_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path, head_voxels(), edit=tilted(40.0))
    with pytest.raises(CaseRefused, match=r"at most 31 degrees, .*40 degrees and .* arrived; export it without"):
        read_dicom_folder(tmp_path)


def test_slices_displaced_sideways_are_refused(tmp_path: Path) -> None:
    def edit(dataset: Dataset, k: int) -> None:
        dataset.ImagePositionPatient = [-11.0 + (3.0 if k in (3, 4) else 0.0), 23.0, -37.0 + 1.25 * k]

    write_series(tmp_path, head_voxels(), edit=edit)
    with pytest.raises(CaseRefused, match=r"straight to 0.5 mm, 0 degrees and 3 mm arrived"):
        read_dicom_folder(tmp_path)
