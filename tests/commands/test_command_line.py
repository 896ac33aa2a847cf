"""Every command refuses wrong usage before any work, and says expected errors in one line."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bundle.skull_implant.commands.command_line import run_command
from bundle.skull_implant.errors import InputError
from tests.end_to_end import ROOT

Calls = list[dict[str, Any]]


@pytest.fixture
def calls() -> Calls:
    return []


def call(monkeypatch: pytest.MonkeyPatch, calls: Calls, *words: str) -> int:
    """Exit status of a command with one parameter of each kind, called with these words."""

    def weigh(
        case_id: str,
        folder: Path = Path("out"),
        share: float = 0.5,
        count: int = 2,
        size: tuple[int, ...] = (1, 2, 3),
        overwrite: bool = False,
    ) -> None:
        """Weigh a case."""
        calls.append(dict(locals().items()) | {"calls": None})

    monkeypatch.setattr(sys, "argv", ["weigh", *words])
    with pytest.raises(SystemExit) as stop:
        run_command(weigh)
    return int(stop.value.code or 0)


@pytest.mark.parametrize(
    "words",
    [
        ("a", "--shares", "2"),
        ("a", "--shares=2"),
        ("a", "--overwrite", "--epocs", "2"),
        ("a", "--no_such_flag"),
        ("a", "-z", "2"),
        ("a", "-z"),
        ("a", "--", "--trace"),
    ],
)
def test_an_unknown_flag_ends_with_2_before_the_function_runs(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, calls, *words) == 2
    assert calls == []
    error = capsys.readouterr().err
    assert error.startswith("weigh: no flag")
    assert "known: --case_id, --folder" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(("seed", "status"), [("-1", 1), ("0", 0), ("x", 2)])
def test_a_seed_is_no_negative_number(
    seed: str, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def draw(seed: int = 0) -> None:
        """Draw a case."""

    monkeypatch.setattr(sys, "argv", ["draw", "--seed", seed])
    with pytest.raises(SystemExit) as ended:
        run_command(draw)

    assert ended.value.code == status
    assert ("--seed must be 0 or more, got -1" in capsys.readouterr().err) == (status == 1)


@pytest.mark.parametrize("words", [(), ("--overwrite",), ("--share", "0.1")])
def test_a_missing_argument_ends_with_2_and_names_it(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, calls, *words) == 2
    assert calls == []
    assert capsys.readouterr().err == "weigh: wants CASE_ID, got 0 arguments; see --help\n"


def test_a_surplus_argument_ends_with_2(monkeypatch: pytest.MonkeyPatch, calls: Calls) -> None:
    assert call(monkeypatch, calls, "a", "out", "0.1", "3", "1,2", "true", "more") == 2
    assert calls == []


@pytest.mark.parametrize(
    ("flag", "value", "kind"),
    [
        ("share", "abc", "float"),
        ("share", "", "float"),
        ("count", "2.5", "int"),
        ("count", "many", "int"),
        ("overwrite", "perhaps", "bool"),
        ("size", "1,b", "tuple"),
    ],
)
def test_a_value_of_the_wrong_type_ends_with_2_and_is_quoted(
    flag: str,
    value: str,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
    calls: Calls,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(monkeypatch, calls, "a", f"--{flag}={value}") == 2
    assert calls == []
    error = capsys.readouterr().err
    assert f"--{flag} must be {kind}" in error
    assert repr(value) in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("text", ["1e3", "007", "None", "[1,2]", "a-b", "a=b", "True"])
def test_text_stays_text(text: str, monkeypatch: pytest.MonkeyPatch, calls: Calls) -> None:
    assert call(monkeypatch, calls, text) == 0
    assert call(monkeypatch, calls, "--case_id", text) == 0
    assert [each["case_id"] for each in calls] == [text, text]


def test_values_arrive_as_annotated(monkeypatch: pytest.MonkeyPatch, calls: Calls) -> None:
    words = ("1", "--share", "-2", "--count=7", "--size", "64,96,64", "--folder", "2024", "--overwrite")

    assert call(monkeypatch, calls, *words) == 0

    assert calls[0]["case_id"] == "1"
    assert calls[0]["share"] == -2.0
    assert isinstance(calls[0]["share"], float)
    assert calls[0]["count"] == 7
    assert calls[0]["size"] == (64, 96, 64)
    assert calls[0]["folder"] == Path("2024")
    assert calls[0]["overwrite"] is True


def test_a_flag_can_be_switched_off_and_have_dashes(monkeypatch: pytest.MonkeyPatch, calls: Calls) -> None:
    assert call(monkeypatch, calls, "--case-id", "x", "--nooverwrite") == 0
    assert calls[0]["case_id"] == "x"
    assert calls[0]["overwrite"] is False


def test_an_input_error_is_one_line_on_stderr_and_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(path: str) -> None:
        """Fail."""
        raise InputError(f"{path}: must be\n  a head, a foot arrived")

    monkeypatch.setattr(sys, "argv", ["fail", "ct"])
    with pytest.raises(SystemExit) as stop:
        run_command(fail)

    assert stop.value.code == 1
    captured = capsys.readouterr()
    assert captured.err == "ct: must be a head, a foot arrived\n"
    assert captured.out == ""


def test_the_function_chooses_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def three() -> int:
        """Count."""
        return 3

    monkeypatch.setattr(sys, "argv", ["three"])
    with pytest.raises(SystemExit) as stop:
        run_command(three)

    assert stop.value.code == 3
    assert capsys.readouterr() == ("", "")


def test_an_unexpected_error_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def divide() -> None:
        """Divide."""
        _ = 1 / 0

    monkeypatch.setattr(sys, "argv", ["divide"])
    with pytest.raises(ZeroDivisionError):
        run_command(divide)


def test_complete_names_its_case_and_refuses_a_wrong_path_before_a_network_library_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "head.nrrd").write_text("anything")
    code = (
        "import runpy, sys\n"
        "sys.modules.update(dict.fromkeys(('torch', 'monai', 'ignite', 'sklearn', 'highdicom', 'pydicom')))\n"
        "sys.argv = ['complete', sys.argv[1], 'out']\n"
        "runpy.run_module('scripts.complete', run_name='__main__')\n"
    )
    there, nowhere = (
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / name)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        for name in ("head.nrrd", "missing.nrrd")
    )

    assert there.stdout == "head: loading PyTorch and MONAI\n"
    assert "import of torch halted" in there.stderr
    assert (nowhere.returncode, nowhere.stderr) == (1, "missing.nrrd: no such file or folder; check the path\n")


def test_help_of_every_script_names_its_arguments_without_loading_a_network_library() -> None:
    scripts = sorted(path.stem for path in (ROOT / "scripts").glob("*.py"))
    code = (
        "import contextlib, runpy, sys\n"
        "for name in sys.argv[1:]:\n"
        "    print('==', name)\n"
        "    sys.argv = [name, '--help']\n"
        "    with contextlib.suppress(SystemExit):\n"
        "        runpy.run_module('scripts.' + name, run_name='__main__')\n"
        "print('==', *[each for each in ('torch', 'monai', 'ignite', 'sklearn') if each in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *scripts], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )

    *found, loaded = done.stdout.split("==")[1:]
    assert (loaded.strip(), done.stderr) == ("", "")
    pages = dict(zip(scripts, found, strict=True))
    assert all(f"SYNOPSIS\n    python -m scripts.{name}" in page for name, page in pages.items())
    assert not re.search(r"^ +-\w, ", done.stdout, re.MULTILINE)  # short flags are refused
    assert "INPUT OUTPUT_DIR" in pages["complete"]
    assert "--gamma" in pages["complete"]
