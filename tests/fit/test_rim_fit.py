"""The correction of a decoded vault that is too large, too thin or shifted, measured where there is bone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from scipy import ndimage

from bundle.skull_implant.design.metrics import dice
from bundle.skull_implant.fit.hole_completion import HoleCompletion, UnrolledBone
from bundle.skull_implant.fit.rim_fit import RimFit
from bundle.skull_implant.fit.table_errors import TableErrors
from bundle.skull_implant.fit.table_model import TableModel
from bundle.skull_implant.frame.canonical_frame import CanonicalFrame
from bundle.skull_implant.frame.canonical_grid import CanonicalBox, crop_grid
from bundle.skull_implant.frame.vault_rays import VaultRays
from bundle.skull_implant.model.facial_network import FacialNetwork, make_facial_network
from bundle.skull_implant.model.unrolled_vault import HEIGHTS_MM
from bundle.skull_implant.volume import Volume
from tests.made_up_skulls import ball, egg_template, pose, shell

EGG = egg_template()
COARSE = CanonicalBox((36, 46, 32))
FINE = CanonicalBox((72, 92, 64))
HEAD = pose(scales=(1.0, 1.02, 0.98))
HOLE = (40.0, 10.0, -25.0)


def _share(frame: CanonicalFrame, box: CanonicalBox, wall_mm: float = 7.0, moved_mm: float = 0.0) -> np.ndarray:
    """Share of a vault's wall in each voxel of a canonical box, from samples at half its voxel size."""
    half = CanonicalBox(tuple(2 * size for size in box.spatial_size), box.size_mm, box.top_mm)  # type: ignore[arg-type]
    points = half.coordinates().numpy() - np.array([moved_mm, 0.0, 0.0])[:, None, None, None]
    wall = shell(points, frame, EGG, wall_mm=wall_mm).astype(np.float32)
    x, y, z = box.spatial_size
    return np.asarray(wall.reshape(x, 2, y, 2, z, 2).mean(axis=(1, 3, 5)))


TRUTH = _share(HEAD, FINE) > 0.5


@pytest.fixture(scope="module")
def bone() -> tuple[np.ndarray, np.ndarray]:
    """The patient's share of bone with a hole, and the hole, on the fine grid."""
    hole = ball(FINE.coordinates().numpy(), HOLE, 32.0)
    return np.where(hole, 0.0, _share(HEAD, FINE)).astype(np.float32), hole


def _in_hole(probability: np.ndarray, hole: np.ndarray) -> float:
    """DSC with the true vault inside the hole."""
    return dice((probability > 0.5) & hole, TRUTH & hole)


def _refined(decoded: np.ndarray, bone: np.ndarray, fit: RimFit | None = None) -> np.ndarray:
    corrected, _ = (fit or RimFit()).correct(decoded, bone, HEAD, COARSE, FINE, EGG)
    return corrected


@pytest.mark.parametrize(
    "decoded",
    [
        _share(pose(scales=(1.05, 1.06, 1.04)), COARSE),
        _share(HEAD, COARSE, moved_mm=2.0),
        _share(HEAD, COARSE, wall_mm=10.0),
    ],
    ids=["too large", "shifted", "too thick"],
)
def test_a_wrong_vault_is_corrected_inside_the_hole(decoded: np.ndarray, bone: tuple[np.ndarray, np.ndarray]) -> None:
    share, hole = bone
    before = _in_hole(_refined(decoded, share, RimFit(errors=TableErrors(match_mm=-1.0))), hole)
    after = _in_hole(_refined(decoded, share), hole)

    assert after > before + 0.05
    assert after > 0.88


