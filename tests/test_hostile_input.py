"""Hostile input is refused in one line, or read: no traceback, no hang, no flood of memory, nothing written."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.frame.fitness import check_scan
from bundle.skull_implant.input.reading import read_case
from tests.conftest import ROOT
from tests.end_to_end import untrained_model
from tests.hostile_files import Hostile, as_file, as_series, corpus, good_file

CORPUS = corpus()
SECONDS = 60
MEMORY_MB = 1500  # above what the process had; a good file of these needs next to nothing


@contextmanager
def watched() -> Iterator[None]:
    """Fails what takes longer than a minute, or memory by the gigabyte."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < MEMORY_MB


def refusal(path: Path) -> str | None:
    """The line with which a path is refused; None if it is read, and then all of it makes sense."""
    with watched():
        try:
            case = read_case(path)
            check_scan(case)
        except InputError as error:
            line = str(error)
            assert "\n" not in line
            assert len(line) < 500
            return line
    assert np.isfinite(case.volume.grid.affine).all()
    assert np.isfinite(case.volume.voxels).all()
    assert "/" not in case.name
    return None


def contents(folder: Path) -> list[str]:
    return sorted(os.path.join(root, name) for root, folders, names in os.walk(folder) for name in (*folders, *names))


def test_the_corpus_is_large_and_of_every_format() -> None:
    names = [case.name for case in CORPUS]
    assert len(set(names)) == len(names) >= 300
    for word in ("NIfTI", "NRRD", "MetaImage", "DICOM", "path", "slice"):
        assert sum(word in name for name in names) >= 10


@pytest.mark.parametrize("case", CORPUS, ids=[case.name.encode("unicode_escape").decode() for case in CORPUS])
def test_hostile_input_is_refused_in_one_line_or_read(
    case: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count_hostile: Callable[[], None],
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = case.make(tmp_path)
    before = contents(tmp_path)
    monkeypatch.chdir(tmp_path)
    refusal(path)
    assert contents(tmp_path) == before
    assert capfd.readouterr().err == ""
    count_hostile()


@pytest.mark.parametrize(
    "name",
    [
        ".nii.gz cut to 200",
        ".mha cut to 347",
        "DICOM cut to 500",
        "NIfTI all zeros",
        "NRRD data file '/etc/passwd'",
        "MetaImage data in '/dev/zero'",
        "one slice without PixelData",
        "all slices with Rows 65535",
        "NRRD of 2048 2048 2048, raw",
        "loop",
        "device",
    ],
)
def test_what_must_be_refused_is_refused(name: str, tmp_path: Path) -> None:
    case = next(case for case in CORPUS if case.name == name)
    assert refusal(case.make(tmp_path)) is not None


@pytest.mark.parametrize("name", ["NIfTI mirrored", "MetaImage TransformMatrix '-1 0 0 0 1 0 0 0 1'"])
def test_what_is_only_odd_is_read(name: str, tmp_path: Path) -> None:
    assert refusal(next(case for case in CORPUS if case.name == name).make(tmp_path)) is None


EDITS = st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=8)
FUZZ = settings(
    max_examples=40, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip


def _changed(content: bytes, edits: list[tuple[int, int]], length: float) -> bytes:
    data = bytearray(content)
    for place, value in edits:
        data[place % len(data)] = value
    return bytes(data[: int(len(data) * length)])


@pytest.mark.parametrize("extension", [".nii", ".nii.gz", ".nrrd", ".mha"])
@FUZZ
@given(edits=EDITS, length=st.sampled_from([1.0, 1.0, 0.99, 0.5]))
def test_any_change_of_a_file_is_survived(
    extension: str, edits: list[tuple[int, int]], length: float, count_hostile: Callable[[], None]
) -> None:
    with TemporaryDirectory() as folder:
        refusal(as_file(f"fuzz{extension}", _changed(good_file(extension), edits, length))(Path(folder)))
    count_hostile()


@FUZZ
@given(edits=EDITS, length=st.sampled_from([1.0, 1.0, 0.99, 0.5]))
def test_any_change_of_a_slice_is_survived(
    edits: list[tuple[int, int]], length: float, count_hostile: Callable[[], None]
) -> None:
    with TemporaryDirectory() as folder:
        make = as_series(
            lambda content: _changed(content, [(128 + place % 900, value) for place, value in edits], length)
        )
        refusal(make(Path(folder)))
    count_hostile()


@FUZZ
@given(text=st.text(st.characters(codec="utf-8"), max_size=40))
def test_any_name_is_survived(text: str, count_hostile: Callable[[], None]) -> None:
    with TemporaryDirectory() as folder:
        refusal(Path(folder, "in", text + ".nii.gz"))
    count_hostile()


SAMPLE = (
    ".nii.gz cut to 200",
    "DICOM cut to 500",
    "NIfTI 16 GB, packed",
    "NIfTI two equal axes",
    "NRRD of 900 1000 1000, gzip",
    "NRRD data file '../../x'",
    "MetaImage ElementSpacing 'nan nan nan'",
    "all slices with Rows 65535",
    "device",
    "folder loop",
    "all slices with SeriesInstanceUID '../../../x'",
    "NIfTI that unpacks to 60 MB of nothing",
)
DRIVER = """
import json, sys, traceback
from pathlib import Path
from tests.end_to_end import run_module
for path in json.loads(sys.argv[1]):
    outcome = run_module("scripts.complete", path, sys.argv[2], "--model_file", sys.argv[3], "--device", "cpu")
    print(json.dumps([outcome.status, outcome.stderr]))
"""


def test_the_command_survives_hostile_input_with_little_memory(
    tmp_path: Path, count_hostile: Callable[[], None]
) -> None:
    model, paths = untrained_model(tmp_path / "model.pt"), []
    for number, name in enumerate(SAMPLE):
        (tmp_path / f"in{number}").mkdir()
        paths.append(str(next(case for case in CORPUS if case.name == name).make(tmp_path / f"in{number}")))
    before = contents(tmp_path)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))

    command = [sys.executable, "-c", DRIVER, json.dumps(paths), str(tmp_path / "out"), str(model)]
    result = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS * len(SAMPLE), preexec_fn=limit, check=False
    )

    assert result.returncode == 0, result.stderr[-2000:]
    outcomes = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(outcomes) == len(SAMPLE)
    for name, (status, line) in zip(SAMPLE, outcomes, strict=True):
        assert (status, line.count("\n")) == (1, 1), (name, line)
        assert "Traceback" not in line
        count_hostile()
    written = [Path(path).relative_to(tmp_path) for path in contents(tmp_path) if path not in before]
    assert all(path.parts[0] == "out" for path in written)
    assert {path.name for path in written if path.suffix} <= {"report.json"}  # refused ones have no more
    assert not any(part.startswith(".partial") for path in written for part in path.parts)
