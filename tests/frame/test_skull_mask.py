"""Bone of the head from HU: what must stay and what must go."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from bundle.skull_implant.errors import CaseRefused
from bundle.skull_implant.frame.skull_mask import clean_binary_mask, skull_mask_from_hu
from bundle.skull_implant.volume import Grid, Volume
from tests.debian_sample import debian_sample

PLAIN = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
TILT = tuple(float(x) for x in Rotation.from_euler("xz", [10, 15], degrees=True).as_matrix().ravel())


class Phantom:
    """An ellipsoidal head in HU: 6 mm scalp, 6 mm bone, brain; skin half axes 75 x 92 x 80 mm; +y is posterior."""

    def __init__(
        self, spacing: tuple[float, float, float] = (2.0, 2.0, 2.0), direction: tuple[float, ...] = PLAIN
    ) -> None:
        size = tuple(round(extent / step) for extent, step in zip((230.0, 250.0, 190.0), spacing, strict=True))
        center = np.reshape(direction, (3, 3)) @ ((np.array(size) - 1) / 2 * spacing)
        self.grid = Grid(size, spacing, tuple(-center), direction)
        index = np.indices(size).reshape(3, -1)
        self.xyz = (self.grid.affine[:3, :3] @ index + self.grid.affine[:3, 3:]).reshape(3, *size)
        self.hu = np.full(size, -1000, np.int16)
        for shrink, hu in ((0.0, 40), (6.0, 900), (12.0, 35)):
            self.hu[self.ellipsoid(75 - shrink, 92 - shrink, 80 - shrink)] = hu
        self.bone = self.hu >= 300

    def ellipsoid(self, a: float, b: float, c: float, center: tuple[float, ...] = (0.0, 0.0, 0.0)) -> np.ndarray:
        x, y, z = (axis - at for axis, at in zip(self.xyz, center, strict=True))
        return (x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2 <= 1

    def ball(self, center: tuple[float, float, float], radius_mm: float) -> np.ndarray:
        return self.ellipsoid(radius_mm, radius_mm, radius_mm, center)

    def holder(self, *, gap_mm: float, radius_mm: float = 115.0, thickness_mm: float = 6.0) -> np.ndarray:
        """A half tube along z whose inner wall is `gap_mm` behind the skin (negative: the head is pressed into it)."""
        x, y, _ = self.xyz
        r = np.hypot(x, y - (92 + gap_mm - radius_mm))
        return (r >= radius_mm) & (r < radius_mm + thickness_mm) & (y > 20) & (self.hu == -1000)

    def mask(self, hu: np.ndarray | None = None) -> np.ndarray:
        return skull_mask_from_hu(Volume(self.hu if hu is None else hu, self.grid)).voxels


@pytest.fixture(scope="module", params=["plain", "thick slices", "oblique"])
def phantom(request: pytest.FixtureRequest) -> Phantom:
    spacing = {"plain": (2.0, 2.0, 2.0), "thick slices": (1.5, 1.5, 5.0), "oblique": (2.0, 1.6, 2.5)}[request.param]
    return Phantom(spacing, TILT) if request.param == "oblique" else Phantom(spacing)


def test_bone_is_kept_voxel_for_voxel_on_the_same_grid(phantom: Phantom) -> None:
    mask = skull_mask_from_hu(Volume(phantom.hu, phantom.grid))

    assert mask.grid is phantom.grid
    assert mask.voxels.dtype == bool
    np.testing.assert_array_equal(mask.voxels, phantom.bone)


@pytest.mark.parametrize(
    ("gap_mm", "holder_hu"), [(12.0, 350), (0.0, 1200), (-2.0, 350)], ids=["cushioned", "touching", "pressed"]
)
def test_a_holder_goes_whole_and_the_skull_stays_whole(phantom: Phantom, gap_mm: float, holder_hu: int) -> None:
    hu = np.where(phantom.holder(gap_mm=gap_mm), np.int16(holder_hu), phantom.hu)
    assert (hu >= 300).sum() > 1.2 * phantom.bone.sum()

    np.testing.assert_array_equal(phantom.mask(hu), phantom.bone)


def test_a_holder_molded_to_the_head_goes(phantom: Phantom) -> None:
    shell = phantom.ellipsoid(81, 98, 86) & ~phantom.ellipsoid(75, 92, 80) & (phantom.xyz[1] > 30)
    hu = np.where(shell, np.int16(500), phantom.hu)

    np.testing.assert_array_equal(phantom.mask(hu), phantom.bone)


def test_a_solid_table_bigger_than_the_skull_goes(phantom: Phantom) -> None:
    x, y, _ = phantom.xyz
    hu = np.where((y > 100) & (np.abs(x) < 90), np.int16(400), phantom.hu)

    np.testing.assert_array_equal(phantom.mask(hu), phantom.bone)


def test_wires_in_the_air_and_on_the_skin_go(phantom: Phantom) -> None:
    x, y, z = phantom.xyz
    wires = (np.hypot(x - 60, y + 80) < 4) | ((np.hypot(x, z) < 4) & (y < -90))
    hu = np.where(wires & (phantom.hu == -1000), np.int16(2500), phantom.hu)

    np.testing.assert_array_equal(phantom.mask(hu), phantom.bone)


def test_a_sunken_hole_with_thin_scalp_stays_open_and_nothing_else_changes(phantom: Phantom) -> None:
    hole = phantom.ball((70.0, 0.0, 20.0), 35)
    hu = np.where(hole & phantom.bone, np.int16(40), phantom.hu)
    hu[phantom.ball((85.0, 0.0, 25.0), 25)] = -1000  # the skin has sunk by up to 15 mm
    expected = phantom.bone & ~hole & (hu >= 300)

    np.testing.assert_array_equal(phantom.mask(hu), expected)


def test_a_bone_flap_away_from_the_skull_stays() -> None:
    phantom = Phantom()
    flap = phantom.ellipsoid(4, 15, 12, (40.0, 0.0, 0.0))  # sunken 17 mm below the bone, 3 ml
    hu = np.where(flap, np.int16(800), phantom.hu)

    np.testing.assert_array_equal(phantom.mask(hu), phantom.bone | flap)


def test_a_calcified_speck_in_the_brain_goes_and_an_islet_near_the_skull_stays() -> None:
    phantom = Phantom()
    speck, islet = phantom.ball((0.0, 0.0, 0.0), 4), phantom.ball((59.0, 0.0, 0.0), 2.5)
    hu = np.where(speck | islet, np.int16(500), phantom.hu)
    assert not ndimage.binary_dilation(islet)[phantom.bone].any()

    np.testing.assert_array_equal(phantom.mask(hu), phantom.bone | islet)


def test_the_thin_wall_of_an_air_filled_sinus_stays() -> None:
    phantom = Phantom()
    sinus = phantom.ellipsoid(20, 5, 14, (0.0, -80.0, 0.0))
    wall = phantom.ellipsoid(22, 7, 16, (0.0, -80.0, 0.0)) & ~sinus & (phantom.hu > -1000)
    hu = np.where(wall, np.int16(400), np.where(sinus, np.int16(-1000), phantom.hu))
    expected = (phantom.bone | wall) & ~sinus

    np.testing.assert_array_equal(phantom.mask(hu), expected)


def test_metal_in_the_skull_stays() -> None:
    phantom = Phantom()
    plate = phantom.ball((66.0, 0.0, 0.0), 6)
    hu = np.where(plate, np.int16(3071), phantom.hu)

    assert phantom.mask(hu)[plate].all()


def test_a_vault_cut_by_the_scan_stays_whole() -> None:
    phantom = Phantom()
    inside = slice(12, 80)  # cuts scalp and bone above and below
    grid = Grid((*phantom.grid.size[:2], 68), phantom.grid.spacing, phantom.grid.origin, phantom.grid.direction)

    mask = skull_mask_from_hu(Volume(phantom.hu[:, :, inside], grid)).voxels

    np.testing.assert_array_equal(mask, phantom.bone[:, :, inside])


def test_a_bare_skull_without_scalp_and_brain_stays_and_its_holder_goes() -> None:
    phantom = Phantom()
    bare = np.where(phantom.bone & (phantom.xyz[2] > -50), np.int16(900), np.int16(-1000))
    hu = np.where(phantom.holder(gap_mm=5.0), np.int16(400), bare)

    np.testing.assert_array_equal(phantom.mask(hu), bare == 900)


def test_too_little_bone_is_refused_with_the_amount() -> None:
    phantom = Phantom()
    hu = np.where(phantom.bone & (phantom.xyz[2] < 70), np.int16(40), phantom.hu)

    with pytest.raises(
        CaseRefused, match=r"scan\.nii: refused: no skull .*\d ml at or above 300 HU, .* at least 50 ml"
    ):
        skull_mask_from_hu(Volume(hu, phantom.grid), case="scan.nii")


def test_stored_values_without_the_rescale_intercept_are_refused() -> None:
    phantom = Phantom()

    with pytest.raises(CaseRefused, match=r"not HU .* from 24 to 1924.*rescale intercept"):
        phantom.mask(phantom.hu + np.int16(1024))


def test_not_a_number_counts_as_air() -> None:
    phantom = Phantom()
    hu = np.where(phantom.hu == -1000, np.nan, phantom.hu.astype(np.float32))
    hu[:, :8] = -1000

    np.testing.assert_array_equal(phantom.mask(hu), phantom.bone)


def test_a_binary_mask_loses_only_tiny_specks_away_from_the_skull() -> None:
    phantom = Phantom()
    mask = phantom.bone.copy()
    mask[50:60, -5:, 40:60] = True  # a strap of 8 ml is not ours to judge
    with_specks = mask.copy()
    with_specks[57, 62, 47] = True  # in the brain
    with_specks[2, 2, 2] = True

    cleaned = clean_binary_mask(Volume(with_specks.astype(np.uint8) * 255, phantom.grid))

    assert cleaned.grid is phantom.grid
    np.testing.assert_array_equal(cleaned.voxels, mask)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("spacing", [(0.5, 0.6, 1.25), (2.0, 2.0, 5.0)])
def test_bone_does_not_depend_on_how_voxels_lie_in_memory_and_lies_as_files_are_written(
    order: str, spacing: tuple[float, float, float]
) -> None:
    """A bone shell in a head of 170 mm that the grid's end cuts, on a grid whose blocks do not come out even."""
    size = tuple(int(200 / step) - 1 for step in spacing)
    x, y, z = np.ogrid[tuple(slice(0.0, count) for count in size)]
    x, y, z = (axis * step - 99.0 for axis, step in zip((x, y, z), spacing, strict=True))
    radius = np.sqrt(x**2 + y**2 + (z - 30.0) ** 2)
    hu = np.where(radius < 85, 40, -1000).astype(np.int16)
    bone = (radius < 78) & (radius > 70)
    hu[bone] = 900
    place = Grid(size, spacing, (0.0, 0.0, 0.0), PLAIN)
    mask = skull_mask_from_hu(Volume(np.asarray(hu, order=order), place)).voxels
    np.testing.assert_array_equal(mask, bone)
    assert mask.flags.f_contiguous


