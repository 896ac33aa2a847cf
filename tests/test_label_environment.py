"""Laying out MONAI Label's app, and what a wrong environment is told, without MONAI Label."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.model.shipped_weights import KEY, check_weights
from bundle.skull_implant.slicer.label_server import (
    DECISIVE,
    check_environment,
    lock_folder,
    prepare_app,
    server_command,
)
from bundle.skull_implant.slicer.site_weights import write_record
from scripts.serve_label import serve_label
from tests.end_to_end import ROOT, run_module

REQUIREMENTS = ROOT / "requirements-label.txt"


def pins(name: str) -> dict[str, str]:
    return dict(re.findall(r"^(?:# no-deps: )?([\w.-]+)==(\S+)", (ROOT / name).read_text(), re.MULTILINE))


def test_both_environments_pin_the_same_versions_of_what_both_have() -> None:
    own, label = pins("requirements.txt"), pins("requirements-label.txt")
    different = {name for name in own if name in label and own[name] != label[name]}

    assert different == {"pydicom"}
    assert label["pydicom"].startswith("2.")
    assert "highdicom" not in label


def test_every_package_of_the_inference_is_in_the_label_environment() -> None:
    import json

    metadata = json.loads((ROOT / "configs" / "metadata.json").read_text())

    assert set(metadata["required_packages_version"]) <= set(pins("requirements-label.txt"))


def test_the_pinned_environment_passes_and_the_build_of_pytorch_does_not_matter() -> None:
    right = {name: pins("requirements-label.txt")[name] for name in DECISIVE}

    check_environment(REQUIREMENTS, right)
    check_environment(REQUIREMENTS, {**right, "torch": right["torch"] + "+cpu"})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"pydicom": "3.0.2"}, r"must have pydicom 2\.4\.5, 3\.0\.2 arrived; remove \.venv-label"),
        ({"torchvision": "0.27.0"}, r"torchvision 0\.28\.0, 0\.27\.0 arrived"),
        ({"monailabel": None}, r"monailabel 0\.8\.5, none arrived"),
        ({"torch": "2.14.0", "numpy": "1.26.4"}, r"torch 2\.13\.0, 2\.14\.0 arrived; numpy 2\.4\.6, 1\.26\.4 arrived"),
    ],
)
def test_a_wrong_version_is_named_with_the_right_one(changed: dict[str, str], message: str) -> None:
    right = {name: pins("requirements-label.txt")[name] for name in DECISIVE}

    with pytest.raises(InputError, match=message):
        check_environment(REQUIREMENTS, {**right, **changed})


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    app = tmp_path / "sample-apps" / "monaibundle"
    (app / "lib").mkdir(parents=True)
    (app / "logs").mkdir()
    (app / "main.py").write_text("app")
    (app / "logs" / "app.log").write_text("old")
    return app.parent


def package(path: Path, content: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("skull_implant/configs/inference.yaml", content)
    return path


def test_the_app_holds_the_bundle_anew_at_each_start(installed: Path, tmp_path: Path) -> None:
    app = prepare_app(package(tmp_path / "a.zip", "first"), tmp_path / "apps", installed)
    config = app / "model" / "skull_implant" / "configs" / "inference.yaml"
    (config.parent / "left_over.yaml").write_text("old")
    assert config.read_text() == "first"

    prepare_app(package(tmp_path / "b.zip", "second"), tmp_path / "apps", installed)

    assert config.read_text() == "second"
    assert [path.name for path in config.parent.iterdir()] == ["inference.yaml"]
    assert (app / "main.py").read_text() == "app"
    assert not (app / "logs").exists()
    assert [path.name for path in (app / "model").iterdir()] == ["skull_implant"]


def test_a_start_that_is_killed_while_it_replaces_the_bundle_loses_no_weights(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("skull_implant/models/model.pt", b"released")
    app = prepare_app(tmp_path / "a.zip", tmp_path / "apps", installed)
    models = app / "model" / "skull_implant" / "models"
    (models / "model_until_1.pt").write_bytes(b"of this site")
    rename = Path.rename

    def killed(path: Path, target: Path) -> Path:
        if target == models.parent:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare_app(tmp_path / "a.zip", tmp_path / "apps", installed)
    assert not models.parent.exists()
    monkeypatch.undo()

    prepare_app(tmp_path / "a.zip", tmp_path / "apps", installed)

    assert (models / "model_until_1.pt").read_bytes() == b"of this site"
    assert [path.name for path in (app / "model").iterdir()] == ["skull_implant"]


def test_weights_that_the_site_trained_are_registered_in_the_bundle_unpacked_anew(
    installed: Path, tmp_path: Path
) -> None:
    released = hashlib.sha256(b"released").hexdigest()
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("skull_implant/models/model.pt", b"released")
        archive.writestr("skull_implant/configs/metadata.json", f'{{"{KEY}": "{released}"}}')
    app = prepare_app(tmp_path / "a.zip", tmp_path / "apps", installed)
    root = app / "model" / "skull_implant"
    record = {"released": released, "trainings": [{"time": "then", "replaced": True}]}
    write_record(root / "models", record)
    (root / "models" / "model.pt").write_bytes(b"trained")

    prepare_app(tmp_path / "a.zip", tmp_path / "apps", installed)

    assert (root / "models" / "model.pt").read_bytes() == b"trained"
    check_weights(root / "models" / "model.pt", root)


LOCKED = """
import os, sys
from pathlib import Path
from bundle.skull_implant.slicer.label_server import lock_folder
lock_folder(Path(sys.argv[1]))
os.execve(sys.executable, [sys.executable, "-c", "print('up', flush=True); input()"], os.environ)
"""


def test_a_running_server_keeps_its_folder_from_another_one(tmp_path: Path) -> None:
    folder = tmp_path / "label"
    words = [sys.executable, "-c", LOCKED, str(folder)]
    with subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        with pytest.raises(InputError) as refusal:
            lock_folder(folder)
        os.close(lock_folder(tmp_path / "other"))
        process.communicate("\n")

    assert str(refusal.value) == f"{folder}: a server runs from this folder; name another with --folder"
    os.close(lock_folder(folder))


def test_the_command_changes_nothing_in_the_folder_of_a_running_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bundle.skull_implant.slicer.label_server.check_environment", lambda _: None)
    lock = lock_folder(tmp_path)

    with pytest.raises(InputError, match="a server runs from this folder"):
        serve_label(str(tmp_path), folder=str(tmp_path), dry_run=True)

    os.close(lock)
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(InputError, match=r"must be one that can be written .* name another with --folder"):
        lock_folder(tmp_path / "file" / "label")


def test_submitted_skulls_that_a_stopped_training_left_are_gone_after_the_next_start(
    installed: Path, tmp_path: Path
) -> None:
    app = prepare_app(package(tmp_path / "a.zip", ""), tmp_path / "apps", installed)
    submitted = app / "model" / "skull_implant" / "submitted"
    submitted.mkdir()
    (submitted / "skull.npz").write_text("patient")

    prepare_app(tmp_path / "a.zip", tmp_path / "apps", installed)

    assert not submitted.exists()
    assert not list((tmp_path / "apps").rglob("skull.npz"))


def test_without_monai_label_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="MONAI Label's apps must be installed in this environment"):
        prepare_app(package(tmp_path / "a.zip", ""), tmp_path / "apps", tmp_path / "nowhere")


def test_the_server_listens_on_loopback_and_asks_no_network() -> None:
    words = server_command(Path("/app"), "/scans", "127.0.0.1", 8000, ["skull_implant", "other"])
    text = " ".join(words)

    assert "--host 127.0.0.1 --port 8000" in text
    for setting in ("models skull_implant,other", "zoo_source local", "sam2 false"):
        assert f"--conf {setting}" in text


def test_the_guide_explains_every_option_with_the_value_that_it_has_at_first() -> None:
    table = yaml.safe_load((ROOT / "configs" / "inference.yaml").read_text())
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", (ROOT / "docs" / "label.md").read_text(), re.MULTILINE))

    for name in table["displayable_configs"]:
        value = "on" if table[name] is True else str(table[name])
        assert rows[name].strip("` ") == value


def test_a_folder_that_is_not_there_ends_the_command(tmp_path: Path) -> None:
    outcome = run_module("scripts.serve_label", tmp_path / "none")

    assert outcome.status == 1
    assert outcome.stderr == (
        f"{tmp_path / 'none'}: STUDIES must be a folder of images, none is there; make it or name another one\n"
    )


def test_the_command_in_the_bundles_own_environment_says_what_to_run(tmp_path: Path) -> None:
    outcome = run_module("scripts.serve_label", tmp_path, "--folder", tmp_path / "label", "--dry_run")

    if outcome.status:  # in MONAI Label's own environment the app would start
        assert "MONAI Label's environment must have" in outcome.stderr
        assert outcome.stderr.endswith("run `make label`, which makes it\n")
        assert outcome.stderr.count("\n") == 1
