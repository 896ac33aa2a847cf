"""A prepared dataset comes back as it was written, and a damaged one is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.frame.canonical_frame import CanonicalFrame
from bundle.skull_implant.frame.canonical_grid import CanonicalBox
from bundle.skull_implant.frame.vault_template import VaultTemplate
from bundle.skull_implant.train.dataset_folder import DATALIST, DatasetFolder, write_datalist, write_skull

BOX = CanonicalBox((11, 14, 10), (176.0, 224.0, 160.0))
FRAME = CanonicalFrame(np.eye(3), np.array([1.0, 2.0, 3.0]), np.ones(3))
VOXELS = np.random.default_rng(0).random((2, *BOX.spatial_size)) > 0.5


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two training skulls, one with an implant, and none for validation."""
    entries = [
        write_skull(tmp_path, "with", VOXELS[0], VOXELS[1], FRAME),
        write_skull(tmp_path, "without", VOXELS[1], None, FRAME),
    ]
    write_datalist(tmp_path, {"training": entries, "validation": []}, BOX, VaultTemplate.ellipsoid())
    return tmp_path


def test_skulls_come_back_voxel_for_voxel(folder: Path) -> None:
    first, second = DatasetFolder(folder).read("training", BOX.spatial_size)

    assert (first.name, second.name) == ("with", "without")
    np.testing.assert_array_equal(first.complete, 255 * VOXELS[0])
    np.testing.assert_array_equal(first.implant, 255 * VOXELS[1])
    np.testing.assert_array_equal(second.complete, 255 * VOXELS[1])
    assert second.implant is None


def test_box_and_mean_vault_come_back(folder: Path) -> None:
    dataset = DatasetFolder(str(folder))

    assert dataset.box == BOX
    np.testing.assert_allclose(dataset.template.radii_mm, VaultTemplate.ellipsoid().radii_mm, atol=0.0005)
    assert dataset.template.step_deg == 4.0


def test_skulls_are_read_at_a_coarser_grid_as_share_of_bone(tmp_path: Path) -> None:
    voxels = np.zeros((8, 8, 8), bool)
    voxels[:2, :2, :2] = True
    voxels[6, 6, 6] = True
    entry = write_skull(tmp_path, "a", voxels, None, FRAME)
    write_datalist(
        tmp_path, {"training": [entry], "validation": []}, CanonicalBox((8, 8, 8)), VaultTemplate.ellipsoid()
    )

    (skull,) = DatasetFolder(tmp_path).read("training", (4, 4, 4))

    assert skull.complete[0, 0, 0] == 255
    assert skull.complete[3, 3, 3] == 32  # one voxel in eight
    assert skull.complete.sum() == 255 + 32


def test_nothing_half_written_is_left(folder: Path) -> None:
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*")) == [
        "cases",
        "cases/with.npz",
        "cases/without.npz",
        DATALIST,
    ]


@pytest.mark.parametrize("damage", ["changed", "cut", "missing"])
def test_a_case_that_is_not_as_written_is_refused(folder: Path, damage: str) -> None:
    path = folder / "cases" / "without.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()
    if damage != "missing":
        path.write_bytes(content if damage == "changed" else content[:-1])

    with pytest.raises(InputError, match=r"cases/without\.npz: must be (as|where) scripts\.prepare wrote it"):
        DatasetFolder(folder).read("training", BOX.spatial_size)


def test_an_empty_part_is_refused_with_the_way_out(folder: Path) -> None:
    with pytest.raises(InputError, match="validation must list at least one skull, got none; prepare with"):
        DatasetFolder(folder).read("validation", BOX.spatial_size)


def test_what_a_training_lacks_is_found_without_reading_a_skull(folder: Path) -> None:
    dataset = DatasetFolder(folder)
    with pytest.raises(InputError, match="validation must list at least one skull"):
        dataset.check()
    dataset.lists["validation"] = dataset.lists["training"][:1]
    dataset.check()
    (folder / dataset.lists["training"][-1]["image"]).unlink()

    with pytest.raises(InputError, match=r"\.npz: must be where scripts\.prepare wrote it, it is missing"):
        dataset.check()


OTHER_LISTS = {"cut off": '{"training": [', "a Decathlon's": '{"training": [], "numTraining": 0}', "a list": "[1, 2]"}


@pytest.mark.parametrize("damage", ["no folder", "no datalist", *OTHER_LISTS])
def test_a_folder_without_a_datalist_is_refused_with_the_command_that_makes_one(folder: Path, damage: str) -> None:
    if damage == "no folder":
        shutil.rmtree(folder)
    elif damage == "no datalist":
        (folder / DATALIST).unlink()
    else:
        (folder / DATALIST).write_text(OTHER_LISTS[damage])

    with pytest.raises(
        InputError,
        match=r"must hold a dataset\.json that .* run `python -m scripts\.prepare SOURCE",
    ):
        DatasetFolder(folder)


def test_the_datalist_names_files_relative_to_its_folder(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    moved = tmp_path_factory.mktemp("moved") / "dataset"
    shutil.copytree(folder, moved)
    shutil.rmtree(folder)

    assert str(folder) not in (moved / DATALIST).read_text()
    assert [entry["image"] for entry in json.loads((moved / DATALIST).read_text())["training"]] == [
        "cases/with.npz",
        "cases/without.npz",
    ]
    assert len(DatasetFolder(moved).read("training", BOX.spatial_size)) == 2
