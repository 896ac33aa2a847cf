"""One case of a batch, in a process of its own: skipped if it is finished, else computed and put in its place whole."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bundle.skull_implant.archive.batch_identity import Identity, read_report
from bundle.skull_implant.archive.batch_names import content_name
from bundle.skull_implant.errors import NOT_WRITABLE, CaseRefused, InputError, chain
from bundle.skull_implant.hashes import bundle_state, hash_files
from bundle.skull_implant.output.result_folder import REPORT

CONFIG = Path(__file__).resolve().parents[3] / "configs" / "inference.yaml"
WORK_FOLDER = ".batch"  # in OUTPUT_ROOT, so that a finished result is renamed and not copied

Work = Callable[[Path, Path, dict[str, Any]], Path]


@dataclass(frozen=True)
class CaseRequest:
    """What a process needs to know of a case.

    Args:
        name: of the result folder.
        files: absolute paths of the volume file or of the series.
        is_series: the files are a DICOM series.
        output_root: where the result folder goes.
        settings: top-level keys of `configs/inference.yaml` that decide the result.
        model_file: weights.
        weights_sha256: what they must be, for another machine may have others.
        device: auto, cpu or cuda.
        overwrite: replace an earlier result of another input, settings or weights.
    """

    name: str
    files: list[str]
    is_series: bool
    output_root: str
    settings: dict[str, Any]
    model_file: str
    weights_sha256: str
    device: str = "auto"
    overwrite: bool = False


@dataclass(frozen=True)
class CaseOutcome:
    """What became of a case; a line of the summary.

    Args:
        case: name of the result folder.
        status: `ok`, `review`, `refused` or `failed`.
        reasons: one sentence each.
        implant_volume_ml: None where there is no implant's mask.
        seconds: from the first byte read to the last one written, in the run that computed it.
        finished_before: an earlier run computed it.
        no_space: nothing can be written there any more.
        warnings: of the report, one sentence each; what does not touch the implant.
    """

    case: str
    status: str
    reasons: list[str] = field(default_factory=list)
    implant_volume_ml: float | None = None
    seconds: float | None = None
    finished_before: bool = False
    no_space: bool = False
    warnings: list[str] = field(default_factory=list)


def complete_case(source: Path, output_dir: Path, settings: dict[str, Any]) -> Path:
    """What `scripts.complete` does with a file or a DICOM folder.

    Returns:
        The result folder; of a refused case it holds the report alone.

    Raises:
        InputError: bad input or settings.
    """
    from bundle.skull_implant.commands import completion  # heavy, and finished cases do without
    from bundle.skull_implant.input.reading import case_name

    overrides = {**settings, "device": completion.choose_device(settings["device"])}
    try:
        (folder,) = completion.complete(CONFIG, dataset_dir=str(source), output_dir=str(output_dir), **overrides)
    except CaseRefused:
        return output_dir / case_name(source)
    return folder


def run_case(request: CaseRequest, work: Work) -> CaseOutcome:
    """Do a case; every error ends as an outcome.

    Args:
        request: the case.
        work: computes a result folder from an input, a folder to write in and settings; :func:`complete_case`.
    """
    started = time.perf_counter()
    try:
        return _run(request, work, started)
    except InputError as error:
        reason = str(error)
    except Exception as error:  # one case must not end the others
        full = _out_of_space(error, Path(request.output_root))
        reason = f"{request.name}: {_told(error, full)}"
        return CaseOutcome(request.name, "failed", [reason], seconds=_since(started), no_space=full)
    return CaseOutcome(request.name, "failed", [" ".join(reason.split())], seconds=_since(started))


def outcome_of(name: str, report: dict[str, Any], finished_before: bool) -> CaseOutcome:
    """The summary's line of a report."""
    volume = report.get("implant", {}).get("volume_ml")
    seconds = report.get("batch", {}).get("seconds")
    return CaseOutcome(
        name,
        report["status"],
        list(report.get("reasons", [])),
        volume,
        seconds,
        finished_before,
        warnings=list(report.get("warnings", [])),
    )


