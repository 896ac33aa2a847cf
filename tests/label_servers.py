"""MONAI Label's real server, started for a test, with its own client."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bundle.skull_implant.commands.packaging import package_bundle
from bundle.skull_implant.slicer.label_server import prepare_app, server_command, server_environment
from bundle.skull_implant.volume import Volume
from tests.end_to_end import ROOT, read
from tests.local_servers import free_port, wait_until_up

AS_SLICER_ASKS = {"result_extension": ".nrrd", "result_dtype": "uint8"}
TASK_S = 1200.0
MODEL = "skull_implant"
NOT_INSTALLED = "MONAI Label is not installed here: run `make test-label`, which makes its environment"
NOWHERE = "http://127.0.0.1:9"


@dataclass(frozen=True)
class Server:
    """A running server's address, its client, and its log."""

    address: str
    client: Any
    log: Path

    def infer(self, image: str, model: str = MODEL, **parameters: object) -> tuple[Volume, dict[str, Any]]:
        """Label map and result of an image by its name, as Slicer asks for them."""
        file, result = self.client.infer(model, image, {**AS_SLICER_ASKS, **parameters})
        return read(Path(file)), result


@contextlib.contextmanager
def running_server(
    folder: Path,
    studies: str,
    models: Sequence[str] = (MODEL,),
    add: Callable[[Path], None] | None = None,
) -> Iterator[Server]:
    """The packaged bundle's server, as `make label` starts it, with a proxy set that leads nowhere.

    Args:
        folder: for the app, the log, and what the server keeps.
        studies: folder of images or DICOMweb address.
        models: folders below the app's `model/`.
        add: called with `model/` before the start.
    """
    client_module = pytest.importorskip("monailabel.client", reason=NOT_INSTALLED)
    log, downloads = folder / "server.log", folder / "downloads"
    downloads.mkdir()
    app = prepare_app(package_bundle(ROOT, folder), folder)
    if add is not None:
        add(app / "model")
    port = free_port()
    environment = {
        **server_environment(),
        "OMP_NUM_THREADS": "1",
        "MONAI_LABEL_SESSION_PATH": str(folder / "sessions"),
        "MONAI_LABEL_DATASTORE_CACHE_PATH": str(folder / "cache"),
        "http_proxy": NOWHERE,
        "https_proxy": NOWHERE,
        "no_proxy": "127.0.0.1",
    }
    words = server_command(app, studies, "127.0.0.1", port, models)
    with (
        log.open("w") as output,
        subprocess.Popen(words, cwd=folder, stdout=output, stderr=subprocess.STDOUT, env=environment) as process,
    ):
        try:
            address = f"http://127.0.0.1:{port}"
            client = client_module.MONAILabelClient(address, tmpdir=str(downloads))
            wait_until_up(client.info, process, log)
            yield Server(address, client, log)
        finally:
            process.terminate()


def finished_task(server: Server, kind: str) -> dict[str, Any]:
    """The last word of a task that was started, `train` or `batch/infer`, once it has ended.

    Its status is asked and not whether it runs: a task that has not yet begun does not run either.
    """
    import requests

    started = time.monotonic()
    while True:
        answer = requests.get(f"{server.address}/{kind}/", timeout=60)
        # A log line that arrives while the server writes its answer makes it an error.
        if answer.ok and answer.json()["status"] not in ("SUBMITTED", "RUNNING"):
            return dict(answer.json())
        if time.monotonic() - started > TASK_S:
            pytest.fail(f"{kind} did not end: {answer.text}")
        time.sleep(1.0)


def own_python() -> str:
    """Python of `make demo`'s environment, which has pydicom 3; where there is none, this one."""
    own = ROOT / ".venv" / "bin" / "python"
    return str(own) if own.exists() else sys.executable


def by_command(image: Path, output: Path, *words: object) -> tuple[dict[str, Volume], dict[str, Any]]:
    """Masks and report of `scripts.complete`, in the environment of `make demo` where there is one."""
    subprocess.run(
        [own_python(), "-m", "scripts.complete", str(image), str(output), *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
        timeout=600,
    )
    (folder,) = output.iterdir()
    masks = {name: read(folder / f"{name}.nii.gz") for name in ("skull", "implant")}
    return masks, json.loads((folder / "report.json").read_text())
