"""Seconds and memory of one inference through MONAI Label's server, beside those of the command line."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from bundle.skull_implant.commands.packaging import package_bundle
from bundle.skull_implant.errors import InputError
from bundle.skull_implant.slicer.label_client import ask
from bundle.skull_implant.slicer.label_server import prepare_app, server_command, server_environment
from bundle.skull_implant.speed.benchmarking import EXTENT_MM
from bundle.skull_implant.synthetic.synthetic_head import synthetic_head
from bundle.skull_implant.volume import write_volume

BYTES = 1 if sys.platform == "darwin" else 1024  # of the unit of ru_maxrss


@dataclass(frozen=True)
class Measured:
    """A row of the table.

    Args:
        name: what was done.
        seconds: of each time, by the clock.
        cpu_seconds: of each time, of the process alone, whatever else the machine does.
        memory_gb: peak resident memory of the process.
    """

    name: str
    seconds: Sequence[float]
    cpu_seconds: Sequence[float]
    memory_gb: float


def benchmark_label(folder: Path, size: tuple[int, int, int], runs: int, root: Path, start_s: float = 600.0) -> str:
    """Complete a synthetic head, given as `.nii.gz`, through the server and by `scripts.complete`, several times each.

    Args:
        folder: for the scan, the app and the results.
        size: voxels of the scan.
        runs: how many; the server's first also loads what a server loads once.
        root: of the bundle.
        start_s: the server must be up after so many seconds.

    Returns:
        Markdown table, a row for the server's start, its requests and the command.

    Raises:
        InputError: the server does not start, a request or the command fails.
    """
    folder = folder.absolute()
    studies = folder / "studies"
    scan = studies / ("ct_" + "x".join(map(str, size)) + ".nii.gz")
    if not scan.exists():
        spacing = tuple(extent / count for extent, count in zip(EXTENT_MM, size, strict=True))
        write_volume(scan, synthetic_head(0, size=size, spacing=(spacing[0], spacing[1], spacing[2])).hu)
    rows = [*_server(scan, studies, folder, runs, root, start_s), _command(scan, folder / "results", runs, root)]
    return _table(rows, size)


def _server(scan: Path, studies: Path, folder: Path, runs: int, root: Path, start_s: float) -> list[Measured]:
    from monailabel.client import MONAILabelClient  # only in the environment of `make label`

    app = prepare_app(package_bundle(root, folder), folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    words = server_command(app, str(studies), "127.0.0.1", port)
    client = MONAILabelClient(f"http://127.0.0.1:{port}", tmpdir=str(folder))
    seconds, cpu_seconds = [], []
    with _process(words, folder / "server.log") as process:
        started = time.perf_counter()
        _wait(client.info, process, start_s, folder / "server.log")
        state = psutil.Process(process.pid)
        elapsed, resident_gb = time.perf_counter() - started, state.memory_info().rss / 1e9
        start = Measured("start of the server", [elapsed], [_cpu_s(state)], resident_gb)
        for _ in range(runs):
            started, cpu_before = time.perf_counter(), _cpu_s(state)
            file, _ = ask(client, scan.name.removesuffix(".nii.gz"), {})
            seconds.append(time.perf_counter() - started)
            cpu_seconds.append(_cpu_s(state) - cpu_before)
            Path(file).unlink()
        process.terminate()
        peak_gb, _ = _end(process)
    return [start, Measured("request to the server", seconds, cpu_seconds, peak_gb)]


def _command(scan: Path, output: Path, runs: int, root: Path) -> Measured:
    words = [sys.executable, "-m", "scripts.complete", str(scan), str(output), "--overwrite"]
    seconds, cpu_seconds, peaks = [], [], []
    for _ in range(runs):
        started = time.perf_counter()
        with subprocess.Popen(words, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            complaint = process.stderr.read() if process.stderr else ""
            peak_gb, cpu = _end(process)
        peaks.append(peak_gb)
        cpu_seconds.append(cpu)
        seconds.append(time.perf_counter() - started)
        if process.returncode:
            raise InputError(f"scripts.complete must succeed to be timed, it said: {complaint.strip()[-300:]}")
    return Measured("python -m scripts.complete", seconds, cpu_seconds, max(peaks))


@contextmanager
def _process(words: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A running process that is ended at the end."""
    with (
        log.open("wb") as output,
        subprocess.Popen(
            words, cwd=log.parent, stdout=output, stderr=subprocess.STDOUT, env=server_environment()
        ) as process,
    ):
        try:
            yield process
        finally:
            if process.returncode is None:
                process.terminate()


def _wait(ask: Callable[[], object], process: subprocess.Popen[bytes], limit_s: float, log: Path) -> None:
    started = time.monotonic()
    while True:
        try:
            ask()
            return
        except OSError as error:
            if process.poll() is not None or time.monotonic() - started > limit_s:
                said = log.read_text().strip()[-300:]
                raise InputError(f"MONAI Label's server must start to be timed, it said: {said}") from error
            time.sleep(0.2)


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _end(process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> tuple[float, float]:
    """Wait for the end of a process; its peak resident memory in GB and its CPU seconds."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_maxrss * BYTES / 1e9, usage.ru_utime + usage.ru_stime


def _table(rows: Sequence[Measured], size: tuple[int, int, int]) -> str:
    machine = f"{os.cpu_count()} CPU cores, Python {platform.python_version()}"
    lines = [
        f"{' x '.join(map(str, size))} voxels, .nii.gz, {machine}",
        "",
        "| | seconds | CPU seconds | memory, GB |",
        "|---|---|---|---|",
    ]
    for row in rows:
        clock, cpu = (", ".join(f"{each:.1f}" for each in times) for times in (row.seconds, row.cpu_seconds))
        lines.append(f"| {row.name} | {clock} | {cpu} | {row.memory_gb:.1f} |")
    return "\n".join(lines)
