"""On real skulls the canonical frame stays where it is when a hole is cut, and costs a perfect network little."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from bundle.skull_implant.frame.canonical_frame import CanonicalFrame, estimate_frame
from bundle.skull_implant.frame.canonical_grid import CanonicalBox
from bundle.skull_implant.frame.vault_template import VaultTemplate
from bundle.skull_implant.model.network import SkullCompleter
from bundle.skull_implant.scores.frame_check import ceiling, frame_difference
from bundle.skull_implant.train.preparing import Source, find_sources
from bundle.skull_implant.volume import Volume
from tests.conftest import ROOT

pytestmark = [pytest.mark.realdata, pytest.mark.slow]

CASES = {"000": "head strap in the mask", "005": "tipped head", "044": "vault touches the top slice"}


@dataclass(frozen=True)
class RealSkull:
    complete: Volume
    piece: np.ndarray
    whole: CanonicalFrame
    damaged: CanonicalFrame


@pytest.fixture(scope="module")
def sources(shared_dir: Path) -> dict[str, Source]:
    found = find_sources(shared_dir / "skullfix" / "training_set")
    return {source.name: source for source in found if source.name in CASES}


@pytest.fixture(scope="module")
def template() -> VaultTemplate:
    return SkullCompleter.from_file(ROOT / "models" / "model.pt").template


@pytest.fixture(scope="module", params=CASES, ids=[f"{name}: {what}" for name, what in CASES.items()])
def real(request: pytest.FixtureRequest, sources: dict[str, Source], template: VaultTemplate) -> RealSkull:
    source = sources[request.param]
    skull, implant = source.read_skull(300.0), source.read_implant()
    assert implant is not None
    complete = Volume(skull.voxels > 0, skull.grid)
    piece = complete.voxels & (implant.voxels > 0)
    whole, damaged = (
        estimate_frame(voxels, complete.grid, template) for voxels in (complete.voxels, complete.voxels & ~piece)
    )
    return RealSkull(complete, piece, whole, damaged)


def test_the_official_hole_does_not_move_the_frame(real: RealSkull) -> None:
    turn_deg, vertex_mm = frame_difference(real.whole, real.damaged)

    assert turn_deg < 2.0
    assert vertex_mm < 2.0


@pytest.mark.parametrize(("size", "dsc"), [((256, 256, 128), 0.97), ((128, 128, 64), 0.94)], ids=["256", "128"])
def test_a_perfect_network_would_score_nearly_perfectly(
    real: RealSkull, template: VaultTemplate, size: tuple[int, int, int], dsc: float
) -> None:
    assert ceiling(real.complete, real.piece, real.damaged, CanonicalBox(size), template) > dsc
