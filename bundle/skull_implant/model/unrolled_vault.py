"""The vault unrolled: bone along each ray, counted from where the outer table is expected; what the hole network sees.

Counted so, a vault is nearly the same on every ray and in every head, and what a hole needs is a correction.
"""

from __future__ import annotations

import numpy as np
import torch
from monai.networks.nets import BasicUNet
from torch.nn import functional

from bundle.skull_implant.frame.vault_rays import VaultRays

STEP_DEG = 3.0  # between neighboring rays: 4 mm
HEIGHTS_MM = tuple(range(-20, 9))  # above the expected outer table
SLOPE_PER_MM = 2.5  # of a plate's logits at its tables
LARGEST_LOGIT = 5.0  # of a plate
USUAL_THICKNESS_MM = 7.0
SCALE_MM = 4.0  # that heights are divided by
CHANNELS = 2 * len(HEIGHTS_MM) + 10


def make_hole_network() -> BasicUNet:
    """MONAI's 2D U-Net from :func:`hole_features` to a correction of :func:`plate_logits`, 0 at first."""
    network = BasicUNet(
        2,
        CHANNELS,
        len(HEIGHTS_MM),
        features=(32, 64, 96, 128, 128, 32),
        norm=("group", {"num_groups": 8}),
        act=("leakyrelu", {"negative_slope": 0.1, "inplace": True}),
        upsample="nontrainable",
    )
    torch.nn.init.zeros_(network.final_conv.weight)
    torch.nn.init.zeros_(network.final_conv.bias)
    return network


def heights(like: torch.Tensor) -> torch.Tensor:
    """:data:`HEIGHTS_MM` as (C, 1, 1), of the type and on the device of another tensor."""
    return torch.tensor(HEIGHTS_MM).to(like)[:, None, None]


def relative_profiles(profiles: torch.Tensor, outer: torch.Tensor, rays: VaultRays) -> torch.Tensor:
    """Bone at :data:`HEIGHTS_MM` above the expected outer table, (B, C, N, N); 0 beyond the rays' ends.

    Args:
        profiles: (B, N, N, H), share of bone along the rays.
        outer: (B, N, N) mm above the fitted vault.
        rays: that the profiles were sampled on.
    """
    position = (outer[:, None] + heights(outer) + rays.inside_mm) / rays.step_mm  # (B, C, N, N)
    below = position.floor().long()
    share = position - below
    inside = (below >= 0) & (below < profiles.shape[-1] - 1)
    below = below.clamp(0, profiles.shape[-1] - 2)
    columns = profiles.permute(0, 3, 1, 2)
    return (columns.gather(1, below) * (1 - share) + columns.gather(1, below + 1) * share) * inside


def plate_logits(tables: torch.Tensor) -> torch.Tensor:
    """Logits (B, C, N, N) of a plate between an outer and an inner table, at :data:`HEIGHTS_MM` above the outer one.

    Args:
        tables: (B, 2, N, N) mm.
    """
    height = heights(tables)
    depth = torch.minimum(-height, height + tables[:, :1] - tables[:, 1:])  # mm inside the plate
    return (SLOPE_PER_MM * depth).clamp(-LARGEST_LOGIT, LARGEST_LOGIT)


def hole_features(
    profiles: torch.Tensor, tables: torch.Tensor, known: torch.Tensor, mean: torch.Tensor, rays: VaultRays
) -> torch.Tensor:
    """The hole network's input, (B, :data:`CHANNELS`, N, N).

    Bone relative to the expected tables, here and on the other side of the head, where it is seen along its own
    expected table; how the tables differ from the mean and from the other side's; where they were measured; the ray.

    Args:
        profiles: (B, N, N, H), share of the patient's bone along the rays.
        tables: (B, 2, N, N) mm, expected outer and inner table, everywhere.
        known: (B, N, N), 1 where the tables were measured.
        mean: (2, N, N) mm, of the shape model.
        rays: that the profiles were sampled on.
    """
    bone = relative_profiles(profiles, tables[:, 0], rays) * 2 - 1
    other_bone, other_tables, other_known = (each.flip(-2) for each in (bone, tables, known))
    half = rays.shape[0] // 2
    ray = np.stack([*np.mgrid[-half : half + 1, -half : half + 1] / half, rays.polar_deg / rays.lowest_deg - 0.5])
    return torch.cat(
        [
            bone,
            other_bone,
            (tables - mean) / SCALE_MM,
            (other_tables - tables) / SCALE_MM,
            (tables[:, :1] - tables[:, 1:] - USUAL_THICKNESS_MM) / SCALE_MM,
            known[:, None],
            other_known[:, None],
            torch.from_numpy(ray).to(tables).expand(len(tables), -1, -1, -1),
        ],
        dim=1,
    )


def carried_on(values: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Values (B, C, N, N) smoothly carried to where they are not known, by pull-push (Gortler et al. 1996).

    Args:
        values: (B, C, N, N).
        known: (B, 1, N, N), 1 where they are.
    """
    if min(values.shape[2:]) < 3:
        mean = (values * known).sum((2, 3), keepdim=True) / known.sum((2, 3), keepdim=True).clamp_min(1e-3)
        return torch.where(known > 0, values, mean)
    row = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]).to(values) / 16
    kernel = (row[:, None] * row)[None, None]
    count = values.shape[1]
    total = functional.conv2d(values * known, kernel.expand(count, 1, 5, 5), padding=2, groups=count)
    weight = functional.conv2d(known, kernel, padding=2)
    total, weight = (functional.avg_pool2d(each, 2, ceil_mode=True) for each in (total, weight))
    coarse = carried_on(total / weight.clamp_min(1e-3), (4 * weight).clamp(0, 1))
    fine = functional.interpolate(coarse, size=values.shape[2:], mode="bilinear", align_corners=False)
    return values * known + fine * (1 - known)
