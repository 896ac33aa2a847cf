"""Complete skulls become a training set: every layout, any number of bad files, nothing overwritten."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.frame.canonical_frame import CanonicalFrame
from bundle.skull_implant.frame.canonical_grid import CanonicalBox, to_canonical
from bundle.skull_implant.model.network import SkullCompleter
from bundle.skull_implant.output.dicom_writing import write_ct_series
from bundle.skull_implant.train import hole_filling
from bundle.skull_implant.train.dataset_folder import DATALIST, DatasetFolder
from bundle.skull_implant.train.preparing import Source, find_sources, validation_names
from bundle.skull_implant.volume import write_volume
from scripts.prepare import prepare
from tests.end_to_end import Outcome, run_module, small_head, untrained_model, write_skullfix_layout

SIZE = (64, 64, 32)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_model(tmp_path_factory.mktemp("model") / "model.pt")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, model_file: Path) -> tuple[Path, Outcome]:
    """A dataset of a mask file, a CT file and a DICOM folder, beside what is no skull; and what the command said."""
    source = tmp_path_factory.mktemp("plain") / "source"
    source.mkdir()
    write_volume(source / "anna.nii.gz", small_head(0).complete_skull)
    write_volume(source / "bert.v2.mha", small_head(1).hu)
    write_ct_series(source / "carl", small_head(2).hu)
    (source / "broken.nii.gz").write_text("no image")
    (source / "notes.txt").write_text("not a volume file, so not even tried")
    words = ("--template", model_file, "--spatial_size", "32,32,16", "--seed", "3")
    outcome = run_module("scripts.prepare", source, source.parent / "dataset", *words)
    return source.parent / "dataset", outcome


def names(folder: Path, part: str) -> list[str]:
    return [entry["name"] for entry in DatasetFolder(folder).lists[part]]


def test_a_skullfix_layout_becomes_a_dataset_with_skulls_and_their_implants(tiny_dataset: Path) -> None:
    dataset = DatasetFolder(tiny_dataset)
    skulls = dataset.read("training", SIZE) + dataset.read("validation", SIZE)

    assert sorted(skull.name for skull in skulls) == ["000", "001", "002", "003"]
    assert names(tiny_dataset, "validation") == ["001"]
    assert dataset.box == CanonicalBox(SIZE)
    for skull in skulls:
        truth = small_head(int(skull.name))
        scale = np.prod(dataset.box.spacing_mm) / 1000 / 255
        assert skull.implant is not None
        assert not (skull.implant & ~skull.complete).any()
        # 3 to 5 mm voxels thresholded at one half lose some of a 6 mm plate.
        assert skull.implant.sum() * scale == pytest.approx(truth.implant.voxels.sum() * 0.008, rel=0.25)


def test_the_built_mean_vault_is_as_large_as_the_skulls_and_symmetric(tiny_dataset: Path) -> None:
    template = DatasetFolder(tiny_dataset).template
    middle = template.radii_mm.shape[0] // 2
    right, left = template.radii_mm[middle + 20, middle], template.radii_mm[middle - 20, middle]

    assert right == pytest.approx(left, abs=0.01)
    assert 65 <= right <= 76  # 20 entries of 4 degrees off the vertex: half the breadth of about 140 mm
    assert 60 <= template.vertex_mm <= 90


def test_the_stored_frame_puts_a_skull_where_the_dataset_has_it(tiny_dataset: Path) -> None:
    with np.load(tiny_dataset / "cases" / "002.npz") as arrays:
        complete = np.unpackbits(arrays["complete"], count=int(np.prod(SIZE))).reshape(arrays["shape"]) > 0
        affine = arrays["frame"]
    frame = type("Frame", (), {"affine": affine})()

    expected = to_canonical(small_head(2).complete_skull, frame, CanonicalBox(SIZE)) > 0.5

    np.testing.assert_array_equal(complete, expected)


def test_a_plain_folder_may_hold_masks_cts_and_dicom_folders(plain: tuple[Path, Outcome]) -> None:
    folder, outcome = plain

    assert outcome.status == 0
    assert sorted(names(folder, "training") + names(folder, "validation")) == ["anna", "bert.v2", "carl"]
    assert len(names(folder, "validation")) == 1
    skulls = DatasetFolder(folder).read("training", (32, 32, 16))
    assert all(skull.implant is None and skull.complete.any() for skull in skulls)


def test_an_unreadable_skull_is_named_and_left_out_and_leaves_no_file(plain: tuple[Path, Outcome]) -> None:
    folder, outcome = plain

    assert "3 of 4: broken: left out: broken.nii.gz: " in outcome.stdout
    assert "broken" not in names(folder, "training") + names(folder, "validation")
    assert sorted(path.name for path in (folder / "cases").iterdir()) == ["anna.npz", "bert.v2.npz", "carl.npz"]


def test_an_existing_dataset_is_never_overwritten(plain: tuple[Path, Outcome], model_file: Path) -> None:
    folder, _ = plain
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    with pytest.raises(InputError, match=r"must not hold a dataset\.json yet; remove it or name another folder"):
        prepare(str(folder.parent / "source"), str(folder), template=str(model_file))

    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_without_a_skull_that_can_be_aligned_no_dataset_is_written(tmp_path: Path, model_file: Path) -> None:
    (tmp_path / "source").mkdir()
    for name in ("a", "b"):
        (tmp_path / "source" / f"{name}.nrrd").write_text("NRRD0004")

    with pytest.raises(InputError, match="training must have at least one skull, none is left"):
        prepare(str(tmp_path / "source"), str(tmp_path / "set"), template=str(model_file))

    assert not (tmp_path / "set" / DATALIST).exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"spatial_size": (32, 32)}, "must be three numbers"),
        ({"spatial_size": (32, 0, 32)}, "must be three numbers of 1 or more"),
        ({"validation_share": float("nan")}, "--validation_share must lie between 0 and 1, got nan"),
        ({"template": "missing.pt"}, "missing.pt: model_file must exist"),
        ({"split": "missing.json"}, "missing.json: a split must be JSON with a list 'validation'"),
        ({"validation_share": 1.0}, "all 2 skulls are for validation"),
    ],
)
def test_wrong_settings_are_refused_before_any_work(tmp_path: Path, settings: dict[str, object], message: str) -> None:
    (tmp_path / "source").mkdir()
    for name in ("a", "b"):
        (tmp_path / "source" / f"{name}.nrrd").write_text("NRRD0004")

    with pytest.raises(InputError, match=message):
        prepare(str(tmp_path / "source"), str(tmp_path / "set"), **settings)  # type: ignore[arg-type]

    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("layout", ["empty", "complete_skull", "missing"])
def test_a_source_without_volumes_is_refused(tmp_path: Path, layout: str) -> None:
    folder = tmp_path / "source"
    if layout != "missing":
        (folder / ("complete_skull" if layout == "complete_skull" else "")).mkdir(parents=True)

    with pytest.raises(InputError, match="found none; check the path"):
        find_sources(folder)


def test_two_skulls_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "head.nii.gz").touch()
    (tmp_path / "head.nrrd").touch()

    with pytest.raises(InputError, match="more than one is head; rename one"):
        find_sources(tmp_path)


def test_names_keep_their_inner_dots_and_implants_are_optional(tmp_path: Path) -> None:
    for path in ("complete_skull/head.1.nrrd", "complete_skull/head.2.nrrd", "implant/head.2.nrrd"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()

    assert find_sources(tmp_path) == [
        Source("head.1", tmp_path / "complete_skull" / "head.1.nrrd"),
        Source("head.2", tmp_path / "complete_skull" / "head.2.nrrd", tmp_path / "implant" / "head.2.nrrd"),
    ]


def test_a_split_file_chooses_the_validation_cases(tmp_path: Path) -> None:
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"about": "ours", "validation": ["c", "a"]}))

    assert sorted(validation_names(["a", "b", "c"], str(split), 0.9, 0)) == ["a", "c"]


def test_a_split_file_that_names_a_case_that_is_not_there_is_refused(tmp_path: Path) -> None:
    split = tmp_path / "split.json"
    split.write_text('{"validation": ["a", "z"]}')

    with pytest.raises(InputError, match=r"split\.json: validation cases must be in SOURCE, unknown: z"):
        validation_names(["a", "b"], str(split), 0.2, 0)


@pytest.mark.parametrize("text", ["{", "[]", '{"training": []}', '{"validation": 3}'])
def test_a_damaged_split_file_is_refused(tmp_path: Path, text: str) -> None:
    split = tmp_path / "split.json"
    split.write_text(text)

    with pytest.raises(InputError, match="must be JSON with a list 'validation'"):
        validation_names(["a"], str(split), 0.2, 0)


def test_a_random_split_has_its_share_at_least_one_and_is_the_same_for_a_seed() -> None:
    cases = [f"{number:03d}" for number in range(20)]

    assert len(validation_names(cases, "", 0.2, 0)) == 4
    assert len(validation_names(cases, "", 0.001, 0)) == 1
    assert validation_names(cases, "", 0.2, 0) == validation_names(cases[::-1], "", 0.2, 0)
    assert validation_names(cases, "", 0.2, 0) != validation_names(cases, "", 0.2, 1)


def fill_a_cube(bone: np.ndarray, frame: CanonicalFrame, box: CanonicalBox, network: SkullCompleter) -> np.ndarray:
    """Stands in for a trained completer."""
    piece = np.zeros_like(bone)
    piece[24:40, 24:40, 12:20] = True
    return piece & ~bone


def fill_nothing(bone: np.ndarray, frame: CanonicalFrame, box: CanonicalBox, network: SkullCompleter) -> np.ndarray:
    return np.zeros_like(bone)


@pytest.mark.parametrize("filler", [fill_a_cube, fill_nothing])
def test_defective_skulls_are_a_part_of_their_own_with_their_hole_filled(
    tmp_path: Path, model_file: Path, monkeypatch: pytest.MonkeyPatch, filler: Any
) -> None:
    source = write_skullfix_layout(tmp_path / "source", seeds=(0, 1))
    monkeypatch.setattr(hole_filling, "fill_hole", filler)

    prepare(
        str(source),
        str(tmp_path / "dataset"),
        template=str(model_file),
        validation_share=0.5,
        spatial_size=SIZE,
        defective=str(source / "complete_skull"),
        completer=str(model_file),
    )

    dataset = DatasetFolder(tmp_path / "dataset")
    whole = {skull.name: skull for part in ("training", "validation") for skull in dataset.read(part, SIZE)}
    filled = dataset.read("defective", SIZE)
    # Where no hole is found there is nothing that could be called unknown, so the skull is left out.
    assert [skull.name for skull in filled] == (["defective_000", "defective_001"] if filler is fill_a_cube else [])
    assert sorted(whole) == ["000", "001"]
    for skull in filled:
        bone = whole[skull.name.removeprefix("defective_")].complete
        np.testing.assert_array_equal(skull.complete, np.maximum(bone, skull.implant))
        assert skull.implant.any()
        assert not (skull.implant & bone).any()
