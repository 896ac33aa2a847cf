"""MONAI Label's real server with the packaged bundle, driven by its own client in the order in which Slicer calls it.

Runs in the environment of `make label`, by `make test-label`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from bundle.skull_implant.volume import Grid, Volume, write_volume
from tests.end_to_end import box_of_noise, read, small_head
from tests.label_servers import AS_SLICER_ASKS, MODEL, NOT_INSTALLED, Server, by_command, finished_task, running_server

pytestmark = [
    pytest.mark.label,
    # The client leaves sockets and uploaded files to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
requests = pytest.importorskip("requests", reason=NOT_INSTALLED)
pytest.importorskip("monailabel", reason=NOT_INSTALLED)


def oblique(volume: Volume) -> Volume:
    turn = Rotation.from_euler("xyz", (9.0, -6.0, 4.0), degrees=True).as_matrix()
    grid = Grid(volume.grid.size, volume.grid.spacing, (-71.5, 130.25, 77.0), tuple(turn.ravel().tolist()))
    return Volume(volume.voxels, grid)


def flipped(volume: Volume) -> Volume:
    """The same head on a left-handed grid, whose first axis runs from left to right."""
    grid = volume.grid
    origin = (grid.origin[0] + (grid.size[0] - 1) * grid.spacing[0], grid.origin[1], grid.origin[2])
    direction = (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    return Volume(np.ascontiguousarray(volume.voxels[::-1]), Grid(grid.size, grid.spacing, origin, direction))


def write_second_bundle(folder: Path) -> None:
    """Another bundle with a package of its own in `bundle/`, whose network's result is the image below 0."""
    package = folder / "bundle" / "second"
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "network.py").write_text(
        "import torch\n\n\nclass Below(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.limit = torch.nn.Parameter(torch.zeros(1))\n\n"
        "    def forward(self, x):\n        return (x < self.limit).to(torch.uint8)\n"
    )
    (folder / "configs" / "inference.yaml").write_text(
        "bundle_root: .\ndevice: cpu\nnetwork_def:\n  _target_: bundle.second.network.Below\n"
        "preprocessing:\n  _target_: Compose\n  transforms:\n"
        "  - {_target_: LoadImaged, keys: image}\n  - {_target_: EnsureChannelFirstd, keys: image}\n"
        "inferer:\n  _target_: SimpleInferer\npostprocessing:\n  _target_: Compose\n  transforms: []\n"
    )
    channel = {"num_channels": 1, "spatial_shape": [8, 8, 8], "dtype": "float32", "channel_def": {"1": "air"}}
    formats = {"inputs": {"image": channel}, "outputs": {"pred": channel}}
    (folder / "configs" / "metadata.json").write_text(
        json.dumps({"version": "0.0.1", "description": "second", "network_data_format": formats})
    )
    import torch

    torch.save({"limit": torch.zeros(1)}, folder / "models" / "model.pt")


@dataclass(frozen=True)
class Site:
    """A server and the folder of its images."""

    server: Server
    studies: Path


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("label")
    studies = folder / "studies"
    studies.mkdir()
    head = small_head(0).hu
    write_volume(studies / "oblique.nrrd", oblique(head))
    write_volume(studies / "flipped.nii.gz", flipped(head))
    write_volume(studies / "noise.nrrd", box_of_noise())
    (studies / "text.nii.gz").write_text("no image")
    with running_server(
        folder, str(studies), (MODEL, "second"), add=lambda models: write_second_bundle(models / "second")
    ) as server:
        yield Site(server, studies)


@pytest.fixture
def server(site: Site) -> Server:
    return site.server


def assert_same_grid(first: Grid, second: Grid, tolerance: float) -> None:
    assert first.size == second.size
    for name in ("spacing", "origin", "direction"):
        np.testing.assert_allclose(getattr(first, name), getattr(second, name), rtol=0, atol=tolerance)


def test_the_server_lists_skull_and_implant_as_a_segmentation_with_its_options(server: Server) -> None:
    info = server.client.info()
    model = info["models"][MODEL]

    assert model["type"] == "segmentation"
    assert model["labels"] == {"skull": 1, "implant": 2}
    assert set(info["labels"]) >= {"skull", "implant"}
    options = {key: value for key, value in model["config"].items() if key not in ("device", "model_filename")}
    assert options == {
        "gamma": 1.0,
        "defect_class": ["auto", "cranial", "facial"],
        "threshold_hu": 300.0,
        "fit_steps": 30,
        "rim_fit": True,
    }
    # Slicer tells a number from a whole number from a check box by these.
    assert [type(options[key]) for key in ("gamma", "threshold_hu", "fit_steps", "rim_fit")] == [
        float,
        float,
        int,
        bool,
    ]


def test_it_asked_nothing_of_the_network(server: Server) -> None:
    server.infer("oblique")

    log = server.log.read_text()
    assert "Application startup complete" in log
    assert "Connection" not in log


