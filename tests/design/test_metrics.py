"""Scores of an implant against an independent oracle, an obvious slow version, and cases whose answer is known."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from bundle.skull_implant.design.metrics import ImplantScore, boundary_dice, dice, hausdorff95, score_implant
from bundle.skull_implant.volume import Volume

ORACLE = Path(__file__).parents[1] / "data" / "metric_oracle"
EXPECTED = {entry["case"]: entry for entry in json.loads((ORACLE / "expected.json").read_text())}
SPACING = (0.5, 0.8, 1.3)


@pytest.mark.parametrize("case", EXPECTED)
def test_scores_agree_with_independent_code(case: str) -> None:
    prediction, truth, skull = (
        Volume.from_image(sitk.ReadImage(str(ORACLE / f"{case}_{name}.nrrd")))
        for name in ("prediction", "implant", "skull")
    )
    score = score_implant(prediction.voxels, truth.voxels, skull.voxels, truth.grid.spacing)
    assert score.dsc == pytest.approx(EXPECTED[case]["dsc"], abs=1e-4)
    assert score.bdsc == pytest.approx(EXPECTED[case]["bdsc_10mm"], abs=1e-4)
    assert score.hd95_mm == pytest.approx(EXPECTED[case]["hd95_mm"], abs=1e-4)
    assert not score.failed


@pytest.mark.parametrize("seed", range(6))
def test_bounding_boxes_change_nothing(seed: int) -> None:
    generator = np.random.default_rng(seed)
    prediction, truth, skull = (_random_blobs(generator) for _ in range(3))
    if seed % 2:  # masks that touch the image border
        prediction, truth = prediction[8:, :, 6:], truth[8:, :, 6:]
        skull = skull[8:, :, 6:]
    expected = _uncropped_scores(prediction, truth, skull, distance_mm=3.0)
    assert dice(prediction, truth) == pytest.approx(expected[0], abs=1e-12)
    assert boundary_dice(prediction, truth, skull, SPACING, distance_mm=3.0) == pytest.approx(expected[1], abs=1e-12)
    assert hausdorff95(prediction, truth, SPACING) == pytest.approx(expected[2], abs=1e-9)


def test_a_shifted_plate_scores_what_arithmetic_says() -> None:
    truth = np.zeros((20, 20, 20), np.uint8)
    truth[5:15, 5:15, 8:12] = 1
    prediction = np.roll(truth, 1, axis=2)
    assert dice(prediction, truth) == pytest.approx(0.75)
    assert hausdorff95(prediction, truth, (1.0, 1.0, 2.5)) == pytest.approx(2.5)


def test_boundary_dice_sees_only_voxels_within_the_distance_in_mm() -> None:
    skull = np.zeros((30, 3, 3), bool)
    skull[0] = True
    truth = np.zeros_like(skull)
    truth[1:21] = True
    prediction = np.zeros_like(skull)
    prediction[1:6] = True
    # 10 mm at 2 mm a voxel is exactly five voxels, which the prediction fills; beyond it is empty.
    assert boundary_dice(prediction, truth, skull, (2.0, 1.0, 1.0)) == pytest.approx(1.0)
    assert boundary_dice(prediction, truth, skull, (1.0, 1.0, 1.0)) == pytest.approx(2 * 5 / (5 + 10))


def test_bone_outside_the_implants_own_box_counts_up_to_the_distance() -> None:
    skull = np.zeros((60, 9, 9), bool)
    skull[59] = True
    truth = np.zeros_like(skull)
    truth[40:50] = True
    assert boundary_dice(truth, truth, skull, (1.0, 1.0, 1.0)) == pytest.approx(1.0)
    assert boundary_dice(truth, truth, skull, (1.01, 1.0, 1.0)) == 0.0


def test_a_mask_at_the_image_border_has_surface_there() -> None:
    truth = np.ones((5, 5, 5), bool)
    prediction = np.zeros_like(truth)
    prediction[2, 2, 2] = True
    surface = [np.linalg.norm(np.array(index) - 2) for index in np.ndindex(5, 5, 5) if {0, 4} & set(index)]
    assert hausdorff95(prediction, truth, (1, 1, 1)) == pytest.approx(np.percentile([*surface, 2.0], 95))


def test_an_empty_prediction_is_a_failure_with_zero_overlap() -> None:
    truth = np.zeros((6, 6, 6), bool)
    truth[2:4, 2:4, 2:4] = True
    score = score_implant(np.zeros_like(truth), truth, ~truth, (1, 1, 1))
    assert score == ImplantScore(dsc=0.0, bdsc=0.0, hd95_mm=float("inf"), failed=True)


def test_identical_masks_score_perfectly() -> None:
    truth = _random_blobs(np.random.default_rng(3))
    assert score_implant(truth, truth.astype(np.uint8) * 7, ~truth, SPACING) == ImplantScore(1.0, 1.0, 0.0, False)


def test_without_bone_no_voxel_is_near_bone() -> None:
    truth = np.ones((4, 4, 4), bool)
    assert boundary_dice(truth, truth, np.zeros_like(truth), (1, 1, 1)) == 0.0


def test_an_empty_truth_cannot_be_scored() -> None:
    empty = np.zeros((4, 4, 4), bool)
    with pytest.raises(ValueError, match="true implant is empty"):
        score_implant(~empty, empty, empty, (1, 1, 1))


def test_masks_of_different_grids_are_refused() -> None:
    with pytest.raises(ValueError, match="share a grid"):
        dice(np.zeros((4, 4, 4)), np.zeros((4, 4, 5)))


@pytest.mark.realdata
def test_a_full_size_case_takes_under_two_seconds(shared_dir: Path) -> None:
    folder = shared_dir / "skullfix" / "training_set"
    skull, implant = (
        Volume.from_image(sitk.ReadImage(str(folder / name / "044.nrrd"))) for name in ("complete_skull", "implant")
    )
    prediction = np.roll(implant.voxels, 2, axis=0)
    started = time.process_time()
    score = score_implant(prediction, implant.voxels, skull.voxels & (1 - implant.voxels), implant.grid.spacing)
    assert time.process_time() - started < 2.0  # processor seconds of all threads: no matter how busy the machine
    assert 0.9 < score.dsc < 1.0
    assert 0.4 < score.hd95_mm < 1.0


def _random_blobs(generator: np.random.Generator) -> np.ndarray:
    """A few connected blobs and a stray voxel."""
    field = ndimage.gaussian_filter(generator.normal(size=(24, 20, 18)), 2.5)
    blobs = field > np.percentile(field, 85)
    blobs[tuple(generator.integers(0, blobs.shape))] = True
    return blobs


def _uncropped_scores(
    prediction: np.ndarray, truth: np.ndarray, skull: np.ndarray, distance_mm: float
) -> tuple[float, float, float]:
    """The definitions, word for word, on the whole volume."""

    def overlap(a: np.ndarray, b: np.ndarray) -> float:
        return 2 * (a & b).sum() / (a.sum() + b.sum())

    near = ndimage.distance_transform_edt(~skull, sampling=SPACING) <= distance_mm
    surfaces = [mask ^ ndimage.binary_erosion(mask) for mask in (prediction, truth)]
    there, back = (ndimage.distance_transform_edt(~surface, sampling=SPACING) for surface in surfaces)
    pooled = np.concatenate([back[surfaces[0]], there[surfaces[1]]])
    return overlap(prediction, truth), overlap(prediction & near, truth & near), float(np.percentile(pooled, 95))
