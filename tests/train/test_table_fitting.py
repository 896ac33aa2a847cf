"""What the shape model of the vault's tables is fitted to: maps with gaps, and prepared skulls."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bundle.skull_implant.fit.table_model import TableModel
from bundle.skull_implant.frame.vault_rays import VaultRays
from bundle.skull_implant.model.network import SkullCompleter
from bundle.skull_implant.train.dataset_folder import DatasetFolder
from bundle.skull_implant.train.table_fitting import fit_table_model, measured_tables, principal_tables
from tests.small_models import VAULT_BOX, tables_of_two_modes, vault_dataset

MODEL_RAYS = VaultRays(TableModel.step_deg)


def test_components_are_found_although_every_map_has_a_gap() -> None:
    whole, _ = tables_of_two_modes(24)
    maps = whole.copy()
    for number, each in enumerate(maps):
        each[:, 10 + number : 20 + number, 30:50] = np.nan

    mean, modes = principal_tables(maps, modes=2, rounds=60)

    left = (whole - mean).reshape(len(whole), -1)
    span = modes.reshape(2, -1)
    reconstructed = left @ np.linalg.pinv(span) @ span
    assert np.abs(left - reconstructed).max() < 0.1


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
