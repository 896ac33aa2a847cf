"""The benchmark trains both ways on the same made-up skulls, and its floor is what a step can be counted to cost."""

from __future__ import annotations

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.model.network import SkullCompleter, SkullVAE
from bundle.skull_implant.peers.plain_training import CHANNELS, LATENT_SIZE, STRIDES, plain_network
from bundle.skull_implant.speed import training_benchmark
from bundle.skull_implant.speed.step_floor import MachineSpeed, StepCost, step_cost
from bundle.skull_implant.speed.training_benchmark import benchmark_training
from scripts.benchmark import benchmark
from tests.end_to_end import ROOT


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")  # as the paper, on two cores
def test_it_prints_both_speeds_their_ratio_and_the_floor_and_guesses_no_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    # In this process, whose memory is not to be kept, and on a machine that need not be measured.
    monkeypatch.setattr(training_benchmark, "ProcessPoolExecutor", lambda *_: ThreadPoolExecutor(1))
    monkeypatch.setattr(training_benchmark, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(training_benchmark, "measure_machine", lambda *_: MachineSpeed(1e12, 1e11))

    table = benchmark_training(tmp_path, (64, 64, 64), runs=1, steps=1, persons=2, scan_size=(96, 96, 75))

    cells = {name: (cpu, gpu) for name, cpu, gpu in re.findall(r"^\| (.+) \| ([\d.e+-]+) \| (.+) \|$", table, re.M)}
    assert len(cells) == 12
    assert {gpu for _, gpu in cells.values()} == {"-"}
    ours, plain = (float(cells[f"{name}, volumes a second"][0]) for name in ("our step", "plain training"))
    assert ours > 0
    assert float(cells["ratio"][0]) == pytest.approx(ours / plain, rel=0.02)
    assert float(cells["ratio of processor seconds"][0]) > 0
    assert float(cells["our step, times the floor"][0]) > 1


def test_both_networks_are_the_same() -> None:
    size = (64, 64, 64)
    plain, own = plain_network(size), SkullVAE(SkullCompleter(size, CHANNELS, STRIDES, LATENT_SIZE))

    def shapes(network: torch.nn.Module) -> list[tuple[int, ...]]:
        return sorted(tuple(each.shape) for each in network.parameters())

    assert shapes(plain) == shapes(own)


def test_the_floor_counts_a_convolution_as_a_hand_does() -> None:
    cost = step_cost((4, 4, 4), 1, channels=[1], strides=[2], latent_size=1)

    # 27 products and sums for each of 8 outputs; forward, and backward for the weights alone, as no one asks for the
    # image's gradient. The transposed one has 64 inputs of 27, 2 channels, and a gradient for its input as well.
    convolutions = 2 * 27 * 8 * 2 + 2 * 27 * 8 * 2 * 3
    linears = 2 * 8 * 3 * 3  # to mean, to log variance, and back from the code
    assert cost.operations == convolutions + linears
    # two linear layers of 8 + 1 and one of 8 + 8; convolutions of 27 + 1 and 54 + 2; one batch norm, one activation
    assert cost.parameters == 2 * 9 + 16 + 28 + 56 + 2 + 1


def test_the_floor_is_the_slower_of_the_two() -> None:
    cost = StepCost(operations=100.0, values=10.0, parameters=1.0)

    assert cost.moved_bytes(2) == 20 + 28
    assert cost.seconds(MachineSpeed(operations=10.0, moved_bytes=1000.0), 2) == 10.0
    assert cost.seconds(MachineSpeed(operations=1000.0, moved_bytes=1.0), 2) == 48.0


def test_a_grid_that_six_strides_do_not_divide_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--size must be multiples of 64"):
        benchmark("training", str(tmp_path), size=(96, 96, 64))


def test_what_is_not_measured_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must be inference or training, got 'speed'"):
        benchmark("speed", str(tmp_path))


def test_the_host_may_be_told_to_keep_its_memory() -> None:
    # In a process of its own: it cannot be told to give it back again.
    code = "from bundle.skull_implant.host_memory import keep_freed_memory; keep_freed_memory()"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
