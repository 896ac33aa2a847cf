"""Surfaces of made-up plates and balls whose volume, place and thickness are known."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import trimesh

from bundle.skull_implant.surfaces.solid import solid
from bundle.skull_implant.surfaces.surface import implant_surface, surface_report, write_surface
from bundle.skull_implant.surfaces.thickness import plate_chords_mm, thickness_mm
from bundle.skull_implant.volume import Volume
from tests.made_up_plates import IDENTITY, OBLIQUE, ball, shell_cap, volume

MIRRORED = OBLIQUE @ np.diag([1.0, -1.0, 1.0])
DIRECTIONS = pytest.mark.parametrize(
    "direction", [IDENTITY, OBLIQUE, MIRRORED], ids=["straight", "oblique", "mirrored"]
)


@DIRECTIONS
def test_the_surface_is_closed_outward_and_in_its_place(direction: np.ndarray) -> None:
    center = np.array([12.0, -40.0, 95.0])
    mesh = implant_surface(solid(ball(radius_mm=9.0, center=center, direction=direction)))
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert mesh.volume > 0
    outward = np.einsum("ij,ij->i", mesh.face_normals, mesh.triangles_center - center)
    assert (outward > 0).all()
    radius = np.linalg.norm(mesh.vertices - center, axis=1)
    assert radius == pytest.approx(np.full(len(radius), 9.0), abs=0.5)  # half a slice
    assert radius.std() < 0.1
    assert mesh.center_mass == pytest.approx(center, abs=0.1)


@DIRECTIONS
def test_the_surface_keeps_the_masks_volume(direction: np.ndarray) -> None:
    plate = shell_cap(direction=direction)
    volume_ml = np.count_nonzero(plate.voxels) * plate.grid.voxel_ml
    assert implant_surface(solid(plate)).volume / 1000.0 == pytest.approx(volume_ml, rel=0.02)
    coarse = implant_surface(solid(plate), maximum_triangles=3000)
    assert len(coarse.faces) <= 3000
    assert coarse.is_watertight
    assert coarse.volume / 1000.0 == pytest.approx(volume_ml, rel=0.02)


def test_a_mask_that_fills_its_image_is_still_closed() -> None:
    mesh = implant_surface(solid(volume(np.ones((6, 5, 4)), (1.0, 1.0, 2.0))))
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(6 * 5 * 4 * 2.0, rel=0.02)
    assert mesh.bounds == pytest.approx(np.array([[-0.5, -0.5, -1.0], [5.5, 4.5, 7.0]]), abs=0.4)


@pytest.mark.parametrize("shape", [(1, 1, 1), (9, 9, 1), (9, 1, 1)])
def test_what_is_one_voxel_thin_does_not_vanish(shape: tuple[int, int, int]) -> None:
    mesh = implant_surface(solid(volume(np.ones(shape), (0.5, 0.5, 0.9))))
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(np.prod(shape) * 0.5 * 0.5 * 0.9, rel=0.02)


def test_the_report_counts_pieces_but_not_cavities() -> None:
    voxels = np.zeros((30, 16, 16))
    voxels[2:14, 2:14, 2:14] = 1
    voxels[6:10, 6:10, 6:10] = 0
    voxels[20:26, 4:10, 4:10] = 1
    report = surface_report(implant_surface(solid(volume(voxels, (1.0, 1.0, 1.0)))))
    assert report["watertight"] is True
    assert report["pieces"] == 2
    assert report["openings"] == 0
    assert report["volume_ml"] == pytest.approx(voxels.sum() / 1000.0, rel=0.02)
    assert report["triangles"] > 100


@pytest.mark.parametrize("openings", [0, 1, 2])
def test_the_report_counts_the_holes_through_a_plate(openings: int) -> None:
    voxels = np.zeros((40, 24, 12))
    voxels[2:38, 2:22, 4:8] = 1
    for number in range(openings):
        voxels[6 + 14 * number : 14 + 14 * number, 8:16] = 0

    report = surface_report(implant_surface(solid(volume(voxels, (1.0, 1.0, 1.0)))))

    assert report["openings"] == openings
    assert report["pieces"] == 1


def test_an_open_surface_is_not_called_watertight() -> None:
    mesh = implant_surface(solid(ball()))
    opened = trimesh.Trimesh(mesh.vertices, mesh.faces[:-1], process=False)
    assert surface_report(opened)["watertight"] is False


def test_an_empty_mask_has_no_surface() -> None:
    with pytest.raises(ValueError, match="mask is empty"):
        implant_surface(solid(volume(np.zeros((4, 4, 4)), (1, 1, 1))))
    with pytest.raises(ValueError, match="mask is empty"):
        plate_chords_mm(volume(np.zeros((4, 4, 4)), (1, 1, 1)))


@pytest.mark.parametrize("name", ["plate.stl", "plate.ply", "plate.OBJ"])
def test_a_written_surface_reads_back_in_patient_millimeters(tmp_path: Path, name: str) -> None:
    mesh = implant_surface(solid(shell_cap()))
    write_surface(tmp_path / name, mesh)
    again = trimesh.load_mesh(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert again.is_watertight
    assert again.bounds == pytest.approx(mesh.bounds, abs=1e-3)
    assert again.volume == pytest.approx(mesh.volume, rel=1e-4)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "plate.stl"
    target.write_text("old")
    mesh = implant_surface(solid(ball()))

    def half_written(path: Path, file_type: str) -> None:
        Path(path).write_text(file_type)
        raise OSError("disk full")

    monkeypatch.setattr(mesh, "export", half_written)
    with pytest.raises(OSError, match="disk full"):
        write_surface(target, mesh)
    assert [path.name for path in tmp_path.iterdir()] == ["plate.stl"]
    assert target.read_text() == "old"


def test_an_unknown_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.stl, \.ply or \.obj"):
        write_surface(tmp_path / "plate.step", implant_surface(solid(ball())))


@pytest.mark.realdata
@pytest.mark.parametrize("case", ["005", "044"])
def test_a_real_implant_becomes_one_closed_piece_in_seconds(shared_dir: Path, case: str) -> None:
    path = shared_dir / "skullfix" / "training_set" / "implant" / f"{case}.nrrd"
    mask = Volume.from_image(sitk.ReadImage(str(path)))
    started = time.process_time()
    mesh = implant_surface(solid(mask))
    assert time.process_time() - started < 3.0
    report = surface_report(mesh)
    assert report["watertight"]
    assert report["pieces"] == 1
    assert report["triangles"] <= 200_000
    assert report["volume_ml"] == pytest.approx(np.count_nonzero(mask.voxels) * mask.grid.voxel_ml, rel=0.02)
    inside = np.argwhere(mask.voxels) @ mask.grid.affine[:3, :3].T + mask.grid.affine[:3, 3]
    assert mesh.bounds == pytest.approx(np.array([inside.min(axis=0), inside.max(axis=0)]), abs=1.0)
    assert 4.0 < thickness_mm(plate_chords_mm(mask))["median"] < 12.0
