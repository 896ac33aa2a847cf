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

from bundle.skull_implant import processes
from tests.end_to_end import ROOT, SMOKE, Outcome, contents

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
