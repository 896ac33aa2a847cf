"""A MONAI datalist is prepared once and trained from like any other set; labels are those of this bundle's results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.train import datalist
from bundle.skull_implant.train.datalist import LabeledSource, open_dataset, prepare_datalist, read_datalist
from bundle.skull_implant.train.training_data import SkullDataset
from bundle.skull_implant.volume import Volume, write_volume
from tests.end_to_end import small_head, write_voxels


def write_list(path: Path, **lists: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps({"name": "skulls", "labels": {"1": "skull"}, **lists}))
    return path


def two_voxels(path: Path, values: dict[tuple[int, int, int], int]) -> Path:
    voxels = np.zeros((30, 30, 30), np.uint8)
    for index, value in values.items():
        voxels[tuple(slice(each, each + 5) for each in index)] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_voxels(path, voxels)


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two heads: a CT with a label map of bone 1 and implant 2, and, for validation, a complete skull alone."""
    folder = tmp_path_factory.mktemp("listed")
    head, other = small_head(0), small_head(1)
    labels = head.complete_skull.voxels.astype(np.uint8) + head.implant.voxels
    write_volume(folder / "ct.nii.gz", head.hu)
    write_volume(folder / "labels.nii.gz", Volume(labels, head.hu.grid))
    write_volume(folder / "skull.nii.gz", other.complete_skull)
    return write_list(
        folder / "mine.json",
        training=[{"image": "ct.nii.gz", "label": "./labels.nii.gz"}],
        validation=[{"image": "skull.nii.gz"}],
    )


def test_a_datalist_is_trained_from_like_a_prepared_folder(listed: Path) -> None:
    training, validation = (SkullDataset(str(listed), part, (32, 32, 32)) for part in ("training", "validation"))
    item = training[0]

    assert (training.names, validation.names) == (["ct"], ["skull"])
    assert (training.has_implant, validation.has_implant) == ([True], [False])
    assert (item["implant"] <= item["image"] + 1e-6).all()
    assert 0.02 < item["implant"].sum() / item["image"].sum() < 0.3


def test_it_is_prepared_once_and_again_when_a_file_has_changed(listed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Path] = []
    monkeypatch.setattr(datalist, "_prepare", lambda parts, folder, *_: calls.append(folder))
    first = open_dataset(listed).folder
    assert calls == []

    content = json.loads(listed.read_text())
    changed = write_list(listed.with_name("mine.json"), training=content["training"], validation=[])
    with pytest.raises(InputError, match="at least two skulls, one for validation"):
        read_datalist(changed)
    changed.write_text(json.dumps({**content, "more": 1}))

    assert prepare_datalist(changed) != first
    assert len(calls) == 1


def test_a_label_is_the_whole_skull_and_what_the_image_lacks_of_it_is_the_implant(tmp_path: Path) -> None:
    image = two_voxels(tmp_path / "a.nii.gz", {(2, 2, 2): 1, (2, 2, 10): 1})
    label = two_voxels(tmp_path / "b.nii.gz", {(2, 2, 2): 1, (2, 2, 10): 1, (2, 2, 7): 1})
    source = LabeledSource("a", image, label=label)
    implant = source.read_implant()

    assert np.count_nonzero(source.read_skull(300.0).voxels) == 5 * 5 * 13
    assert implant is not None
    np.testing.assert_array_equal(np.unique(np.argwhere(implant.voxels)[:, 2]), [7, 8, 9])
    assert LabeledSource("a", image, label=image).read_implant() is None


def test_a_mask_and_its_label_lie_on_one_grid(tmp_path: Path) -> None:
    image = two_voxels(tmp_path / "a.nii.gz", {(2, 2, 2): 1, (2, 2, 10): 1})
    label = two_voxels(tmp_path / "b.nii.gz", {(2, 2, 2): 1, (2, 2, 10): 1, (2, 2, 7): 1})
    turned = sitk.DICOMOrient(sitk.ReadImage(str(image)), "RPS")
    sitk.WriteImage(turned, str(tmp_path / "turned.nii.gz"))

    with pytest.raises(InputError, match=r"b\.nii\.gz: label must lie on the grid of turned\.nii\.gz, another"):
        LabeledSource("a", tmp_path / "turned.nii.gz", label=label).read_implant()


def test_an_implant_alone_is_no_label(tmp_path: Path) -> None:
    image = two_voxels(tmp_path / "a.nii.gz", {(2, 2, 2): 1})
    label = two_voxels(tmp_path / "b.nii.gz", {(20, 20, 20): 1})

    with pytest.raises(InputError, match=r"b\.nii\.gz: label must be the complete skull, most of the image's bone"):
        LabeledSource("a", image, label=label).read_implant()


def test_other_labels_are_refused(tmp_path: Path) -> None:
    label = two_voxels(tmp_path / "b.nii.gz", {(2, 2, 2): 1, (20, 20, 20): 5})

    with pytest.raises(InputError, match=r"b\.nii\.gz: label must hold 0 background, 1 skull and 2 implant .* 0, 1, 5"):
        LabeledSource("a", label, label=label).read_skull(300.0)


def test_files_of_one_name_are_named_after_their_folders_and_a_fifth_is_for_validation(tmp_path: Path) -> None:
    entries = [{"image": f"case_{number}/ct.nii.gz"} for number in range(5)]
    for number in range(5):
        two_voxels(tmp_path / f"case_{number}" / "ct.nii.gz", {(2, 2, 2): 1})
    parts = read_datalist(write_list(tmp_path / "list.json", training=entries))

    assert [len(parts["training"]), len(parts["validation"])] == [4, 1]
    assert sorted(each.name for part in parts.values() for each in part) == [f"case_{i}_ct" for i in range(5)]


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({}, r"list\.json: a datalist must have entries in 'training', got none"),
        ({"training": [{"label": "a.nii.gz"}]}, r"each entry of 'training' must have an 'image', got"),
        ({"training": [{"image": "b.nii.gz"}]}, r"list\.json: b\.nii\.gz: must be there, no such file; paths are"),
        ({"training": [{"image": "a.nii.gz"}] * 2}, r"each case must be listed once, more than once is"),
    ],
)
def test_a_list_that_is_none_is_refused(tmp_path: Path, lists: dict[str, Any], message: str) -> None:
    two_voxels(tmp_path / "a.nii.gz", {(2, 2, 2): 1})

    with pytest.raises(InputError, match=message):
        read_datalist(write_list(tmp_path / "list.json", **lists))


def test_a_file_that_is_no_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("not json")

    with pytest.raises(InputError, match="dataset_dir must be a folder or a JSON datalist, it cannot be read"):
        open_dataset(tmp_path / "list.json")
