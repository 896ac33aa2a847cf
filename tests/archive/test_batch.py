"""A batch does every case once, whole, whatever happens to its cases, its processes and its disk."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import distributed
import psutil
import pytest

from bundle.skull_implant.archive.batch import Resources, _check_bundle_is_there, _outcome, run_batch
from bundle.skull_implant.archive.batch_case import (
    CaseOutcome,
    complete_case,
    link_prefix,
)
from bundle.skull_implant.archive.batch_folder import BatchFolder
from bundle.skull_implant.errors import InputError
from bundle.skull_implant.volume import write_volume
from tests.batch_requests import SETTINGS
from tests.batch_stand_in import act
from tests.dicom_files import VOXELS, write_series
from tests.end_to_end import ROOT, chest_ct, run_module, small_head, untrained_model

KILLS = int(os.environ.get("SKULL_IMPLANT_KILLS", "1"))  # of a worker and of a batch; CI has no time for more


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """A cluster that the tests of this file share, as a hospital's."""
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address=None,
        scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
        silence_logs=50,
    ) as cluster:
        yield cluster.scheduler_address


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """INPUT_ROOT with a case of every fate, and a model file beside it."""
    words = {
        "good.nii.gz": "good",
        "a/head.nrrd": "head one",
        "b/head.mha": "head two",
        "refused.mha": "refuse",
        "damaged.nii.gz": "damaged",
        "notes.txt": "junk",
    }
    for name, text in words.items():
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "in" / "empty").mkdir()
    (tmp_path / "in" / "broken.nii.gz").symlink_to("nowhere")
    (tmp_path / "in" / "a" / "up").symlink_to("..")
    write_series(tmp_path / "in" / "study" / "series", VOXELS)
    (tmp_path / "model.pt").write_text("weights")
    return tmp_path / "in"


def run(
    tree: Path, scheduler: str, *, out: str = "out", timeout_s: float = 30.0, **changes: Any
) -> dict[str, CaseOutcome]:
    overwrite = changes.pop("overwrite", False)
    outcomes = run_batch(
        tree,
        tree.parent / out,
        {**SETTINGS, **changes},
        tree.parent / "model.pt",
        overwrite=overwrite,
        resources=Resources(scheduler=scheduler, timeout_s=timeout_s),
        work=act,
    )
    return {outcome.case: outcome for outcome in outcomes}


def contents(folder: Path) -> dict[str, Any]:
    """Every file below a folder, but for the seconds that a case took."""
    files: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        if path.name == "report.json":
            report = json.loads(path.read_text())
            report.pop("seconds", None)
            del report["batch"]["seconds"]
            files[str(path.relative_to(folder))] = report
        elif path.is_file() and not path.name.startswith("summary"):
            files[str(path.relative_to(folder))] = path.read_bytes()
    return files


def stamps(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.glob("*/*")}


# What became of each case


def test_every_case_ends_with_a_status_and_the_summary_says_why(tree: Path, scheduler: str) -> None:
    outcomes = run(tree, scheduler)

    assert {name: outcome.status for name, outcome in outcomes.items()} == {
        "a_head": "ok",
        "b_head": "ok",
        "broken": "failed",
        "damaged": "failed",
        "good": "ok",
        "refused": "refused",
        "study_series": "ok",
    }
    out = tree.parent / "out"
    assert sorted(path.name for path in out.iterdir()) == [
        *("a_head", "b_head", "good", "refused", "study_series"),
        *("summary.csv", "summary.json"),
    ]
    with (out / "summary.csv").open(newline="") as file:
        rows = {row["case"]: row for row in csv.DictReader(file)}
    assert list(rows) == sorted(outcomes)
    assert rows["broken"]["reasons"].startswith("broken.nii.gz: cannot be read (No such file")
    assert rows["refused"]["reasons"] == "must be a head, a foot arrived"
    assert rows["good"]["implant_volume_ml"] == "4.0"
    assert float(rows["good"]["seconds"]) >= 0.0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["count"] == {"ok": 4, "review": 0, "refused": 1, "failed": 2}
    assert summary["settings"]["gamma"] == 1.0
    assert "ecret" not in (out / "summary.json").read_text() + (out / "summary.csv").read_text()
    assert len(json.loads((out / "study_series" / "report.json").read_text())["implant"]) == 1


