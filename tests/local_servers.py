"""Servers on loopback that tests start: a free port, waiting until one answers, and an archive."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

START_S = 300.0
ORTHANC = shutil.which("Orthanc", path="/usr/sbin:/usr/bin:/usr/local/bin")
PLUGINS = Path("/usr/share/orthanc/plugins")


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def wait_until_up(ask: Callable[[], object], process: subprocess.Popen[bytes], log: Path) -> None:
    """Ask until there is an answer; fail the test with the end of the log if the process ends or takes too long."""
    started = time.monotonic()
    while True:
        try:
            ask()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() - started > START_S:
                pytest.fail(f"the server did not start:\n{log.read_text()[-3000:]}")
            time.sleep(0.2)


def open_directly(request: urllib.request.Request | str) -> Any:
    """An answer, never through a proxy."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return opener.open(request, timeout=60)


@contextlib.contextmanager
def running_archive(folder: Path) -> Iterator[str]:
    """Address of an empty Orthanc with DICOMweb below `/dicom-web`; skips the test where it is not installed.

    Args:
        folder: for what it stores.
    """
    if ORTHANC is None or not list(PLUGINS.glob("*OrthancDicomWeb*")):
        pytest.skip("no archive: `apt-get install orthanc orthanc-dicomweb`")
    port = free_port()
    settings = {
        "StorageDirectory": str(folder),
        "IndexDirectory": str(folder),
        "HttpPort": port,
        "DicomServerEnabled": False,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "Plugins": [str(PLUGINS)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    address, log = f"http://127.0.0.1:{port}", folder / "log"
    words = [ORTHANC, str(folder / "settings.json")]
    with log.open("w") as output, subprocess.Popen(words, stdout=output, stderr=subprocess.STDOUT) as process:
        try:
            wait_until_up(lambda: open_directly(f"{address}/system").close(), process, log)
            yield address
        finally:
            process.terminate()
