"""A grid goes through files, images and matrices without a change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from bundle.skull_implant.volume import Grid, Volume, write_volume
from tests.dicom_files import rotation

IDENTITY = np.eye(3)
OBLIQUE = rotation(-17.0, 24.0)
DIRECTIONS = {
    "identity": IDENTITY,
    "oblique": OBLIQUE,
    "flipped": np.diag([-1.0, 1.0, -1.0]),
    "oblique and left-handed": OBLIQUE @ np.diag([1.0, -1.0, 1.0]),
    "coronal": np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]]),
}


def _volume(direction: np.ndarray, dtype: type = np.int16) -> Volume:
    size = (5, 6, 7)
    voxels = np.arange(np.prod(size)).reshape(size).astype(dtype)
    return Volume(voxels, Grid(size, (0.4, 0.55, 1.25), (-101.5, 33.25, -870.125), tuple(direction.ravel().tolist())))


@pytest.mark.parametrize("extension", [".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS.keys())
def test_a_written_volume_is_read_back_with_the_same_grid(
    tmp_path: Path, extension: str, direction: np.ndarray
) -> None:
    volume = _volume(direction)
    path = tmp_path / f"volume{extension}"
    write_volume(path, volume)
    back = Volume.from_image(sitk.ReadImage(str(path)))
    np.testing.assert_array_equal(back.voxels, volume.voxels)
    assert back.voxels.dtype == np.int16
    tolerance = 1e-6 if extension == ".nii.gz" else 1e-14  # NIfTI keeps single precision
    for kept in ("spacing", "origin", "direction"):
        np.testing.assert_allclose(getattr(back.grid, kept), getattr(volume.grid, kept), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(back.grid.affine, volume.grid.affine, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("extension", [".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS.keys())
def test_a_grid_that_was_read_is_written_back_exactly(tmp_path: Path, extension: str, direction: np.ndarray) -> None:
    first, second = tmp_path / f"first{extension}", tmp_path / f"second{extension}"
    write_volume(first, _volume(direction))
    read = Volume.from_image(sitk.ReadImage(str(first)))
    write_volume(second, Volume(read.voxels > 100, read.grid))
    again = Volume.from_image(sitk.ReadImage(str(second)))
    assert again.voxels.dtype == np.uint8
    np.testing.assert_array_equal(again.voxels, read.voxels > 100)
    tolerance = 1e-6 if extension == ".nii.gz" else 0.0
    np.testing.assert_allclose(again.grid.affine, read.grid.affine, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS.keys())
def test_an_image_and_back_is_the_same_volume(direction: np.ndarray) -> None:
    volume = _volume(direction, np.float32)
    back = Volume.from_image(volume.to_image())
    np.testing.assert_array_equal(back.voxels, volume.voxels)
    assert back.grid == volume.grid


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS.keys())
def test_the_affine_is_itks(direction: np.ndarray) -> None:
    volume = _volume(direction)
    image = volume.to_image()
    for index in [(0, 0, 0), (4, 0, 0), (0, 5, 0), (0, 0, 6), (3, 2, 5)]:
        point = (volume.grid.affine @ [*index, 1.0])[:3]
        np.testing.assert_allclose(point, image.TransformIndexToPhysicalPoint(index), atol=1e-12)
        np.testing.assert_allclose((volume.grid.inverse_affine @ [*point, 1.0])[:3], index, atol=1e-11)


def test_a_voxel_is_its_edges_multiplied() -> None:
    assert _volume(OBLIQUE).grid.voxel_ml == pytest.approx(0.4 * 0.55 * 1.25 / 1000.0)


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS.keys())
def test_a_grid_is_the_same_after_it_went_through_a_file(tmp_path: Path, direction: np.ndarray) -> None:
    volume = _volume(direction)
    write_volume(tmp_path / "volume.nii.gz", volume)

    assert Volume.from_image(sitk.ReadImage(str(tmp_path / "volume.nii.gz"))).grid.same_as(volume.grid)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"origin": (-101.47, 33.25, -870.125)}, True),
        ({"origin": (-101.4, 33.25, -870.125)}, False),
        ({"spacing": (0.41, 0.55, 1.25)}, True),
        ({"spacing": (0.4, 0.57, 1.25)}, False),
        ({"size": (5, 6, 8)}, False),
        ({"origin": (-99.9, 33.25, -870.125), "direction": (-1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)}, False),
    ],
    ids=str,
)
def test_grids_are_the_same_when_their_corners_are_within_a_tenth_of_a_voxel(
    change: dict[str, Any], same: bool
) -> None:
    grid = _volume(IDENTITY).grid

    assert replace(grid, **change).same_as(grid) is same


def test_voxels_that_do_not_match_the_grid_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(7, 6, 5\) do not match the grid \(5, 6, 7\)"):
        Volume(np.zeros((7, 6, 5)), _volume(IDENTITY).grid)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill_the_disk(image: sitk.Image, name: str, useCompression: bool) -> None:  # noqa: N803 (SimpleITK's name)
        Path(name).write_bytes(b"half a file")
        raise RuntimeError("no space left on device")

    path = tmp_path / "volume.nrrd"
    write_volume(path, _volume(OBLIQUE))
    before = path.read_bytes()
    monkeypatch.setattr(sitk, "WriteImage", fill_the_disk)
    with pytest.raises(RuntimeError, match="no space"):
        write_volume(path, _volume(IDENTITY))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["volume.nrrd"]


@pytest.mark.parametrize("name", ["volume.nii.gz", "volume.nrrd", "volume.mha"])
def test_a_file_cut_off_in_silence_is_an_error_and_is_not_left(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_half(image: sitk.Image, path: str, useCompression: bool) -> None:  # noqa: N803 (SimpleITK's name)
        original(image, path, useCompression=useCompression)
        whole = Path(path).read_bytes()
        Path(path).write_bytes(whole[: len(whole) // 2])

    original = sitk.WriteImage
    monkeypatch.setattr(sitk, "WriteImage", write_half)
    with pytest.raises(OSError, match="No space left"):
        write_volume(tmp_path / name, _volume(OBLIQUE))
    assert list(tmp_path.iterdir()) == []
