"""Every way to an implant on an egg with a hole whose piece is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from bundle.skull_implant.design.metrics import dice
from bundle.skull_implant.errors import CaseRefused
from bundle.skull_implant.fit.table_model import TableModel
from bundle.skull_implant.frame.canonical_grid import CanonicalBox, to_canonical
from bundle.skull_implant.frame.vault_rays import VaultRays
from bundle.skull_implant.input.reading import Case
from bundle.skull_implant.peers.table_completion import TableCompletion
from bundle.skull_implant.scores.evaluation import score_design
from bundle.skull_implant.scores.implant_methods import (
    BaselineMethod,
    DefectiveSkull,
    Design,
    InferenceMethod,
    ShapeModelMethod,
    UNetMethod,
)
from bundle.skull_implant.train.table_fitting import principal_tables
from bundle.skull_implant.volume import Volume
from tests.made_up_skulls import ball, canonical_points, egg_template, face, pose, scan_grid, shell

EGG = egg_template()
BOX = CanonicalBox((64, 96, 64))
FRAME = pose((8.0, -5.0, 4.0), (3.0, 12.0, 60.0), (1.03, 0.97, 1.0))
ROW = ("validation", "008", "varied", "parietal_right")


@dataclass(frozen=True)
class Egg:
    """Complete skull, the piece of a hole in its vault, and the piece of its face."""

    complete: Volume
    hole: np.ndarray
    front: np.ndarray

    def case(self, piece: np.ndarray, true_class: str = "cranial") -> DefectiveSkull:
        return DefectiveSkull(Volume(self.complete.voxels & ~piece, self.complete.grid), FRAME, true_class)


@pytest.fixture(scope="module")
def egg() -> Egg:
    grid = scan_grid(FRAME, (1.5, 1.5, 2.0))
    points = canonical_points(grid, FRAME)
    complete = shell(points, FRAME, EGG, wall_mm=7.0) | face(points)
    hole = complete & ball(points, (55.0, 10.0, -35.0), 32.0)
    front = complete & (points[1] > 45.0) & (points[2] < -105.0)
    return Egg(Volume(complete, grid), hole, front)


class Gives:
    """A method that gives a fixed implant."""

    def __init__(self, implant: np.ndarray) -> None:
        self.implant = implant

    def design(self, case: DefectiveSkull) -> Design:
        return Design(self.implant, case.true_class)


def test_a_perfect_method_scores_one_and_meets_the_rim(egg: Egg) -> None:
    score = score_design("perfect", Gives(egg.hole), egg.case(egg.hole), egg.hole, EGG, ROW)

    assert (score.dsc, score.bdsc, score.hd95_mm, score.failed, score.skull_dsc) == (1.0, 1.0, 0.0, False, 1.0)
    assert (score.part, score.person, score.defect, score.site, score.method) == (*ROW, "perfect")
    assert score.gap_outer_mm < 0.2
    assert score.step_outer_mm < 0.2
    assert score.seconds < 1.0
    assert score.peak_gb > 0.01


def test_an_implant_for_an_undamaged_skull_is_a_failure(egg: Egg) -> None:
    nothing = np.zeros_like(egg.hole)

    wrong, right = (score_design("m", Gives(i), egg.case(nothing), nothing, EGG, ROW) for i in (egg.front, nothing))

    assert wrong.failed
    assert not right.failed
    assert np.isnan([wrong.dsc, wrong.gap_outer_mm, right.dsc, right.gap_outer_mm]).all()


@pytest.fixture(scope="module")
def shape_model() -> TableModel:
    """Tables of eggs whose walls are 5 and 9 mm thick: their mean is 7 mm."""
    rays = VaultRays(TableModel.step_deg)
    box = CanonicalBox((88, 112, 80))
    maps = []
    for wall in (5.0, 9.0):
        head = pose()
        share = shell(box.coordinates().numpy(), head, EGG, wall_mm=wall).astype(np.float32)
        maps.append(rays.tables(rays.sample(share, box, head.scales, EGG)))
    return TableModel(*principal_tables(np.stack(maps), modes=2))


def test_the_shape_model_fills_an_eggs_hole(egg: Egg, shape_model: TableModel) -> None:
    method = ShapeModelMethod(TableCompletion(shape_model), BOX, EGG)

    design = method.design(egg.case(egg.hole))

    assert design.defect_class == "cranial"
    assert dice(design.implant, egg.hole) > 0.85


def test_the_shape_model_knows_no_face(egg: Egg, shape_model: TableModel) -> None:
    design = ShapeModelMethod(TableCompletion(shape_model), BOX, EGG).design(egg.case(egg.front, "facial"))

    assert design.defect_class == ""
    assert not design.implant.any()


class KnowsTheAnswer(nn.Module):
    """In a U-Net's place: the canonical share of a known piece."""

    box = BOX

    def __init__(self, piece: np.ndarray, egg: Egg) -> None:
        super().__init__()
        share = torch.from_numpy(to_canonical(Volume(piece, egg.complete.grid), FRAME, BOX))
        self.share = nn.Parameter(share, requires_grad=False)

    def missing(self, image: torch.Tensor) -> torch.Tensor:
        return self.share.expand_as(image)


@pytest.mark.parametrize("part", ["hole", "front"])
def test_what_a_unet_finds_missing_becomes_the_implant_wherever_it_is(egg: Egg, part: str) -> None:
    piece: np.ndarray = getattr(egg, part)
    method = UNetMethod(KnowsTheAnswer(piece, egg), EGG)  # type: ignore[arg-type]

    design = method.design(egg.case(piece, "not looked at"))

    assert design.defect_class == "any"
    assert dice(design.implant, piece) > 0.8  # the cleaning rounds the corners of a made-up face


def test_a_unet_that_finds_nothing_missing_designs_nothing(egg: Egg) -> None:
    nothing = np.zeros_like(egg.hole)

    design = UNetMethod(KnowsTheAnswer(nothing, egg), EGG).design(egg.case(nothing))  # type: ignore[arg-type]

    assert not design.implant.any()


def test_a_baseline_takes_the_class_that_it_is_told(egg: Egg) -> None:
    case = egg.case(egg.hole)
    bone = to_canonical(egg.complete, FRAME, BOX)
    skulls = np.stack([np.rint(bone * 255).astype(np.uint8)])

    design = BaselineMethod("nearest skull", skulls, BOX, EGG).design(case)

    assert design.defect_class == "cranial"
    assert dice(design.implant, egg.hole) > 0.9
    assert not BaselineMethod("nothing", skulls, BOX, EGG).design(case).implant.any()


def test_a_skull_that_inference_refuses_has_no_implant_and_the_reasons(egg: Egg) -> None:
    def refuse(case: Case, skull: Volume) -> None:
        raise CaseRefused(case.name, ["too little of the vault"])

    design = InferenceMethod(refuse).design(egg.case(egg.hole))  # type: ignore[arg-type]

    assert not design.implant.any()
    assert design.report() == {"status": "refused", "reasons": ["too little of the vault"]}
