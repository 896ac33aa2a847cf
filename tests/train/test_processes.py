"""Two processes train as one would: the same losses, one set of files, and batch norm over the whole batch."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import distributed, nn

from bundle.skull_implant.model.implant_unet import ImplantUNet
from bundle.skull_implant.train import processes
from bundle.skull_implant.train.facial_training import FacialStep, start_facial_network
from bundle.skull_implant.train.training_data import SkullBatches, SkullDataset
from bundle.skull_implant.train.unet_training import ImplantLoss, ImplantStep
from tests.end_to_end import ROOT, SMOKE, Outcome, contents
from tests.small_models import BOX, engine_of, small_dataset, small_network

Curve = dict[str, list[float]]


def curves(folder: Path) -> dict[str, Curve]:
    """Columns of both stages' CSV files, without the seconds."""
    found = {}
    for stage in ("stage1", "stage2"):
        with (folder / f"{stage}.csv").open() as file:
            rows = list(csv.DictReader(file))
        names = [name for name in rows[0] if name != "seconds" and rows[0][name]]
        found[stage] = {name: [float(row[name]) for row in rows] for name in names}
    return found


@pytest.fixture(scope="module")
def of_two(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the smoke run by two processes; its batches of 8 and of 1 volume leave one process with none."""
    folder = tmp_path_factory.mktemp("two")
    configs = [*SMOKE, str(ROOT / "configs" / "multi_gpu_train.yaml")]
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "monai.bundle", "run"]
    words += ["training", "--config_file", str(configs), "--dataset_dir", str(tiny_dataset)]
    words += ["--output_dir", str(folder / "run"), "--model_file", str(folder / "model.pt")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("stage 1 epoch 2/2") == 1
    return folder


def test_two_processes_have_the_losses_of_one(of_two: Path, trained: tuple[Path, Outcome]) -> None:
    alone, together = curves(trained[0] / "run"), curves(of_two / "run")

    assert together.keys() == alone.keys()
    for stage in alone:
        assert together[stage]["epoch"] == alone[stage]["epoch"]
        score = together[stage].pop("held_out_dsc"), alone[stage].pop("held_out_dsc")  # of thresholded volumes
        torch.testing.assert_close(*score, rtol=0, atol=0.01)
        torch.testing.assert_close(together[stage], alone[stage], rtol=1e-4, atol=1e-4)


def test_two_processes_write_one_set_of_files(of_two: Path, trained: tuple[Path, Outcome]) -> None:
    def names(folder: Path) -> list[str]:
        return sorted("tfevents" if "tfevents" in name else name for name in contents(folder))

    assert names(of_two) == names(trained[0])


def test_the_weights_of_two_processes_are_those_of_one_within_rounding(
    of_two: Path, trained: tuple[Path, Outcome]
) -> None:
    together, alone = (torch.load(folder / "model.pt", weights_only=True) for folder in (of_two, trained[0]))

    assert list(together) == list(alone)
    # Adam makes steps of the rounding of other weights, whose gradients are next to nothing.
    for name in ("encoder.layers.0.conv.weight", "encoder.mean.weight", "encoder.log_variance.bias"):
        torch.testing.assert_close(together[name], alone[name], rtol=1e-3, atol=1e-4)


def test_alone_nothing_is_shared() -> None:
    values, network = torch.ones(3), nn.BatchNorm3d(2)

    assert not distributed.is_initialized()
    assert processes.total(values) is values
    assert processes.gather(values) is values
    assert processes.share_network(network) is network
    assert processes.own_part(5) == slice(0, 5)


def test_the_parts_of_a_batch_are_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 4)
    for size in (1, 3, 4, 9):
        parts = []
        for rank in range(4):
            monkeypatch.setattr(distributed, "get_rank", lambda rank=rank: rank)
            parts += list(range(size))[processes.own_part(size)]
        assert parts == list(range(size))


@pytest.mark.parametrize("cut", [1, 0])
@pytest.mark.parametrize("kind", ["U-Net", "facial network"])
def test_the_losses_and_gradients_of_several_processes_add_up(tmp_path: Path, kind: str, cut: int) -> None:
    folder = small_dataset(tmp_path / "dataset", training=1).folder
    box, completer = BOX, small_network()
    network: nn.Module = ImplantUNet(BOX.spatial_size, (4, 8, 16))
    step: ImplantStep | FacialStep = ImplantStep(ImplantLoss())
    if kind == "facial network":
        box, network = completer.fine_box, start_facial_network(completer)
        step = FacialStep(completer, ImplantLoss(), blurred_share=0.0)
    dataset = SkullDataset(str(folder), "training", box.spatial_size)
    engine = engine_of(network, torch.optim.SGD(network.parameters(), lr=0.0))
    (batch,) = SkullBatches(dataset, batch_size=3, wholes=True)

    def taken(rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
        part = {name: value if name == "volumes" else value[rows] for name, value in batch.items()}
        loss = step(engine, part)["loss"]
        return loss, torch.cat([each.grad.flatten() for each in network.parameters() if each.grad is not None])

    (first, second), whole = [taken(rows) for rows in (slice(cut), slice(cut, None))], taken(slice(None))

    torch.testing.assert_close(first[0] + second[0], whole[0])
    torch.testing.assert_close(first[1] + second[1], whole[1], rtol=1e-3, atol=1e-5)
    assert whole[1].abs().max() > 1e-3


def test_the_loss_of_no_volumes_moves_no_weight() -> None:
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))

    loss = processes.no_loss(network)
    loss.backward()

    assert loss == 0
    assert all(each.grad is not None and not each.grad.any() for each in network.parameters())


def test_batch_norm_of_the_whole_batch_is_pytorchs() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm3d(3)
    nn.init.normal_(norm.weight)
    own = processes.WholeBatchNorm.of(norm)
    values = torch.randn(4, 3, 5, 6, 7)
    for _ in range(2):
        inputs = [values.clone().requires_grad_() for _ in range(2)]
        outputs = [module(each) for module, each in zip((norm, own), inputs, strict=True)]
        for each in outputs:
            each.square().sum().backward()
        torch.testing.assert_close(outputs[1], outputs[0])
        torch.testing.assert_close(inputs[1].grad, inputs[0].grad, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(own.state_dict(), norm.state_dict())
    torch.testing.assert_close(own.eval()(values), norm.eval()(values))
