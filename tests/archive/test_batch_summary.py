"""The summary of a batch: whole, and safe to open in a spreadsheet."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from bundle.skull_implant.archive.batch_case import (
    CaseOutcome,
    outcome_of,
)
from bundle.skull_implant.archive.batch_summary import write_summary
from tests.batch_requests import SETTINGS


def test_a_summary_that_cannot_be_written_leaves_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_summary(tmp_path, [CaseOutcome("a", "ok")], SETTINGS)
    before = (tmp_path / "summary.csv").read_text()
    original = Path.write_text

    def write_half(path: Path, text: str, **options: Any) -> int:
        original(path, text[:9], **options)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", write_half)
    with pytest.raises(OSError, match="No space"):
        write_summary(tmp_path, [CaseOutcome("b", "failed", ["no"])], SETTINGS)
    assert (tmp_path / "summary.csv").read_text() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["summary.csv", "summary.json"]


def test_warnings_of_a_report_stand_in_the_summary(tmp_path: Path) -> None:
    outcome = outcome_of("a", {"status": "ok", "warnings": ["no SEG", "thick slices"]}, finished_before=False)
    write_summary(tmp_path, [outcome, CaseOutcome("b", "ok")], SETTINGS)
    with (tmp_path / "summary.csv").open(newline="") as file:
        assert [row["warnings"] for row in csv.DictReader(file)] == ["no SEG; thick slices", ""]
    assert json.loads((tmp_path / "summary.json").read_text())["cases"][0]["warnings"] == outcome.warnings


@pytest.mark.parametrize("name", ["=1+1", "@SUM(1)", "+1", "-1", "\t=1", "\r=1"])
def test_no_cell_of_the_summary_is_a_formula(name: str, tmp_path: Path) -> None:
    refused = CaseOutcome(name, "refused", [f"{name}: no head"], -1.5, 2.0, warnings=[f"{name} is thick", "thin\r=1"])
    shown = "'" + name.replace("\r", " ")
    write_summary(tmp_path, [refused, CaseOutcome("a=1", "ok")], SETTINGS)

    with (tmp_path / "summary.csv").open(newline="") as file:
        row, other = csv.DictReader(file)
    assert row["case"] == shown
    assert row["reasons"] == f"{shown}: no head"
    assert row["warnings"] == f"{shown} is thick; thin =1"
    assert (row["status"], row["implant_volume_ml"], row["seconds"]) == ("refused", "-1.5", "2.0")  # numbers stay
    assert other["case"] == "a=1"
    assert json.loads((tmp_path / "summary.json").read_text())["cases"][0]["case"] == name
