"""Which cases of an evaluation are pictured, and what a picture of one holds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bundle.skull_implant.design.metrics import score_implant
from bundle.skull_implant.design.rim_metrics import RimScore
from bundle.skull_implant.errors import InputError
from bundle.skull_implant.scores.case_pictures import (
    IMPLANT_COLOR,
    PIECE_COLOR,
    PicturedCase,
    choose_cases,
    picture_cases,
    render_case,
)
from bundle.skull_implant.scores.score_table import write_csv
from bundle.skull_implant.volume import Volume
from tests.made_up_scores import GOOD
from tests.made_up_skulls import ball, canonical_points, egg_template, pose, scan_grid, shell
from tests.small_models import small_dataset


def test_best_median_and_worst_are_chosen_by_dsc() -> None:
    scores = [replace(GOOD, person=str(number), dsc=dsc) for number, dsc in enumerate((0.7, 0.9, 0.0, 0.8, 0.85))]

    chosen = choose_cases(scores)

    assert {rank: (score.person, place) for rank, (score, place) in chosen.items()} == {
        "best": ("1", "1 of 5 by DSC"),
        "median": ("3", "3 of 5 by DSC"),
        "worst": ("2", "5 of 5 by DSC"),
    }
    assert choose_cases([]) == {}


@pytest.fixture(scope="module")
def case() -> PicturedCase:
    """The implant ends 6 mm before the hole does."""
    frame = pose()
    grid = scan_grid(frame, (2.0, 2.0, 2.0))
    points = canonical_points(grid, frame)
    wall = shell(points, frame, egg_template())
    hole, short = (wall & ball(points, (55.0, 20.0, -35.0), radius) for radius in (30.0, 24.0))
    skull = Volume(wall & ~hole, grid)
    score = score_implant(short, hole, skull.voxels, grid.spacing)
    lines = ("worst of varied holes", "person 008, parietal right")
    return PicturedCase(skull, Volume(hole, grid), Volume(short, grid), score, RimScore(6.0, 6.0, 0.1, np.nan), lines)


def test_a_picture_shows_implant_and_true_piece_and_is_small(case: PicturedCase, tmp_path: Path) -> None:
    render_case(case, tmp_path / "case.png")

    with Image.open(tmp_path / "case.png") as picture:
        pixels = np.asarray(picture.convert("RGB"), dtype=float) / 255.0
        assert picture.size == (1200, 768)
    assert (tmp_path / "case.png").stat().st_size < 400_000
    slices = pixels[: pixels.shape[0] // 2]
    filled, outline = (np.abs(slices - color).max(-1) < 0.12 for color in (IMPLANT_COLOR, PIECE_COLOR))
    thirds = np.array_split(np.arange(slices.shape[1]), 3)
    assert all(filled[:, third].sum() > outline[:, third].sum() > 100 for third in thirds)


def test_bad_arguments_are_refused_before_any_work(tmp_path: Path) -> None:
    dataset = small_dataset(tmp_path / "dataset")
    scores = [replace(GOOD, person="004", part="validation", defect="official", site="official", method="fitted")]
    write_csv(tmp_path / "scores.csv", scores)
    arguments = (tmp_path, tmp_path / "out", str(dataset.folder), tmp_path / "model.pt")

    with pytest.raises(InputError, match=r"--method must be one of .*scores\.csv, got 'other'; .* have: fitted"):
        picture_cases(tmp_path / "scores.csv", *arguments, "other")
    with pytest.raises(InputError, match=r"protocol\.json: the evaluation's protocol must lie beside its scores"):
        picture_cases(tmp_path / "scores.csv", *arguments, "fitted")
    settings = {"varied_holes": 0, "threshold_hu": 200.0, "seed": 3, "persons": {"validation": 0}}
    protocol = {"models": {"mirrored": ["", 1.0, 0, "other"]}, "other_models": {}, **settings}
    (tmp_path / "protocol.json").write_text(json.dumps(protocol))
    with pytest.raises(InputError, match=r"--method must be one that inference can do again, got 'fitted'"):
        picture_cases(tmp_path / "scores.csv", *arguments, "fitted")
    (tmp_path / "protocol.json").write_text(json.dumps({**protocol, "models": {"fitted": ["", 1.0, 30, True]}}))
    with pytest.raises(InputError, match=r"model\.pt"):
        picture_cases(tmp_path / "scores.csv", *arguments, "fitted")
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "official_best.png").write_text("kept")
    with pytest.raises(InputError, match="holds such pictures already"):
        picture_cases(tmp_path / "scores.csv", *arguments, "fitted")
