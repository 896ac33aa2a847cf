"""What a user may hand over is read as it is, or refused in one line that says what to do."""

from __future__ import annotations

import gzip
import logging
import os
import struct
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom.uid import MRImageStorage

from bundle.skull_implant.errors import CaseRefused, InputError
from bundle.skull_implant.input.image_file import _stderr_silenced
from bundle.skull_implant.input.reading import content_hash, read_case
from bundle.skull_implant.steps.transforms import ReadCased
from bundle.skull_implant.volume import Grid, Volume, write_volume
from tests.dicom_files import head_voxels, rotation, write_series

SIZE = (24, 22, 21)
EXTENSIONS = [".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd"]
SINGLE_FILES = [".nii.gz", ".nii", ".nrrd", ".mha"]


def _grid(direction: np.ndarray | None = None, size: tuple[int, int, int] = SIZE) -> Grid:
    axes = rotation(-17.0, 24.0) if direction is None else direction
    return Grid(size, (3.0, 3.25, 4.5), (-30.0, 12.5, -870.0), tuple(axes.ravel().tolist()))


def _ct() -> np.ndarray:
    return head_voxels(SIZE)


def _mask() -> np.ndarray:
    mask = np.zeros(SIZE, np.uint8)
    mask[4:20, 5:18, 3:15] = 1
    return mask


def _write(path: Path, voxels: np.ndarray, grid: Grid | None = None, compress: bool = True) -> Path:
    sitk.WriteImage(Volume(voxels, grid or _grid()).to_image(), str(path), useCompression=compress)
    return path


def _refusal(path: Path | str, **limits: float) -> str:
    """The one line with which a path is refused."""
    with pytest.raises(InputError) as caught:
        read_case(path, **limits)
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 300
    return line


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize("direction", [rotation(-17.0, 24.0), np.diag([-1.0, 1.0, -1.0])], ids=["oblique", "flipped"])
def test_a_ct_is_read_with_its_values_and_its_grid(
    tmp_path: Path, extension: str, direction: np.ndarray, compress: bool
) -> None:
    path = _write(tmp_path / f"case.one{extension}", _ct(), _grid(direction), compress)
    case = read_case(path)
    assert (case.name, case.is_mask, case.volume.voxels.dtype) == ("case.one", False, np.int16)
    np.testing.assert_array_equal(case.volume.voxels, _ct())
    assert case.volume.grid == Grid.from_image(sitk.ReadImage(str(path)))
    np.testing.assert_allclose(case.volume.grid.affine, _grid(direction).affine, rtol=1e-6, atol=1e-6)
    assert case.source["name"] == path.name
    assert str(tmp_path) not in str(case.source)
    assert case.reference_files == ()


@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_voxels_of_0_and_1_are_a_mask_whatever_their_type(tmp_path: Path, extension: str, dtype: type) -> None:
    case = read_case(_write(tmp_path / f"skull{extension}", _mask().astype(dtype)))
    assert (case.is_mask, case.volume.voxels.dtype) == (True, np.uint8)
    np.testing.assert_array_equal(case.volume.voxels, _mask())


@pytest.mark.parametrize(
    ("stored", "kept"),
    [(np.int16, np.int16), (np.int32, np.int16), (np.int64, np.int16), (np.float64, np.float32)],
)
def test_hu_are_kept_in_the_smallest_type(tmp_path: Path, stored: type, kept: type) -> None:
    voxels = read_case(_write(tmp_path / "ct.nrrd", _ct().astype(stored))).volume.voxels
    assert voxels.dtype == kept
    np.testing.assert_array_equal(voxels, _ct())


def test_hu_beyond_int16_are_kept(tmp_path: Path) -> None:
    voxels = _ct().astype(np.int32)
    voxels[9, 9, 9] = 64511  # metal on an extended scale
    assert read_case(_write(tmp_path / "ct.nrrd", voxels)).volume.voxels[9, 9, 9] == 64511


