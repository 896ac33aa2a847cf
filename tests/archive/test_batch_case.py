"""One case of a batch: what its errors are told as, and whose result stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bundle.skull_implant.archive.batch_case import (
    run_case,
)
from tests.batch_requests import request
from tests.batch_stand_in import act


@pytest.mark.parametrize(
    ("cause", "message", "no_space"),
    [
        (KeyError("Secret^Name"), "unexpected KeyError in test_batch_case.py", False),
        (MemoryError("Secret^Name"), "not enough memory; give more --memory_gb", False),
        (OSError(28, "No space left", "Secret^Name"), "takes no more (disk full", True),
    ],
)
def test_an_error_that_a_library_wraps_is_told_by_its_cause(
    cause: Exception, message: str, no_space: bool, tmp_path: Path
) -> None:
    def work(*_: Any) -> Path:
        try:
            raise cause
        except Exception as error:
            raise RuntimeError("applying transform") from error

    (tmp_path / "a.nrrd").write_text("good")
    outcome = run_case(request(tmp_path / "a.nrrd"), work)
    assert message in outcome.reasons[0]
    assert "Secret" not in outcome.reasons[0]
    assert outcome.no_space == no_space


def test_causes_that_run_in_a_circle_or_were_never_raised_end_as_an_outcome(tmp_path: Path) -> None:
    def itself(*_: Any) -> Path:
        error = RuntimeError("wrapped")
        raise error from error

    def circle(*_: Any) -> Path:
        first, second = RuntimeError("first"), KeyError("second")
        second.__cause__ = first
        raise first from second

    (tmp_path / "a.nrrd").write_text("good")
    for work in (itself, circle):
        assert (
            "unexpected RuntimeError in test_batch_case.py" in run_case(request(tmp_path / "a.nrrd"), work).reasons[0]
        )


def test_two_processes_with_the_same_case_leave_one_result(tmp_path: Path) -> None:
    (tmp_path / "good.nrrd").write_text("good")
    case = request(tmp_path / "good.nrrd")

    def work(source: Path, output_dir: Path, settings: dict[str, Any]) -> Path:
        if not (tmp_path / "out" / "case").exists():
            assert run_case(case, act).status == "ok"  # another is quicker
        return act(source, output_dir, settings)

    assert run_case(case, work).status == "ok"
    assert sorted(path.name for path in (tmp_path / "out" / "case").iterdir()) == ["implant.nii.gz", "report.json"]
