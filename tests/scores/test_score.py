"""A result is scored against a truth on its own grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.volume import Volume, write_volume
from scripts.score import score
from tests.end_to_end import small_head


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A perfect result."""
    folder, head = tmp_path_factory.mktemp("result"), small_head(0)
    write_volume(folder / "implant.nii.gz", head.implant)
    write_volume(folder / "skull.nii.gz", head.complete_skull)
    return folder


def test_the_truth_itself_is_perfect(result: Path, capsys: pytest.CaptureFixture[str]) -> None:
    score(str(result), str(result / "implant.nii.gz"))

    assert "DSC 1.000, boundary DSC 1.000, HD95 0.00 mm" in capsys.readouterr().out


def test_a_truth_that_is_stored_the_other_way_is_refused(result: Path, tmp_path: Path) -> None:
    truth = sitk.ReadImage(str(result / "implant.nii.gz"))
    sitk.WriteImage(sitk.DICOMOrient(truth, "RAS"), str(tmp_path / "truth.nii.gz"))

    with pytest.raises(InputError, match="must lie on the result's grid, 96 x 116 x 84, got the same size elsewhere"):
        score(str(result), str(tmp_path / "truth.nii.gz"))


def test_a_truth_of_another_size_is_refused(result: Path, tmp_path: Path) -> None:
    truth = sitk.ReadImage(str(result / "implant.nii.gz"))
    sitk.WriteImage(truth[:, :, :80], str(tmp_path / "truth.nii.gz"))

    with pytest.raises(InputError, match="must lie on the result's grid, 96 x 116 x 84, got 96 x 116 x 80; resample"):
        score(str(result), str(tmp_path / "truth.nii.gz"))


def test_a_truth_that_is_no_whole_mask_is_refused(result: Path, tmp_path: Path) -> None:
    truth = tmp_path / "truth.nii.gz"
    whole = (result / "implant.nii.gz").read_bytes()
    implant = small_head(0).implant
    hu, nothing = (Volume(voxels, implant.grid) for voxels in (small_head(0).hu.voxels, implant.voxels & False))

    def refusal() -> str:
        with pytest.raises(InputError) as refused:
            score(str(result), str(truth))
        return str(refused.value)

    assert "the truth must be a file, none is there; TRUTH is the mask of the piece" in refusal()
    truth.write_bytes(whole[: len(whole) // 2])
    assert "truth.nii.gz" in refusal()
    truth.write_text("no image")
    assert "truth.nii.gz" in refusal()
    write_volume(truth, Volume(hu.voxels.astype(np.int16), hu.grid))
    assert "the truth must be a mask of 0 and one other value, got" in refusal()
    write_volume(truth, nothing)
    assert "the truth must hold an implant, it is empty" in refusal()


def test_a_file_in_the_place_of_the_result_is_refused(result: Path) -> None:
    with pytest.raises(InputError, match=r"RESULT_DIR is the folder that scripts\.complete wrote"):
        score(str(result / "implant.nii.gz"), str(result / "implant.nii.gz"))