@pytest.mark.parametrize(
    ("image", "words", "parameters"),
    [
        ("oblique.nrrd", (), {}),
        ("flipped.nii.gz", ("--gamma", 1.4, "--defect_class", "cranial"), {"gamma": "1.4", "defect_class": "cranial"}),
    ],
)
def test_the_label_map_is_that_of_the_command_line_voxel_by_voxel(
    image: str, words: tuple[object, ...], parameters: dict[str, str], site: Site, server: Server, tmp_path: Path
) -> None:
    masks, report = by_command(site.studies / image, tmp_path, *words)
    handed = np.linalg.det(np.reshape(read(site.studies / image).grid.direction, (3, 3)))

    labels, result = server.infer(image.split(".")[0], **parameters)

    assert handed == pytest.approx(-1.0 if image.startswith("flipped") else 1.0)
    assert labels.voxels.dtype == np.uint8
    assert_same_grid(labels.grid, read(site.studies / image).grid, 1e-6)
    np.testing.assert_array_equal(labels.voxels == 1, masks["skull"].voxels > 0)
    np.testing.assert_array_equal(labels.voxels == 2, masks["implant"].voxels > 0)
    assert (labels.voxels == 2).sum() * labels.grid.voxel_ml == pytest.approx(report["implant"]["volume_ml"], abs=0.01)
    assert report["implant"]["volume_ml"] > 5.0
    for key in ("status", "reasons", "warnings", "gamma", "defect_class", "class_probability", "implant", "weights"):
        assert result[key] == report[key], key
    assert 0.5 <= result["confidence"] <= 1.0
    assert result["label_names"] == {"skull": 1, "implant": 2}


@pytest.mark.parametrize(
    ("image", "parameters", "reason", "size"),
    [
        ("noise", {}, "head", (90, 110, 90)),
        ("text", {}, "not readable as NIfTI", (1, 1, 1)),
        ("oblique", {"gamma": "much"}, "gamma must be a number, got 'much'", (1, 1, 1)),
        ("oblique", {"threshold_hu": "", "fit_steps": 1.5}, "threshold_hu must be a number", (1, 1, 1)),
        ("oblique", {"defect_class": "nasal"}, "defect_class must be auto, cranial or facial", (1, 1, 1)),
    ],
)
def test_a_refused_case_answers_with_its_reason_and_an_empty_label_map(
    image: str, parameters: dict[str, object], reason: str, size: tuple[int, ...], server: Server
) -> None:
    labels, result = server.infer(image, **parameters)

    assert result["status"] == "refused"
    assert reason in "; ".join(result["reasons"])
    assert labels.grid.size == size
    assert not labels.voxels.any()


def test_a_session_image_that_the_server_does_not_hold_is_done_as_well(server: Server, tmp_path: Path) -> None:
    write_volume(tmp_path / "mine.nrrd", small_head(0).complete_skull)
    session = server.client.create_session(str(tmp_path / "mine.nrrd"))["session_id"]

    file, result = server.client.infer(MODEL, "", {**AS_SLICER_ASKS, "fit_steps": 0}, session_id=session)

    labels = read(Path(file))
    assert result["input"]["is_mask"] is True
    assert labels.grid.size == small_head(0).hu.grid.size
    assert (labels.voxels == 1).sum() == result_voxels(small_head(0).complete_skull)
    assert server.client.remove_session(session)


def result_voxels(mask: Volume) -> int:
    """Voxels of the head's bone after single pieces are left out."""
    from bundle.skull_implant.frame.skull_mask import clean_binary_mask

    return int((clean_binary_mask(Volume(mask.voxels.astype(np.uint8), mask.grid)).voxels > 0).sum())


def test_two_bundles_in_one_server_keep_their_own_code(site: Site, server: Server) -> None:
    air, _ = server.infer("oblique", model="second")
    labels, result = server.infer("oblique", fit_steps="0", rim_fit=False)

    np.testing.assert_array_equal(air.voxels > 0, read(site.studies / "oblique.nrrd").voxels < 0)
    assert set(np.unique(labels.voxels)) == {0, 1, 2}
    assert result["status"] in ("ok", "review")


def test_slicers_round_next_sample_infer_submit_takes_the_case_off_the_list(site: Site, server: Server) -> None:
    server.client.upload_image(str(site.studies / "oblique.nrrd"), image_id="uploaded")
    sample = server.client.next_sample("first", {})
    file, result = server.client.infer(MODEL, "uploaded", {**AS_SLICER_ASKS, "fit_steps": 0})
    saved = server.client.save_label(
        "uploaded", file, params={"label_info": [{"name": "skull", "idx": 1}, {"name": "implant", "idx": 2}]}
    )

    assert sample["id"]
    assert saved["image"] == "uploaded"
    entry = server.client.datastore()["objects"]["uploaded"]
    (label,) = [path for path in (site.studies / "labels" / "final").iterdir() if path.name.startswith("uploaded")]
    assert "final" in entry["labels"]
    np.testing.assert_array_equal(read(label).voxels, read(Path(file)).voxels)
    info = server.client.info()["datastore"]
    assert (info["completed"], result["status"] in ("ok", "review")) == (1, True)


def test_a_batch_labels_every_image_and_a_refused_one_stops_no_other(site: Site, server: Server) -> None:
    address = server.address
    # Without a GPU, MONAI Label 0.8.5 divides by the number of GPUs unless multi_gpu is false.
    options = {"fit_steps": 0, "multi_gpu": False}

    requests.post(f"{address}/batch/infer/{MODEL}?images=all", json=options, timeout=60).raise_for_status()

    assert finished_task(server, "batch/infer")["status"] == "DONE"
    objects = server.client.datastore()["objects"]
    results = {name: entry["labels"]["original"]["info"]["params"] for name, entry in objects.items()}
    assert set(results) >= {"oblique", "flipped", "noise", "text"}
    refused = {name for name, result in results.items() if result["status"] == "refused"}
    assert refused == {"noise", "text"}
    assert "not readable as NIfTI" in results["text"]["reasons"][0]
    assert set(np.unique(read(site.studies / "labels" / "original" / "oblique.nrrd").voxels)) == {0, 1, 2}