def test_a_case_that_hangs_dies_hogs_or_has_a_bug_fails_alone(tree: Path, scheduler: str) -> None:
    for word in ("hang", "die", "bug", "wrapped"):
        (tree / f"{word}.nii.gz").write_text(word)

    outcomes = run(tree, scheduler, timeout_s=4.0)

    assert "not done after 4 seconds" in outcomes["hang"].reasons[0]
    assert "died (signal SIGSEGV)" in outcomes["die"].reasons[0]
    assert "unexpected KeyError in batch_stand_in.py" in outcomes["bug"].reasons[0]
    assert "unexpected KeyError in batch_stand_in.py" in outcomes["wrapped"].reasons[0]
    assert "Secret" not in outcomes["bug"].reasons[0] + outcomes["wrapped"].reasons[0]
    assert [name for name, each in outcomes.items() if each.status == "ok"] == [
        *("a_head", "b_head", "good", "study_series")
    ]
    assert not (tree.parent / "out" / ".batch").exists()


def test_batches_at_the_same_time_on_one_cluster_do_their_own_cases(tmp_path: Path, scheduler: str) -> None:
    trees = []
    for word in ("good", "slow"):
        (tmp_path / word).mkdir()
        trees.append(many(tmp_path / word, 3))
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda tree: run(tree, scheduler), trees))
    for tree, outcomes in zip(trees, both, strict=True):
        assert {each.status for each in outcomes.values()} == {"ok"}, outcomes
        assert len(list((tree.parent / "out").glob("*/report.json"))) == 3


def test_an_outcome_of_another_case_is_a_failure() -> None:
    class Future:
        def result(self) -> CaseOutcome:
            return CaseOutcome("b", "ok")

    assert _outcome(Future(), "a").status == "failed"
    assert _outcome(Future(), "b").status == "ok"


def test_the_exit_status_is_0_only_without_failures(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for status, expected in {"ok": 0, "review": 0, "refused": 0, "failed": 1}.items():
        outcomes = [CaseOutcome("a", "ok"), CaseOutcome("b", status)]
        monkeypatch.setattr(
            "bundle.skull_implant.archive.batch.run_batch", lambda *_, outcomes=outcomes, **__: outcomes
        )
        assert run_module("scripts.batch", tree, tree.parent / "out").status == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--workers", "-1"), "--workers and --memory_gb must be 0 or more"),
        (("--memory_gb", "nan"), "--workers and --memory_gb must be 0 or more and finite"),
        (("--defect_class", "spinal"), "--defect_class must be auto, cranial or facial, got 'spinal'"),
        (("--gamma", "nan"), "--gamma must lie between -10 and 10, got nan; 1 completes"),
        (("--gamma", "10.5"), "--gamma must lie between -10 and 10, got 10.5; 1 completes"),
        (("--threshold_hu", "inf"), "--threshold_hu must lie between -32768 and 65535, got inf"),
        (("--candidates", "0"), "--candidates must lie between 1 and 20, got 0; 1 is the implant alone"),
        (("--candidates", "1000"), "--candidates must lie between 1 and 20, got 1000"),
        (("--model_file", "none.pt"), "none.pt: model_file must be a file that can be read"),
        (("--clearance_mm", "-1"), "clearance_mm must be a number between 0 and 5, got -1.0; 0 lets the implant touch"),
        (("--mesh", "step"), "mesh must be stl, ply or obj, or several with commas between, got 'step'"),
    ],
)
def test_settings_that_no_case_can_have_end_the_batch_before_any_work(
    words: tuple[str, ...], message: str, tree: Path
) -> None:
    outcome = run_module("scripts.batch", tree, tree.parent / "out", *words)
    assert outcome.status == 1
    assert message in outcome.stderr
    assert outcome.stderr.count("\n") == 1
    assert not (tree.parent / "out").exists()