def test_air_alone_is_no_skull() -> None:
    place = Grid((40, 40, 40), (4.0, 4.0, 4.0), (0.0, 0.0, 0.0), PLAIN)
    with pytest.raises(CaseRefused, match=r"no skull found \(0.0 ml"):
        skull_mask_from_hu(Volume(np.full(place.size, -1000, np.int16), place))


@pytest.mark.parametrize("fill", [0, 1])
def test_a_binary_mask_of_nothing_or_one_piece_is_returned_as_it_is(fill: int) -> None:
    grid = Grid((4, 5, 6), (1.0, 2.0, 3.0), (0.0, 0.0, 0.0), TILT)

    cleaned = clean_binary_mask(Volume(np.full(grid.size, fill, np.int16), grid))

    np.testing.assert_array_equal(cleaned.voxels, np.full(grid.size, bool(fill)))


@pytest.mark.realdata
def test_no_part_of_a_real_holder_survives_and_no_bone_of_the_head_is_lost() -> None:
    volume = debian_sample()
    threshold = volume.voxels >= 300
    holder = _beyond_the_head(volume.grid)
    assert (threshold & holder).sum() > 36_000  # two arcs of 25 ml each

    mask = skull_mask_from_hu(volume).voxels

    assert not (mask & holder).any()
    lost = threshold & ~mask & ~holder
    assert lost.sum() < 0.001 * mask.sum()  # specks in brain and nose, tips of the styloid processes
    assert not lost[:, :, 60:].any()  # and nothing of the vault above the frontal sinus


