"""How long one case takes and how much memory, measured on the command that a user types."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bundle.skull_implant.dicom_writing import write_ct_series
from bundle.skull_implant.errors import InputError
from bundle.skull_implant.synthetic_head import synthetic_head

EXTENT_MM = (240.0, 240.0, 176.0)


@dataclass(frozen=True)
class Run:
    """One run of the command.

    Args:
        total_s: from the start of Python to its end.
        stages_s: of the report.
        memory_gb: peak resident memory of the process.
    """

    total_s: float
    stages_s: dict[str, float]
    memory_gb: float


def benchmark_inference(folder: Path, size: tuple[int, int, int], runs: int, root: Path) -> str:
    """Complete a synthetic head, given as a DICOM series, with the shipped weights, several times.

    Args:
        folder: for the series and the results; the series is made if it is not there.
        size: voxels of the scan.
        runs: how many; the first also reads the files from the disk.
        root: of the bundle, where the command is run.

    Returns:
        Markdown table, a column for each run.

    Raises:
        InputError: the command failed.
    """
    series = folder / ("ct_" + "x".join(map(str, size)))
    if not series.exists():
        spacing = tuple(extent / count for extent, count in zip(EXTENT_MM, size, strict=True))
        head = synthetic_head(0, size=size, spacing=(spacing[0], spacing[1], spacing[2]))
        write_ct_series(series, head.hu, uid_seed="benchmark")
    return _table([_run(series, folder / "results", root) for _ in range(runs)], size)


def _run(series: Path, output: Path, root: Path) -> Run:
    command = [sys.executable, "-m", "scripts.complete", str(series.absolute()), str(output.absolute()), "--overwrite"]
    started = time.perf_counter()
    with subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        complaint = process.stderr.read() if process.stderr else ""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - started
    if process.returncode:
        raise InputError(f"scripts.complete must succeed to be timed, it said: {complaint.strip()[-300:]}")
    report = json.loads((output / series.name / "report.json").read_text())
    return Run(seconds, report["seconds"], usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9)


def _table(runs: Sequence[Run], size: tuple[int, int, int]) -> str:
    stages = list(runs[0].stages_s)
    rows = [(f"{stage}, s", [run.stages_s.get(stage, np.nan) for run in runs]) for stage in stages]
    rows.append(("start of Python and the rest, s", [run.total_s - sum(run.stages_s.values()) for run in runs]))
    rows.append(("whole command, s", [run.total_s for run in runs]))
    rows.append(("peak memory, GB", [run.memory_gb for run in runs]))
    machine = f"{os.cpu_count()} CPU cores, Python {platform.python_version()}"
    lines = [
        f"{' x '.join(map(str, size))} voxels, DICOM series, {machine}",
        "",
        "| | " + " | ".join(f"run {number}" for number in range(1, len(runs) + 1)) + " |",
        "|---|" + "---|" * len(runs),
    ]
    for name, values in rows:
        lines.append(f"| {name} | " + " | ".join(f"{value:.1f}" for value in values) + " |")
    return "\n".join(lines)