def test_an_address_without_a_scheduler_is_one_line(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(*_: Any, **__: Any) -> None:
        raise OSError("Timed out trying to connect")

    monkeypatch.setattr(distributed, "Client", nobody)
    with pytest.raises(InputError, match="tcp://nobody:1: --scheduler must be the address"):
        run(tree, "tcp://nobody:1")


def test_a_cluster_that_cannot_import_the_bundle_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Cluster:
        """Two workers; the function that it is sent runs where the bundle is not."""

        def run_on_scheduler(self, function: Any) -> bool:
            return bool(function())

        def run(self, function: Any) -> dict[str, bool]:
            found = function()
            with monkeypatch.context() as patch:
                patch.setattr("importlib.util.find_spec", lambda name: None)
                return {"one": found, "two": function()}

    with pytest.raises(
        InputError, match=r"tcp://host:1: .* must be able to import the bundle, 1 of 3 cannot; start each"
    ):
        _check_bundle_is_there(Cluster(), "tcp://host:1")


def test_workers_fit_into_the_memory() -> None:
    assert Resources(workers=4, memory_gb=7.0).for_this_machine().workers == 2
    assert Resources(workers=4, memory_gb=1.0).for_this_machine().workers == 1
    assert Resources(workers=1, memory_gb=64.0).for_this_machine().workers == 1
    assert Resources().for_this_machine().workers >= 1


# The same again


def test_a_second_run_does_nothing(tree: Path, scheduler: str) -> None:
    first = run(tree, scheduler)
    before = stamps(tree.parent / "out")

    second = run(tree, scheduler)

    assert stamps(tree.parent / "out") == before
    done = [name for name, each in first.items() if each.status != "failed"]
    assert [name for name, each in second.items() if each.finished_before] == done
    assert all(replace(second[name], finished_before=False) == first[name] for name in done)


def test_a_changed_input_is_noticed_and_done_anew_only_with_overwrite(tree: Path, scheduler: str) -> None:
    run(tree, scheduler)
    before = contents(tree.parent / "out")
    (tree / "good.nii.gz").write_text("better")

    outcome = run(tree, scheduler)["good"]
    assert outcome.status == "failed"
    assert "holds the result of another input under this name; pass --overwrite" in outcome.reasons[0]
    assert contents(tree.parent / "out") == before

    outcomes = run(tree, scheduler, overwrite=True)
    assert outcomes["good"].implant_volume_ml == 6.0
    assert [name for name, each in outcomes.items() if not each.finished_before] == ["broken", "damaged", "good"]
    assert sorted(contents(tree.parent / "out")) == sorted(before)


def test_changed_settings_and_weights_are_noticed(tree: Path, scheduler: str) -> None:
    run(tree, scheduler)

    assert "(gamma 1.0, now 2.0)" in run(tree, scheduler, gamma=2.0)["good"].reasons[0]
    (tree.parent / "model.pt").write_text("other weights")
    assert "the result of other weights" in run(tree, scheduler)["refused"].reasons[0]
    assert run(tree, scheduler, gamma=2.0, overwrite=True)["good"].status == "ok"


def test_candidates_are_passed_on_and_belong_to_a_finished_case(tree: Path, scheduler: str) -> None:
    run(tree, scheduler, candidates=2)
    first = tree.parent / "out" / "good" / "candidates" / "1_recommended.nii.gz"
    report = json.loads((tree.parent / "out" / "good" / "report.json").read_text())

    assert report["batch"]["files"] == {"candidates/1_recommended.nii.gz": 4, "implant.nii.gz": 4}
    assert run(tree, scheduler, candidates=2)["good"].finished_before
    assert "(candidates 2, now 3)" in run(tree, scheduler, candidates=3)["good"].reasons[0]
    first.unlink()
    assert "something that no batch wrote" in run(tree, scheduler, candidates=2)["good"].reasons[0]


def test_a_folder_that_no_batch_wrote_or_that_lost_a_file_is_no_finished_case(tree: Path, scheduler: str) -> None:
    run(tree, scheduler)
    (tree.parent / "out" / "good" / "implant.nii.gz").write_bytes(b"")
    (tree.parent / "out" / "damaged").mkdir()
    (tree / "damaged.nii.gz").write_text("repaired")

    outcomes = run(tree, scheduler)

    assert "something that no batch wrote" in outcomes["good"].reasons[0]
    assert "something that no batch wrote" in outcomes["damaged"].reasons[0]
    assert run(tree, scheduler, overwrite=True)["good"].status == "ok"


# Killed


def start(work: str, tree: Path, out: Path, workers: int = 2, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.batch_stand_in", work, tree, out, tree.parent / "model.pt", str(workers)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(work: str, tree: Path, out: Path, workers: int = 2, **environment: str) -> tuple[int, str]:
    process = start(work, tree, out, workers, **environment)
    _, error = process.communicate(timeout=200)
    return process.returncode, error


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Processes of a batch that do cases or hand them on."""
    found = []
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                line = " ".join(child.cmdline())
                if "case_process" in line or "spawn_main" in line:
                    found.append(child)
    return found


def wait_for_results(process: subprocess.Popen[str], out: Path, count: int) -> None:
    """Until a batch has so many results, or ended."""
    while process.poll() is None and len(list(out.glob("*/report.json"))) < count:
        time.sleep(0.02)


def many(tmp_path: Path, count: int = 10) -> Path:
    (tmp_path / "in").mkdir()
    for number in range(count):
        (tmp_path / "in" / f"case{number}.nii.gz").write_text(f"slow {number}")
    (tmp_path / "model.pt").write_text("weights")
    return tmp_path / "in"


def left_overs(out: Path) -> list[Path]:
    return [*out.glob(".*"), *Path(tempfile.gettempdir()).glob(link_prefix(out) + "*")]


def test_killed_workers_and_batches_leave_what_a_second_run_completes(tmp_path: Path, scheduler: str) -> None:
    tree, dice = many(tmp_path), random.Random(KILLS)
    write_series(tree / "scan", VOXELS)
    run(tree, scheduler, out="undisturbed")
    whole = contents(tmp_path / "undisturbed")
    for number in range(2 * KILLS):
        out = tmp_path / f"out{number}"
        process = start("act", tree, out)
        wait_for_results(process, out, dice.randrange(0, 10))
        time.sleep(0.3 * dice.random())
        workers = workers_of(process)
        if number % 2:
            process.kill()  # the batch
            _, alive = psutil.wait_procs(workers, timeout=20)
            assert alive == []
        elif workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                dice.choice(workers).kill()
        process.communicate(timeout=100)
        results = contents(out)
        results.pop(".batch/lock", None)
        published = {name: each for name, each in results.items() if not name.startswith(".batch")}
        assert published.items() <= whole.items()  # nothing is half there

        status, _ = finish("act", tree, out)

        assert status == 0, (out / "summary.csv").read_text()
        assert contents(out) == whole
        assert left_overs(out) == []


def test_the_real_work_killed_and_resumed_gives_what_an_undisturbed_run_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = tmp_path / "in"
    tree.mkdir()
    write_volume(tree / "head.nii.gz", small_head(0).hu)
    write_volume(tree / "chest.mha", chest_ct())
    model = untrained_model(tmp_path / "model.pt")
    monkeypatch.setattr("bundle.skull_implant.output.writing.render_preview", lambda *_, **__: None)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    undisturbed = tmp_path / "undisturbed"
    for name in ("head.nii.gz", "chest.mha"):
        complete_case(tree / name, undisturbed, {**SETTINGS, "model_file": str(model), "device": "cpu"})
    out = tmp_path / "out"
    process = start("complete", tree, out, workers=1)
    wait_for_results(process, out, 1)  # the chest's, so the head's is at work
    time.sleep(0.3)  # the head takes seconds; should a machine be done with it, the rest of the test holds all the same
    process.kill()
    process.communicate(timeout=100)

    status, error = finish("complete", tree, out, workers=1)

    assert status == 0, error
    for folder in ("head", "chest"):
        files = sorted(path.name for path in (undisturbed / folder).iterdir())
        assert sorted(path.name for path in (out / folder).iterdir()) == files
        for name in set(files) - {"report.json"}:
            assert (out / folder / name).read_bytes() == (undisturbed / folder / name).read_bytes(), name
    assert json.loads((out / "chest" / "report.json").read_text())["status"] == "refused"
    report, alone = (json.loads((each / "head" / "report.json").read_text()) for each in (out, undisturbed))
    assert set(report) - set(alone) == {"batch"}
    assert {**report, "seconds": 0, "batch": 0} == {**alone, "seconds": 0, "batch": 0}


# Where nothing can be written


def test_an_output_that_cannot_be_written_is_one_error(tree: Path, scheduler: str) -> None:
    (tree.parent / "out").write_text("a file")
    with pytest.raises(InputError, match="OUTPUT_ROOT must be a folder that can be written"):
        run(tree, scheduler)
    assert (tree.parent / "out").read_text() == "a file"


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A small disk in memory; skips the test where this user may not mount."""
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount command")
    if done.returncode:
        pytest.skip("this user may not mount a file system in memory")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_read_only_disk_is_one_error(tree: Path, scheduler: str) -> None:
    with mounted(tree.parent / "out", "ro"), pytest.raises(InputError, match=r"written \(Read-only file system\)"):
        run(tree, scheduler)


def test_a_full_disk_is_one_error_and_the_same_command_goes_on_where_there_is_room(
    tmp_path: Path, scheduler: str
) -> None:
    tree = many(tmp_path, 4)
    for number in range(9):
        (tree / f"big{number}.nrrd").write_text(f"big {number} {'x' * 10}")
    with mounted(tmp_path / "out", "size=2m") as out:
        with pytest.raises(InputError, match=r"takes no more.*make room and run the same command again"):
            run(tree, scheduler)
        half = contents(out)
        assert 1 <= len(list(out.glob("*/report.json"))) < 13
        assert left_overs(out) == []
        subprocess.run(["mount", "-o", "remount,size=20m", str(out)], check=True)
        outcomes = run(tree, scheduler)
        assert {each.status for each in outcomes.values()} == {"ok"}
        run(tree, scheduler, out="undisturbed")
        whole = contents(tmp_path / "undisturbed")
        assert contents(out) == whole
        assert half.items() <= whole.items()


def test_a_file_size_limit_is_one_error_too(tmp_path: Path) -> None:
    tree = many(tmp_path, 1)
    (tree / "big.nrrd").write_text("big " + "x" * 50)
    status, error = finish("act", tree, tmp_path / "out", workers=1, FILE_SIZE_LIMIT="100000")
    assert status == 1
    assert "takes no more" in error
    assert "Traceback" not in error
    assert not (tmp_path / "out" / "big").exists()


def test_results_may_not_go_where_the_inputs_are_nor_two_batches_to_one_folder(tree: Path, scheduler: str) -> None:
    for out in ("in", "."):
        with pytest.raises(InputError, match="OUTPUT_ROOT must not be or hold INPUT_ROOT"):
            run(tree, scheduler, out=out)
    with (
        BatchFolder(tree.parent / "out", tree),
        pytest.raises(InputError, match="another is at work"),
    ):
        run(tree, scheduler)


def test_a_gpu_that_is_not_there_ends_the_batch_before_any_case(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(InputError, match="device cuda must exist"):
        run_batch(tree, tree.parent / "out", SETTINGS, tree.parent / "model.pt", device="cuda", work=act)
    assert not (tree.parent / "out").exists()


def test_the_command_hands_every_setting_on(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr("bundle.skull_implant.archive.batch.run_batch", lambda *words, **_: seen.append(words[2]) or [])
    for words in ((), ("--secondary_capture", "--mesh", "stl,ply", "--clearance_mm", "0.5", "--triangles", "5000")):
        assert run_module("scripts.batch", tree, tree.parent / "out", *words).status == 0
    assert [each["secondary_capture"] for each in seen] == [False, True]
    names = ("mesh", "clearance_mm", "triangles", "minimum_thickness_mm")
    assert [tuple(each[name] for name in names) for each in seen] == [
        ("stl", 0.0, 200_000, 1.0),
        ("stl,ply", 0.5, 5000, 1.0),
    ]


def test_a_bar_is_drawn_on_a_terminal_and_lines_elsewhere(
    tmp_path: Path, scheduler: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    tree = many(tmp_path, 2)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    run(tree, scheduler)
    assert "2/2" in capfd.readouterr().err
