"""Weights at the end of a training: written whole, the bundle's own registered and the ones before them kept."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import torch
from torch import nn

from bundle.skull_implant.hashes import hash_weights
from bundle.skull_implant.model.network import SkullCompleter
from bundle.skull_implant.model.shipped_weights import is_own, register_weights
from bundle.skull_implant.train import processes
from bundle.skull_implant.whole_files import whole_file

logger = logging.getLogger(__name__)

DEFECT_NETWORKS = ("hole_network.", "facial_network.")  # beginnings of their keys


def check_completer(model_file: str | Path) -> None:
    """Raise InputError where a file is no completer."""
    SkullCompleter.from_file(model_file)


def save_weights(network: nn.Module, model_file: str | Path) -> None:
    """Write a network's plain state dict, whole or not at all; of several processes the first one.

    Hole and facial network are written in half precision, which keeps the file under the Model Zoo's 25 MB. In the
    bundle's own place the file is registered, too, and the one before stays beside it under another name.
    """
    if not processes.is_first():
        return
    path = Path(model_file)
    with whole_file(path) as partial:
        copies: dict[tuple[int, torch.Size], torch.Tensor] = {}  # MONAI's U-Net names each weight twice
        state = {}
        for key, value in network.state_dict().items():
            half = value.half() if key.startswith(DEFECT_NETWORKS) else value
            state[key] = copies.setdefault((value.data_ptr(), value.shape), half.cpu())  # a GPU's copies are others
        torch.save(state, partial)
        if is_own(path) and path.is_file():
            kept = path.with_name(f"model_before_{hash_weights(path)[:8]}.pt")
            shutil.copy2(path, kept)
            logger.info("kept the weights in use until now as %s", kept)
    if is_own(path):
        register_weights()
    logger.info("wrote %s", path)
