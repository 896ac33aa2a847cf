"""What needs no model: the completions that a model must beat. All get the same cleaning as the model's own."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

BASELINES = ("nothing", "mean skull", "nearest skull", "mirror")


def baseline_completions(bone: np.ndarray, skulls: np.ndarray) -> Mapping[str, np.ndarray]:
    """Completed skulls without a model, as probabilities in the canonical box.

    Args:
        bone: (X, Y, Z) share of the patient's bone.
        skulls: (N, X, Y, Z) uint8, complete training skulls, share of bone times 255.

    Returns:
        For each of :data:`BASELINES`: "nothing" is empty; "mean skull"; "nearest skull" is the training skull with the
        highest DSC; "mirror" is the other side.
    """
    return {
        "nothing": np.zeros_like(bone),
        "mean skull": skulls.mean(0, dtype=np.float32) / 255,
        "nearest skull": skulls[nearest_skull(bone, skulls)].astype(np.float32) / 255,
        "mirror": bone[::-1],
    }


def nearest_skull(bone: np.ndarray, skulls: np.ndarray) -> int:
    """Index of the training skull with the highest DSC at one half. Arguments as :func:`baseline_completions`."""
    solid = bone > 0.5
    others = skulls > 127
    both = np.array([(solid & other).sum() for other in others])
    total = solid.sum() + others.sum(axis=(1, 2, 3))
    return int(np.argmax(2 * both / np.maximum(total, 1)))
