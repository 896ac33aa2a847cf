"""Training from MONAI Label's real server, asked in the order in which Slicer does.

Runs in the environment of `make label`, by `make test-label`.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bundle.skull_implant.commands.packaging import package_bundle
from bundle.skull_implant.slicer.label_server import prepare_app
from bundle.skull_implant.volume import Volume, write_volume
from tests.end_to_end import ROOT, small_head
from tests.label_servers import AS_SLICER_ASKS, MODEL, NOT_INSTALLED, Server, finished_task, running_server

pytestmark = [
    pytest.mark.label,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
pytest.importorskip("monailabel", reason=NOT_INSTALLED)

SEGMENTS = {"label_info": [{"name": "skull", "idx": 1}, {"name": "implant", "idx": 2}]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the app; studies without any image."""
    folder = tmp_path_factory.mktemp("training")
    (folder / "studies").mkdir()
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with running_server(folder, str(folder / "studies")) as server:
        yield server


def models(folder: Path) -> Path:
    return folder / "monaibundle" / "model" / MODEL / "models"


def train(server: Server, parameters: dict[str, Any]) -> dict[str, Any]:
    """Start a training and wait for its end; the server's last word on it."""
    server.client.train_start(MODEL, parameters)
    return finished_task(server, "train")


def slicers_parameters(server: Server) -> dict[str, Any]:
    """What Slicer sends of the table of options, of a list the first."""
    config = server.client.info()["trainers"][MODEL]["config"]
    return {key: value[0] if isinstance(value, list) else value for key, value in config.items()}


def submit(server: Server, folder: Path, seed: int) -> None:
    """Upload a head and submit its true skull and implant."""
    head = small_head(seed)
    labels = head.complete_skull.voxels.astype(np.uint8)
    labels[head.implant.voxels > 0] = 2
    image, label = folder / f"head{seed}.nrrd", folder / f"label{seed}.nrrd"
    write_volume(image, head.hu)
    write_volume(label, Volume(labels, head.hu.grid))
    server.client.upload_image(str(image), image_id=image.stem)
    server.client.save_label(image.stem, str(label), params=SEGMENTS)


def test_without_submitted_labels_the_status_ends_with_the_reason(server: Server, folder: Path) -> None:
    before = (models(folder) / "model.pt").read_bytes()

    status = train(server, {})

    assert status["status"] == "ERROR"
    assert status["details"][-1].endswith(
        "not trained: training needs at least two submitted labels, one of them for validation, 0 arrived; "
        "submit complete skulls: the segment skull of an undamaged one, or skull and implant"
    )
    assert (models(folder) / "model.pt").read_bytes() == before


def test_slicers_round_ends_with_weights_that_learned_from_its_labels(server: Server, folder: Path) -> None:
    client, options = server.client, slicers_parameters(server)
    assert (options["run_id"], options["multi_gpu"], options["max_epochs"], options["val_split"]) == (
        *("run", False, 30),
        pytest.approx(0.2),
    )
    write_volume(folder / "new.nrrd", small_head(0).hu)
    client.upload_image(str(folder / "new.nrrd"), image_id="new")
    sample = client.next_sample("first", {})
    _, first = client.infer(MODEL, sample["id"], {**AS_SLICER_ASKS, "fit_steps": 0})
    for seed in (1, 2, 3):
        submit(server, folder, seed)

    status = train(server, {**options, "max_epochs": 4})

    assert status["status"] == "DONE", status["details"]
    (entry,) = json.loads((models(folder) / "site_training.json").read_text())["trainings"]
    assert {key: entry[key] for key in ("epochs", "submitted", "training", "validation")} == {
        "epochs": 4,
        "submitted": 3,
        "training": 2,
        "validation": 1,
    }
    scores = entry["implant_dice"]
    assert entry["replaced"] is (scores["after"] >= scores["before"])
    used = hashlib.sha256((models(folder) / "model.pt").read_bytes()).hexdigest()
    released = hashlib.sha256((ROOT / "models" / "model.pt").read_bytes()).hexdigest()
    _, second = client.infer(MODEL, sample["id"], {**AS_SLICER_ASKS, "fit_steps": 0})
    assert first["weights"]["sha256"] == released
    assert second["weights"]["sha256"] == used
    assert entry["replaced"] is (used != released)
    if entry["replaced"]:
        kept = models(folder) / entry["old_weights"]
        assert hashlib.sha256(kept.read_bytes()).hexdigest() == released
        _, back = client.infer(MODEL, sample["id"], {**AS_SLICER_ASKS, "fit_steps": 0, "model_filename": kept.name})
        assert back["weights"]["sha256"] == released
        assert back["implant"]["volume_ml"] == first["implant"]["volume_ml"]
    objects = client.datastore()["objects"]
    assert {name for name, each in objects.items() if "final" in each["labels"]} == {"head1", "head2", "head3"}
    assert client.info()["models"][MODEL]["config"]["model_filename"][0] == "model.pt"


def test_the_next_start_of_the_server_keeps_what_was_trained(server: Server, folder: Path, tmp_path: Path) -> None:
    if not (models(folder) / "site_training.json").is_file():
        pytest.skip("nothing was trained in this run")
    before = {path.name: path.read_bytes() for path in models(folder).iterdir()}

    prepare_app(package_bundle(ROOT, tmp_path), folder)

    assert {path.name: path.read_bytes() for path in models(folder).iterdir()} == before
    root = models(folder).parent
    code = f"""
from monai.bundle import ConfigParser
parser = ConfigParser()
parser.read_config({str(root / "configs" / "inference.yaml")!r})
parser.config["bundle_root"] = {str(root)!r}
parser.get_parsed_content("network_def")
"""  # in a process of its own, because a server imports the bundle from there
    subprocess.run([sys.executable, "-c", code], cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, check=True)
