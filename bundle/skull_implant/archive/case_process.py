"""A process that does one case after the other, and the one that watches it: time, memory, and whether it lives.

Run as `python -m bundle.skull_implant.archive.case_process MODULE:FUNCTION`, it reads a request a line from its
standard input and writes an outcome a line to its standard output, both JSON. It ends when its input does, so also when
the process that watches it dies.
"""

from __future__ import annotations

import contextlib
import json
import os
import pkgutil
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import psutil

from bundle.skull_implant.archive.batch_case import CaseOutcome, CaseRequest, Work, run_case

ROOT = Path(__file__).resolve().parents[3]
THREAD_VARIABLES = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"),
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)


def thread_variables(environment: Mapping[str, str], planned: int) -> dict[str, str]:
    """How many threads the libraries of a case may use: what the user's environment says, else what is planned.

    A worker of dask has OMP_NUM_THREADS=1 of its own, so this is asked before there is a cluster.

    Args:
        environment: the user's.
        planned: for each variable that is not set; OMP_NUM_THREADS speaks for the others too.
    """
    number = environment.get("OMP_NUM_THREADS", "").split(",")[0] or str(planned)
    return {name: environment.get(name) or number for name in THREAD_VARIABLES}


def address_of(work: Work) -> str:
    """What another process needs to find a function: `module:function`.

    Raises:
        ValueError: it is in the main module, which has another name there, or is no module's own.
    """
    if work.__module__ == "__main__" or "<" in work.__qualname__:
        raise ValueError(f"work must be a module's own function, {work.__module__}:{work.__qualname__} arrived")
    return f"{work.__module__}:{work.__qualname__}"


class CaseProcess:
    """A process for cases, started when first needed and again when it died or was stopped.

    Args:
        work: `module:function` that computes a result, see :func:`run_case`.
        threads: variables that say how many threads its libraries may use, see :func:`thread_variables`; they win
            over those of this process. A variable that stands in neither is 1.
        maximum_cases: after so many a new process is taken, so that what libraries hold on to does not pile up.
    """

    def __init__(self, work: str, threads: Mapping[str, str], maximum_cases: int = 50) -> None:
        self.work = work
        self.threads = dict(threads)
        self.batch = ""  # that had it last
        self.maximum_cases = maximum_cases
        self.cases_left = 0
        self.process: subprocess.Popen[bytes] | None = None

    def run(self, request: CaseRequest, timeout_s: float, memory_gb: float) -> CaseOutcome:
        """Do a case.

        Args:
            request: the case.
            timeout_s: the process is stopped after so many seconds.
            memory_gb: the process is stopped when it holds more than this; 0 for no limit.

        Returns:
            The case's outcome; `failed` with the reason if the process was stopped or died.
        """
        if self.process is None or self.process.poll() is not None or self.cases_left <= 0:
            self.stop()
            self._start()
        self.cases_left -= 1
        started = time.monotonic()
        reason = self._send(request) or self._wait(started + timeout_s, memory_gb)
        if isinstance(reason, CaseOutcome):
            return reason
        self.stop()
        told = reason.format(timeout_s=timeout_s, memory_gb=memory_gb)
        return CaseOutcome(
            request.name, "failed", [f"{request.name}: {told}"], seconds=round(time.monotonic() - started, 2)
        )

    def stop(self) -> None:
        """End the process and what it started."""
        process, self.process = self.process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5.0)  # one that waits for a dead network drive may not even be killed
        _pipe(process.stdin).close()
        _pipe(process.stdout).close()

    def _start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", __name__, self.work],
            cwd=ROOT,
            env={**dict.fromkeys(THREAD_VARIABLES, "1"), "MPLBACKEND": "Agg", **os.environ, **self.threads},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,  # its own group to kill; an interrupt reaches it as the end of its input
        )
        self.cases_left = self.maximum_cases

    def _send(self, request: CaseRequest) -> str:
        assert self.process is not None
        try:
            _pipe(self.process.stdin).write(json.dumps(asdict(request)).encode() + b"\n")
        except BrokenPipeError:
            return self._death()
        return ""

    def _wait(self, deadline: float, memory_gb: float, step_s: float = 0.1) -> CaseOutcome | str:
        """The outcome, or why there is none."""
        assert self.process is not None
        answers, line = _pipe(self.process.stdout), b""
        while time.monotonic() < deadline:
            if select.select([answers], [], [], step_s)[0]:
                chunk = os.read(answers.fileno(), 1 << 16)
                if not chunk:
                    return self._death()
                line += chunk
                if line.endswith(b"\n"):
                    return CaseOutcome(**json.loads(line))
            elif memory_gb and _memory_gb(self.process.pid) > memory_gb:
                return "stopped, it needed more than {memory_gb:.1f} GB; give more --memory_gb or fewer --workers"
        return "stopped, it was not done after {timeout_s:g} seconds; look at it alone, or give more --timeout_s"

    def _death(self) -> str:
        assert self.process is not None
        try:
            status = self.process.wait(5.0)
        except subprocess.TimeoutExpired:
            return "its process closed the connection; run it alone with scripts.complete"
        if status == -signal.SIGKILL:
            return "its process was killed, perhaps for want of memory; run it again with fewer --workers"
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
        return f"its process died ({how}); run it alone with scripts.complete"


def run_in_case_process(
    request: CaseRequest, work: str, threads: dict[str, str], timeout_s: float, memory_gb: float, batch: str
) -> CaseOutcome:
    """Do a case in the calling thread's own :class:`CaseProcess`, which stays for the next one: a task of a cluster."""
    key = (threading.get_ident(), work, tuple(sorted(threads.items())))
    with _lock:
        process = _processes.setdefault(key, CaseProcess(work, threads))
        process.batch = batch
    return process.run(request, timeout_s, memory_gb)


def stop_case_processes(batch: str) -> None:
    """End the processes that a batch had last, which must be idle; a shared worker may be busy with another batch's."""
    with _lock:
        for key in [key for key, process in _processes.items() if process.batch == batch]:
            _processes.pop(key).stop()


_lock = threading.Lock()
_processes: dict[tuple[int, str, tuple[tuple[str, str], ...]], CaseProcess] = {}


def serve(work: Callable[..., Any]) -> None:
    """Do the cases that come in on standard input until it ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not get between the answers
    requests: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_receive, args=(requests,), daemon=True).start()
    while True:
        outcome = run_case(CaseRequest(**json.loads(requests.get())), work)
        print(json.dumps(asdict(outcome)), file=answers, flush=True)


def _receive(requests: queue.Queue[str]) -> None:
    for line in sys.stdin:
        requests.put(line)
    os._exit(0)  # nobody waits for the case any more, and another run may do it


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream


def _memory_gb(pid: int) -> float:
    try:
        return float(psutil.Process(pid).memory_info().rss) / 1e9
    except psutil.Error:
        return 0.0


if __name__ == "__main__":
    serve(pkgutil.resolve_name(sys.argv[1]))