def test_below_a_gamma_of_one_only_a_share_of_the_correction_is_made(bone: tuple[np.ndarray, np.ndarray]) -> None:
    """Else the hole is closed at a gamma of 0 as well, which is to reconstruct the input."""
    share, _ = bone
    open_vault = np.where(ball(COARSE.coordinates().numpy(), HOLE, 32.0), 0.0, _share(HEAD, COARSE)).astype(np.float32)
    skull = Volume(share > 0.5, FINE.grid(HEAD))

    def closed(gamma: float, decoded: np.ndarray) -> float:
        fitted = RimFit(errors=TableErrors(), bridge_share=0.0).refine(decoded, skull, HEAD, COARSE, EGG, gamma)
        inside = ball(fitted.box.coordinates().numpy(), HOLE, 26.0)
        return float(fitted.probability[inside].sum())

    nothing, half, whole, more = (closed(gamma, open_vault) for gamma in (0.0, 0.5, 1.0, 2.0))

    assert nothing == closed(-1.0, open_vault) < 0.02 * whole
    assert half == pytest.approx((nothing + whole) / 2, rel=1e-3)
    assert more == whole


def test_a_right_vault_stays_where_it_is(bone: tuple[np.ndarray, np.ndarray]) -> None:
    decoded = _share(HEAD, COARSE)

    untouched, refined = (
        _refined(decoded, bone[0], RimFit(errors=TableErrors(match_mm=-1.0))),
        _refined(decoded, bone[0]),
    )

    assert dice(untouched > 0.5, refined > 0.5) > 0.95
    assert _in_hole(refined, bone[1]) >= _in_hole(untouched, bone[1]) - 0.01


def test_without_bone_nothing_is_measured_and_nothing_moves() -> None:
    decoded = _share(HEAD, COARSE)
    nothing = np.zeros(FINE.spatial_size, np.float32)

    np.testing.assert_allclose(
        _refined(decoded, nothing), _refined(decoded, nothing, RimFit(errors=TableErrors(match_mm=-1.0))), atol=1e-5
    )


def test_an_empty_decoding_stays_empty(bone: tuple[np.ndarray, np.ndarray]) -> None:
    assert not _refined(np.zeros(COARSE.spatial_size, np.float32), bone[0]).any()


def test_bone_that_lies_far_from_the_decoded_vault_is_no_measurement(bone: tuple[np.ndarray, np.ndarray]) -> None:
    decoded = _share(HEAD, COARSE)
    around = _share(pose(scales=(1.13, 1.13, 1.11)), FINE, wall_mm=3.0)
    strap = np.where(FINE.coordinates().numpy()[2] < -65.0, around, 0.0)  # there it lies 6 mm or more outside the vault

    untouched = _refined(decoded, bone[0], RimFit(errors=TableErrors(match_mm=-1.0)))
    with_strap = _refined(decoded, np.maximum(bone[0], strap))

    assert _in_hole(with_strap, bone[1]) >= _in_hole(untouched, bone[1]) - 0.02


def _with_opening(center: tuple[float, float, float], radius_mm: float) -> np.ndarray:
    """A decoded vault that has an opening where the decoder doubts, on the coarse grid."""
    return np.where(ball(COARSE.coordinates().numpy(), center, radius_mm), 0.0, _share(HEAD, COARSE)).astype(np.float32)


def test_an_opening_that_the_decoder_leaves_in_a_hole_is_bridged(bone: tuple[np.ndarray, np.ndarray]) -> None:
    share, hole = bone
    decoded = _with_opening(HOLE, 16.0)

    open_still = _in_hole(_refined(decoded, share, RimFit(bridge_share=1.01)), hole)
    bridged = _in_hole(_refined(decoded, share), hole)

    assert open_still < 0.85
    assert bridged > 0.93


def test_a_hole_of_which_hardly_anything_is_decoded_is_not_bridged(bone: tuple[np.ndarray, np.ndarray]) -> None:
    share, hole = bone
    decoded = _with_opening(HOLE, 30.0)

    assert _in_hole(_refined(decoded, share), hole) < 0.5


def test_nothing_is_bridged_where_there_is_bone() -> None:
    share = _share(HEAD, FINE)
    decoded = _with_opening(HOLE, 16.0)

    without, refined = _refined(decoded, share, RimFit(bridge_share=1.01)), _refined(decoded, share)

    np.testing.assert_array_equal(refined, without)


