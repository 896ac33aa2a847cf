"""Bad input gives one line on stderr that names it, exit status 1, and no result; a refused case gets its report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from bundle.skull_implant.volume import Grid, Volume, write_volume
from tests.dicom_files import write_series
from tests.end_to_end import Outcome, box_of_noise, chest_ct, run_module, small_head, untrained_model, write_voxels

SIZE = (40, 40, 40)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_model(tmp_path_factory.mktemp("model") / "model.pt")


def complete(path: Path, output: Path, model_file: Path, *words: object) -> Outcome:
    return run_module("scripts.complete", path, output, "--model_file", model_file, *words)


def assert_one_line(outcome: Outcome, *parts: str) -> None:
    assert outcome.status == 1
    assert outcome.stderr.count("\n") == 1, outcome.stderr
    for part in parts:
        assert part in outcome.stderr
    assert "wrote" not in outcome.stdout


def hu() -> np.ndarray:
    """Soft tissue with a piece of bone in air, float32."""
    voxels = np.full(SIZE, -1000.0, np.float32)
    voxels[5:35, 5:35, 5:35] = 40.0
    voxels[10:30, 10:30, 10:30] = 900.0
    return voxels


def missing(folder: Path) -> Path:
    return folder / "missing.nii.gz"


def empty_folder(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def folder_of_texts(folder: Path) -> Path:
    (folder / "texts").mkdir()
    (folder / "texts" / "notes.txt").write_text("no DICOM")
    return folder / "texts"


def text_file(folder: Path) -> Path:
    (folder / "text.nii.gz").write_text("This is not an image.\n")
    return folder / "text.nii.gz"


def empty_file(folder: Path) -> Path:
    (folder / "nothing.nii.gz").touch()
    return folder / "nothing.nii.gz"


def picture(folder: Path) -> Path:
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder / "picture.png"


def truncated(folder: Path) -> Path:
    path = write_voxels(folder / "truncated.nii.gz", np.random.default_rng(0).normal(0, 500, SIZE).astype(np.int16))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def truncated_nrrd(folder: Path) -> Path:
    path = write_voxels(folder / "truncated.nrrd", np.random.default_rng(0).normal(0, 500, SIZE).astype(np.int16))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def flat(folder: Path) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((64, 64), np.int16)), str(folder / "flat.mha"))
    return folder / "flat.mha"


def four_axes(folder: Path) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((3, *SIZE), np.int16), isVector=False), str(folder / "four.nii.gz"))
    return folder / "four.nii.gz"


def colors(folder: Path) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((*SIZE, 3), np.uint8), isVector=True), str(folder / "color.nrrd"))
    return folder / "color.nrrd"


def zeros(folder: Path) -> Path:
    return write_voxels(folder / "zeros.nii.gz", np.zeros(SIZE, np.int16))


def zero_and_seven(folder: Path) -> Path:
    return write_voxels(folder / "labels.nii.gz", np.where(hu() > 0, 7, 0).astype(np.uint8))


def not_a_number(folder: Path) -> Path:
    voxels = hu()
    voxels[0, 0, 0] = np.nan
    return write_voxels(folder / "nan.nii.gz", voxels)


def infinite_big_endian(folder: Path) -> Path:
    voxels = hu().astype(">f8")
    voxels[20, 20, 20] = -np.inf
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([2.0, 2.0, 2.0, 1.0])), folder / "infinite.nii")
    return folder / "infinite.nii"


def infinite(folder: Path) -> Path:
    voxels = hu()
    voxels[39, 39, 39] = np.inf
    return write_voxels(folder / "infinite.nrrd", voxels)


def magnetic_resonance(folder: Path) -> Path:
    write_series(folder / "mr", hu().astype(np.int16), spacing=(2.0, 2.0, 2.0), modality="MR")
    return folder / "mr"


def without_air(folder: Path) -> Path:
    return write_voxels(folder / "no_air.nii.gz", (hu() + 1024).astype(np.int16))


def one_slice(folder: Path) -> Path:
    return write_series(folder / "series", hu().astype(np.int16), spacing=(2.0, 2.0, 2.0))[0].rename(folder / "IM1.dcm")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (missing, "no such file or folder"),
        (empty_folder, "must hold a CT series, an empty folder arrived"),
        (folder_of_texts, "must hold a CT series, not DICOM (1 files) arrived"),
        (text_file, "not readable as NIfTI"),
        (empty_file, "the file is empty"),
        (picture, "unknown format"),
        (truncated, "cut off"),
        (truncated_nrrd, "cut off"),
        (flat, "must be one 3-D volume, 2-D arrived"),
        (four_axes, "must be one 3-D volume, 4-D arrived"),
        (colors, "must have one value per voxel, 3 arrived"),
        (zeros, "every voxel is 0"),
        (zero_and_seven, "a mask must hold 0 and 1, 0, 7 arrived"),
        (not_a_number, "must be finite numbers"),
        (infinite, "must be finite numbers"),
        (infinite_big_endian, "must be finite numbers"),
        (one_slice, "give the folder that holds the series"),
    ],
)
def test_unusable_input_is_one_line_and_nothing_is_written(
    make: Callable[[Path], Path], reason: str, tmp_path: Path, model_file: Path
) -> None:
    path = make(tmp_path)

    outcome = complete(path, tmp_path / "results", model_file)

    assert_one_line(outcome, path.name, reason)
    assert not (tmp_path / "results").exists()


def too_little_bone(folder: Path) -> Path:
    voxels = np.full((60, 60, 60), -1000.0)
    voxels[4:56, 4:56, 4:56] = 40.0
    voxels[28:32, 28:32, 28:32] = 900.0
    return write_voxels(folder / "soft.nii.gz", voxels.astype(np.int16))


def missing_slice(folder: Path) -> Path:
    write_series(folder / "gap", hu().astype(np.int16), spacing=(2.0, 2.0, 2.0))[20].unlink()
    return folder / "gap"


def thick_slices(folder: Path) -> Path:
    return write_voxels(folder / "thick.nii.gz", hu().astype(np.int16), (2.0, 2.0, 3.5))


def few_slices(folder: Path) -> Path:
    return write_voxels(folder / "few.nrrd", hu()[:, :, :35].astype(np.int16))


def two_slices(folder: Path) -> Path:
    write_series(folder / "two", hu()[:, :, 18:20].astype(np.int16), spacing=(2.0, 2.0, 2.0))
    return folder / "two"


def cropped_vault(folder: Path) -> Path:
    head = small_head(0).hu
    write_volume(folder / "cropped.nii.gz", crop_volume(head, 72))
    return folder / "cropped.nii.gz"


def crop_volume(volume: Volume, slices: int) -> Volume:
    grid = volume.grid
    size = (grid.size[0], grid.size[1], slices)
    return Volume(volume.voxels[:, :, :slices], Grid(size, grid.spacing, grid.origin, grid.direction))


def chest(folder: Path) -> Path:
    write_volume(folder / "chest.nii.gz", chest_ct())
    return folder / "chest.nii.gz"


def noise(folder: Path) -> Path:
    write_volume(folder / "noise.nrrd", box_of_noise())
    return folder / "noise.nrrd"


def skull_base_only(folder: Path) -> Path:
    head = small_head(0).complete_skull
    voxels = head.voxels.copy()
    voxels[:, :, 25:] = False
    return write_voxels(folder / "base.nii.gz", voxels.astype(np.uint8))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (magnetic_resonance, "must hold a CT series, MR (40 files) arrived"),
        (without_air, "must show air"),
        (missing_slice, "slices must be evenly spaced, 2 mm, then 4 mm after slice"),
        (thick_slices, "slices must be at most 3 mm apart, 3.5 mm arrived"),
        (few_slices, "at least 80 mm from foot to head, 70 mm in 35 slices arrived"),
        (two_slices, "at least 20 voxels along each axis"),
        (cropped_vault, "cm2 at the top slice arrived"),
        (too_little_bone, "no skull found"),
        (chest, "vault"),
        (noise, "a vault must be hollow"),
        (skull_base_only, "vault"),
    ],
)
def test_what_is_no_head_is_refused_with_a_report_and_nothing_else(
    make: Callable[[Path], Path], reason: str, tmp_path: Path, model_file: Path
) -> None:
    path = make(tmp_path)
    case = path.name.split(".")[0]

    outcome = complete(path, tmp_path / "results", model_file)

    assert_one_line(outcome, f"{case}: refused: ", reason)
    assert [each.relative_to(tmp_path / "results").as_posix() for each in (tmp_path / "results").rglob("*")] == [
        case,
        f"{case}/report.json",
    ]
    report = json.loads((tmp_path / "results" / case / "report.json").read_text())
    assert report["status"] == "refused"
    assert any(reason in each for each in report["reasons"])
    assert report["input"] == {"name": case}
    assert report["weights"]["sha256"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--device", "gpu"), "device must be auto, cpu or cuda, got 'gpu'"),
        (("--defect_class", "nasal"), "defect_class must be auto, cranial or facial, got 'nasal'"),
        (("--gamma", "99"), "gamma must lie between -10 and 10, got 99"),
        (("--gamma", "nan"), "gamma must lie between -10 and 10, got nan"),
        (("--model_file", "missing.pt"), "missing.pt: model_file must exist"),
        (("--clearance_mm", "9"), "clearance_mm must be a number between 0 and 5, got 9"),
        (("--mesh", "stl,step"), "mesh must be stl, ply or obj, or several with commas between, got 'stl,step'"),
        (("--triangles", "10"), "triangles must be a whole number between 1000 and 10000000, got 10"),
    ],
)
def test_a_setting_that_cannot_be_is_one_line_and_nothing_is_written(
    words: tuple[str, ...], reason: str, tmp_path: Path, model_file: Path
) -> None:
    path = write_voxels(tmp_path / "ct.nii.gz", hu().astype(np.int16))

    outcome = complete(path, tmp_path / "results", model_file, *words)

    assert_one_line(outcome, reason)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("content", [b"", b"no weights", None])
def test_a_file_that_holds_no_weights_of_this_model_is_one_line(
    content: bytes | None, tmp_path: Path, model_file: Path
) -> None:
    path = write_voxels(tmp_path / "ct.nii.gz", hu().astype(np.int16))
    weights = tmp_path / "other.pt"
    if content is None:
        import torch

        torch.save({"weight": torch.zeros(3)}, weights)
    else:
        weights.write_bytes(content)

    outcome = complete(path, tmp_path / "results", weights)

    assert_one_line(outcome, "other.pt: model_file must be")
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    "name",
    ["$pathlib.Path('ran').touch()", "@gamma", "%gamma", "@##gamma", "head #2", "%#1", "a::b", "$@device", "{x}"],
)
def test_names_that_mean_something_to_monai_are_names(
    name: str, tmp_path: Path, model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_voxels(tmp_path / f"{name.replace('/', '_')}.nrrd", np.zeros(SIZE, np.int16))
    monkeypatch.chdir(tmp_path)

    outcome = complete(Path(f"{name}.nrrd"), Path(name), model_file)

    assert_one_line(outcome, f"{name}.nrrd: every voxel is 0")
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}.nrrd"]


@pytest.mark.parametrize("flag", ["--mesh", "--defect_class"])
def test_a_setting_is_never_run(flag: str, tmp_path: Path, model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_voxels(tmp_path / "ct.nii.gz", hu().astype(np.int16))
    monkeypatch.chdir(tmp_path)

    outcome = complete(path, tmp_path / "results", model_file, flag, "$open('ran','w').close()")

    assert_one_line(outcome, f"{flag[2:]} must be plain text")
    assert [each.name for each in tmp_path.iterdir()] == ["ct.nii.gz"]


def test_an_output_folder_that_is_a_file_is_one_line(tmp_path: Path, model_file: Path) -> None:
    path = write_voxels(tmp_path / "ct.nii.gz", hu().astype(np.int16))
    (tmp_path / "results").write_text("in the way")

    assert_one_line(
        complete(path, tmp_path / "results", model_file),
        "results must go to a folder that can be written, got: Not a directory",
    )
    assert (tmp_path / "results").read_text() == "in the way"


@pytest.mark.parametrize(
    "words", [(), ("ct",), ("ct", "out", "--gama", "2"), ("ct", "out", "--gamma", "much"), ("ct", "out", "-g", "2")]
)
def test_wrong_usage_ends_with_2_and_one_line(words: tuple[str, ...], tmp_path: Path) -> None:
    outcome = run_module("scripts.complete", *words)

    assert outcome.status == 2
    assert outcome.stderr.count("\n") == 1
    assert outcome.stdout == ""
