"""A result is scored against a truth on its own grid."""

from __future__ import annotations

from pathlib import Path

import pytest
import SimpleITK as sitk

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.volume import write_volume
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
