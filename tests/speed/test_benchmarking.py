"""The benchmark runs the real commands and reckons right; here with stand-ins for them, for the sake of time."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pydicom
import pytest

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.speed import benchmarking
from bundle.skull_implant.speed.benchmarking import (
    Run,
    stage_table,
    time_batches,
    time_commands,
    time_warm_cases,
    write_scans,
)
from bundle.skull_implant.synthetic.synthetic_head import synthetic_head
from tests.batch_stand_in import act
from tests.end_to_end import run_module

COMPLETE = """
import json, pathlib, sys, time
time.sleep(0.2)
print("first line")
series, output = map(pathlib.Path, sys.argv[1:3])
(output / series.name).mkdir(parents=True, exist_ok=True)
(output / series.name / "report.json").write_text(json.dumps({"seconds": {"read": 0.1, "report": 0.02}}))
time.sleep(0.2)
sys.exit("no such scan") if series.name == "bad" else print("wrote")
"""
BATCH = """
import json, pathlib, sys, time
workers = int(sys.argv[sys.argv.index("--workers") + 1])
time.sleep(0.6 / workers)
pathlib.Path(sys.argv[2]).mkdir(exist_ok=True)
count = {"ok": 1, "review": 1, "refused": workers // 3, "failed": 0}
(pathlib.Path(sys.argv[2]) / "summary.json").write_text(json.dumps({"count": count}))
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in {"complete": COMPLETE, "batch": BATCH}.items():
        (tmp_path / "root" / "scripts").mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / "scripts" / f"{name}.py").write_text(text)
    (tmp_path / "root" / "models").mkdir()
    (tmp_path / "root" / "models" / "model.pt").write_text("weights")
    return tmp_path / "root"


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmarking, "synthetic_head", functools.partial(synthetic_head, detail_mm=4.0))
        return write_scans(tmp_path_factory.mktemp("scans"), (64, 64, 64), 2)


def test_scans_are_equal_series_with_uids_of_their_own(scans: list[Path]) -> None:
    first, second = (pydicom.dcmread(path / "IM0001.dcm") for path in scans)
    assert first.PixelData == second.PixelData
    assert first.SeriesInstanceUID != second.SeriesInstanceUID
    assert [len(list(path.iterdir())) for path in scans] == [64, 64]
    assert {path.parent for path in scans} == {scans[0].parent}


def test_a_command_is_timed_from_its_start_to_its_end_and_to_its_first_line(
    scans: list[Path], root: Path, tmp_path: Path
) -> None:
    first, second = time_commands(scans[0], tmp_path / "out", root, 2)
    assert (first.name, second.name) == ("cold 1", "cold 2")
    assert 0.2 <= first.first_line_s <= first.total_s - 0.05  # a busy machine reads the line late, the end on time
    assert first.stages_s == {"read": 0.1, "report": 0.02}
    assert 0.003 < first.memory_gb < 0.1  # of the command, not of this process


def test_warm_cases_are_done_anew_in_one_process_and_the_first_is_not_counted(
    scans: list[Path], root: Path, tmp_path: Path
) -> None:
    for _ in range(2):  # the second time there are results of the first
        found = time_warm_cases(scans[0], tmp_path / "out", root, 2, act)
        assert [run.name for run in found] == ["warm 1", "warm 2"]
        assert [run.stages_s["read"] for run in found] == [300.000001, 300.000002]
        assert all(run.total_s >= 0 for run in found)  # the stand-in takes no time worth a digit
        assert all(run.memory_gb > 0.003 for run in found)


def test_batches_stand_beside_one_at_a_time(scans: list[Path], root: Path, tmp_path: Path) -> None:
    table = time_batches(scans, tmp_path / "out", root, (1, 2))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:1] == "|"]
    assert [row[0] for row in rows[2:]] == [
        "one scripts.complete at a time",
        "scripts.batch --workers 1",
        "scripts.batch --workers 2",
    ]
    seconds = [float(row[1]) for row in rows[2:]]
    assert seconds[0] >= 0.8
    assert seconds[1] > seconds[2] >= 0.3
    for row, value in zip(rows[2:], seconds, strict=True):
        assert float(row[2]) == pytest.approx(120 / value, rel=0.2)
        assert float(row[4]) == pytest.approx(seconds[1] / value, rel=0.4)


def test_what_fails_is_not_timed(root: Path, scans: list[Path], tmp_path: Path) -> None:
    (tmp_path / "bad").symlink_to(scans[0])
    with pytest.raises(InputError, match=r"scripts\.complete must succeed to be timed, (.|\n)*no such scan"):
        time_commands(tmp_path / "bad", tmp_path / "out", root, 1)
    with pytest.raises(InputError, match="must complete all 1 cases"):
        time_batches(scans[1:], tmp_path / "out", root, (3,))


def test_the_table_has_a_row_for_each_stage_and_a_dash_where_nothing_was_measured() -> None:
    runs = [
        Run("cold 1", 20.0, 1.0, {"read": 2.0, "report": 0.5}, 2.0),
        Run("warm 1", 10.0, float("nan"), {"read": 1.0}, 1.5),
    ]
    table = stage_table(runs, (512, 512, 250))
    assert table.startswith("512 x 512 x 250 voxels, DICOM series, ")
    assert "| | cold 1 | warm 1 |" in table
    assert "| report, s | 0.5 | - |" in table
    assert "| start of Python, model and the rest, s | 17.5 | 9.0 |" in table
    assert "| until the first line of the log, s | 1.0 | - |" in table


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        (("learning",), "what must be inference or training"),
        (("inference", "--size", "64,64"), "--size must be three numbers"),
        (("inference", "--runs", "0"), "--runs and --steps at least 1"),
        (("inference", "--cases", "-1"), "--cases must be 0 or more"),
        (("inference", "--workers", "1,0"), "--workers 1 or more"),
    ],
)
def test_a_setting_that_cannot_be_is_one_line(words: tuple[str, ...], rule: str) -> None:
    outcome = run_module("scripts.benchmark", *words)
    assert outcome.status == 1
    assert rule in outcome.stderr


def test_the_command_prints_both_tables(scans: list[Path], root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    originals = {name: getattr(benchmarking, name) for name in ("time_commands", "time_warm_cases", "time_batches")}
    for name, original in originals.items():
        more = (act,) if name == "time_warm_cases" else ()
        monkeypatch.setattr(
            benchmarking,
            name,
            lambda scan, out, _, last, original=original, more=more: original(scan, out, root, last, *more),
        )
    outcome = run_module(
        "scripts.benchmark",
        *("inference", "--output_dir", scans[0].parents[1], "--size", "64,64,64", "--runs", "1", "--cases", "2"),
    )
    assert (outcome.status, outcome.stderr) == (0, "")
    assert "| | cold 1 | warm 1 |" in outcome.stdout
    assert re.search(r"^\| scripts.batch --workers 2 \| [\d.]+ ", outcome.stdout, re.MULTILINE)
