"""Tables of scores: means, failures, order of rows."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.scores.score_table import (
    Score,
    SiteScore,
    SkullScore,
    calibration_table,
    implant_table,
    read_scores,
    read_skull_scores,
    refused_score,
    site_scores,
    site_table,
    skull_table,
    write_csv,
)

GOOD = Score(
    *("validation", "008", "official", "official", "VAE"),
    dsc=0.9,
    bdsc=0.8,
    hd95_mm=2.0,
    failed=False,
    skull_dsc=0.95,
    implant_ml=40.0,
    defect_class="cranial",
    seconds=3.0,
    peak_gb=1.25,
    gap_outer_mm=0.1,
    gap_inner_mm=0.2,
    step_outer_mm=0.3,
    step_inner_mm=0.4,
)
NONE = replace(GOOD, defect="none", site="none", dsc=np.nan, bdsc=np.nan, hd95_mm=np.nan, implant_ml=0.0)
VERTEX = replace(GOOD, defect="varied", site="vertex")


def _rows(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_a_failure_counts_as_zero_and_is_left_out_of_the_distance() -> None:
    refused = refused_score("validation", "009", "official", "official", "VAE")

    (row,) = _rows(implant_table([GOOD, refused]))

    assert row[:5] == ["validation", "official", "VAE", "2", "1"]
    assert row[5:8] == ["0.450", "0.400", "2.00"]


def test_an_undamaged_skull_has_a_volume_and_no_implant_score() -> None:
    false_alarm = replace(NONE, person="009", failed=True, implant_ml=3.0)

    (row,) = _rows(implant_table([NONE, false_alarm]))

    assert row[4] == "1"
    assert row[5:8] == ["-", "-", "-"]
    assert row[9] == "1.5"


def test_gaps_and_steps_are_medians_and_memory_is_the_largest() -> None:
    cases = [replace(GOOD, gap_outer_mm=gap, step_inner_mm=4.0, peak_gb=gap) for gap in (0.1, 0.2, 1.5)]
    refused = refused_score("validation", "009", "official", "official", "VAE")

    (row,) = _rows(implant_table([*cases, refused]))

    assert row[10:] == ["0.20 / 0.20", "0.30 / 4.00", "3.0", "1.5"]


def test_each_site_of_the_varied_holes_has_its_means() -> None:
    refused = refused_score("validation", "009", "varied", "vertex", "VAE")
    other = replace(VERTEX, site="bifrontal", method="U-Net", dsc=0.7)

    rows = site_scores([GOOD, VERTEX, refused, other])

    assert rows == [
        SiteScore("validation", "bifrontal", "U-Net", 1, 0, 0.7, 0.8, 2.0),
        SiteScore("validation", "vertex", "VAE", 2, 1, 0.45, 0.4, 2.0),
    ]
    assert site_table(rows).splitlines()[0].endswith("| bifrontal (1) | vertex (2) |")
    assert _rows(site_table(rows)) == [
        ["validation", "U-Net", "0.700", "-"],
        ["validation", "VAE", "-", "0.450, 1 failed"],
    ]


def test_validation_comes_first_and_defects_keep_their_order() -> None:
    rows = [
        replace(GOOD, part=part, defect=defect) for part in ("training", "validation") for defect in ("none", "varied")
    ]

    found = [row[:2] for row in _rows(implant_table(rows))]

    assert found == [["validation", "varied"], ["validation", "none"], ["training", "varied"], ["training", "none"]]


def test_the_papers_table_has_a_column_for_each_task() -> None:
    scores = [
        SkullScore("validation", "008", "VAE", "REC complete", 0.8),
        SkullScore("validation", "009", "VAE", "REC complete", 0.6),
        SkullScore("validation", "008", "VAE", "CMP facial", 0.5),
    ]

    table = skull_table(scores)

    assert table.splitlines()[0].split("|")[4:9] == [
        " REC cranial ",
        " REC facial ",
        " REC complete ",
        " CMP cranial ",
        " CMP facial ",
    ]
    assert _rows(table)[0] == ["validation", "VAE", "2", "-", "-", "0.700", "-", "0.500"]


def test_the_papers_table_has_both_parts_of_each_model_together_and_the_papers_rows_named_as_such() -> None:
    scores = [
        SkullScore(part, person, method, "REC cranial", dsc)
        for part, person, method, dsc in (
            ("validation", "008", "beta 0.001", 0.7),
            ("validation", "008", "beta 100", 0.5),
            ("training", "001", "beta 0.001", 0.8),
            ("training", "002", "beta 0.001", 0.9),
            ("training", "001", "beta 100", 0.6),
        )
    ]
    own = "the paper's own, its training skulls"

    rows = _rows(skull_table(scores))

    assert [row[:4] for row in rows] == [
        ["training", "beta 0.001", "2", "0.850"],
        ["validation", "beta 0.001", "1", "0.700"],
        ["training", "beta 100", "1", "0.600"],
        ["validation", "beta 100", "1", "0.500"],
        [own, "Li et al. 2022, beta 0.0001", "100", "0.9153"],
        [own, "Li et al. 2022, beta 100, aggregated", "100", "0.9076"],
    ]
    assert rows[-2][4:] == ["0.9215", "0.9199", "0.9189", "0.9072"]


def test_the_csv_file_gives_every_row_back(tmp_path: Path) -> None:
    write_csv(tmp_path / "scores.csv", [GOOD, NONE])

    with (tmp_path / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))

    assert [row["defect"] for row in rows] == ["official", "none"]
    assert float(rows[0]["dsc"]) == GOOD.dsc


def test_scores_are_read_as_they_were_written(tmp_path: Path) -> None:
    known = replace(GOOD, expected_dsc=0.75)  # NaN is not equal to itself
    rows = [known, replace(known, failed=True, hd95_mm=np.inf), replace(known, person="1e3")]
    skulls = [SkullScore("training", "001", "VAE", "REC cranial", 0.8125)]
    write_csv(tmp_path / "scores.csv", rows)
    write_csv(tmp_path / "skulls.csv", skulls)

    assert read_scores(tmp_path / "scores.csv") == rows
    assert read_skull_scores(tmp_path / "skulls.csv") == skulls
    assert read_skull_scores(tmp_path / "none.csv") == []


def test_other_columns_are_refused(tmp_path: Path) -> None:
    (tmp_path / "scores.csv").write_text("part,dice\nvalidation,0.5\n")

    with pytest.raises(InputError, match=r"must have the columns part, person, .*, got part, dice; run evaluating"):
        read_scores(tmp_path / "scores.csv")


def test_the_calibration_sets_the_reports_status_against_the_score() -> None:
    sure = replace(GOOD, status="ok")
    cases = [
        sure,
        replace(sure, dsc=0.7),  # trusted wrongly
        replace(sure, status="review"),  # doubted wrongly
        replace(sure, dsc=0.0, failed=True, status="refused"),
        replace(sure, defect="facial", dsc=0.5, status="review"),
        replace(NONE, status="review"),  # an undamaged skull is no defect
        replace(GOOD, method="nearest skull"),  # has no report
    ]

    cranial, facial = _rows(calibration_table(cases))

    assert cranial == ["validation", GOOD.defect, "VAE", "4", "2", "1", "0.700", "2", "1"]
    assert facial == ["validation", "facial", "VAE", "1", "0", "0", "-", "1", "0"]
    assert calibration_table([GOOD]) == ""
