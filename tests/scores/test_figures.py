"""Figures show the numbers they were given: read back from the axes, before they are drawn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.scores import figures
from bundle.skull_implant.scores.score_table import SkullScore, refused_score
from tests.made_up_scores import GOOD

CURVE = "epoch,dice,kld,seconds,held_out_dsc\n1,40.0,90.0,1.0,\n2,20.0,80.0,1.0,0.5\n"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Figures as they were saved."""
    saved: list[Figure] = []
    original = figures.save_figure

    def save(figure: Figure, path: Path) -> None:
        saved.append(figure)
        original(figure, path)

    monkeypatch.setattr(figures, "save_figure", save)
    return saved


def dots(axis: object) -> list[list[float]]:
    """Values of the cases of each method, first method first; boxes draw lines without a marker."""
    return [list(map(float, line.get_xdata())) for line in axis.lines if line.get_marker() == "."]  # type: ignore[attr-defined]


def test_every_case_is_a_dot_in_the_panel_of_its_defect_and_metric(tmp_path: Path, drawn: list[Figure]) -> None:
    scores = [
        GOOD,
        replace(GOOD, person="009", dsc=0.7),
        replace(GOOD, method="mirror", dsc=0.3, hd95_mm=9.0),
        replace(GOOD, defect="facial", dsc=0.4),
        replace(GOOD, defect="none", dsc=np.nan, bdsc=np.nan, hd95_mm=np.nan),
        replace(GOOD, method="nothing", dsc=0.0),
        replace(GOOD, part="training", dsc=1.0),
    ]

    figures.plot_implant_scores(scores, "validation", tmp_path / "a.png")

    panels = np.reshape(drawn[0].axes, (2, 3))
    assert dots(panels[0, 0]) == [[0.9, 0.7], [0.3]]
    assert dots(panels[0, 2]) == [[2.0, 2.0], [9.0]]
    assert dots(panels[1, 0]) == [[0.4], []]
    assert [label.get_text() for label in panels[0, 0].get_yticklabels()] == ["VAE", "mirror"]
    assert panels[0, 0].get_ylim()[0] > panels[0, 0].get_ylim()[1]  # the first method on top
    assert panels[0, 0].get_ylabel() == "official defects\nn = 2 cases"
    assert panels[1, 2].get_xlabel().startswith("HD95, mm")


def test_a_failed_case_is_a_dsc_of_0_without_a_distance_and_is_counted(tmp_path: Path, drawn: list[Figure]) -> None:
    refused = refused_score("validation", "009", "official", "official", "VAE")

    figures.plot_implant_scores([GOOD, refused], "validation", tmp_path / "a.png")

    dsc, _, distance = drawn[0].axes
    assert dots(dsc) == [[0.9, 0.0]]
    assert dots(distance) == [[2.0]]
    assert [text.get_text() for text in distance.texts] == ["1 failed"]


def test_skull_scores_have_a_panel_a_model_in_the_order_of_the_papers_table(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    tasks = {"CMP facial": 0.5, "REC cranial": 0.9}
    scores = [SkullScore("validation", "008", model, task, dsc) for model in "ab" for task, dsc in tasks.items()]

    figures.plot_skull_scores(scores, "validation", tmp_path / "a.png")

    assert [axis.get_title() for axis in drawn[0].axes] == [
        f"{model}, n = 1 validation persons" for model in ("a", "b")
    ]
    axis = drawn[0].axes[0]
    heights = [list(line.get_ydata()) for line in axis.lines if line.get_marker() == "."]
    assert heights == [[0.9], [], [], [], [0.5]]


def test_curves_hold_both_stages_and_name_their_units(tmp_path: Path, drawn: list[Figure]) -> None:
    for stage in (1, 2):
        (tmp_path / f"stage{stage}.csv").write_text(CURVE)

    figures.plot_curves([tmp_path], tmp_path / "curves.png")

    dice, divergence, held_out = drawn[0].axes
    assert [list(line.get_ydata()) for line in dice.lines] == [[40.0, 20.0], [40.0, 20.0]]
    assert [list(line.get_xdata()) for line in held_out.lines] == [[2], [2]]
    assert divergence.get_yscale() == "log"
    assert all(axis.get_ylabel() and axis.get_xlabel() for axis in drawn[0].axes)
    with Image.open(tmp_path / "curves.png") as image:
        assert image.size == (1500, 440)
    assert sorted(path.name for path in tmp_path.glob("*.p*")) == ["curves.png"]


def test_a_run_without_curves_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"stage1.csv: a run must have its curve, no such file"):
        figures.plot_curves([tmp_path], tmp_path / "curves.png")


def test_the_curve_of_finetuning_is_that_of_stage_2_alone(tmp_path: Path) -> None:
    (tmp_path / "stage2.csv").write_text("epoch,dice,kld,seconds,held_out_dsc\n1,8.5,,20,0.7\n2,8.0,,20,0.75\n")

    figures.plot_curves([tmp_path], tmp_path / "curves.png")

    assert (tmp_path / "curves.png").is_file()