def test_the_slope_and_intercept_of_nifti_are_applied(tmp_path: Path) -> None:
    path = _write(tmp_path / "ct.nii", (_ct() + 1024).astype(np.uint16))
    _patch(path, 112, "<ff", 1.0, -1024.0)
    np.testing.assert_array_equal(read_case(path).volume.voxels, _ct())


@pytest.mark.parametrize("extension", [".nii.gz", ".nrrd", ".mha"])
def test_a_fourth_axis_of_length_one_is_left_out(tmp_path: Path, extension: str) -> None:
    image = sitk.JoinSeries([Volume(_ct(), _grid()).to_image()])
    sitk.WriteImage(image, str(tmp_path / f"ct{extension}"))
    case = read_case(tmp_path / f"ct{extension}")
    np.testing.assert_array_equal(case.volume.voxels, _ct())
    np.testing.assert_allclose(case.volume.grid.affine, _grid().affine, rtol=1e-6, atol=1e-6)


def test_the_hash_is_that_of_the_content_not_of_the_file(tmp_path: Path) -> None:
    first = read_case(_write(tmp_path / "a.nrrd", _ct())).source["sha256"]
    assert read_case(_write(tmp_path / "b.nrrd", _ct().astype(np.int32), compress=False)).source["sha256"] == first
    other = _ct()
    other[0, 0, 0] += 1
    assert read_case(_write(tmp_path / "c.nrrd", other)).source["sha256"] != first
    moved = Grid(SIZE, _grid().spacing, (-30.0, 12.5, -870.001), _grid().direction)
    assert content_hash(Volume(_ct(), moved)) != first


def test_a_dicom_folder_is_a_case_without_patient_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "scan"
    files = write_series(folder, _ct(), direction=rotation(11.0, 5.0), spacing=(3.0, 3.25, 4.5), number=7)
    write_series(folder, _ct()[:, :, :5], spacing=(3.0, 3.25, 4.5), number=8)
    case = read_case(folder)
    assert (case.name, case.is_mask, case.reference_files) == ("scan", False, tuple(files))
    np.testing.assert_array_equal(case.volume.voxels, _ct())
    expected = {"name": "scan", "format": "DICOM", "modality": "CT", "series_number": 7, "slice_count": 21}
    assert case.source == {**expected, "sha256": content_hash(case.volume)}
    assert not any(word in str(case.source) for word in ("Secret", "secret", "19010203"))
    monkeypatch.chdir(folder)
    assert read_case(".").name == "scan"
    assert "24 x 22 x 5 arrived" in _refusal(folder, series_number=8)
    with pytest.raises(CaseRefused, match="24 x 22 x 5 arrived"):
        ReadCased(series_number=8).step({"image": folder})
    assert "series_number is of a DICOM folder" in _refusal(_write(tmp_path / "ct.nrrd", _ct()), series_number=7)


def test_reading_files_needs_no_pydicom(tmp_path: Path) -> None:
    path = _write(tmp_path / "ct.nrrd", _ct())
    code = "import sys; sys.modules['pydicom'] = None\n"
    code += f"from bundle.skull_implant.input.reading import read_case; print(read_case({str(path)!r}).name)"
    root = Path(__file__).resolve().parents[2]
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert result.stdout == "ct\n"


def test_missing_inputs_are_named(tmp_path: Path) -> None:
    assert _refusal(tmp_path / "nope.nii.gz") == "nope.nii.gz: no such file or folder; check the path"
    assert "cannot be read" in _refusal(tmp_path / ("x" * 300))
    assert "none was named" in _refusal("")


def test_folders_without_a_ct_are_refused(tmp_path: Path) -> None:
    assert "must hold a CT series, an empty folder arrived" in _refusal(tmp_path)
    write_series(tmp_path, _ct(), modality="MR", storage=MRImageStorage)
    assert "must hold a CT series, MR (21 files) arrived" in _refusal(tmp_path)


def test_one_dicom_file_asks_for_its_folder(tmp_path: Path) -> None:
    files = write_series(tmp_path, _ct())
    assert "give the folder that holds the series" in _refusal(files[0])


