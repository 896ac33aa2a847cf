"""Cranial or facial by the shape of what is missing, with a completer whose decoder always gives the whole head."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import torch

from bundle.skull_implant.frame.canonical_grid import CanonicalBox
from bundle.skull_implant.model.defect_class import NO_HOLE, UNDECIDED, class_by_shape
from bundle.skull_implant.model.network import DEFECT_CLASSES, SkullCompleter
from tests.made_up_skulls import ball, egg_template, pose, shell

BOX = CanonicalBox((44, 56, 40))
POINTS = BOX.coordinates().numpy()
WHOLE = shell(POINTS, pose(), egg_template(), wall_mm=8.0)


def _class_of(gone: Any) -> str:
    """The class of the made-up head without what is gone, for a completer that knows the whole head."""
    whole = torch.from_numpy(WHOLE).float()[None, None]
    network = SimpleNamespace(
        box=BOX,
        template=egg_template(),
        completed=lambda code, defect_class: whole.expand(len(code), -1, -1, -1, -1),
    )
    image = torch.from_numpy(WHOLE & ~gone).float()[None, None]
    index = int(class_by_shape(cast(SkullCompleter, network), torch.zeros(1, 3), image)[0])
    return DEFECT_CLASSES[index] if index >= 0 else {UNDECIDED: "undecided", NO_HOLE: "no hole"}[index]


def test_bone_in_front_of_what_is_missing_makes_it_a_hole_of_the_vault() -> None:
    front = float(POINTS[1][WHOLE].max())
    assert _class_of(ball(POINTS, (0.0, front, -60.0), 25.0)) == "cranial"
    assert _class_of(ball(POINTS, (60.0, 0.0, -40.0), 30.0)) == "cranial"
    assert _class_of(ball(POINTS, (0.0, -60.0, -20.0), 30.0)) == "cranial"


def test_a_front_that_is_gone_is_a_facial_defect() -> None:
    front = float(POINTS[1][WHOLE].max())
    slab = (POINTS[1] > front - 44.0) & (abs(POINTS[0]) < 40.0)
    assert _class_of(slab) == "facial"
    assert _class_of((POINTS[1] > front - 44.0) & (POINTS[0] > 10.0)) == "facial"


def test_a_face_that_the_model_does_not_know_makes_no_hole_of_the_vault_disappear() -> None:
    hole = ball(POINTS, (60.0, 0.0, -40.0), 30.0)
    assert _class_of(hole | (POINTS[2] < -85.0)) in ("cranial", "undecided")


def test_a_whole_head_decides_nothing() -> None:
    assert _class_of(WHOLE & False) == "no hole"
