"""Statistics of codes are those of the training skulls, and what is made of them does what it is for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bundle.skull_implant.model.network import SkullCompleter
from bundle.skull_implant.train.latent_statistics import (
    encode_classes,
    fit_latent_statistics,
    fit_standardization,
    fit_step,
)
from bundle.skull_implant.train.training_data import DefectCutter, SkullBatches, SkullDataset
from tests.small_models import BOX, small_dataset, small_network

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> SkullDataset:
    folder = small_dataset(tmp_path_factory.mktemp("dataset")).folder
    return SkullDataset(str(folder), "training", BOX.spatial_size)


@pytest.fixture
def network() -> SkullCompleter:
    return small_network()


@pytest.fixture
def cutter() -> DefectCutter:
    return DefectCutter(BOX)


def test_after_standardization_the_codes_of_an_epoch_have_mean_0_and_spread_1(
    network: SkullCompleter, dataset: SkullDataset
) -> None:
    batches = SkullBatches(dataset, 5, seed=4)
    fit_standardization(network, batches, CPU)
    codes = torch.cat([network.encode(batch["image"]) for batch in batches])

    torch.testing.assert_close(codes.mean(0), torch.zeros(7), atol=1e-4, rtol=0)
    torch.testing.assert_close(codes.std(0), torch.ones(7), atol=1e-3, rtol=0)


def test_more_epochs_are_averaged_and_the_batches_start_over(network: SkullCompleter, dataset: SkullDataset) -> None:
    batches = SkullBatches(dataset, 5, seed=4)
    means = torch.cat([network.encoder(batch["image"])[0] for _ in range(3) for batch in batches]).detach()
    assert batches.epoch == 3

    fit_standardization(network, batches, CPU, epochs=3)

    assert batches.epoch == 0
    torch.testing.assert_close(network.latent_mean, means.mean(0))
    torch.testing.assert_close(network.latent_std, means.std(0))


def test_standardization_leaves_the_weights_and_brings_the_mean_vault(
    network: SkullCompleter, dataset: SkullDataset
) -> None:
    before = {key: value.clone() for key, value in network.state_dict().items() if "coder" in key}
    network.train()
    fit_standardization(network, SkullBatches(dataset, 5), CPU)

    after = network.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())  # batch norm has seen nothing either
    np.testing.assert_array_equal(network.template.radii_mm, dataset.template.radii_mm)
    assert network.template.step_deg == dataset.template.step_deg


def test_a_code_number_that_never_varies_does_not_divide_by_zero(
    network: SkullCompleter, dataset: SkullDataset
) -> None:
    torch.nn.init.zeros_(network.encoder.mean.weight)
    fit_standardization(network, SkullBatches(dataset, 5), CPU)

    assert torch.isfinite(network.encode(dataset[0]["image"][None])).all()


def test_each_skull_is_encoded_as_often_in_each_class_as_asked(
    network: SkullCompleter, dataset: SkullDataset, cutter: DefectCutter
) -> None:
    codes, kinds, owners = encode_classes(network, dataset, cutter, draws=(1, 3, 2), seed=0)

    assert codes.shape == (24, 7)
    assert kinds.tolist() == [0, 1, 1, 1, 2, 2] * 4
    assert owners.tolist() == [index for index in range(4) for _ in range(6)]
    for index in range(4):
        expected = network.encode(dataset[index]["image"][None])[0].detach()
        torch.testing.assert_close(torch.from_numpy(codes[6 * index]), expected, atol=1e-4, rtol=1e-4)


def test_what_fills_a_skulls_own_hole_is_in_no_statistic(network: SkullCompleter, tmp_path: Path) -> None:
    folder = str(small_dataset(tmp_path, training=3, defective=2).folder)
    plain, more = (SkullDataset(folder, "training", BOX.spatial_size, defective=each) for each in (False, True))
    found = []
    for dataset in (plain, more):
        fit_latent_statistics(network, SkullBatches(dataset, 4), draws=(1, 2, 2))
        found.append({name: value.clone() for name, value in network.named_buffers()})

    assert len(more) > len(plain)
    assert [name for name, value in found[0].items() if not torch.equal(value, found[1][name])] == []


def test_the_seed_decides_the_defects(network: SkullCompleter, dataset: SkullDataset, cutter: DefectCutter) -> None:
    first, again, other = (encode_classes(network, dataset, cutter, (1, 2, 2), seed)[0] for seed in (1, 1, 2))

    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first[1], other[1])


def test_dev_leads_from_the_mean_defective_code_to_the_mean_complete_one(
    network: SkullCompleter, dataset: SkullDataset, cutter: DefectCutter
) -> None:
    fit_latent_statistics(network, _batches(dataset, cutter), draws=(1, 4, 2), seed=5)
    codes, kinds, _ = encode_classes(network, dataset, cutter, draws=(1, 4, 2), seed=5)

    for row, kind in enumerate((1, 2)):
        expected = codes[kinds == 0].mean(0) - codes[kinds == kind].mean(0)
        np.testing.assert_allclose(network.dev[row], expected, atol=1e-5)
    np.testing.assert_allclose(network.centroids, [codes[kinds == kind].mean(0) for kind in range(3)], atol=1e-5)


def test_a_step_along_dev_takes_a_class_to_the_centroid_of_the_complete_skulls(
    network: SkullCompleter, dataset: SkullDataset, cutter: DefectCutter
) -> None:
    fit_latent_statistics(network, _batches(dataset, cutter), draws=(1, 2, 2))

    torch.testing.assert_close(network.centroids[1:] + network.dev, network.centroids[:1].expand(2, 7))


def test_an_unconditional_fit_is_the_papers_dev_and_leaves_no_slope(
    network: SkullCompleter, dataset: SkullDataset, cutter: DefectCutter
) -> None:
    fit_latent_statistics(network, _batches(dataset, cutter), conditional=False, draws=(1, 2, 2))
    dev = network.dev.clone()
    assert not network.dev_slope.any()

    fit_latent_statistics(network, _batches(dataset, cutter), conditional=True, draws=(1, 2, 2))
    assert network.dev_slope.any()
    torch.testing.assert_close(network.dev, dev)


def _batches(dataset: SkullDataset, cutter: DefectCutter) -> SkullBatches:
    batches = SkullBatches(dataset, 4)
    batches.cutter = cutter
    return batches


def _persons(noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A slope, and the deviations, steps and owners of 40 persons with 10 defects each that follow it but for noise."""
    generator = np.random.default_rng(seed)
    slope, deviations = generator.normal(size=(4, 4)), generator.normal(size=(400, 4))
    steps = deviations @ slope.T + noise * generator.normal(size=(400, 4))
    return slope, deviations, steps, np.repeat(np.arange(40), 10)