def _egg_tables(dent_mm: float = 0.0) -> TableModel:
    """A shape model that knows one vault, without doubt, whose inner table may be dented outwards where the hole is."""
    plane = VaultRays(TableModel.step_deg).plane
    mean = np.stack([np.zeros_like(plane.radii_mm), np.full_like(plane.radii_mm, -7.0)])
    index, _ = plane.plane_index(np.add([HOLE], [0.0, 0.0, EGG.vertex_mm * HEAD.scales[2]]))
    cells = np.indices(plane.radii_mm.shape) - index[:, :, None]
    mean[1] += dent_mm * (np.hypot(*cells) * TableModel.step_deg < 16.0)
    return TableModel(mean, np.zeros((1, 2, *plane.radii_mm.shape)))


def test_the_shape_model_has_half_of_the_say_inside_the_hole(bone: tuple[np.ndarray, np.ndarray]) -> None:
    share, hole = bone
    inside = ball(COARSE.coordinates().numpy(), HOLE, 26.0)
    decoded = np.where(inside, _share(HEAD, COARSE, wall_mm=4.0), _share(HEAD, COARSE)).astype(np.float32)

    alone = _in_hole(_refined(decoded, share), hole)
    right, wrong = (_in_hole(_refined(decoded, share, RimFit(_egg_tables(dent))), hole) for dent in (0.0, 5.0))

    print(f"in the hole: DSC {alone:.3f} alone, {right:.3f} with a right shape model, {wrong:.3f} with a wrong one")
    assert right > alone + 0.01
    assert wrong < right - 0.02


def test_a_wall_that_rays_graze_hardly_counts(bone: tuple[np.ndarray, np.ndarray]) -> None:
    share, hole = bone
    decoded = _share(HEAD, COARSE)
    points = FINE.coordinates().numpy()
    ring = ball(points, HOLE, 37.0) & ~ball(points, HOLE, 32.0)
    grazed = np.where(ring, _share(pose(scales=(0.97, 0.99, 0.95)), FINE), share)  # some 2 mm too deep at the rim

    trusted = _in_hole(_refined(decoded, grazed, RimFit(errors=TableErrors(robust_mm=1e6))), hole)
    robust = _in_hole(_refined(decoded, grazed), hole)

    print(f"in the hole: DSC {trusted:.3f} with the wall trusted, {robust:.3f} robust")
    assert robust > trusted + 0.01


def _dented(center: tuple[float, float, float]) -> np.ndarray:
    """Where a vault of two heads' sizes is the smaller one, on the fine grid."""
    return ball(FINE.coordinates().numpy(), center, 18.0)


@pytest.mark.parametrize("both_sides", [True, False])
def test_the_other_side_of_the_head_tells_the_detail_in_a_hole(
    bone: tuple[np.ndarray, np.ndarray], both_sides: bool
) -> None:
    _, hole = bone
    dents = _dented((-HOLE[0], *HOLE[1:])) | (_dented(HOLE) & both_sides)
    share = np.where(dents, _share(pose(scales=(0.96, 0.98, 0.95)), FINE), _share(HEAD, FINE)).astype(np.float32)
    truth, decoded = (share > 0.5) & hole, _share(HEAD, COARSE)

    alone, asked = (
        dice(
            (_refined(decoded, np.where(hole, 0.0, share), RimFit(errors=TableErrors(mirror_share=each))) > 0.5) & hole,
            truth,
        )
        for each in (0.0, 0.7)
    )

    print(
        f"in the hole: DSC {alone:.3f} without and {asked:.3f} with the other side, dented on both sides {both_sides}"
    )
    assert (asked > alone + 0.02) == both_sides
    assert asked > alone - 0.06


