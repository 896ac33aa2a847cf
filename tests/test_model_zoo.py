"""What the Model Zoo's gate runs on a bundle, on the packaged one: metadata, shapes, TorchScript, ONNX.

Runs in the environment of `make label`, by `make test-label`, because it holds jsonschema and ONNX.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ckpt_export, onnx_export, verify_metadata, verify_net_in_out

from bundle.skull_implant.commands.packaging import package_bundle
from bundle.skull_implant.model.network import SkullCompleter
from tests.end_to_end import ROOT

pytestmark = [pytest.mark.label, pytest.mark.filterwarnings("ignore")]
REASON = "not installed here: run `make test-label`, which makes its environment"
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Arguments that every one of MONAI's bundle functions takes, for the unpacked bundle."""
    folder = tmp_path_factory.mktemp("zoo")
    with zipfile.ZipFile(package_bundle(ROOT, folder)) as archive:
        archive.extractall(folder)
    root = folder / "skull_implant"
    return {
        "net_id": "network_def",
        "config_file": str(root / "configs" / "inference.yaml"),
        "meta_file": str(root / "configs" / "metadata.json"),
        "bundle_root": str(root),
    }


@pytest.fixture(scope="module")
def case() -> tuple[torch.Tensor, torch.Tensor]:
    """A skull-like image in the canonical box, and what the network makes of it."""
    network = SkullCompleter.from_file(ROOT / "models" / "model.pt")
    points = network.box.coordinates().numpy()
    radius = np.sqrt((points[0] / 70) ** 2 + (points[1] / 88) ** 2 + ((points[2] + 70) / 70) ** 2)
    image = torch.from_numpy((np.abs(radius - 0.95) < 0.05).astype(np.float32))[None, None]
    with torch.no_grad():
        return image, network(image)


GATE = """
import sys
from pathlib import Path

import torch
from monai.bundle import ckpt_export, create_workflow, verify_metadata, verify_net_in_out

root = Path(sys.argv[1])
sys.path.insert(0, str(root))
files = {"meta_file": str(root / "configs/metadata.json"), "config_file": str(root / "configs/inference.yaml")}
verify_metadata(meta_file=files["meta_file"], filepath=str(root / "eval/schema.json"))
logging = str(root / "configs/logging.conf")
workflow = create_workflow(workflow_type="inference", bundle_root=str(root), logging_file=logging, **files)
assert workflow.check_properties() == [], workflow.check_properties()
verify_net_in_out(net_id="network_def", bundle_root=str(root), **files)
script = str(root / "models/verify_model.ts")
weights = str(root / "models/model.pt")
ckpt_export(net_id="network_def", filepath=script, ckpt_file=weights, bundle_root=str(root), **files)
torch.jit.load(script)
"""


def test_the_checks_of_the_zoos_gate_pass_in_its_order_from_its_own_folder(tmp_path: Path) -> None:
    """Those of `ci/verify_bundle.py -m full`: files, version, metadata, properties, shapes, TorchScript."""
    pytest.importorskip("jsonschema", reason=f"jsonschema is {REASON}")
    with zipfile.ZipFile(package_bundle(ROOT, tmp_path)) as archive:
        archive.extractall(tmp_path / "models")
    root = Path("models") / "skull_implant"  # relative, as the Zoo has it
    (tmp_path / root / "eval").mkdir()
    (tmp_path / root / "eval" / "schema.json").write_text(json.dumps(_SCHEMA))

    for name in ("LICENSE", "configs/metadata.json", "configs/inference.yaml", "models/model.pt"):
        assert (tmp_path / root / name).is_file(), name
    metadata = json.loads((tmp_path / root / "configs" / "metadata.json").read_text())
    assert metadata["version"] in metadata["changelog"]
    words = [sys.executable, "-c", GATE, str(root)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        words, cwd=tmp_path, capture_output=True, text=True, timeout=600, env=environment, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_metadata_passes_monais_check_against_a_schema_of_the_specification(
    zoo: dict[str, Any], tmp_path: Path
) -> None:
    pytest.importorskip("jsonschema", reason=f"jsonschema is {REASON}")
    (tmp_path / "schema.json").write_text(json.dumps(_SCHEMA))  # there already, so that nothing is downloaded

    verify_metadata(meta_file=zoo["meta_file"], filepath=str(tmp_path / "schema.json"))

    broken = json.loads(Path(zoo["meta_file"]).read_text())
    del broken["network_data_format"]["outputs"]["pred"]["num_channels"]
    (tmp_path / "broken.json").write_text(json.dumps(broken))
    with pytest.raises(ValueError, match="Failed validating"):
        verify_metadata(meta_file=str(tmp_path / "broken.json"), filepath=str(tmp_path / "schema.json"))


def test_the_network_takes_and_gives_what_the_metadata_says(zoo: dict[str, Any]) -> None:
    verify_net_in_out(**zoo)


def test_torchscript_gives_what_the_network_gives(
    zoo: dict[str, Any], case: tuple[torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    image, expected = case

    ckpt_export(**zoo, filepath=str(tmp_path / "model.ts"), ckpt_file=str(ROOT / "models" / "model.pt"))

    with torch.no_grad():
        found = torch.jit.load(tmp_path / "model.ts")(image)
    difference = float((found - expected).abs().max())
    print(f"TorchScript and eager differ by {difference:.1e} at most")
    assert expected.max() > 0.9
    assert difference <= TOLERANCE


def test_onnx_gives_what_the_network_gives(
    zoo: dict[str, Any], case: tuple[torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    runtime = pytest.importorskip("onnxruntime", reason=f"onnxruntime is {REASON}")
    pytest.importorskip("onnxscript", reason=f"onnxscript is {REASON}")
    image, expected = case

    onnx_export(**zoo, filepath=str(tmp_path / "model.onnx"), ckpt_file=str(ROOT / "models" / "model.pt"))

    session = runtime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    difference = float(np.abs(found - expected.numpy()).max())
    print(f"ONNX and eager differ by {difference:.1e} at most")
    assert difference <= TOLERANCE


# The published schema cannot be had without the network; this one asks for what the bundle specification asks for.
_TENSOR = {
    "type": "object",
    "required": ["type", "format", "num_channels", "spatial_shape", "dtype", "value_range", "is_patch_data"],
    "properties": {
        "type": {"enum": ["image"]},
        "format": {"type": "string"},
        "num_channels": {"type": "integer"},
        "spatial_shape": {"type": "array", "items": {"type": ["integer", "string"]}},
        "dtype": {"type": "string"},
        "value_range": {"type": "array", "minItems": 2, "maxItems": 2},
        "is_patch_data": {"type": "boolean"},
        "channel_def": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}
_FORMATS = {"type": "object", "minProperties": 1, "additionalProperties": _TENSOR}
_SCHEMA = {
    "type": "object",
    "required": [
        *("schema", "version", "changelog", "monai_version", "pytorch_version", "numpy_version"),
        *("required_packages_version", "task", "description", "authors", "copyright", "network_data_format"),
    ],
    "properties": {
        "version": {"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
        "changelog": {"type": "object", "additionalProperties": {"type": "string"}},
        "required_packages_version": {"type": "object", "additionalProperties": {"type": "string"}},
        "references": {"type": "array", "items": {"type": "string"}},
        "network_data_format": {
            "type": "object",
            "required": ["inputs", "outputs"],
            "properties": {"inputs": _FORMATS, "outputs": _FORMATS},
        },
    },
}
