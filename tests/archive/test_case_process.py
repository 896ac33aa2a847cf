"""Processes of a batch: kept for the next case, limited in memory and threads, one batch's own."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import psutil
import pytest

from bundle.skull_implant.archive.case_process import (
    CaseProcess,
    address_of,
    run_in_case_process,
    stop_case_processes,
    thread_variables,
)
from tests.batch_requests import request
from tests.batch_stand_in import act


def test_a_case_that_needs_too_much_memory_is_stopped_and_the_next_one_is_done(tmp_path: Path) -> None:
    process = CaseProcess(address_of(act), {})
    (tmp_path / "hog.nrrd").write_text("hog")
    (tmp_path / "good.nrrd").write_text("good")
    with contextlib.closing(contextlib.ExitStack()) as stack:
        stack.callback(process.stop)
        outcome = process.run(request(tmp_path / "hog.nrrd"), timeout_s=30.0, memory_gb=0.8)
        assert outcome.status == "failed"
        assert "needed more than 0.8 GB" in outcome.reasons[0]
        assert process.run(request(tmp_path / "good.nrrd"), timeout_s=30.0, memory_gb=0.8).status == "ok"


def test_a_process_is_kept_for_the_next_case_and_ends_with_its_input(tmp_path: Path) -> None:
    (tmp_path / "good.nrrd").write_text("good")
    process = CaseProcess(address_of(act), {}, maximum_cases=2)
    numbers = []
    for number in range(3):
        process.run(request(tmp_path / "good.nrrd", name=f"case{number}"), timeout_s=30.0, memory_gb=0.0)
        assert process.process is not None
        numbers.append(process.process.pid)
    assert numbers[0] == numbers[1] != numbers[2]
    child = process.process
    assert child is not None
    assert child.stdin is not None
    child.stdin.close()
    assert child.wait(10.0) == 0
    process.stop()


def test_a_batch_that_ends_leaves_the_processes_of_another_one_alone(tmp_path: Path) -> None:
    (tmp_path / "slow.nrrd").write_text("slow")
    (tmp_path / "good.nrrd").write_text("good")
    outcomes = {}

    def do(word: str) -> None:
        case = request(tmp_path / f"{word}.nrrd", name=word)
        limits = {"threads": {}, "timeout_s": 60.0, "memory_gb": 0.0}
        outcomes[word] = run_in_case_process(case, address_of(act), batch=word, **limits)

    request(tmp_path / "good.nrrd")
    other = threading.Thread(target=do, args=("slow",))
    other.start()
    do("good")
    stop_case_processes("good")
    other.join(60.0)
    stop_case_processes("slow")

    assert {name: each.status for name, each in outcomes.items()} == {"slow": "ok", "good": "ok"}


def test_the_users_environment_decides_on_threads_before_the_plan_does() -> None:
    assert set(thread_variables({}, 4).values()) == {"4"}
    users = thread_variables({"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "2"}, 4)
    assert (users["OMP_NUM_THREADS"], users["MKL_NUM_THREADS"], users["OPENBLAS_NUM_THREADS"]) == ("3", "2", "3")


def test_the_planned_threads_win_over_those_of_a_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as dask sets it
    (tmp_path / "good.nrrd").write_text("good")
    process = CaseProcess(address_of(act), thread_variables({}, 3))
    assert process.run(request(tmp_path / "good.nrrd"), timeout_s=60.0, memory_gb=0.0).status == "ok"
    assert process.process is not None
    environment = psutil.Process(process.process.pid).environ()
    process.stop()
    assert environment["OMP_NUM_THREADS"] == environment["MKL_NUM_THREADS"] == "3"