def test_the_mean_vault_has_half_of_what_is_expected_but_at_the_brow() -> None:
    fit = RimFit(_egg_tables())
    assert fit.tables is not None
    mean = fit.tables.mean_at(fit.rays)
    middle = len(mean[0]) // 2
    brow = middle + round(85 / fit.rays.step_deg)

    expected = fit._expected(mean + 1.0, mean + 3.0) - mean

    np.testing.assert_allclose(expected[:, middle, middle], 1.0)
    np.testing.assert_allclose(expected[:, middle, 2 * middle - brow], 1.0)  # as low behind
    np.testing.assert_allclose(expected[:, middle, brow], 2.0)
    np.testing.assert_array_equal(RimFit()._expected(mean, None), mean)


class _Eraser:
    """A hole network that is sure of no bone anywhere."""

    def __call__(self, bone: np.ndarray, tables: np.ndarray, measured: np.ndarray, rays: VaultRays) -> UnrolledBone:
        size = (len(HEIGHTS_MM), *rays.shape)
        return UnrolledBone(np.full(size, 5.0, np.float32), np.full(size, -50.0, np.float32), rays)


@pytest.mark.parametrize(("place", "has_a_say"), [((0.0, 78.0, -65.0), True), ((0.0, -40.0, -15.0), False)])
def test_the_hole_network_has_a_say_at_the_brow_alone(place: tuple[float, float, float], has_a_say: bool) -> None:
    hole = ball(FINE.coordinates().numpy(), place, 25.0)
    share = np.where(hole, 0.0, _share(HEAD, FINE)).astype(np.float32)
    holes = cast(HoleCompletion, _Eraser())

    without, erased = (
        _refined(_share(HEAD, COARSE), share, RimFit(holes=network, learned_share=1.0)) for network in (None, holes)
    )

    left = np.count_nonzero(hole & (erased > 0.5)) / np.count_nonzero(hole & (without > 0.5))
    print(f"{left:.2f} of the bone in the hole is left")
    assert (left < 0.5) == has_a_say
    assert left == 1.0 or has_a_say
    np.testing.assert_array_equal(
        erased[(share > 0.5) & ~ndimage.binary_dilation(hole, iterations=3)],
        without[(share > 0.5) & ~ndimage.binary_dilation(hole, iterations=3)],
    )


def _surely(network: FacialNetwork, logit: float) -> FacialNetwork:
    """A facial network that is sure of the same everywhere."""
    for name, weight in network.unet.get_submodule("output_block").named_parameters():
        torch.nn.init.constant_(weight, logit if name.endswith("bias") else 0.0)
    return network.eval()


@pytest.mark.parametrize(("logit", "kept"), [(-9.0, False), (9.0, True)])
def test_the_facial_network_has_its_share_of_that_say(logit: float, kept: bool) -> None:
    hole = ball(FINE.coordinates().numpy(), (0.0, 78.0, -65.0), 25.0)
    share = np.where(hole, 0.0, _share(HEAD, FINE)).astype(np.float32)
    holes = cast(HoleCompletion, _Eraser())
    facial = _surely(make_facial_network(COARSE), logit)

    erased, asked = (
        _refined(_share(HEAD, COARSE), share, RimFit(None, holes, network, learned_share=1.0, facial_share=each))
        for network, each in ((None, 1.0), (facial, 0.8))
    )

    whole = TRUTH & hole
    print(f"{np.mean(erased[whole]):.2f} of the bone without, {np.mean(asked[whole]):.2f} with it")
    assert np.mean(erased[whole]) < 0.3
    assert (np.mean(asked[whole]) > 0.7) == kept
    behind = FINE.coordinates().numpy()[1] < 0.0
    np.testing.assert_array_equal(asked[behind], erased[behind])


def _said_of(hole: np.ndarray, fits: Sequence[Mapping[str, Any]]) -> list[np.ndarray]:
    """What comes of a hole in the made-up head by each fit, of networks that contradict one another there.

    The hole network says that there is no bone and has the only say; the facial network is sure that there is.
    """
    share = np.where(hole, 0.0, _share(HEAD, FINE)).astype(np.float32)
    facial = _surely(make_facial_network(COARSE), 9.0)
    fit = RimFit(None, cast(HoleCompletion, _Eraser()), facial, 1.0, facial_share=0.0)
    return [_refined(_share(HEAD, COARSE), share, replace(fit, **each)) for each in fits]