@pytest.mark.realdata
def test_a_hole_cut_into_a_real_head_stays_open_and_nothing_else_changes() -> None:
    volume = debian_sample()
    before = skull_mask_from_hu(volume).voxels
    x, y, z = (axis * step for axis, step in zip(np.indices(volume.grid.size), volume.grid.spacing, strict=True))
    hole = (x - 190) ** 2 + (y - 140) ** 2 + (z - 110) ** 2 < 40**2

    after = skull_mask_from_hu(Volume(np.where(hole, np.minimum(volume.voxels, 40), volume.voxels), volume.grid)).voxels

    assert (before & hole).sum() * volume.grid.voxel_ml > 20
    np.testing.assert_array_equal(after, before & ~hole)


def _beyond_the_head(grid: Grid) -> np.ndarray:
    """Outside an elliptic tube midway between the skull of the Debian sample and its holder, which are 22 mm apart."""
    x, y, _ = np.indices(grid.size) * np.reshape(grid.spacing, (3, 1, 1, 1))
    return ((x - 127) / 97) ** 2 + ((y - 128) / 113) ** 2 > 1


@pytest.mark.parametrize("hole_mm", [0.1, 40.0])
def test_bone_without_a_head_around_it_stays_whole(phantom: Phantom, hole_mm: float) -> None:
    """A masked CT, a printed phantom: where slices are closed, the vault's cavity is as large as a head."""
    bone = phantom.bone & ~phantom.ball((60.0, 0.0, 30.0), hole_mm)
    np.testing.assert_array_equal(phantom.mask(np.where(bone, 500, -1000).astype(np.int16)), bone)
