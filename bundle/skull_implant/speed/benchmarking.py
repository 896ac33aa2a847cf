"""How long a case takes and how much memory, cold and warm, and how many a minute a batch does; on real commands."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from bundle.skull_implant.archive.batch_case import WORK_FOLDER, CaseRequest, Work, complete_case
from bundle.skull_implant.archive.case_process import CaseProcess, address_of, thread_variables
from bundle.skull_implant.errors import InputError
from bundle.skull_implant.hashes import hash_weights
from bundle.skull_implant.output.dicom_writing import write_ct_series
from bundle.skull_implant.synthetic.synthetic_head import SyntheticHead, synthetic_head

EXTENT_MM = (240.0, 240.0, 176.0)
SETTINGS = {"gamma": 1.0, "defect_class": "auto", "threshold_hu": 300.0}


@dataclass(frozen=True)
class Run:
    """One case.

    Args:
        name: of the table's column.
        total_s: of a command from the start of Python to its end, of a warm case from its first byte to its last.
        first_line_s: until a command said something; NaN for a warm case.
        stages_s: of the report.
        memory_gb: peak resident memory of the process so far.
    """

    name: str
    total_s: float
    first_line_s: float
    stages_s: dict[str, float]
    memory_gb: float


def write_scans(folder: Path, size: tuple[int, int, int], count: int) -> list[Path]:
    """A synthetic head as so many DICOM series, the same but for their UIDs; those that are there stay.

    Args:
        folder: gets a folder for each series.
        size: voxels of the scan, which is always as large as a head's.
        count: of series.

    Returns:
        Their folders.
    """
    paths = [folder / "x".join(map(str, size)) / f"ct{number}" for number in range(1, count + 1)]
    head: SyntheticHead | None = None
    for path in paths:
        if not path.exists():
            x, y, z = (extent / voxels for extent, voxels in zip(EXTENT_MM, size, strict=True))
            head = head or synthetic_head(0, size=size, spacing=(x, y, z))
            write_ct_series(path, head.hu, uid_seed=f"benchmark {path.name}")
    return paths


def time_commands(series: Path, output: Path, root: Path, runs: int) -> list[Run]:
    """Run `scripts.complete` on a series several times; the first run also reads the files from the disk.

    Args:
        series: folder.
        output: for the results.
        root: of the bundle, where the command is run.
        runs: how many.

    Raises:
        InputError: the command failed.
    """
    return [_command(series, output, root, f"cold {number}") for number in range(1, runs + 1)]


def time_warm_cases(series: Path, output: Path, root: Path, runs: int, work: Work = complete_case) -> list[Run]:
    """Do a series several times in one process of a batch, after a first time that loads libraries and is not counted.

    Arguments as for :func:`time_commands`.

    Raises:
        InputError: a case failed.
    """
    (output / WORK_FOLDER).mkdir(parents=True, exist_ok=True)
    model_file = root / "models" / "model.pt"
    files = sorted(str(path.absolute()) for path in series.iterdir())
    where = (str(output.absolute()), SETTINGS, str(model_file), hash_weights(model_file))
    process = CaseProcess(address_of(work), thread_variables(os.environ, psutil.cpu_count() or 1))
    found = []
    try:
        for number in range(runs + 1):
            # Another threshold each time by a millionth of a HU: the same work, but no case that is finished already.
            settings = {**SETTINGS, "threshold_hu": 300.0 + 1e-6 * number}
            request = CaseRequest(series.name, files, True, where[0], settings, *where[2:], overwrite=True)
            outcome = process.run(request, timeout_s=1800.0, memory_gb=0.0)
            if outcome.status == "failed" or outcome.seconds is None:
                raise InputError(f"a warm case must succeed to be timed, it said: {'; '.join(outcome.reasons)}")
            report = json.loads((output / series.name / "report.json").read_text())
            memory_gb = _peak_gb(process.process.pid if process.process else 0)
            found.append(Run(f"warm {number}", outcome.seconds, np.nan, report["seconds"], memory_gb))
    finally:
        process.stop()
    return found[1:]


def time_batches(scans: Sequence[Path], output: Path, root: Path, workers: Sequence[int]) -> str:
    """Do all scans one `scripts.complete` after the other, and by `scripts.batch` with so many workers.

    Args:
        scans: folders of series, all in one folder that holds nothing else.
        output: for the results.
        root: of the bundle.
        workers: of each batch.

    Returns:
        Markdown table.

    Raises:
        InputError: a command failed.
    """
    seconds = {
        "one scripts.complete at a time": sum(_command(one, output / "alone", root, "").total_s for one in scans)
    }
    for count in workers:
        target = output / f"batch of {count}"
        words = ["scripts.batch", str(scans[0].parent.absolute()), str(target.absolute()), "--overwrite"]
        # A threshold of its own, as above, so that a benchmark that is run again has no finished cases.
        words += ["--workers", str(count), "--threshold_hu", repr(300.0 + 1e-9 * (time.time_ns() % 10**6))]
        started = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", *words], cwd=root, capture_output=True, text=True, check=False)
        if done.returncode:
            raise InputError(f"scripts.batch must succeed to be timed, it said: {(done.stdout + done.stderr)[-300:]}")
        used = json.loads((target / "summary.json").read_text())["count"]
        if used["ok"] + used["review"] != len(scans):
            raise InputError(f"scripts.batch must complete all {len(scans)} cases to be timed, it had {used}")
        seconds[f"scripts.batch --workers {count}"] = time.perf_counter() - started
    alone = next(iter(seconds.values()))
    one = seconds.get("scripts.batch --workers 1", alone)
    lines = [
        f"{len(scans)} of these cases, {_machine()}",
        "",
        "| | seconds | cases per minute | times one at a time | times one worker |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {value:.1f} | {60.0 * len(scans) / value:.2f} | {alone / value:.2f} | {one / value:.2f} |"
        for name, value in seconds.items()
    ]
    return "\n".join(lines)


def stage_table(runs: Sequence[Run], size: Sequence[int]) -> str:
    """Seconds per stage and peak memory, a column for each run.

    Args:
        runs: of one scan.
        size: its voxels.

    Returns:
        Markdown table.
    """
    rows = [(f"{stage}, s", [run.stages_s.get(stage, np.nan) for run in runs]) for stage in runs[0].stages_s]
    rows += [
        ("start of Python, model and the rest, s", [run.total_s - sum(run.stages_s.values()) for run in runs]),
        ("all, s", [run.total_s for run in runs]),
        ("until the first line of the log, s", [run.first_line_s for run in runs]),
        ("peak memory, GB", [run.memory_gb for run in runs]),
    ]
    lines = [
        f"{' x '.join(map(str, size))} voxels, DICOM series, {_machine()}",
        "",
        f"| | {' | '.join(run.name for run in runs)} |",
        "|---|" + "---|" * len(runs),
    ]
    for name, values in rows:
        lines.append(f"| {name} | {' | '.join('-' if np.isnan(value) else f'{value:.1f}' for value in values)} |")
    return "\n".join(lines)


def _command(series: Path, output: Path, root: Path, name: str) -> Run:
    words = ["scripts.complete", str(series.absolute()), str(output.absolute()), "--overwrite"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}  # or the first line would come with the last
    first_line_s, memory_gb = np.nan, np.nan
    with tempfile.TemporaryFile("w+") as said:
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", *words], cwd=root, env=environment, stdout=said, stderr=subprocess.STDOUT
        )
        while process.poll() is None:
            time.sleep(0.02)
            if np.isnan(first_line_s) and os.fstat(said.fileno()).st_size:
                first_line_s = time.perf_counter() - started
            memory_gb = np.fmax(memory_gb, _peak_gb(process.pid))
        seconds = time.perf_counter() - started
        said.seek(0)
        text = said.read()
    if process.returncode:
        raise InputError(f"scripts.complete must succeed to be timed, it said: {text.strip()[-300:]}")
    report = json.loads((output / series.name / "report.json").read_text())
    return Run(name, seconds, first_line_s, report["seconds"], float(memory_gb))


def _peak_gb(pid: int) -> float:
    """Peak resident memory of a living process; NaN where the system does not say.

    What the system tells of a process that has ended counts its parent's memory before the program was loaded, too.
    """
    try:
        found = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        found = None
    return int(found[1]) * 1024 / 1e9 if found else np.nan


def _machine() -> str:
    return f"{psutil.cpu_count()} CPU cores, Python {platform.python_version()}"