@pytest.mark.parametrize("name", ["head.png", "head", "head.nii.zip", "head.gz", "head.img"])
def test_other_formats_are_refused_with_those_that_are_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("text")
    line = _refusal(tmp_path / name)
    assert line.startswith(f"{name}: unknown format; give a DICOM folder or one of .nii.gz, .nii, .nrrd")


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_text_under_an_image_name_is_refused(tmp_path: Path, extension: str, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / f"text{extension}"
    path.write_text("this is not an image\n" * 40)
    assert path.name in _refusal(path)
    path.write_bytes(b"")
    assert "the file is empty" in _refusal(path)
    assert capfd.readouterr().err == ""


def test_threads_that_read_at_the_same_time_leave_stderr_where_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    first_is_in, second_is_in = threading.Event(), threading.Event()

    def first() -> None:
        with _stderr_silenced():
            first_is_in.set()
            second_is_in.wait(0.3)  # in vain, if the second one has to wait

    def second() -> None:
        first_is_in.wait(10.0)
        with _stderr_silenced():
            second_is_in.set()
            reading.result(10.0)

    with ThreadPoolExecutor(2) as threads:
        reading = threads.submit(first)
        threads.submit(second).result(20.0)
    os.write(2, b"seen\n")

    assert capfd.readouterr().err == "seen\n"


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.97])
@pytest.mark.parametrize("extension", SINGLE_FILES)
def test_files_that_were_cut_off_are_refused(
    tmp_path: Path, extension: str, share: float, compress: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0).integers(-1000, 3000, SIZE, np.int16)
    path = _write(tmp_path / f"cut{extension}", noise, compress=compress)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    line = _refusal(path)
    assert "cut off" in line or "not readable as" in line
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("extension", [".nii.gz", ".nrrd", ".mha"])
def test_damaged_compressed_data_is_refused(tmp_path: Path, extension: str) -> None:
    path = _write(tmp_path / f"damaged{extension}", np.random.default_rng(0).integers(-1000, 3000, SIZE, np.int16))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x55
    path.write_bytes(data)
    assert "damaged" in _refusal(path)


def test_gzip_in_members_is_read(tmp_path: Path) -> None:
    plain = _write(tmp_path / "ct.nii", _ct()).read_bytes()
    members = [gzip.compress(plain[start : start + 5000]) for start in range(0, len(plain), 5000)]
    (tmp_path / "ct.nii.gz").write_bytes(b"".join(members))
    np.testing.assert_array_equal(read_case(tmp_path / "ct.nii.gz").volume.voxels, _ct())


@pytest.mark.parametrize("extension", [".nhdr", ".mhd"])
def test_a_header_without_its_data_file_is_refused(tmp_path: Path, extension: str) -> None:
    path = _write(tmp_path / f"head{extension}", _ct())
    data = next(file for file in tmp_path.iterdir() if file != path)
    data.rename(tmp_path / "elsewhere")
    assert f"its data file '{data.name}' is not beside it" in _refusal(path)


