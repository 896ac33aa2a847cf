"""Deformations do in millimeters what their numbers say, around the pivot that was given."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline

from bundle.skull_implant.train.augmentation import Deformation, deform

SIZE_MM, PIVOT = (176.0, 224.0, 160.0), (0.0, 0.0, -0.075)
STILL: dict[str, Any] = {
    "scale": 0.0, "shear": 0.0, "rotation_deg": 0.0, "shift_mm": 0.0, "warp_mm": 0.0, "mirror": 0.0
}  # fmt: skip


def _draw(count: int = 1, seed: int = 0, **ranges: Any) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return Deformation(**{**STILL, **ranges}).draw(count, generator, SIZE_MM, PIVOT)


def _in_mm(affine: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Linear part and shift of maps in shares of the half box, (B, 3, 4), as maps in mm from the box's middle."""
    half = np.array(SIZE_MM) / 2
    linear = affine[:, :, :3].double().numpy() * half[:, None] / half[None, :]
    return linear, affine[:, :, 3].double().numpy() * half


def _volumes(count: int = 2) -> torch.Tensor:
    return torch.rand(count, 2, 8, 10, 6, generator=torch.Generator().manual_seed(9))


def _identity(count: int = 2) -> torch.Tensor:
    return torch.eye(3, 4).repeat(count, 1, 1)


def test_nothing_drawn_changes_nothing() -> None:
    volumes = _volumes()

    torch.testing.assert_close(deform(volumes, *_draw(2)), volumes, atol=1e-5, rtol=0)


def test_a_mirror_exchanges_left_and_right_exactly() -> None:
    volumes = _volumes()
    mirrored = deform(volumes, *_draw(2, mirror=1.0))

    torch.testing.assert_close(mirrored, volumes.flip(2), atol=1e-5, rtol=0)


def test_half_of_the_skulls_are_mirrored() -> None:
    linear, _ = _in_mm(_draw(2000, mirror=0.5)[0])

    assert 0.45 < (np.linalg.det(linear) < 0).mean() < 0.55


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_shift_by_one_voxel_takes_the_neighbor_and_leaves_air_behind(axis: int) -> None:
    volumes, affine = _volumes(), _identity()
    affine[:, axis, 3] = 2 / volumes.shape[2 + axis]  # the output at a voxel is the input one voxel further on

    moved = deform(volumes, affine, torch.zeros(2, 3, 4, 4, 4))

    expected = volumes.roll(-1, 2 + axis)
    expected.select(2 + axis, -1).zero_()
    torch.testing.assert_close(moved, expected, atol=1e-5, rtol=0)


def test_control_points_moved_alike_are_a_shift_of_everything() -> None:
    volumes, affine = _volumes(), _identity()
    affine[:, :, 3] = torch.tensor([0.2, -0.1, 0.3])
    warp = torch.tensor([0.2, -0.1, 0.3]).view(1, 3, 1, 1, 1).expand(2, 3, 5, 6, 5)

    torch.testing.assert_close(
        deform(volumes, _identity(), warp), deform(volumes, affine, torch.zeros_like(warp)), atol=1e-5, rtol=0
    )


def test_a_moved_control_point_bends_as_a_cubic_b_spline() -> None:
    warp = torch.zeros(1, 3, 5, 4, 4)
    warp[:, 0, 2] = 0.1  # the middle sheet of five, along x
    ramp = torch.linspace(-1, 1, 41)[None, None, :, None, None].expand(1, 1, 41, 4, 4)

    moved = deform(ramp * 40 / 41, _identity(1), warp) * 41 / 40 - ramp

    position = np.linspace(0, 4, 41)
    expected = 0.1 * BSpline.basis_element(np.arange(0.0, 5.0), extrapolate=False)(position)
    inner = slice(10, 31)  # further out the weights are normalized to the control points that there are
    np.testing.assert_allclose(moved[0, 0, inner, 2, 2] * 40 / 41, np.nan_to_num(expected)[inner], atol=2e-4)


def test_a_deformation_moves_all_channels_alike_and_each_skull_by_its_own() -> None:
    volume = _volumes(1)[:, :1].repeat(2, 2, 1, 1, 1)
    moved = deform(volume, *_draw(2, scale=0.1, warp_mm=8.0))

    torch.testing.assert_close(moved[:, 0], moved[:, 1])
    assert not torch.allclose(moved[0], moved[1], atol=1e-2)


def test_a_rotation_keeps_millimeters_although_the_box_is_no_cube() -> None:
    linear, _ = _in_mm(_draw(50, rotation_deg=20.0)[0])

    np.testing.assert_allclose(linear @ linear.transpose(0, 2, 1), np.broadcast_to(np.eye(3), (50, 3, 3)), atol=1e-5)


def test_the_pivot_stays_where_it_is_unless_it_is_shifted() -> None:
    affine, _ = _draw(50, scale=0.1, shear=0.05, rotation_deg=10.0)
    pivot = torch.tensor([*PIVOT])

    torch.testing.assert_close(affine[:, :, :3] @ pivot + affine[:, :, 3], pivot.repeat(50, 1), atol=1e-6, rtol=0)


def test_spreads_are_the_standard_deviations_that_were_asked_for() -> None:
    count = 4000
    linear, _ = _in_mm(_draw(count, scale=0.05)[0])
    np.testing.assert_allclose((linear[:, [0, 1, 2], [0, 1, 2]] - 1).std(0), 0.05, rtol=0.06)

    linear, _ = _in_mm(_draw(count, shear=0.03)[0])
    np.testing.assert_allclose(linear[:, [0, 0, 1, 1, 2, 2], [1, 2, 0, 2, 0, 1]].std(0), 0.03, rtol=0.06)
    np.testing.assert_allclose(linear[:, [0, 1, 2], [0, 1, 2]], 1.0, atol=1e-6)

    linear, _ = _in_mm(_draw(count, rotation_deg=2.0)[0])
    angles = np.rad2deg(np.stack([linear[:, 2, 1], linear[:, 0, 2], linear[:, 1, 0]]))
    np.testing.assert_allclose(angles.std(1), 2.0, rtol=0.06)

    _, shift = _in_mm(_draw(count, shift_mm=2.0)[0])
    np.testing.assert_allclose(shift.std(0), 2.0, rtol=0.06)

    _, warp = _draw(40, warp_mm=3.0)
    warp_mm = warp * torch.tensor(SIZE_MM).view(1, 3, 1, 1, 1) / 2
    assert warp_mm.shape == (40, 3, 5, 6, 5)
    np.testing.assert_allclose(warp_mm.std(dim=(0, 2, 3, 4)), 3.0, rtol=0.06)


def test_the_same_seed_draws_the_same_deformation_and_another_seed_another() -> None:
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 1, 2)]
    first, again, other = (Deformation().draw(3, generator, SIZE_MM, PIVOT)[0] for generator in generators)

    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert not torch.allclose(first, other)


def test_a_size_of_1_1_shrinks_what_is_seen_to_ten_elevenths() -> None:
    """The map is from output to input position, so a drawn size above one makes the head smaller."""
    points = torch.linspace(-1, 1, 200)[None, None, :, None, None].expand(1, 1, 200, 4, 4)
    solid = (points.abs() < 0.55).float()
    affine = _identity(1)
    affine[:, 0, 0] = 1.1

    assert deform(solid, affine, torch.zeros(1, 3, 4, 4, 4))[0, 0, :, 0, 0].sum() == pytest.approx(100, abs=1.5)
