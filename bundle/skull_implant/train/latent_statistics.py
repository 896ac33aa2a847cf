"""Statistics of the training skulls' codes: standardization, centroids, DEV and the linear classifier of defects."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold

from bundle.skull_implant.model.network import DEFECT_CLASSES, LATENT_CLASSES, SkullCompleter
from bundle.skull_implant.train import processes
from bundle.skull_implant.train.training_data import DefectCutter, SkullBatches, SkullDataset

logger = logging.getLogger(__name__)


@torch.no_grad()
def fit_standardization(network: SkullCompleter, batches: SkullBatches, device: torch.device, epochs: int = 1) -> None:
    """Set `latent_mean` and `latent_std` from the posterior means of training volumes, and take over their mean vault.

    An affine change of variables: DEV and gamma mean the same before and after. At beta = 100 the spread is a few
    hundredths, and a decoder fed with raw codes would see almost a constant.

    Args:
        network: its encoder is trained; changed in place.
        batches: of training skulls, restarted at epoch 0.
        device: where to compute.
        epochs: of batches to average over.
    """
    network.eval()
    batches.epoch = 0
    means = torch.cat(
        [network.encoder(batch["image"].to(device))[0].double() for _ in range(epochs) for batch in batches]
    )
    means = processes.gather(means)
    network.latent_mean.copy_(means.mean(0))
    network.latent_std.copy_(means.std(0).clamp_min(1e-8))
    template = batches.dataset.template
    network.template_mm.copy_(torch.as_tensor(template.radii_mm))
    network.template_step_deg.fill_(template.step_deg)
    network.usual_rotation.copy_(torch.as_tensor(template.usual_rotation))
    batches.epoch = 0
    logger.info(
        "posterior mean over the training skulls: standard deviation %.3g to %.3g",
        means.std(0).min(),
        means.std(0).max(),
    )


@torch.no_grad()
def encode_classes(
    network: SkullCompleter, dataset: SkullDataset, cutter: DefectCutter, draws: Sequence[int], seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Standardized codes of undeformed skulls of each class.

    Args:
        network: with standardization.
        dataset: skulls; those with a hole of their own are left out, because a guess fills it.
        cutter: cuts the defects.
        draws: volumes a skull of complete, cranial, facial.
        seed: of the defects.

    Returns:
        Codes (N, latent_size), classes (N,), index of the skull (N,).
    """
    network.eval()
    generator = np.random.default_rng(seed)
    codes, kinds, owners = [], [], []
    for index in range(dataset.complete_count):
        item = dataset[index]
        official = item["implant"] if dataset.has_implant[index] else None
        wanted = [kind for kind, count in enumerate(draws) for _ in range(count)]
        volumes = torch.stack([cutter.cut(item["image"], official, LATENT_CLASSES[kind], generator) for kind in wanted])
        # In parts, because a person's 33 volumes at full size fill 6 GB with the first layer's output.
        codes.append(torch.cat([network.encode(part) for part in volumes.split(8)]).cpu().numpy())
        kinds += wanted
        owners += [index] * len(wanted)
    return np.concatenate(codes), np.array(kinds), np.array(owners)


def fit_latent_statistics(
    network: SkullCompleter,
    batches: SkullBatches,
    conditional: bool = True,
    draws: Sequence[int] = (1, 24, 8),
    seed: int = 0,
) -> None:
    """Set centroids, DEV and the classifier, from complete training skulls only.

    `DEV = mean(z_complete) - mean(z_defective)` for each defect class (Li et al. 2022); every skull weighs the same
    in every mean.

    Args:
        network: with standardization; changed in place.
        batches: of training skulls; their skulls are encoded undeformed, their defects cut as in training.
        conditional: also fit how the step depends on the code; False is the paper's DEV.
        draws: volumes a skull of complete, cranial, facial.
        seed: of the defects.
    """
    dataset = batches.dataset
    codes, kinds, owners = encode_classes(network, dataset, batches.cutter, draws, seed)
    centroids = np.stack([codes[kinds == kind].mean(0) for kind in range(len(LATENT_CLASSES))])
    # Shrinkage, because there are a few dozen persons; equal priors, because a user's defect may be of either class.
    equal = np.full(len(LATENT_CLASSES), 1 / len(LATENT_CLASSES))
    classifier = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=equal).fit(codes, kinds)
    _set(network.centroids, centroids)
    _set(network.dev, centroids[0] - centroids[1:])
    _set(network.class_weight, classifier.coef_)
    _set(network.class_bias, classifier.intercept_)
    logger.info("classes told apart on the training skulls: %.1f %%", 100 * classifier.score(codes, kinds))
    network.dev_slope.zero_()
    complete = np.stack([codes[(owners == owner) & (kinds == 0)].mean(0) for owner in range(dataset.complete_count)])
    for index, name in enumerate(DEFECT_CLASSES if conditional else ()):
        own = kinds == index + 1
        step = complete[owners[own]] - codes[own]
        slope, explained = fit_step(codes[own] - centroids[index + 1], step - step.mean(0), owners[own])
        _set(network.dev_slope[index], slope)
        logger.info("%s step: the code explains %.0f %% of its variance on left-out persons", name, 100 * explained)


def fit_step(
    deviations: np.ndarray,
    steps: np.ndarray,
    owners: np.ndarray,
    alphas: Sequence[float] = (10, 30, 100, 300, 1000, 3000),
) -> tuple[np.ndarray, float]:
    """Ridge regression of the step on the code's deviation from its centroid, its strength chosen on left-out persons.

    Args:
        deviations: (N, latent_size).
        steps: (N, latent_size).
        owners: (N,) the person of each row, so that no person is on both sides of a fold.
        alphas: strengths to choose from.

    Returns:
        Slope (latent_size, latent_size), and the share of variance explained on left-out persons; zeros where there is
        a single person, on whom nothing can be chosen.
    """
    if len(np.unique(owners)) < 2:
        return np.zeros((steps.shape[1], deviations.shape[1])), 0.0
    folds = GroupKFold(min(5, len(np.unique(owners))))

    def error(alpha: float) -> float:
        total = 0.0
        for train, test in folds.split(deviations, groups=owners):
            fitted = Ridge(alpha=alpha, fit_intercept=False).fit(deviations[train], steps[train])
            total += float(np.square(steps[test] - fitted.predict(deviations[test])).sum())
        return total

    errors = [error(alpha) for alpha in alphas]
    best = int(np.argmin(errors))
    slope = Ridge(alpha=alphas[best], fit_intercept=False).fit(deviations, steps).coef_
    return slope, 1.0 - errors[best] / max(float(np.square(steps).sum()), 1e-12)


def _set(buffer: torch.Tensor, values: Any) -> None:
    buffer.copy_(torch.as_tensor(values))
