"""The peer that a user of MONAI would train instead: a supervised U-Net from defective skulls to missing bone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.frame.canonical_grid import CanonicalBox
from bundle.skull_implant.model.light_unet import light_unet
from bundle.skull_implant.model.network import load_state


class ImplantUNet(nn.Module):
    """MONAI's `DynUNet`, nnU-Net's architecture, on the canonical grid; it carries its grid's sizes in buffers.

    Our choice of the peer: full resolution at both ends, two convolutions a level, instance norm, as nnU-Net plans for
    a grid of this size, but with few channels, so that a CPU makes enough steps in the time that it is given.

    Args:
        spatial_size: voxels of the canonical grid.
        channels: of the levels, three or more, finest first; each level below the first halves the grid.
        box_mm: size of the canonical box.
        box_top_mm: how far it reaches above the vertex.
    """

    spatial_size: torch.Tensor
    channels: torch.Tensor
    box_mm: torch.Tensor
    box_top_mm: torch.Tensor

    def __init__(
        self,
        spatial_size: Sequence[int],
        channels: Sequence[int] = (8, 16, 32, 64, 128),
        box_mm: Sequence[float] = (176.0, 224.0, 160.0),
        box_top_mm: float = 6.0,
    ) -> None:
        super().__init__()
        below = len(channels) - 1
        if any(size % 2**below for size in spatial_size):
            raise ValueError(f"spatial_size {tuple(spatial_size)} must be divisible by {2**below}")
        self.unet = light_unet(1, channels)
        self.register_buffer("spatial_size", torch.tensor(list(spatial_size)))
        self.register_buffer("channels", torch.tensor(list(channels)))
        self.register_buffer("box_mm", torch.tensor(list(box_mm), dtype=torch.float64))
        self.register_buffer("box_top_mm", torch.tensor(box_top_mm, dtype=torch.float64))

    @classmethod
    def from_file(cls, path: str | Path) -> ImplantUNet:
        """A network of the sizes that a file holds, with its weights, in evaluation mode.

        Args:
            path: what training wrote at its end, or the checkpoint of an epoch.

        Raises:
            InputError: the file is missing or holds something else.
        """
        if not Path(path).is_file():
            raise InputError(f"{path}: a U-Net must exist, no such file; train one with configs/unet.yaml")
        state = load_state(path)
        state = state.get("network", state)
        try:
            network = cls(
                state["spatial_size"].tolist(),
                state["channels"].tolist(),
                state["box_mm"].tolist(),
                float(state["box_top_mm"]),
            )
            network.load_state_dict(state)
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(
                f"{Path(path).name}: a U-Net must be what training with configs/unet.yaml wrote, got other keys"
            ) from error
        return network.eval()

    @property
    def box(self) -> CanonicalBox:
        """The canonical box that this network sees."""
        size, size_mm = self.spatial_size.tolist(), self.box_mm.tolist()
        return CanonicalBox((size[0], size[1], size[2]), (size_mm[0], size_mm[1], size_mm[2]), float(self.box_top_mm))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logit of missing bone `(B, 1, X, Y, Z)` of skulls `(B, 1, X, Y, Z)` in shares of bone."""
        logits: torch.Tensor = self.unet(image.contiguous(memory_format=torch.channels_last_3d))
        return logits

    @torch.no_grad()
    def missing(self, image: torch.Tensor) -> torch.Tensor:
        """Probability of missing bone, of the shapes of :meth:`forward`; the network must be in evaluation mode."""
        return torch.sigmoid(self(image).float())
