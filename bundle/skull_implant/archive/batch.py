"""Many cases on a cluster of `dask.distributed`, each in a process of its own: one failure ends no other."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import distributed
from dask.system import CPU_COUNT
from distributed.system import MEMORY_LIMIT
from tqdm import tqdm

from bundle.skull_implant.archive.batch_case import CaseOutcome, CaseRequest, Work, complete_case
from bundle.skull_implant.archive.batch_folder import BatchFolder
from bundle.skull_implant.archive.batch_inputs import BatchInput, find_inputs
from bundle.skull_implant.archive.batch_summary import STATUSES, write_summary
from bundle.skull_implant.archive.case_process import (
    ROOT,
    address_of,
    run_in_case_process,
    stop_case_processes,
    thread_variables,
)
from bundle.skull_implant.errors import InputError
from bundle.skull_implant.hashes import hash_weights
from bundle.skull_implant.model.shipped_weights import check_weights
from bundle.skull_implant.surfaces.print_settings import PrintSettings

logger = logging.getLogger(__name__)
DEFECT_CLASSES = ("auto", "cranial", "facial")
DEVICES = ("auto", "cpu", "cuda")
logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what matters of it is told as a case's failure


@dataclass(frozen=True)
class Resources:
    """How much of the machine a batch may use.

    Args:
        workers: cases at a time; 0 for as many as there are cores and memory for.
        memory_gb: of all cases together; 0 for three quarters of the machine's.
        timeout_s: of one case.
        scheduler: address of a cluster, such as `tcp://host:8786`; empty for one of this machine's own.
        gb_per_case: memory that a case must be able to take; a CT of 512 x 512 x 250 voxels needs less.
    """

    workers: int = 0
    memory_gb: float = 0.0
    timeout_s: float = 900.0
    scheduler: str = ""
    gb_per_case: float = 3.0

    def for_this_machine(self) -> Resources:
        """With a number of workers and a budget; fewer workers than asked for where memory is short.

        Raises:
            InputError: a number below 0, or no time.
        """
        if self.workers < 0 or not 0 <= self.memory_gb < math.inf or not self.timeout_s > 0:
            found = f"{self.workers}, {self.memory_gb:g} and {self.timeout_s:g} arrived"
            raise InputError(
                f"--workers and --memory_gb must be 0 or more and finite, --timeout_s more than 0: {found}"
            )
        if self.scheduler:
            return self
        memory_gb = self.memory_gb or 0.75 * MEMORY_LIMIT / 1e9
        fitting = max(1, int(memory_gb / self.gb_per_case))
        workers = min(self.workers or CPU_COUNT, fitting)
        if self.workers > workers:
            logger.info("memory of %.1f GB is enough for %d of %d workers", memory_gb, workers, self.workers)
        return replace(self, workers=workers, memory_gb=memory_gb)


def run_batch(
    input_root: Path,
    output_root: Path,
    settings: dict[str, Any],
    model_file: Path,
    *,
    device: str = "auto",
    overwrite: bool = False,
    resources: Resources | None = None,
    work: Work = complete_case,
) -> list[CaseOutcome]:
    """Do every case below a folder that is not done yet, and write the summary of all.

    A result is recognized by what it was made of: the content of the input files, settings, weights, the bundle's
    version and its `configs/inference.yaml`.

    Args:
        input_root: searched with its subfolders.
        output_root: gets a folder for each case, `summary.csv` and `summary.json`.
        settings: top-level keys of `configs/inference.yaml`, the same for all cases.
        model_file: weights.
        device: auto, cpu or cuda; does not count as a setting.
        overwrite: replace earlier results of another input, settings or weights.
        resources: what the batch may use.
        work: computes a result folder from an input, a folder to write in and settings. Processes find it by its name.

    Returns:
        What became of each case, in the order of their names.

    Raises:
        InputError: nothing to do, no weights, an OUTPUT_ROOT that cannot be written or became full, or no cluster.
    """
    resources = (resources or Resources()).for_this_machine()
    _check_settings(settings, device, is_local=not resources.scheduler)
    input_root, output_root, model_file = map(_absolute, (input_root, output_root, model_file))
    try:
        weights = hash_weights(model_file)
        check_weights(model_file)
    except OSError as error:
        rule = "model_file must be a file that can be read"
        raise InputError(f"{model_file.name}: {rule} ({error.strerror}); give the shipped models/model.pt") from error
    folder = BatchFolder(output_root, input_root)
    logger.info("looking for cases below %s", input_root.name)
    inputs = find_inputs(input_root, output_root)
    with folder:
        requests = [
            CaseRequest(
                each.name,
                [str(path) for path in each.files],
                each.is_series,
                str(output_root),
                settings,
                str(model_file),
                weights,
                device,
                overwrite,
            )
            for each in inputs
            if not each.problem
        ]
        logger.info("%d cases below %s", len(inputs), input_root.name)
        outcomes = [CaseOutcome(each.name, "failed", [each.problem]) for each in inputs if each.problem]
        with _Progress(len(inputs)) as progress:
            for outcome in outcomes:
                progress.tell(outcome)
            for outcome in _run_all(requests, address_of(work), resources):
                progress.tell(outcome)
                outcomes.append(outcome)
        outcomes += _not_started(inputs, outcomes)
        outcomes.sort(key=lambda outcome: outcome.case)
        _finish(output_root, outcomes, {**settings, "weights_sha256": weights})
    return outcomes


def _check_settings(settings: dict[str, Any], device: str, *, is_local: bool) -> None:
    """Refuse once what every case would fail of; the devices of other machines are not known here."""
    choices = {"defect_class": (settings["defect_class"], DEFECT_CLASSES), "device": (device.split(":")[0], DEVICES)}
    for name, (value, known) in choices.items():
        if value not in known:
            raise InputError(f"--{name} must be {', '.join(known[:-1])} or {known[-1]}, got {value!r}")
    if not -10.0 <= settings["gamma"] <= 10.0:  # as inferers.CompletionInferer has it, which takes seconds to import
        rule = "--gamma must lie between -10 and 10"
        raise InputError(f"{rule}, got {settings['gamma']:g}; 1 completes the skull")
    if not -32768.0 <= settings["threshold_hu"] <= 65535.0:  # as options.read_options has it
        raise InputError(f"--threshold_hu must lie between -32768 and 65535, got {settings['threshold_hu']:g}")
    candidates = settings.get("candidates", 1)
    if not 1 <= candidates <= 20:  # as options.read_options has it
        raise InputError(f"--candidates must lie between 1 and 20, got {candidates}; 1 is the implant alone")
    PrintSettings(**{name: settings[name] for name in PrintSettings.__dataclass_fields__ if name in settings})
    if is_local and device not in ("auto", "cpu"):
        from bundle.skull_implant.commands.completion import choose_device  # heavy, and other devices do without

        choose_device(device)


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # workers have another current folder


def _run_all(requests: list[CaseRequest], work: str, resources: Resources) -> Iterator[CaseOutcome]:
    """Outcomes as they come in; ends early when nothing more can be written."""
    if not requests:
        return
    batch = uuid4().hex  # other batches may share the cluster
    threads: dict[str, str] = {}  # the workers of a hospital's cluster have their own
    if not resources.scheduler:
        threads = thread_variables(os.environ, max(1, CPU_COUNT // resources.workers))
    with _cluster(resources) as client:
        slots = sum(client.nthreads().values())
        limits: dict[str, Any] = {
            "work": work,
            "threads": threads,
            "batch": batch,
            "timeout_s": resources.timeout_s,
            "memory_gb": resources.memory_gb / (resources.workers or slots),
        }
        in_flight = resources.workers if resources.scheduler and resources.workers else slots + 2
        waiting = iter(requests)
        names: dict[str, str] = {}

        def submit() -> distributed.Future | None:
            request = next(waiting, None)
            if request is None:
                return None
            # Names of keys stand in dashboards and logs of the cluster, so cases are numbered there.
            future = client.submit(run_in_case_process, request, **limits, key=f"case-{batch}-{len(names)}")
            names[future.key] = request.name
            return future

        first = [future for _ in range(in_flight) if (future := submit()) is not None]
        running = distributed.as_completed(first)
        full = False
        try:
            for future in running:
                outcome = _outcome(future, names[future.key])
                future.release()
                full = full or outcome.no_space
                following = None if full else submit()
                if following is not None:
                    running.add(following)
                yield outcome
        finally:  # also when interrupted: a cluster's workers would keep their processes and the models in them
            with contextlib.suppress(Exception):
                client.run(stop_case_processes, batch)


def _outcome(future: distributed.Future, name: str) -> CaseOutcome:
    try:
        answer = future.result()
        outcome = answer if isinstance(answer, CaseOutcome) else CaseOutcome(**answer)
    except Exception as error:  # a machine of the cluster went away, or lacks the package
        reason = f"{name}: the cluster could not do it ({type(error).__name__}); look at its workers and run it again"
        return CaseOutcome(name, "failed", [reason])
    if outcome.case != name:
        reason = f"{name}: the cluster answered with the outcome of another case; run it again"
        return CaseOutcome(name, "failed", [reason])
    return outcome


@contextlib.contextmanager
def _cluster(resources: Resources) -> Iterator[distributed.Client]:
    """A client of the cluster at an address, or of one on this machine that ends with the batch."""
    if resources.scheduler:
        try:
            client = distributed.Client(resources.scheduler, timeout=15)
            client.wait_for_workers(1, timeout=60)
        except (OSError, ValueError, TimeoutError) as error:
            rule = "--scheduler must be the address of a dask scheduler with workers"
            raise InputError(f"{resources.scheduler}: {rule}, none answered; check it, or leave it out") from error
        with client:
            _check_bundle_is_there(client, resources.scheduler)
            yield client
        return
    with (
        distributed.LocalCluster(
            n_workers=resources.workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
            scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},  # any free port, for batches beside each other
            security=True,  # TLS with keys made for this run, so that no other user of the machine can hand it work
            memory_limit=None,  # it would not see the cases' own processes, which are watched instead
            silence_logs=logging.CRITICAL,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def _check_bundle_is_there(client: distributed.Client, address: str) -> None:
    """Refuse a cluster whose processes cannot import the bundle, before every case fails of it."""

    def finds_bundle() -> bool:  # goes to the others as code, being no function of a module's own
        import importlib.util

        try:
            return importlib.util.find_spec("bundle.skull_implant") is not None
        except ModuleNotFoundError:
            return False

    found = [client.run_on_scheduler(finds_bundle), *client.run(finds_bundle).values()]
    if not all(found):
        rule = "the scheduler and all workers must be able to import the bundle"
        way_out = f"start each with PYTHONPATH={ROOT.as_posix()}, or where that machine has it"
        raise InputError(f"{address}: {rule}, {found.count(False)} of {len(found)} cannot; {way_out}")


def _not_started(inputs: Sequence[BatchInput], outcomes: Sequence[CaseOutcome]) -> list[CaseOutcome]:
    done = {outcome.case for outcome in outcomes}
    reason = "not started: OUTPUT_ROOT takes no more"
    return [CaseOutcome(each.name, "failed", [reason], no_space=True) for each in inputs if each.name not in done]


def _finish(output_root: Path, outcomes: list[CaseOutcome], settings: dict[str, Any]) -> None:
    count = {status: sum(outcome.status == status for outcome in outcomes) for status in STATUSES}
    full = any(outcome.no_space for outcome in outcomes)
    try:
        for path in write_summary(output_root, outcomes, settings):
            logger.info("wrote %s", path)
    except OSError as error:
        raise _full(output_root, len(outcomes) - count["failed"], len(outcomes)) from error
    logger.info("%s", ", ".join(f"{number} {status}" for status, number in count.items()))
    if full:
        raise _full(output_root, len(outcomes) - count["failed"], len(outcomes))


def _full(output_root: Path, done: int, total: int) -> InputError:
    rule = f"OUTPUT_ROOT takes no more (disk full, quota reached or read-only), {done} of {total} cases are done"
    return InputError(f"{output_root}: {rule}; make room and run the same command again")


class _Progress:
    """A bar on a terminal, lines elsewhere."""

    def __init__(self, total: int) -> None:
        self.total, self.count = total, 0
        self.bar: tqdm | None = None

    def __enter__(self) -> _Progress:
        if sys.stderr.isatty():
            self.bar = tqdm(total=self.total, unit="case", file=sys.stderr)
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def tell(self, outcome: CaseOutcome) -> None:
        """One more case is done."""
        self.count += 1
        reasons = "".join(f": {reason}" for reason in outcome.reasons[:1])
        if self.bar is not None:
            if outcome.status == "failed":
                self.bar.write(f"{outcome.case}: failed{reasons}", file=sys.stderr)
            self.bar.update()
            return
        volume = "" if outcome.implant_volume_ml is None else f", implant {outcome.implant_volume_ml:.1f} ml"
        seconds = "" if outcome.seconds is None else f", {outcome.seconds:.1f} s"
        before = ", done before" if outcome.finished_before else ""
        place = f"{self.count}/{self.total} {outcome.case}"
        logger.info("%s: %s%s%s%s%s", place, outcome.status, volume, seconds, before, reasons)