def _run(request: CaseRequest, work: Work, started: float) -> CaseOutcome:
    files = [Path(each) for each in request.files]
    identity = Identity(_hashed(request, files), request.settings, request.weights_sha256, *bundle_state())
    target = Path(request.output_root) / request.name
    if os.path.lexists(target):
        report = read_report(target)
        if not identity.difference(report):
            return outcome_of(request.name, report, finished_before=True)
        if not request.overwrite:
            raise _taken(request.name, identity.difference(report))
    settings = {**request.settings, "model_file": request.model_file, "device": request.device}
    with (
        _source(request, files) as source,
        tempfile.TemporaryDirectory(prefix="work-", dir=target.parent / WORK_FOLDER) as folder,
    ):
        result = work(source, Path(folder), settings)
        report = json.loads((result / REPORT).read_text())
        _check_weights(report, request)
        report["batch"] = {
            **asdict(identity),
            "seconds": _since(started),
            "files": {
                each.relative_to(result).as_posix(): each.stat().st_size
                for each in sorted(result.rglob("*"))
                if each.is_file() and each.name != REPORT
            },
        }
        (result / REPORT).write_text(json.dumps(report, indent=1) + "\n")
        _publish(result, target, identity, request.overwrite)
    return outcome_of(request.name, report, finished_before=False)


def _hashed(request: CaseRequest, files: list[Path]) -> str:
    try:
        return hash_files(files)
    except OSError as error:
        # A slice's name may be the patient's; a volume file's is the case's name.
        name = request.name if request.is_series else Path(error.filename or files[0]).name
        raise InputError(f"{name}: cannot be read ({error.strerror}); check the path and its permissions") from error


@contextlib.contextmanager
def _source(request: CaseRequest, files: list[Path]) -> Iterator[Path]:
    """What to read: the file, or a folder of links to the files of one series, for its own may hold others."""
    if not request.is_series:
        yield files[0]
        return
    home = os.path.commonpath([path.parent for path in files])
    with tempfile.TemporaryDirectory(prefix=link_prefix(request.output_root)) as folder:
        for path in files:
            link = Path(folder, request.name, os.path.relpath(path, home))
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
        yield Path(folder, request.name)


def link_prefix(output_root: str | Path) -> str:
    """How folders of links begin in the folder for temporary files, to clear up what a killed batch left."""
    return content_name("skull-implant", str(output_root)) + "-"


def _publish(result: Path, target: Path, identity: Identity, overwrite: bool) -> None:
    """Rename a result to its place; nothing is replaced but with `overwrite`, and never a result of the same."""
    old = target.parent / WORK_FOLDER / "old" / target.name
    if overwrite and os.path.lexists(target):
        old.parent.mkdir(exist_ok=True)
        shutil.rmtree(old, ignore_errors=True)
        os.replace(target, old)
    try:
        os.rename(result, target)  # fails where there is a folder with files
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            if os.path.lexists(old):
                os.replace(old, target)
            raise
        difference = identity.difference(read_report(target))
        if difference:  # else another process did the same case, which a lost connection can lead to
            raise _taken(target.name, difference) from error
    shutil.rmtree(old, ignore_errors=True)


def _taken(name: str, difference: str) -> InputError:
    return InputError(f"{name}: OUTPUT_ROOT holds {difference} under this name; pass --overwrite or name another one")


def _check_weights(report: dict[str, Any], request: CaseRequest) -> None:
    found = report.get("weights", {}).get("sha256", request.weights_sha256)
    if found != request.weights_sha256:
        rule = "the machine that did this case must have the same weights"
        raise InputError(f"{request.name}: {rule}, sha256 {found[:12]} arrived; copy {Path(request.model_file).name}")


def _told(error: Exception, full: bool) -> str:
    if full:
        return "OUTPUT_ROOT or the folder for temporary files takes no more (disk full, quota reached or read-only)"
    causes = list(chain(error))
    if any(isinstance(each, MemoryError) for each in causes):
        return "not enough memory; give more --memory_gb or fewer --workers"
    # The text of an unexpected error may quote paths, and so a patient. The first cause that was raised tells most.
    first = [each for each in causes if each.__traceback__ is not None][-1]
    place = traceback.extract_tb(first.__traceback__)[-1]
    where = f"{type(first).__name__} in {Path(place.filename).name}, line {place.lineno}"
    return f"unexpected {where}; scripts.complete tells more"


def _out_of_space(error: BaseException, output_root: Path) -> bool:
    """Whether writing failed for want of space; ITK's own errors do not say, so the disk is asked."""
    if any(isinstance(each, OSError) and each.errno in NOT_WRITABLE for each in chain(error)):
        return True
    with contextlib.suppress(OSError):
        return shutil.disk_usage(output_root).free < 1 << 20
    return False


def _since(started: float) -> float:
    return round(time.perf_counter() - started, 2)
