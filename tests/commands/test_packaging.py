"""The zip holds what belongs and nothing else, is the same each time, and works wherever it is unpacked."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser, create_workflow
from monai.bundle import load as load_bundle

from bundle.skull_implant.commands.packaging import bundle_files, package_bundle
from bundle.skull_implant.errors import InputError
from bundle.skull_implant.model.network import SkullCompleter
from tests.end_to_end import ROOT

VERSION = json.loads((ROOT / "configs" / "metadata.json").read_text())["version"]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return package_bundle(ROOT, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def unpacked(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    with zipfile.ZipFile(package) as archive:
        archive.extractall(folder)
    return folder / "skull_implant"


def small_tree(root: Path) -> Path:
    for name in (
        "LICENSE",
        "README.md",
        "notes.md",
        "requirements.txt",
        "configs/metadata.json",
        "configs/inference.yaml",
        "docs/README.md",
        "models/model.pt",
        "models/other.pt",
        "models/.partial.model.pt",
        "bundle/skull_implant/a.py",
        "bundle/skull_implant/room/b.py",
        "bundle/skull_implant/__pycache__/a.pyc",
        "configs/mine.nii.gz",
        "docs/figures/a.png",
        "docs/scan.nii.gz",
        "scripts/a.py",
        "tests/test_a.py",
        "demo/ct/1.dcm",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text('{"version": "1.2.3"}')
    return root


def test_only_what_belongs_is_packed(tmp_path: Path) -> None:
    path = package_bundle(small_tree(tmp_path / "root"), tmp_path / "dist")

    assert path.name == "skull_implant_v1.2.3.zip"
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == [
            "skull_implant/LICENSE",
            "skull_implant/README.md",
            "skull_implant/bundle/skull_implant/a.py",
            "skull_implant/bundle/skull_implant/room/b.py",
            "skull_implant/configs/inference.yaml",
            "skull_implant/configs/metadata.json",
            "skull_implant/docs/README.md",
            "skull_implant/docs/figures/a.png",
            "skull_implant/models/model.pt",
            "skull_implant/requirements.txt",
            "skull_implant/scripts/a.py",
        ]
    assert [each.name for each in (tmp_path / "dist").iterdir()] == [path.name]


def test_a_bundle_without_weights_is_not_packed(tmp_path: Path) -> None:
    (small_tree(tmp_path) / "models" / "model.pt").unlink()

    with pytest.raises(InputError, match=r"a bundle must hold models/model\.pt"):
        package_bundle(tmp_path, tmp_path / "dist")
    assert not (tmp_path / "dist").exists()


def test_no_link_of_its_pages_leads_out_of_it(unpacked: Path) -> None:
    for page in (unpacked / "README.md", *(unpacked / "docs").glob("*.md")):
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_same_files_give_the_same_bytes(package: Path, tmp_path: Path) -> None:
    again = package_bundle(ROOT, tmp_path)

    assert again.name == f"skull_implant_v{VERSION}.zip"
    assert again.read_bytes() == package.read_bytes()


def test_every_module_config_and_command_is_in_the_zip() -> None:
    names = bundle_files(ROOT)

    for pattern in ("bundle/skull_implant/**/*.py", "configs/*", "scripts/*.py"):
        assert {path.relative_to(ROOT).as_posix() for path in ROOT.glob(pattern) if path.is_file()} <= set(names)
    assert max((ROOT / name).stat().st_size for name in names) < 25e6  # more needs large_files.yml in the Zoo


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_monai_loads_network_and_weights_from_another_working_directory(
    unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    state = load_bundle("skull_implant", bundle_dir=str(unpacked.parent), source="monaihosting")

    assert set(state) == set(SkullCompleter.from_file(ROOT / "models" / "model.pt").state_dict())


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_workflow_of_the_unpacked_bundle_is_made_from_another_working_directory(
    unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    workflow = create_workflow(
        config_file=str(unpacked / "configs" / "inference.yaml"),
        workflow_type="infer",
        bundle_root=str(unpacked),
        logging_file=False,
        dataset_dir="nothing",
    )
    workflow.initialize()

    assert workflow.check_properties() == []
    network = workflow.network_def
    assert network(torch.zeros(1, 1, *network.spatial_size.tolist())).shape[1] == 1


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("overlay", "run_id"),
    [("smoke.yaml", "training"), ("smoke.yaml", "run"), ("evaluate.yaml", "evaluating")],
)
def test_training_and_evaluation_have_every_property_that_monai_requires_from_another_working_directory(
    overlay: str, run_id: str, unpacked: Path, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = dict.fromkeys(("train.yaml", "smoke.yaml", overlay))
    workflow = create_workflow(
        config_file=[str(unpacked / "configs" / name) for name in names],
        workflow_type="train",
        run_id=run_id,
        logging_file=False,
        bundle_root=str(unpacked),
        dataset_dir=str(tiny_dataset),
        output_dir=str(tmp_path),
    )
    workflow.initialize()

    assert workflow.check_properties() == []


def test_what_a_scanner_of_labels_reads_are_the_values_of_the_label_map() -> None:
    from bundle.skull_implant.slicer.answering import IMPLANT, SKULL

    parser = ConfigParser()
    parser.read_config(str(ROOT / "configs" / "metadata.json"))

    values = parser["network_data_format#outputs#pred#channel_def"]
    assert values == {"0": "background", str(SKULL): "skull", str(IMPLANT): "implant"}
