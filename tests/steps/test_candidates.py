"""Candidates are different implants for the same hole, the recommended one first; the map says where they agree."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from bundle.skull_implant.design.hole_cover import HoleCover
from bundle.skull_implant.design.metrics import dice
from bundle.skull_implant.fit.rim_fit import RimFit
from bundle.skull_implant.frame.canonical_grid import to_canonical
from bundle.skull_implant.model.network import DEFECT_CLASSES, SkullCompleter
from bundle.skull_implant.steps.candidates import CandidateRules, Candidatesd
from bundle.skull_implant.steps.transforms import Implantd
from bundle.skull_implant.volume import Volume
from tests.made_up_skulls import ball, canonical_points, pose, scan_grid, shell, sphere_template

SPHERE = sphere_template(80.0)
HEAD = pose((8.0, -5.0, 4.0), vertex=(10.0, -20.0, 300.0))
GRID = scan_grid(HEAD)
POINTS = canonical_points(GRID, HEAD)
PLACE = (0.0, 30.0, -10.0)


class KnowingCompleter(SkullCompleter):
    """Decodes a vault whose wall is 7 mm, and a millimeter more for each unit of the code's first number."""

    def decode(self, code: torch.Tensor) -> torch.Tensor:
        points = self.box.coordinates().numpy()
        walls = [shell(points, HEAD, SPHERE, wall_mm=7.0 + float(each[0])) for each in code]
        return torch.from_numpy(np.stack(walls)[:, None].astype(np.float32))


@pytest.fixture(scope="module")
def network() -> SkullCompleter:
    torch.manual_seed(0)
    completer = KnowingCompleter((60, 76, 56), channels=[3, 5], strides=[2, 2], latent_size=4)
    completer.template_mm.copy_(torch.as_tensor(SPHERE.radii_mm))
    return completer.eval()


def _case(network: SkullCompleter, defect_class: str = "cranial", hole_mm: float = 30.0) -> dict[str, Any]:
    """A skull with a hole, after the designer."""
    return _designer(network)(_inferred(network, defect_class, hole_mm))


def _inferred(network: SkullCompleter, defect_class: str = "cranial", hole_mm: float = 30.0) -> dict[str, Any]:
    """A skull with a hole, before the designer: a code of 0 and a step of 1, so that gamma is the code."""
    bone = shell(POINTS, HEAD, SPHERE) & ~ball(POINTS, PLACE, hole_mm)
    skull = Volume(bone, GRID)
    image = torch.from_numpy(to_canonical(skull, HEAD, network.box)[None])
    code, step = torch.zeros(4), torch.tensor([1.0, 0.0, 0.0, 0.0])
    pred = {
        "pred": network.decode((code + step)[None])[0],
        "class_index": torch.tensor(DEFECT_CLASSES.index(defect_class)),
        "code": code,
        "code_step": step,
        "gamma": torch.tensor(1.0),
    }
    return {"skull": skull, "frame": HEAD, "image": image, "pred": pred}


def _designer(network: SkullCompleter) -> Implantd:
    designer = Implantd(network)
    designer.rim_fit = RimFit(fine_mm=5.0)  # no finer grid, which takes seconds
    return designer


def _with(network: SkullCompleter, data: dict[str, Any], count: int, keep_agreement: bool = False) -> dict[str, Any]:
    return Candidatesd(network, _designer(network), 1.0, count, keep_agreement)(data)


@pytest.fixture(scope="module")
def case(network: SkullCompleter) -> dict[str, Any]:
    return _case(network)


@pytest.fixture(scope="module")
def cranial(network: SkullCompleter, case: dict[str, Any]) -> dict[str, Any]:
    return _with(network, case, count=6, keep_agreement=True)


@pytest.fixture(scope="module")
def facial(network: SkullCompleter) -> dict[str, Any]:
    return _with(network, _case(network, "facial"), count=4, keep_agreement=True)


