"""A scan is refused or reviewed for what it is, before the network sees it, and a good one is neither."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bundle.skull_implant.errors import CaseRefused
from bundle.skull_implant.frame.fitness import FitnessRules, check_scan, check_vault, round_field_of_view, upward
from bundle.skull_implant.input.gantry_tilt import GantryTilt
from bundle.skull_implant.input.reading import Case, read_case
from bundle.skull_implant.volume import Grid, Volume

SIZE, SPACING = (90, 110, 60), (2.0, 2.0, 2.5)


def grid(direction: np.ndarray | None = None, size: tuple[int, ...] = SIZE, spacing: tuple = SPACING) -> Grid:
    axes = np.eye(3) if direction is None else direction
    return Grid(size, spacing, (0.0, 0.0, 0.0), tuple(axes.ravel().tolist()))


def dome(top_mm: float = 10.0, left_mm: float = 20.0) -> np.ndarray:
    """A bony half shell of radii 70, 90 and 110 mm; its vertex lies below the last slice, its side off column 0."""
    x, y, z = (axis * step for axis, step in zip(np.indices(SIZE), SPACING, strict=True))
    x, y, z = x - left_mm - 70, y - 110, z - (SIZE[2] - 0.5) * SPACING[2] + top_mm + 110
    outer = (x / 70) ** 2 + (y / 90) ** 2 + (z / 110) ** 2 <= 1
    inner = (x / 64) ** 2 + (y / 84) ** 2 + (z / 104) ** 2 <= 1
    return outer & ~inner


def ct(bone: np.ndarray, direction: np.ndarray | None = None) -> tuple[Case, Volume]:
    """A noisy CT of bone in air, and its skull."""
    hu = np.where(bone, 900, -1000) + np.random.default_rng(0).integers(-20, 20, bone.shape)
    place = grid(direction, bone.shape)
    return Case("head", Volume(hu.astype(np.int16), place), False, {}), Volume(bone, place)


def with_values(case: Case, values: np.ndarray) -> Case:
    return Case(case.name, Volume(values.astype(np.int16), case.volume.grid), False, {})


def test_a_whole_vault_raises_no_remark() -> None:
    case, skull = ct(dome())
    check_scan(case)
    assert check_vault(case, skull) == []


@pytest.mark.parametrize(("spacing", "refused"), [((0.5, 0.5, 3.0), False), ((0.5, 0.5, 3.2), True), ((1, 4, 1), True)])
def test_thick_slices_are_refused(spacing: tuple, refused: bool) -> None:
    place = grid(size=(200, 200, 100), spacing=spacing)
    case = Case("head", Volume(np.zeros(place.size, np.int16), place), False, {})
    if not refused:
        check_scan(case)
        return
    with pytest.raises(CaseRefused, match=rf"at most 3 mm apart, {max(spacing):g} mm arrived; export the thin"):
        check_scan(case)


def test_height_is_measured_along_the_body_however_the_slices_lie() -> None:
    sagittal = np.array([[0, 0, 1], [1, 0, 0], [0, -1, 0]])  # j runs down
    place = grid(sagittal, (200, 70, 160), (1.0, 1.0, 1.0))
    assert upward(place) == (1, False)
    with pytest.raises(CaseRefused, match="at least 80 mm from foot to head, 70 mm in 70 slices arrived"):
        check_scan(Case("head", Volume(np.zeros(place.size, np.int16), place), False, {}))


@pytest.mark.parametrize("turn", [(0, 1, 2), (1, 2, 0), (2, 0, 1)])
@pytest.mark.parametrize("flip", [False, True])
def test_a_vault_cut_off_above_is_refused_in_any_orientation(turn: tuple[int, ...], flip: bool) -> None:
    bone = dome(top_mm=-4.0)
    direction = np.eye(3)
    if flip:
        bone, direction[:, 2] = bone[:, :, ::-1], (0, 0, -1)
    case, skull = ct(np.ascontiguousarray(bone.transpose(turn)), direction[:, turn])
    spacing = tuple(np.array(SPACING)[list(turn)].tolist())
    place = Grid(skull.grid.size, spacing, skull.grid.origin, skull.grid.direction)
    with pytest.raises(CaseRefused, match=r"bone of [\d.]+ cm2 at the top slice arrived \(at most 10\)"):
        check_vault(Case("head", Volume(case.volume.voxels, place), False, {}), Volume(skull.voxels, place))


def test_a_vault_that_touches_the_top_a_little_is_reviewed() -> None:
    case, skull = ct(dome(top_mm=0.0))
    assert check_vault(case, skull) == [f"bone of {skull.voxels[:, :, -1].sum() * 0.04:.1f} cm2 touches the top slice"]


def test_a_vault_cut_off_at_the_side_is_refused_and_the_neck_is_not() -> None:
    case, skull = ct(dome(left_mm=-10.0))
    with pytest.raises(CaseRefused, match="cm2 at the first column arrived"):
        check_vault(case, skull)
    case, skull = ct(dome())
    skull.voxels[:, :, :10] = True  # 92 mm and more below the vertex
    assert skull.voxels[0].any()
    assert check_vault(case, skull, FitnessRules(vault_mm=90.0)) == []


def test_a_vault_cut_off_by_a_round_field_of_view_is_refused() -> None:
    i, j = np.indices(SIZE[:2])
    squared = (i - 44.5) ** 2 + (j - 54.5) ** 2
    for radius, refused in ((44, False), (38, True)):
        case, skull = ct(dome())
        outside = squared > radius**2
        skull.voxels[outside] = False
        cut = with_values(case, np.where(outside[:, :, None], -1024, np.where(skull.voxels, 900, -990)))
        np.testing.assert_array_equal(round_field_of_view(cut.volume.voxels), outside)
        if refused:
            with pytest.raises(CaseRefused, match="cm2 at the edge of the round field of view"):
                check_vault(cut, skull)
        else:
            skull.voxels[squared > (radius - 5) ** 2] = False
            assert check_vault(with_values(case, cut.volume.voxels), skull) == []


def test_a_round_field_of_view_whose_slices_are_not_axial_is_looked_at_in_the_vault_alone() -> None:
    i, j = np.indices(SIZE[:2])
    outside = (i - 44.5) ** 2 + (j - 54.5) ** 2 > 44**2
    bone = np.zeros(SIZE, bool)
    bone[40:45, 20:80, 10:50] = True
    case, skull = ct(bone, np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]))  # up along the first axis
    cut = with_values(case, np.where(outside[:, :, None], -1024, np.where(bone, 900, -990)))

    assert round_field_of_view(cut.volume.voxels) is not None
    assert check_vault(cut, skull, FitnessRules(vault_mm=5.0)) == []


@pytest.mark.parametrize("degrees", [-18.0, 6.0, 18.0])
def test_a_tilt_that_was_corrected_hides_no_cut(degrees: float) -> None:
    """Slices of a head, cut by the scanner's square or round field of view, come from a tilted gantry."""
    tilt = GantryTilt(np.array([0.0, np.tan(np.radians(degrees))]))
    i, j = np.indices(SIZE[:2])
    round_field = (i - 44.5) ** 2 + (j - 54.5) ** 2 > 38**2
    for left_mm, outside, message in (
        (20.0, np.zeros(SIZE[:2], bool), ""),
        (-10.0, np.zeros(SIZE[:2], bool), "cm2 at the first column arrived"),
        (20.0, round_field, "cm2 at the edge of the round field of view"),
    ):
        bone = dome(left_mm=left_mm)
        bone[outside] = False
        hu = np.where(outside[:, :, None], -1024, np.where(bone, 900, -990)).astype(np.int16)
        upright, corrected = tilt.corrected(Volume(hu, grid()))
        assert upright.grid.size[1] > SIZE[1] + 2
        case = Case("head", upright, False, {}, (), corrected)
        skull = Volume(upright.voxels >= 300, upright.grid)
        if message:
            with pytest.raises(CaseRefused, match=message):
                check_vault(case, skull)
        else:
            assert check_vault(case, skull) == []


