"""The least that a training step costs: its operations and the bytes it must move, and a machine's speed in both."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from monai.networks.blocks import Convolution
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bundle.skull_implant.model.network import SkullCompleter, SkullVAE
from bundle.skull_implant.train.losses import SkullDiceLoss, kl_divergence


@dataclass(frozen=True)
class StepCost:
    """What one step of stage 1 asks for.

    Args:
        operations: floating point, of convolutions and matrices, forward and backward.
        values: numbers moved between memory and processor if each block (convolution, batch norm, activation) read
            its input and wrote its output once, and in the backward pass read input and gradient and wrote a gradient.
        parameters: numbers that Adam reads four and writes three arrays of.
    """

    operations: float
    values: float
    parameters: float

    def moved_bytes(self, value_bytes: int) -> float:
        """Bytes moved, with activations of 2 or 4 bytes and parameters of 4."""
        return self.values * value_bytes + 7 * 4 * self.parameters

    def seconds(self, machine: MachineSpeed, value_bytes: int) -> float:
        """The floor: whichever of the two takes longer."""
        return max(self.operations / machine.operations, self.moved_bytes(value_bytes) / machine.moved_bytes)


@dataclass(frozen=True)
class MachineSpeed:
    """What a device does in a second, measured on large arrays.

    Args:
        operations: floating point, of a matrix product.
        moved_bytes: read and written by a copy.
    """

    operations: float
    moved_bytes: float


def step_cost(spatial_size: Sequence[int], batch_size: int, **sizes: Any) -> StepCost:
    """Count one step of stage 1 without computing it.

    Args:
        spatial_size: voxels.
        batch_size: volumes.
        sizes: further arguments of :class:`SkullCompleter`.
    """
    network = SkullVAE(SkullCompleter(spatial_size, **sizes)).to("meta")
    images = torch.empty((batch_size, 1, *spatial_size), device="meta")
    noise = torch.empty((batch_size, network.latent_size), device="meta")
    moved: list[float] = [2 * images.numel()]  # the batch is written, and read by the loss

    def count(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        moved.append(3 * inputs[0].numel() + 2 * output.numel())

    for module in network.modules():
        if isinstance(module, Convolution | nn.Linear):
            module.register_forward_hook(count)
    with FlopCounterMode(display=False) as counter:
        logits, mean, log_variance = network(images, noise)
        (SkullDiceLoss()(logits, images) + kl_divergence(mean, log_variance)).backward()
    parameters = sum(each.numel() for each in network.parameters())
    return StepCost(float(counter.get_total_flops()), float(sum(moved)), float(parameters))


def measure_machine(device: torch.device, dtype: torch.dtype = torch.float32) -> MachineSpeed:
    """The best of a few matrix products and copies.

    Args:
        device: which.
        dtype: of the matrices.
    """
    side = 8192 if device.type == "cuda" else 2048
    matrix = torch.ones(side, side, device=device, dtype=dtype)
    values = torch.ones(2**28 if device.type == "cuda" else 2**26, device=device)
    target = torch.empty_like(values)
    product_s = _best(lambda: matrix @ matrix, device)
    copy_s = _best(lambda: target.copy_(values), device)
    return MachineSpeed(2 * side**3 / product_s, 2 * 4 * values.numel() / copy_s)


def synchronize(device: torch.device) -> None:
    """Wait until a device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _best(work: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    seconds = []
    for _ in range(repeats):
        synchronize(device)
        started = time.perf_counter()
        work()
        synchronize(device)
        seconds.append(time.perf_counter() - started)
    return min(seconds)