def test_the_first_candidate_is_the_implant_itself(cranial: dict[str, Any], facial: dict[str, Any]) -> None:
    for data in (cranial, facial):
        first = data["candidates"][0]
        assert (first.name, first.dsc) == ("recommended", 1.0)
        assert first.implant is data["implant"]
        assert first.implant.voxels.any()


def test_as_many_are_given_as_are_asked_for_and_no_two_are_alike(cranial: dict[str, Any]) -> None:
    found = cranial["candidates"]
    names = {each.name for each in found}

    assert len(found) == len(names) == 6
    assert {"recommended", "thicker", "thinner", "rounder", "flatter"} < names
    for number, first in enumerate(found):
        for second in found[number + 1 :]:
            assert dice(first.implant.voxels, second.implant.voxels) <= CandidateRules.alike_dsc
    assert "warnings" not in cranial


def test_every_candidate_fills_the_hole_and_none_lies_on_bone(cranial: dict[str, Any], facial: dict[str, Any]) -> None:
    hole, reach = ball(POINTS, PLACE, 30.0), ball(POINTS, PLACE, 34.0)
    for data in (cranial, facial):
        for each in data["candidates"]:
            assert not (each.implant.voxels & data["skull"].voxels).any()
            assert not (each.implant.voxels & ~reach).any()
            assert dice(each.implant.voxels, shell(POINTS, HEAD, SPHERE) & hole) > 0.75


def test_candidates_differ_as_their_names_say(cranial: dict[str, Any]) -> None:
    center = np.array([0.0, 0.0, -80.0])[:, None, None, None]
    radius = np.linalg.norm(POINTS - center, axis=0)
    found = {each.name: each.implant.voxels for each in cranial["candidates"]}
    volume = {name: voxels.sum() for name, voxels in found.items()}
    height = {name: radius[voxels].mean() for name, voxels in found.items()}

    assert volume["thinner"] < 0.95 * volume["recommended"] < volume["recommended"] < 0.95 * volume["thicker"]
    assert height["flatter"] < height["recommended"] - 0.2 < height["recommended"] + 0.2 < height["rounder"]
    for name in ("rounder", "flatter"):
        assert volume[name] == pytest.approx(volume["recommended"], rel=0.03)


def test_the_others_are_ranked_by_gap_and_step(cranial: dict[str, Any]) -> None:
    fits = [each.fit_mm() for each in cranial["candidates"][1:]]

    assert fits == sorted(fits)
    assert [each.cover for each in cranial["candidates"]] == [1.0] * len(cranial["candidates"])
    assert all(0 <= each < 3 for each in fits)
    figures = cranial["candidates"][0].figures()
    assert figures["volume_ml"] == pytest.approx(cranial["implant"].voxels.sum() * 0.008, abs=0.01)
    assert set(figures["rim"]) == {"gap_outer_mm", "gap_inner_mm", "step_outer_mm", "step_inner_mm"}


