"""What needs no model: the completions that a model must beat. All get the same cleaning as the model's own."""

from __future__ import annotations

import numpy as np

BASELINES = ("nothing", "mean skull", "nearest skull", "mirror")


def baseline_completion(name: str, bone: np.ndarray, skulls: np.ndarray) -> np.ndarray:
    """A completed skull without a model, as probability (X, Y, Z) in the canonical box.

    Args:
        name: of :data:`BASELINES`: "nothing" is empty; "mean skull"; "nearest skull" is the training skull with the
            highest DSC; "mirror" is the other side.
        bone: (X, Y, Z) share of the patient's bone.
        skulls: (N, X, Y, Z) uint8, complete training skulls, share of bone times 255.

    Raises:
        ValueError: no such baseline.
    """
    match name:
        case "nothing":
            return np.zeros_like(bone)
        case "mean skull":
            return np.asarray(skulls.mean(0, dtype=np.float32) / 255)
        case "nearest skull":
            return np.asarray(skulls[nearest_skull(bone, skulls)].astype(np.float32) / 255)
        case "mirror":
            return bone[::-1]
    raise ValueError(f"a baseline must be one of {', '.join(BASELINES)}, got {name!r}")


def nearest_skull(bone: np.ndarray, skulls: np.ndarray) -> int:
    """Index of the training skull with the highest DSC at one half. Arguments as :func:`baseline_completion`."""
    solid = bone > 0.5
    others = skulls > 127
    both = np.array([(solid & other).sum() for other in others])
    total = solid.sum() + others.sum(axis=(1, 2, 3))
    return int(np.argmax(2 * both / np.maximum(total, 1)))