@pytest.mark.parametrize(("azimuth_deg", "kept"), [(0.0, True), (75.0, False)], ids=["in front", "at the side"])
def test_bone_that_the_facial_network_is_sure_of_stays_low_in_front(azimuth_deg: float, kept: bool) -> None:
    side, front = np.sin(np.deg2rad(azimuth_deg)), np.cos(np.deg2rad(azimuth_deg))
    hole = ball(FINE.coordinates().numpy(), (72.0 * side, 80.0 * front, -85.0), 20.0)

    silent, sure = _said_of(hole, [{"roof_deg": each, "deep_deg": 180.0} for each in (180.0, 80.0)])

    polar_deg = _polar_deg()
    low, high = (TRUTH & hole & part for part in (polar_deg > 85.0, polar_deg < 78.0))
    print(f"{np.mean(silent[low]):.2f} of the bone without, {np.mean(sure[low]):.2f} with what it is sure of")
    assert np.mean(silent[low]) < 0.4
    assert (np.mean(sure[low]) > 0.8) == kept
    np.testing.assert_array_equal(sure[high], silent[high])


def _polar_deg() -> np.ndarray:
    above = FINE.coordinates().numpy() + np.array([0.0, 0.0, EGG.vertex_mm * HEAD.scales[2]])[:, None, None, None]
    return np.asarray(np.rad2deg(np.arctan2(np.hypot(above[0], above[1]), above[2])))


def test_well_inside_the_vault_it_stays_higher_up_too() -> None:
    hole = ball(FINE.coordinates().numpy(), (0.0, 78.0, -65.0), 25.0)

    silent, deep = _said_of(hole, [{"roof_deg": 180.0, "deep_deg": each} for each in (180.0, 60.0)])

    added = (deep > 0.5) & (silent <= 0.5)
    assert np.count_nonzero(added) > 50
    plate_mm = ndimage.distance_transform_edt(~TRUTH, sampling=FINE.spacing_mm)[added]
    assert plate_mm.min() > 0.0  # the plate itself is left to the others
    assert np.percentile(plate_mm, 5) > 1.0
    assert _polar_deg()[added].min() > 59.0


@dataclass(frozen=True)
class _Counter(UnrolledBone):
    """Expects as much as there are rays through a hole."""

    def expected_dsc(self, in_hole: np.ndarray) -> float:
        return float(in_hole.sum())


class _CountingHoles:
    def __call__(self, bone: np.ndarray, tables: np.ndarray, measured: np.ndarray, rays: VaultRays) -> UnrolledBone:
        flat = np.zeros((len(HEIGHTS_MM), *rays.shape), np.float32)
        return _Counter(flat, flat, rays)


def test_where_the_scan_ends_there_is_no_hole(bone: tuple[np.ndarray, np.ndarray]) -> None:
    share, _ = bone
    decoded, grid = _share(HEAD, COARSE), FINE.grid(HEAD)  # its slices run from foot to head
    below = np.count_nonzero(FINE.coordinates().numpy()[2, 0, 0] < -75.0)
    upper = crop_grid(grid, (0, 0, below), (*grid.size[:2], grid.size[2] - below))
    cropped = share.copy()
    cropped[:, :, :below] = 0.0
    fit = RimFit(holes=cast(HoleCompletion, _CountingHoles()), learned_share=0.0)

    whole = fit.refine(decoded, Volume(share > 0.5, grid), HEAD, COARSE, EGG).expected_dsc
    unknown = fit.correct(decoded, cropped, HEAD, COARSE, FINE, EGG)[1]
    known = fit.refine(decoded, Volume(share[:, :, below:] > 0.5, upper), HEAD, COARSE, EGG).expected_dsc

    assert unknown > 2 * whole
    assert known == pytest.approx(whole, rel=0.05)