def test_those_that_close_a_part_of_the_hole_only_come_last(
    network: SkullCompleter, case: dict[str, Any], cranial: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    best = cranial["candidates"][1]
    volume = best.implant.voxels.sum()
    monkeypatch.setattr(
        "bundle.skull_implant.steps.transforms.hole_cover",
        lambda implant, *_: HoleCover(0.5 if implant.voxels.sum() == volume else 1.0, 0.0),
    )

    others = _with(network, case, count=6)["candidates"][1:]

    assert [each.cover for each in others] == [1.0] * (len(others) - 1) + [0.5]
    assert others[-1].name == best.name
    assert others[-1].figures()["hole_cover"] == 0.5


def test_no_more_is_expected_than_the_closed_share_of_the_hole_allows(
    network: SkullCompleter, monkeypatch: pytest.MonkeyPatch
) -> None:
    designer, refine = _designer(network), RimFit.refine
    monkeypatch.setattr(RimFit, "refine", lambda *given: refine(*given)._replace(expected_dsc=0.93))

    def expected(share: float) -> float:
        monkeypatch.setattr("bundle.skull_implant.steps.transforms.hole_cover", lambda *_: HoleCover(share, 0.0))
        return float(designer(_inferred(network))["expected_dsc"])

    assert expected(1.0) == 0.93
    assert expected(0.25) == 0.4


def test_a_facial_defect_gets_steps_of_gamma(facial: dict[str, Any]) -> None:
    gammas = {each.name: each.gamma for each in facial["candidates"]}
    volumes = {each.name: each.implant.voxels.sum() for each in facial["candidates"]}

    assert gammas == {"recommended": 1.0, "gamma_1.25": 1.25, "gamma_0.75": 0.75, "gamma_1.5": 1.5}
    assert volumes["gamma_0.75"] < volumes["recommended"] < volumes["gamma_1.25"] < volumes["gamma_1.5"]


def test_agreement_is_whole_where_all_samples_agree_and_between_elsewhere(cranial: dict[str, Any]) -> None:
    percentage = cranial["agreement_map"]
    thickness = np.linalg.norm(POINTS - np.array([0.0, 0.0, -80.0])[:, None, None, None], axis=0)
    middle = ball(POINTS, PLACE, 20.0) & (np.abs(thickness - 76.5) < 1.0)
    edge = ball(POINTS, PLACE, 20.0) & (np.abs(thickness - 80.0) < 0.5)

    assert percentage.voxels.dtype == np.uint8
    assert percentage.grid is GRID
    assert set(np.unique(percentage.voxels)) <= set(range(0, 101, 10))
    assert np.mean(percentage.voxels[middle] == 100) > 0.8  # of ten samples one may bulge off the middle
    assert 10 < percentage.voxels[edge].mean() < 90
    assert not percentage.voxels[cranial["skull"].voxels].any()
    assert not percentage.voxels[~ball(POINTS, PLACE, 34.0)].any()


def test_the_same_case_gives_the_same_candidates_and_map_again(
    network: SkullCompleter, case: dict[str, Any], cranial: dict[str, Any]
) -> None:
    again = _with(network, case, count=3, keep_agreement=True)
    before = {each.name: each for each in cranial["candidates"]}

    np.testing.assert_array_equal(again["agreement_map"].voxels, cranial["agreement_map"].voxels)
    for each in again["candidates"]:
        assert each.figures() == before[each.name].figures()
        np.testing.assert_array_equal(each.implant.voxels, before[each.name].implant.voxels)


def test_what_is_like_an_earlier_one_is_left_out_and_the_report_warned(
    network: SkullCompleter, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = _case(network, "facial")
    whole = network.decode(torch.ones(1, 4))
    monkeypatch.setattr(network, "decode", lambda code: whole)  # knows one skull only

    data = _with(network, data, count=3)

    assert [each.name for each in data["candidates"]] == ["recommended"]
    assert data["warnings"] == ["1 of 3 candidates are written, the others were empty or like an earlier one"]


def test_without_being_asked_for_nothing_is_added(network: SkullCompleter, case: dict[str, Any]) -> None:
    assert set(_with(network, case, count=1)) == set(case)


def test_a_skull_without_a_hole_has_no_candidates_and_agrees_on_nothing(network: SkullCompleter) -> None:
    data = _with(network, _case(network, hole_mm=0.0), count=3, keep_agreement=True)

    assert data["candidates"] == []
    assert not data["agreement_map"].voxels.any()


def test_a_collapsed_encoders_deviation_is_never_more_than_that_of_all_skulls(network: SkullCompleter) -> None:
    image = torch.rand(1, 1, 60, 76, 56, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        _, log_variance = network.encoder(image)
    narrow = SkullCompleter.code_deviation(network, image)
    network.latent_std.fill_(0.03)
    collapsed = SkullCompleter.code_deviation(network, image)
    network.latent_std.fill_(1.0)

    torch.testing.assert_close(narrow, torch.exp(0.5 * log_variance).clamp(max=1.0))
    torch.testing.assert_close(collapsed, torch.ones(1, 4))