@pytest.mark.parametrize(("back", "row"), [(False, "the first row"), (True, "the last row")])
def test_a_cut_along_the_tilt_is_seen_although_its_rows_were_moved_by_parts(back: bool, row: str) -> None:
    bone = np.roll(dome(), 25 if back else -25, axis=1)
    bone[:, slice(0, 50) if back else slice(60, None)] = False  # what was rolled round the edge
    hu = np.where(bone, 900, -990).astype(np.int16)
    for degrees in (-9.0, 9.0):
        tilt = GantryTilt(np.array([0.0, np.tan(np.radians(degrees))]))
        upright, corrected = tilt.corrected(Volume(hu, grid()))
        skull = Volume(upright.voxels >= 300, upright.grid)
        with pytest.raises(CaseRefused, match=f"cm2 at {row} arrived"):
            check_vault(Case("head", upright, False, {}, (), corrected), skull)


def test_clipped_air_around_a_bare_skull_is_no_field_of_view() -> None:
    case, skull = ct(dome())
    bare = with_values(case, np.where(skull.voxels, 900, -1024))
    assert round_field_of_view(bare.volume.voxels) is None
    assert check_vault(bare, skull) == []


def test_metal_in_the_vault_is_reviewed_and_a_bright_voxel_or_a_tooth_is_not() -> None:
    case, skull = ct(dome())
    hu = case.volume.voxels.copy()
    where = np.argwhere(skull.voxels & (np.arange(SIZE[2]) >= 40))
    hu[tuple(where[:9].T)] = 3071  # 90 microliters
    hu[skull.voxels & (np.arange(SIZE[2]) < 15)] = 3071
    assert check_vault(with_values(case, hu), skull) == []
    hu[tuple(where[:40].T)] = 3071
    assert check_vault(with_values(case, hu), skull) == ["metal of 0.4 ml in the vault, its streaks may look like bone"]


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("part", "name", "area"),
    [("training_set/complete_skull", "096", 0.6), ("test_set/defective_skull", "058", 2.1)],
)
def test_real_skulls_that_touch_the_top_slice_are_reviewed(shared_dir: Path, part: str, name: str, area: float) -> None:
    case = read_case(shared_dir / "skullfix" / part / f"{name}.nrrd")
    check_scan(case)
    skull = Volume(case.volume.voxels > 0, case.volume.grid)
    assert check_vault(case, skull) == [f"bone of {area} cm2 touches the top slice"]
