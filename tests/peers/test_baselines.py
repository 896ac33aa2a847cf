"""Completions without a model are what their names say."""

from __future__ import annotations

import numpy as np
import pytest

from bundle.skull_implant.peers.baselines import baseline_completion, nearest_skull


@pytest.fixture
def skulls() -> np.ndarray:
    """Three cubes of side 4 in (8, 8, 8), at the low end, in the middle and at the high end, uint8."""
    found = np.zeros((3, 8, 8, 8), np.uint8)
    for number, start in enumerate((0, 2, 4)):
        found[number, start : start + 4, start : start + 4, start : start + 4] = 255
    return found


def _bone(skulls: np.ndarray, number: int) -> np.ndarray:
    return skulls[number].astype(np.float32) / 255


def test_nothing_is_empty(skulls: np.ndarray) -> None:
    assert not baseline_completion("nothing", _bone(skulls, 0), skulls).any()


def test_the_mean_skull_is_the_share_of_skulls_with_bone(skulls: np.ndarray) -> None:
    mean = baseline_completion("mean skull", _bone(skulls, 0), skulls)

    assert mean[0, 0, 0] == pytest.approx(1 / 3)
    assert mean[3, 3, 3] == pytest.approx(2 / 3)
    assert mean[0, 0, 7] == 0.0
    assert mean.mean() == pytest.approx(skulls.mean() / 255)


def test_the_mirror_exchanges_left_and_right_only(skulls: np.ndarray) -> None:
    bone = _bone(skulls, 0)
    bone[0, 1, 2] = 0.25
    mirrored = baseline_completion("mirror", bone, skulls)

    assert mirrored[7, 1, 2] == 0.25
    np.testing.assert_array_equal(mirrored[4:, :4, :4][:3], bone[3:0:-1, :4, :4])
    assert not mirrored[:4].any()


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_nearest_skull_of_a_damaged_skull_is_its_own_whole(skulls: np.ndarray, number: int) -> None:
    bone = _bone(skulls, number)
    bone[tuple(np.argwhere(bone > 0)[:20].T)] = 0.0

    assert nearest_skull(bone, skulls) == number
    np.testing.assert_array_equal(
        baseline_completion("nearest skull", bone, skulls), skulls[number].astype(np.float32) / 255
    )


def test_the_nearest_skull_is_the_one_of_highest_dice_and_not_of_most_overlap(skulls: np.ndarray) -> None:
    everything = np.full_like(skulls[0], 255)
    bone = _bone(skulls, 1)
    bone[2] = 0.0  # a quarter is missing: DSC 0.86 with its own, 0.17 with the solid block

    assert nearest_skull(bone, np.stack([everything, skulls[1]])) == 1


def test_bone_shares_of_one_half_and_less_do_not_count(skulls: np.ndarray) -> None:
    bone = 0.5 * _bone(skulls, 2) + _bone(skulls, 0)

    assert nearest_skull(bone, skulls) == 0


def test_no_bone_at_all_is_no_error(skulls: np.ndarray) -> None:
    blank = np.zeros((8, 8, 8), np.float32)

    assert not baseline_completion("mirror", blank, skulls).any()
    np.testing.assert_array_equal(
        baseline_completion("nearest skull", blank, skulls), skulls[0].astype(np.float32) / 255
    )


def test_an_unknown_baseline_is_refused(skulls: np.ndarray) -> None:
    with pytest.raises(ValueError, match="must be one of nothing, mean skull, nearest skull, mirror, got 'thin plate'"):
        baseline_completion("thin plate", _bone(skulls, 0), skulls)