@pytest.mark.parametrize(
    "target", ["/dev/zero", "/dev/stdin", "../other.raw", "-", "LIST", "slice%03d.raw 1 9 1", "pipe"]
)
def test_a_header_cannot_point_elsewhere(tmp_path: Path, target: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, field, key in [("a.mhd", "ElementDataFile", "ElementDataFile ="), ("a.nhdr", "data file", "data file:")]:
        path = _write(tmp_path / name, _ct(), compress=False)
        lines = [f"{key} {target}" if line.startswith(field) else line for line in path.read_text().splitlines()]
        path.write_text("\n".join(lines) + "\n" * (2 if name.endswith("nhdr") else 1))
        assert f"its data file '{target}' is not beside it" in _refusal(path)


@pytest.mark.parametrize("axes", ["11", "73", "-1", "3\nNDims = 73", "three", ""])
def test_a_metaimage_with_more_axes_than_itk_has_room_for_is_refused(tmp_path: Path, axes: str) -> None:
    path = _write(tmp_path / "axes.mhd", _ct())
    path.write_text(path.read_text().replace("NDims = 3", f"NDims = {axes}"))
    assert "must be one 3-D volume, NDims" in _refusal(path)


@pytest.mark.parametrize("line", ["x" * 5000, "type: " + "x" * 5000, "space: " + "1 " * 5000, "kinds: " + "x" * 1500])
def test_an_nrrd_line_longer_than_itk_has_room_for_is_refused(tmp_path: Path, line: str) -> None:
    path = _write(tmp_path / "long.nrrd", _ct())
    path.write_bytes(path.read_bytes().replace(b"\n", f"\n{line}\n".encode(), 1))
    assert "not an NRRD header, or damaged" in _refusal(path)


def test_long_nrrd_remarks_are_read(tmp_path: Path) -> None:
    path = _write(tmp_path / "remarks.nrrd", _ct())
    remarks = f"\n# {'x' * 5000}\nSegment0_Tags:={'x' * 70000}\n".encode()
    path.write_bytes(path.read_bytes().replace(b"\n", remarks, 1))
    np.testing.assert_array_equal(read_case(path).volume.voxels, _ct())


NRRD_HEADER = (
    "NRRD0004\ntype: {type}\ndimension: 3\nsizes: {sizes}\nencoding: raw\nendian: little\n"
    "space: left-posterior-superior\nspace directions: {directions}\nspace origin: (0,0,0)\n\n"
)


@pytest.mark.parametrize("sizes", ["2000 2000 2000", "100000 100000 100", "900 1000 1000"])
def test_a_small_file_that_claims_gigabytes_is_refused_unread(tmp_path: Path, sizes: str) -> None:
    path = tmp_path / "huge.nrrd"
    path.write_text(NRRD_HEADER.format(type="double", sizes=sizes, directions="(1,0,0) (0,1,0) (0,0,1)") + "0" * 100)
    line = _refusal(path)
    assert "at most 1000000000 voxels" in line or "says 7200000000 bytes of voxels, 100 arrived" in line


@pytest.mark.parametrize(
    ("directions", "rule"),
    [
        ("(3,0,0) (1,3,0) (0,0,3)", "three perpendicular axes"),
        ("(3,0,0) (3,0,0) (0,0,3)", "three perpendicular axes"),
        ("(3,0,0) (0,0,0) (0,0,3)", "spacing must be 0.05 to 10 mm, 3 x 0 x 3 mm arrived"),
        ("(3,0,0) (0,3,0) (0,0,30)", "spacing must be 0.05 to 10 mm, 3 x 3 x 30 mm arrived"),
        ("(0.001,0,0) (0,3,0) (0,0,3)", "spacing must be 0.05 to 10 mm, 0.001 x 3 x 3 mm arrived"),
    ],
)
def test_impossible_grids_are_refused(tmp_path: Path, directions: str, rule: str) -> None:
    path = tmp_path / "grid.nrrd"
    data = _ct().T.tobytes()
    path.write_bytes(NRRD_HEADER.format(type="short", sizes="24 22 21", directions=directions).encode() + data)
    assert rule in _refusal(path)


def test_a_sheared_nifti_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "sheared.nii", _ct(), _grid(np.eye(3)))
    _patch(path, 252, "<hh", 0, 1)  # sform only
    _patch(path, 284, "<f", 0.9)
    assert "orthonormal" in _refusal(path)


def _write_forms(path: Path, sform: np.ndarray, code: int = 1) -> None:
    """A NIfTI file with the rigid qform of `_grid()`, in the scanner's frame, and this sform, LPS mm."""
    _write(path, _ct())
    _patch(path, 252, "<hh", 1, code)
    _patch(path, 280, "<12f", *(np.diag([-1, -1, 1]) @ sform[:3]).ravel())


