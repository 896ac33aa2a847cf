"""Virtual holes in a made-up head, given back by a model that knows it, by one that knows nothing, and by none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.frame.canonical_frame import estimate_frame
from bundle.skull_implant.frame.canonical_grid import to_canonical
from bundle.skull_implant.input.reading import Case
from bundle.skull_implant.model.network import SkullCompleter
from bundle.skull_implant.scores.hole_check import check_head, check_holes, filling, hole_table
from bundle.skull_implant.steps.designing import ImplantDesigner
from bundle.skull_implant.synthetic.defects import CRANIAL_SITES, draw_cranial_hole
from bundle.skull_implant.synthetic.native_defects import cut_native
from bundle.skull_implant.volume import Volume, write_volume
from tests.end_to_end import untrained_model
from tests.made_up_skulls import egg_template, pose, scan_grid, skull

SIZE = (64, 96, 80)  # about 2.5 mm
SITES = ("parietal_left", "vertex")


@pytest.fixture(scope="module")
def head() -> Volume:
    frame = pose((5.0, -4.0, 3.0), (4.0, -6.0, 30.0))
    return skull(scan_grid(frame, (1.6, 1.6, 2.0)), frame, egg_template())


@pytest.fixture(scope="module")
def designer(head: Volume, tmp_path_factory: pytest.TempPathFactory) -> ImplantDesigner:
    """Its decoder answers with the complete head, whatever the code."""
    network = SkullCompleter.from_file(untrained_model(tmp_path_factory.mktemp("model") / "model.pt", SIZE))
    network.template_mm.copy_(torch.as_tensor(egg_template().radii_mm))
    frame = estimate_frame(head.voxels, head.grid, network.template)
    answer = torch.from_numpy(to_canonical(head, frame, network.box))[None, None]
    network.decode = lambda code: answer.expand(len(code), -1, -1, -1, -1)  # type: ignore[method-assign]
    return ImplantDesigner(network, defect_class="cranial", fit_steps=0)


def _case(head: Volume) -> Case:
    return Case("head", Volume(head.voxels.astype(np.uint8), head.grid), True, {"name": "head"})


def test_a_model_that_knows_the_head_gives_the_pieces_back(
    head: Volume, designer: ImplantDesigner, tmp_path: Path
) -> None:
    intact, *holes = check_holes(_case(head), head, designer, tmp_path, sites=SITES, keep_masks=True)

    assert (intact.site, intact.implant_ml, intact.hole_ml) == ("none", 0.0, 0.0)
    assert tuple(row.site for row in holes) == SITES
    for row in holes:
        assert row.hole_ml > 5.0
        assert row.dsc > 0.85
        assert row.elsewhere_ml == 0.0
        assert row.hd95_mm < 3.0
        assert max(row.gap_outer_mm, row.gap_inner_mm, row.step_outer_mm, row.step_inner_mm) < 1.0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [
            "holes.csv",
            "holes.md",
            *(f"{site}.{mask}.nii.gz" for site in ("none", *SITES) for mask in ("hole", "implant")),
        ]
    )
    table = (tmp_path / "holes.md").read_text().splitlines()
    assert table == hole_table([intact, *holes]).splitlines()
    assert table[-1].startswith("| median |")
    middle = (holes[0].dsc + holes[1].dsc) / 2
    assert f" {middle:.3f} " in table[-1]


def test_an_opening_that_the_head_has_already_is_left_out_of_the_scores(
    head: Volume, designer: ImplantDesigner, tmp_path: Path
) -> None:
    site = "parietal_left"
    frame = estimate_frame(head.voxels, head.grid, designer.network.template)
    generator = np.random.default_rng([0, list(CRANIAL_SITES).index(site)])
    piece = cut_native(head, frame, draw_cranial_hole(generator, site))
    index = np.argwhere(piece)
    foremost = index[index[:, 1].argmax()]
    distance = np.linalg.norm((np.indices(piece.shape).T - foremost) * head.grid.spacing, axis=-1).T
    slotted = Volume(head.voxels & (distance > 14.0), head.grid)

    none, hole = check_holes(_case(slotted), slotted, designer, tmp_path, sites=(site,))

    print(f"opening {none.implant_ml:.1f} ml, elsewhere {hole.elsewhere_ml:.1f} ml, DSC {hole.dsc:.3f}")
    assert none.implant_ml > 1.0
    assert hole.elsewhere_ml > 0.5
    assert hole.dsc > 0.85


def test_only_pieces_that_reach_into_the_hole_are_scored_against_it() -> None:
    implant, hole = np.zeros((9, 3, 3), bool), np.zeros((9, 3, 3), bool)
    implant[0:3], implant[5:9], hole[2:4] = True, True, True

    assert np.flatnonzero(filling(implant, hole).any((1, 2))).tolist() == [0, 1, 2]


def test_an_empty_implant_scores_nothing(head: Volume, designer: ImplantDesigner, tmp_path: Path) -> None:
    blind = ImplantDesigner(designer.network, defect_class="cranial", fit_steps=0, rim_fit=False)
    blind.inferer = lambda image, network: {**designer.inferer(image, network), "pred": torch.zeros_like(image)}  # type: ignore[assignment]

    _, row = check_holes(_case(head), head, blind, tmp_path, sites=("vertex",))

    assert (row.dsc, row.hd95_mm, row.implant_ml, row.status) == (0.0, np.inf, 0.0, "review")
    assert np.isnan(row.gap_outer_mm)
    assert "no hole found" in row.reasons


def test_the_command_refuses_before_any_work(head: Volume, tmp_path: Path) -> None:
    path = tmp_path / "head.nii.gz"
    write_volume(path, head)
    (tmp_path / "holes.csv").write_text("kept")

    with pytest.raises(InputError, match=r"sites must be of .*, got nose"):
        check_head(str(path), tmp_path, tmp_path / "model.pt", sites=("nose",))
    with pytest.raises(InputError, match="holds a result already"):
        check_head(str(path), tmp_path, tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"model\.pt"):
        check_head(str(path), tmp_path / "new", tmp_path / "model.pt")

    assert (tmp_path / "holes.csv").read_text() == "kept"
    assert not (tmp_path / "new").exists()
