"""MONAI Label's server with this bundle in it, for a folder of images."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import shutil
import sys
import zipfile
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bundle.skull_implant.commands.packaging import BUNDLE_NAME
from bundle.skull_implant.errors import InputError
from bundle.skull_implant.model.shipped_weights import register_weights
from bundle.skull_implant.slicer.site_weights import carry_over

logger = logging.getLogger(__name__)

APP = "monaibundle"
# What breaks the server at its start or, later, in silence, if it is of another version; the others only have pins.
DECISIVE = ("monailabel", "monai", "torch", "torchvision", "numpy", "pydicom", "pynetdicom", "dicomweb-client")
REMEDY = "remove .venv-label, where there is one, and run `make label`, which makes it"


def check_environment(requirements: Path, installed: Mapping[str, str] | None = None) -> None:
    """Compare the packages that decide with their pins, in a second and before the server's imports take many.

    Args:
        requirements: file with lines `name==version`.
        installed: name to version; None asks this Python.

    Raises:
        InputError: MONAI Label is missing or a package has another version; one line that names them all.
    """
    pins = dict(re.findall(r"^(?:# no-deps: )?([\w.-]+)==(\S+)", requirements.read_text(), re.MULTILINE))
    found = {name: installed.get(name) if installed is not None else _version(name) for name in DECISIVE}
    # A local part, such as +cpu, names the build and not the version.
    wrong = [
        f"{name} {pins[name]}, {found[name] or 'none'} arrived"
        for name in DECISIVE
        if (found[name] or "").partition("+")[0] != pins[name]
    ]
    if wrong:
        raise InputError(f"MONAI Label's environment must have {'; '.join(wrong)}; {REMEDY}")


def lock_folder(folder: Path) -> int:
    """Keep a folder for one server: this process, and the program that it becomes by `os.execve`, until it ends.

    Args:
        folder: for the app; is created.

    Returns:
        File descriptor of the lock.

    Raises:
        InputError: another server has the folder, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        rule = "the app's folder must be one that can be written"
        raise InputError(f"{folder}: {rule} ({error.strerror}); name another with --folder") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        rule = "a server runs from this folder" if isinstance(error, BlockingIOError) else f"no lock ({error.strerror})"
        raise InputError(f"{folder}: {rule}; name another with --folder") from error
    os.set_inheritable(lock, True)
    return lock


def prepare_app(package: Path, folder: Path, installed: Path | None = None) -> Path:
    """Lay out MONAI Label's app with the packaged bundle in `model/skull_implant`, anew but for weights trained there.

    Args:
        package: the bundle's zip.
        folder: for the app.
        installed: MONAI Label's own apps; None takes those of this Python's environment.

    Returns:
        The app's folder.

    Raises:
        InputError: MONAI Label is not installed here.
    """
    source = (installed or Path(sys.prefix) / "monailabel" / "sample-apps") / APP
    if not source.is_dir():
        raise InputError(f"{source}: MONAI Label's apps must be installed in this environment, none found; {REMEDY}")
    app = folder / APP
    shutil.copytree(
        source,
        app,
        dirs_exist_ok=True,
        ignore=shutil.ignore_patterns("logs", "model", "__pycache__"),
        copy_function=shutil.copy,
    )
    model, fresh = app / "model" / BUNDLE_NAME, app / "model" / ".new" / BUNDLE_NAME
    old = fresh.with_name(f"{BUNDLE_NAME}.old")
    if old.exists() and not model.exists():  # killed between the renames below: the site's weights are in there
        old.rename(model)
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    with zipfile.ZipFile(package) as archive:
        archive.extractall(fresh.parent)
    if told := carry_over(model / "models", fresh / "models"):
        logger.info(told)
        register_weights(fresh)
    if model.exists():
        model.rename(old)
    fresh.rename(model)
    shutil.rmtree(old, ignore_errors=True)
    fresh.parent.rmdir()
    return app


def server_command(app: Path, studies: str, host: str, port: int, models: Sequence[str] = (BUNDLE_NAME,)) -> list[str]:
    """The words that start the server without asking the network for anything.

    Args:
        app: folder of the app.
        studies: folder of the images.
        host: address to listen on.
        port: to listen on.
        models: folders below the app's `model/`.
    """
    settings = {"models": ",".join(models), "zoo_source": "local", "sam2": "false"}
    words = [sys.executable, "-m", "monailabel.main", "start_server", "--app", str(app), "--studies", studies]
    for key, value in settings.items():
        words += ["--conf", key, value]
    return [*words, "--host", host, "--port", str(port)]


def server_environment() -> dict[str, str]:
    """The process's environment variables and what the server needs beside them; those that are set stay as they are.

    It reads the file types that this bundle reads, and finds the programs of its own environment, of which
    `itkimage2segimage` writes DICOM Segmentations.
    """
    extensions = json.dumps([f"*{each}" for each in (".nii.gz", ".nii", ".nrrd", ".mha")])
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {"MONAI_LABEL_DATASTORE_FILE_EXT": extensions, **os.environ, "PATH": path}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