@pytest.mark.parametrize("degrees", [1.0, 20.0])
def test_an_sform_with_the_gantrys_tilt_is_refused_though_the_qform_is_rigid(tmp_path: Path, degrees: float) -> None:
    """As dcm2niix writes it; ITK takes the qform and says nothing."""
    shear = np.eye(4)
    shear[1, 2] = np.tan(np.radians(degrees)) * 4.5 / 3.25
    _write_forms(tmp_path / "ct.nii", _grid().affine @ shear)
    with pytest.raises(InputError, match=rf"perpendicular, an sform sheared by {degrees:g} degrees arrived; give the"):
        read_case(tmp_path / "ct.nii")


def test_two_forms_that_differ_are_told_and_equal_ones_are_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    moved = _grid().affine.copy()
    _write_forms(tmp_path / "ct.nii", moved)
    assert np.allclose(read_case(tmp_path / "ct.nii").volume.grid.affine, moved, atol=1e-3)
    assert "sform" not in caplog.text
    moved[2, 3] += 35.0
    _write_forms(tmp_path / "ct.nii", moved, code=2)  # as programs for the brain leave it
    found = "qform and sform lie up to 35 mm apart; the qform is taken"
    assert "orientation" not in read_case(tmp_path / "ct.nii").source
    assert f"ct.nii: {found}" in caplog.text


def test_two_forms_of_which_one_is_a_mirror_image_are_for_review(tmp_path: Path) -> None:
    flipped = _grid().affine.copy()
    flipped[:, 0] *= -1.0
    _write_forms(tmp_path / "ct.nii", flipped, code=2)
    assert read_case(tmp_path / "ct.nii").source["orientation"].endswith("mm apart; the qform is taken")


def test_a_nifti_without_orientation_is_read_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    path = _write(tmp_path / "lost.nii", _ct())
    _patch(path, 252, "<hh", 0, 0)
    case = read_case(path)
    np.testing.assert_array_equal(case.volume.voxels, _ct())
    assert case.source["orientation"] == "no orientation in the header (qform, sform codes 0); axes taken as LPS"
    assert f"lost.nii: {case.source['orientation']}" in caplog.text