def test_a_step_that_is_linear_in_the_code_is_found_and_explained() -> None:
    slope, deviations, steps, owners = _persons(noise=0.1)
    found, explained = fit_step(deviations, steps, owners)

    np.testing.assert_allclose(found, slope, atol=0.2)  # a little is shrunk away
    assert explained > 0.98


def test_a_step_that_has_nothing_to_do_with_the_code_is_not_explained_and_the_slope_is_small() -> None:
    _, deviations, _, owners = _persons(noise=0.0)
    steps = np.random.default_rng(1).normal(size=(400, 4))
    found, explained = fit_step(deviations, steps, owners)

    assert explained < 0.02
    assert np.abs(found).max() < 0.1


def test_what_is_known_of_a_person_does_not_count_as_explained() -> None:
    generator = np.random.default_rng(2)
    owners = np.repeat(np.arange(20), 10)
    who = np.eye(20)[owners]  # a code that names the person, and a step that is the person's own
    steps = generator.normal(size=(20, 3))[owners]

    assert fit_step(who, steps - steps.mean(0), owners)[1] < 0.05
    assert fit_step(who, steps - steps.mean(0), np.arange(200))[1] > 0.3  # if every row were a person


def test_the_classifier_tells_classes_apart_whose_codes_are_apart(
    network: SkullCompleter, dataset: SkullDataset, cutter: DefectCutter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def front_back(image: torch.Tensor) -> torch.Tensor:
        """Bone in front, bone above: codes whose meaning is known."""
        code = torch.zeros(len(image), 7)
        code[:, 0] = image[:, 0, :, 14:].sum((1, 2, 3)) / 30
        code[:, 1] = image[:, 0, :, :, 10:].sum((1, 2, 3)) / 30
        return code

    monkeypatch.setattr(network, "encode", front_back)
    fit_latent_statistics(network, _batches(dataset, cutter), draws=(2, 8, 4), seed=0)
    codes, kinds, _ = encode_classes(network, dataset, cutter, draws=(2, 8, 4), seed=1)
    probability = network.class_probabilities(torch.from_numpy(codes))

    found = probability.argmax(1).numpy()
    assert (found == kinds)[kinds == 2].mean() > 0.9
    assert (found == kinds).mean() > 0.6
    assert network.dev[1, 0] > 0.5  # a facial defect lacks bone in front


def test_a_single_person_gives_no_regression() -> None:
    slope, explained = fit_step(np.ones((4, 3)), np.ones((4, 3)), np.zeros(4, int))

    assert not slope.any()
    assert explained == 0.0
