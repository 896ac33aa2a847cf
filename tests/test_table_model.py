"""The shape model of the vault's tables, on maps of known modes and on prepared skulls."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bundle.skull_implant.dataset_folder import DatasetFolder
from bundle.skull_implant.network import SkullCompleter
from bundle.skull_implant.table_model import (
    TableModel,
    fit_table_model,
    measured_tables,
    nearest_filled,
    principal_tables,
)
from bundle.skull_implant.vault_rays import VaultRays
from tests.small_models import VAULT_BOX, vault_dataset

MODEL_RAYS = VaultRays(3.0)


def _maps(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Maps (count, 2, N, N) that are a mean and two smooth modes, and the modes."""
    x, y = np.meshgrid(*[np.linspace(-1, 1, MODEL_RAYS.shape[0])] * 2, indexing="ij")
    modes = np.stack([np.stack([x, x - 0.2 * y]), np.stack([x * y, 0.8 * x * y + 0.1])])
    weights = np.random.default_rng(1).normal(0.0, 1.0, (count, 2)) * [2.0, 1.0]
    mean = np.stack([np.zeros_like(x), np.full_like(x, -6.0)])
    return mean + np.tensordot(weights, modes, axes=1), modes


def test_components_are_found_although_every_map_has_a_gap() -> None:
    whole, _ = _maps(24)
    maps = whole.copy()
    for number, each in enumerate(maps):
        each[:, 10 + number : 20 + number, 30:50] = np.nan

    mean, modes = principal_tables(maps, modes=2, rounds=60)

    left = (whole - mean).reshape(len(whole), -1)
    span = modes.reshape(2, -1)
    reconstructed = left @ np.linalg.pinv(span) @ span
    assert np.abs(left - reconstructed).max() < 0.1


def test_missing_tables_are_completed_from_those_that_are_there() -> None:
    maps, _ = _maps(24)
    mean, modes = principal_tables(maps[1:], modes=2)
    seen = maps[0].copy()
    seen[:, 30:50, 20:45] = np.nan

    completed = TableModel(mean, modes, noise_mm=0.5).complete(seen, MODEL_RAYS)

    assert np.abs(completed - maps[0])[:, 30:50, 20:45].max() < 0.1
    assert np.abs(mean - maps[0])[:, 30:50, 20:45].max() > 0.2


def test_denser_rays_get_the_same_vault() -> None:
    maps, _ = _maps(24)
    model = TableModel(*principal_tables(maps, modes=2))
    dense = VaultRays(1.5)

    coarse = model.complete(maps[0], MODEL_RAYS)
    fine = model.complete(np.full((2, *dense.shape), np.nan), dense)

    middle, dense_middle = MODEL_RAYS.shape[0] // 2, dense.shape[0] // 2
    np.testing.assert_allclose(
        fine[:, dense_middle, dense_middle], model.mean[:, middle, middle], atol=1e-5, err_msg="nothing measured"
    )
    assert coarse.shape == maps[0].shape
    assert fine.shape == (2, *dense.shape)


def test_gaps_are_filled_with_the_nearest_entry() -> None:
    np.testing.assert_array_equal(nearest_filled(np.array([[1.0, np.nan], [1.0, 1.0]])), np.ones((2, 2)))
    np.testing.assert_array_equal(nearest_filled(np.full((2, 2), np.nan)), np.zeros((2, 2)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dataset")
    vault_dataset(path)
    return path


def test_what_was_guessed_is_not_measured(folder: Path) -> None:
    dataset = DatasetFolder(folder)
    (skull,) = dataset.skulls("defective", VAULT_BOX.spatial_size)

    taken_as_true, masked = (measured_tables(skull, dataset, MODEL_RAYS, guessed=flag) for flag in (False, True))

    lost = np.isfinite(taken_as_true[0]) & np.isnan(masked[0])
    assert 50 < lost.sum() < 1000


def test_a_fitted_completer_carries_the_model_through_its_file(folder: Path, tmp_path: Path) -> None:
    network = SkullCompleter((32, 32, 32), (4, 8), (2, 2), 4)
    assert TableModel.of(network) is None

    fit_table_model(network, str(folder), modes=2)

    torch.save(network.state_dict(), tmp_path / "model.pt")
    model = TableModel.of(SkullCompleter.from_file(tmp_path / "model.pt"))

    assert model is not None
    assert model.modes.shape == (2, 2, 83, 83)
    upper = MODEL_RAYS.polar_deg < 80.0
    thickness = (model.mean[0] - model.mean[1])[upper]
    assert abs(float(np.median(thickness)) - 8.0) < 0.7


def test_weights_without_a_model_of_the_tables_still_load(tmp_path: Path) -> None:

    state = SkullCompleter((32, 32, 32), (4, 8), (2, 2), 4).state_dict()
    del state["table_mean"], state["table_modes"]
    torch.save(state, tmp_path / "old.pt")

    assert TableModel.of(SkullCompleter.from_file(tmp_path / "old.pt")) is None
