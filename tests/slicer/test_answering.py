"""What the parts of the inference config do when MONAI Label's server calls them one by one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import decollate_batch

from bundle.skull_implant.commands.completion import complete
from bundle.skull_implant.model.network import SkullCompleter
from bundle.skull_implant.slicer.answering import label_map, ras_affine
from bundle.skull_implant.volume import Grid, Volume, write_volume
from tests.end_to_end import INFERENCE, ROOT, box_of_noise, read, small_head, untrained_model, without_preview


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_model(tmp_path_factory.mktemp("model") / "model.pt")


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head on a left-handed, shifted grid."""
    volume, path = small_head(0).hu, tmp_path_factory.mktemp("head") / "head.nrrd"
    direction = (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    grid = Grid(volume.grid.size, volume.grid.spacing, (99.5, -137.25, -393.0), direction)
    write_volume(path, Volume(np.ascontiguousarray(volume.voxels[::-1]), grid))
    return path


class Requests:
    """Requests to one server, which keeps its config between them: the order of calls is MONAI Label 0.8.5's own."""

    def __init__(self, model_file: Path) -> None:
        self.parser = ConfigParser()
        self.parser.read_config(str(INFERENCE))
        self.parser.config.update({"bundle_root": str(ROOT), "model_file": str(model_file)})
        self.network = self.parser.get_parsed_content("network_def")
        self.table = dict(self.parser.get_parsed_content("displayable_configs"))

    def __call__(self, image: Path, **parameters: Any) -> dict[str, Any]:
        data = {**self.table, **parameters, "image": str(image), "image_path": str(image)}
        self.parser["displayable_configs"].update({key: data[key] for key in self.table})
        self.parser.parse()
        self.parser.config["device"] = "cpu"
        for step in self.parser.get_parsed_content("preprocessing").transforms:
            data = step(data)
        outputs = self.parser.get_parsed_content("inferer")(torch.as_tensor(data["image"])[None], self.network)
        data["pred"] = decollate_batch(outputs)[0]
        for step in self.parser.get_parsed_content("postprocessing").transforms:
            data = step(data)
        return data


@pytest.fixture(scope="module")
def request_(model: Path) -> Requests:
    return Requests(model)


def test_the_table_of_options_is_what_slicer_can_show(request_: Requests) -> None:
    assert request_.table == {
        "gamma": 1.0,
        "defect_class": ["auto", "cranial", "facial"],
        "threshold_hu": 300.0,
        "fit_steps": 30,
        "rim_fit": True,
    }


def test_the_answer_is_the_label_map_of_the_commands_masks_on_the_images_grid(
    request_: Requests, head: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_preview(monkeypatch)
    (folder,) = complete(INFERENCE, dataset_dir=str(head), output_dir=str(tmp_path), model_file=str(model), gamma=1.5)

    data = request_(head, gamma="1.5")

    labels = data["pred"]
    assert (labels.dtype, labels.shape) == (torch.uint8, (1, *read(head).grid.size))
    np.testing.assert_array_equal(labels[0] == 1, read(folder / "skull.nii.gz").voxels > 0)
    np.testing.assert_array_equal(labels[0] == 2, read(folder / "implant.nii.gz").voxels > 0)
    np.testing.assert_array_equal(
        data["image_meta_dict"]["original_affine"],
        [[2.0, 0, 0, -99.5], [0, -2.0, 0, 137.25], [0, 0, 2.0, -393.0], [0, 0, 0, 1]],
    )
    report = json.loads((folder / "report.json").read_text())
    result = json.loads(json.dumps(data["result"]))
    assert {key: value for key, value in result.items() if key not in ("seconds", "confidence")} == {
        key: value for key, value in report.items() if key != "seconds"
    }
    own, other = (report["class_probability"][each] for each in (report["defect_class"], _other(report)))
    assert result["confidence"] == pytest.approx(own / (own + other), abs=1e-3)


def _other(report: dict[str, Any]) -> str:
    return "facial" if report["defect_class"] == "cranial" else "cranial"


def test_an_option_holds_for_its_own_request_only(request_: Requests, head: Path) -> None:
    facial = request_(head, defect_class="facial", threshold_hu="450")["result"]
    after = request_(head)["result"]

    assert (facial["defect_class"], facial["threshold_hu"]) == ("facial", 450.0)
    assert after["threshold_hu"] == 300.0


def test_the_report_names_the_weights_that_a_request_chose(request_: Requests, model: Path, tmp_path: Path) -> None:
    older = model.with_name("model_until_then.pt")
    older.write_bytes(model.read_bytes() + b"older")
    image = tmp_path / "missing.nii.gz"

    found = [
        request_(image, **chosen)["result"]["weights"]["file"]
        for chosen in ({}, {"model_filename": older.name}, {"model_filename": ["none.pt"]}, {"model_filename": ""})
    ]

    assert found == [model.name, older.name, model.name, model.name]


def test_a_refused_case_is_an_empty_label_map_on_its_grid_with_reasons(request_: Requests, tmp_path: Path) -> None:
    write_volume(tmp_path / "noise.nrrd", box_of_noise())

    data = request_(tmp_path / "noise.nrrd")

    assert data["result"]["status"] == "refused"
    assert data["result"]["reasons"]
    assert data["pred"].shape == (1, *box_of_noise().grid.size)
    assert not data["pred"].any()


@pytest.mark.parametrize(
    ("name", "parameters", "reason"),
    [
        ("text.nii.gz", {}, "text.nii.gz: not readable as NIfTI"),
        ("missing.nii.gz", {}, "missing.nii.gz: no such file or folder"),
        ("text.nii.gz", {"gamma": "much"}, "gamma must be a number, got 'much'"),
    ],
)
def test_what_cannot_be_read_or_set_is_one_empty_voxel_with_the_reason(
    name: str, parameters: dict[str, str], reason: str, request_: Requests, tmp_path: Path
) -> None:
    (tmp_path / "text.nii.gz").write_text("no image")

    data = request_(tmp_path / name, **parameters)

    assert reason in data["result"]["reasons"][0]
    assert data["pred"].shape == (1, 1, 1, 1)


def test_implant_lies_over_skull_in_the_label_map() -> None:
    skull = np.array([True, True, False, False]).reshape(4, 1, 1)
    implant = np.array([False, False, True, False]).reshape(4, 1, 1)

    labels = label_map(skull, implant)

    assert labels.dtype == np.uint8
    assert labels.ravel().tolist() == [1, 1, 2, 0]


def test_ras_turns_the_first_two_axes_of_lps() -> None:
    grid = Grid((2, 3, 4), (1.0, 2.0, 3.0), (10.0, 20.0, 30.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))

    np.testing.assert_array_equal(ras_affine(grid), [[-1, 0, 0, -10], [0, -2, 0, -20], [0, 0, 3, 30], [0, 0, 0, 1]])


BLOCK = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in ('pydicom', 'highdicom', 'dask', 'distributed'):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
"""


def test_the_parts_that_the_server_builds_import_without_pydicom_and_highdicom(model: Path, tmp_path: Path) -> None:
    code = f"""{BLOCK}
from monai.bundle import ConfigParser
parser = ConfigParser()
parser.read_config({str(INFERENCE)!r})
parser.config.update(bundle_root={str(ROOT)!r}, model_file={str(model)!r}, device='cpu')
steps = [parser.get_parsed_content(key) for key in ('preprocessing', 'inferer', 'postprocessing')]
data = {{'image': {str(tmp_path)!r}, 'image_path': {str(tmp_path)!r}}}
for step in steps[0].transforms:
    data = step(data)
print(data['error'])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        f"{tmp_path.name}: a DICOM folder needs pydicom 3, this environment has another; give an image file\n"
    )


def test_a_refusal_stops_nothing_of_the_network(request_: Requests) -> None:
    assert isinstance(request_.network, SkullCompleter)
    inferer = request_.parser.get_parsed_content("inferer")

    assert inferer(torch.empty(1, 0), request_.network)["pred"].shape == (1, 0)
