"""A 3D U-Net that a CPU can train and run."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.nets import DynUNet


def light_unet(in_channels: int, channels: Sequence[int], out_channels: int = 1) -> DynUNet:
    """MONAI's `DynUNet` in nnU-Net's style: full resolution at both ends, two convolutions a level, instance norm.

    Args:
        in_channels: of the input.
        channels: of the levels, three or more, finest first; each level below the first halves the grid.
        out_channels: of the output.
    """
    below = len(channels) - 1
    network = DynUNet(
        spatial_dims=3,
        in_channels=in_channels,
        out_channels=out_channels,
        kernel_size=[3] * len(channels),
        strides=[1] + [2] * below,
        upsample_kernel_size=[2] * below,
        filters=list(channels),
        act_name=("leakyrelu", {"negative_slope": 0.01, "inplace": True}),
    )
    # The faster layout of 3D convolutions, on CPUs and GPUs.
    return network.to(memory_format=torch.channels_last_3d)