@pytest.mark.parametrize("extension", [".nii.gz", ".nrrd", ".mha"])
def test_images_that_are_not_one_volume_are_refused(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"image{extension}"
    image = Volume(_ct(), _grid(np.eye(3))).to_image()
    for other, rule in [
        (image[:, :, 5], "must be one 3-D volume, 2-D arrived (24 x 22)"),
        (sitk.JoinSeries([image, image]), "must be one 3-D volume, 4-D arrived (24 x 22 x 21 x 2)"),
        (sitk.Compose([image, image, image]), "must have one value per voxel, 3 arrived"),
    ]:
        sitk.WriteImage(other, str(path))
        assert rule in _refusal(path)


def _with(voxels: np.ndarray, value: float) -> np.ndarray:
    changed = voxels.astype(np.float32)
    changed[5, 5, 5] = value
    return changed


@pytest.mark.parametrize(
    ("voxels", "rule"),
    [
        (_with(_ct(), np.nan), "finite numbers"),
        (_with(_ct(), np.inf), "finite numbers"),
        (_with(_ct(), -np.inf), "finite numbers"),
        (_with(_mask(), np.nan), "finite numbers"),
        (np.zeros(SIZE, np.uint8), "every voxel is 0"),
        (np.ones(SIZE, np.uint8), "every voxel is 1"),
        (np.full(SIZE, -1000, np.int16), "every voxel is -1000"),
        (_mask() * 7, "a mask must hold 0 and 1, 0, 7 arrived"),
        (_mask() * 255, "a mask must hold 0 and 1, 0, 255 arrived"),
        (_mask().astype(np.float32) * 255, "a mask must hold 0 and 1, 0, 255 arrived"),
        (_mask() + 1, "a mask must hold 0 and 1, 1, 2 arrived"),
        (np.arange(np.prod(SIZE)).reshape(SIZE) % 118, "a mask must hold 0 and 1, 0, 1, 2, 3, 4 ... 117 arrived"),
        (_mask() * np.float32(0.5), "fractions of 0 to 0.5 arrived"),
        (_mask() * np.int16(-1), "a CT in HU must show air (below -200 HU), -1 to 0 arrived"),
        (_ct() + 1024, "a CT in HU must show air (below -200 HU), 24 to 2923 arrived"),  # offset, or MR
        (_with(_ct() + 1024, -300), "a CT in HU must show air"),
        (_with(_ct(), 1e9), "HU must be -32768 to 65535, -1000 to 1e+09 arrived"),
    ],
)
def test_values_that_are_neither_hu_nor_a_mask_are_refused(tmp_path: Path, voxels: np.ndarray, rule: str) -> None:
    assert rule in _refusal(_write(tmp_path / "values.nrrd", voxels))


def test_volumes_too_small_for_a_head_are_refused(tmp_path: Path) -> None:
    grid = _grid(size=(24, 22, 19))
    path = _write(tmp_path / "thin.nrrd", _ct()[:, :, :19], grid)
    assert "at least 20 voxels along each axis, 24 x 22 x 19 arrived" in _refusal(path)
    assert read_case(path, minimum_slices=19).volume.grid.size == (24, 22, 19)
    path = _write(tmp_path / "small.nrrd", _ct(), Grid(SIZE, (3.0, 2.5, 4.5), (0.0, 0.0, 0.0), tuple(np.eye(3).flat)))
    assert "at least 60 mm along each axis, 72 x 55 x 94.5 mm arrived" in _refusal(path)


def test_extensions_in_mixed_case_are_refused_before_itk_complains(tmp_path: Path) -> None:
    plain = _write(tmp_path / "ct.nii.gz", _ct())
    plain.rename(tmp_path / "ct.NII.gz")
    assert "rename it to end in .nii.gz" in _refusal(tmp_path / "ct.NII.gz")
    (tmp_path / "ct.NII.gz").rename(tmp_path / "ct.NII.GZ")
    assert read_case(tmp_path / "ct.NII.GZ").name == "ct"


@pytest.mark.parametrize("name", [b"bad\xff.nrrd", b"two\nlines.nrrd"])
def test_paths_that_are_not_text_are_refused_before_itk_dies_of_them(tmp_path: Path, name: bytes) -> None:
    path = _write(tmp_path / "ct.nrrd", _ct()).rename(tmp_path / os.fsdecode(name))
    assert "characters that are not text; rename it" in _refusal(path)


def test_names_in_any_script_are_read(tmp_path: Path) -> None:
    path = _write(tmp_path / "czaszka żółć 頭　蓋.nii.gz", _ct())
    assert read_case(path).name == "czaszka żółć 頭　蓋"


def test_pipes_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.nrrd")
    assert "neither a file nor a folder" in _refusal(tmp_path / "pipe.nrrd")


def test_files_that_may_not_be_read_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *args: object, **keywords: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    path = _write(tmp_path / "ct.nrrd", _ct())
    files = write_series(tmp_path / "scan", _ct())
    monkeypatch.setattr(Path, "open", refuse)  # as root, a mode of 0 would not do
    assert _refusal(path) == "ct.nrrd: cannot be read (Permission denied); check its permissions"
    assert "cannot be read (Permission denied)" in _refusal(files[0].parent)


@pytest.mark.realdata
def test_a_real_skull_is_read_and_written_on_its_own_grid(shared_dir: Path, tmp_path: Path) -> None:
    path = sorted((shared_dir / "skullfix" / "training_set" / "complete_skull").glob("*.nrrd"))[0]
    case = read_case(path)
    assert case.is_mask
    assert 100.0 < float(case.volume.voxels.sum()) * case.volume.grid.voxel_ml < 2000.0
    write_volume(tmp_path / "copy.nrrd", case.volume)
    assert read_case(tmp_path / "copy.nrrd").source["sha256"] == case.source["sha256"]


def _patch(path: Path, offset: int, layout: str, *values: float) -> None:
    """Overwrite a part of a file's header."""
    data = bytearray(path.read_bytes())
    struct.pack_into(layout, data, offset, *values)
    path.write_bytes(data)
