"""One training by several processes that torchrun started, one device each; alone, every function here does nothing.

Each process makes and computes its part of a batch. Sums over the batch, in batch norm, gradients and losses, are taken
over all processes, so that the numbers are those of one process with the same batch size, within rounding.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable

import torch
from torch import distributed, nn

logger = logging.getLogger(__name__)


def own_device() -> torch.device:
    """This process's GPU, or the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cuda", torch.cuda.current_device())


def join(device: torch.device) -> None:
    """Meet the other processes, if torchrun started more than one; all but the first only tell of warnings."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    if is_first():
        logger.info("%d processes", count())
    else:
        logging.getLogger("bundle").setLevel(logging.WARNING)


def leave() -> None:
    """Part from the other processes."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def wait() -> None:
    """Until all processes have come here."""
    if distributed.is_initialized():
        distributed.barrier()


def count() -> int:
    """How many processes there are."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_first() -> bool:
    """Whether this process is the one that writes files."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


def own_part(size: int) -> slice:
    """This process's part of a batch; it may be empty."""
    rank = distributed.get_rank() if distributed.is_initialized() else 0
    return slice(size * rank // count(), size * (rank + 1) // count())


def total(values: torch.Tensor) -> torch.Tensor:
    """The sum over all processes."""
    if distributed.is_initialized():
        values = values.clone()
        distributed.all_reduce(values)
    return values


def gather(rows: torch.Tensor) -> torch.Tensor:
    """Rows (N, ...) of all processes, which may have different numbers of them."""
    if not distributed.is_initialized():
        return rows
    found: list[torch.Tensor] = [rows] * count()
    distributed.all_gather_object(found, rows.cpu())
    return torch.cat(found).to(rows.device)


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Sum the gradients of all processes, in one message."""
    if not distributed.is_initialized():
        return
    gradients = [each.grad for each in parameters if each.grad is not None]
    whole = torch.cat([each.flatten() for each in gradients])
    distributed.all_reduce(whole)
    for gradient, part in zip(gradients, whole.split([each.numel() for each in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def no_loss(network: nn.Module) -> torch.Tensor:
    """Zero, with a gradient of zero for every parameter: the loss of a process that has no part of a batch."""
    return 0.0 * torch.stack([each.sum() for each in network.parameters() if each.requires_grad]).sum()


def share_network(network: nn.Module) -> nn.Module:
    """Give a network the first process's weights, and batch norms that see the whole batch; changed in place."""
    if not distributed.is_initialized():
        return network
    for values in network.state_dict().values():
        distributed.broadcast(values, 0)
    if next(network.parameters()).is_cuda:
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm3d):
                setattr(module, name, WholeBatchNorm.of(child))
    return network


class WholeBatchNorm(nn.BatchNorm3d):
    """Batch norm over the batch of all processes, on CPUs too, for which PyTorch has none."""

    @classmethod
    def of(cls, norm: nn.BatchNorm3d) -> WholeBatchNorm:
        """One with the parameters and statistics of another."""
        own = cls(norm.num_features, norm.eps, norm.momentum)
        own.load_state_dict(norm.state_dict())
        return own

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Normalized values (B, C, X, Y, Z); B may be 0 in this process."""
        if not self.training:
            return super().forward(values)
        axes, shape = (0, 2, 3, 4), (1, -1, 1, 1, 1)
        size = total(torch.tensor(float(values.numel() / values.shape[1])))
        mean = _Total.apply(values.sum(axes)) / size
        centered = values - mean.view(shape)
        variance = _Total.apply(centered.square().sum(axes)) / size
        with torch.no_grad():
            share = float(self.momentum or 0.0)
            self.running_mean.lerp_(mean, share)  # type: ignore[union-attr]
            self.running_var.lerp_(variance * size / (size - 1), share)  # type: ignore[union-attr]
            self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        scale = self.weight * (variance + self.eps).rsqrt()
        return centered * scale.view(shape) + self.bias.view(shape)


class _Total(torch.autograd.Function):
    """The sum over all processes, in both directions."""

    @staticmethod
    def forward(context: object, values: torch.Tensor) -> torch.Tensor:
        return total(values)

    @staticmethod
    def backward(context: object, gradient: torch.Tensor) -> torch.Tensor:
        return total(gradient)
