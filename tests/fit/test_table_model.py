"""The shape model of the vault's tables, on maps of known modes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from bundle.skull_implant.fit.table_model import TableModel, nearest_filled
from bundle.skull_implant.frame.vault_rays import VaultRays
from bundle.skull_implant.model.network import SkullCompleter
from bundle.skull_implant.train.table_fitting import principal_tables
from tests.small_models import tables_of_two_modes

MODEL_RAYS = VaultRays(3.0)


def test_missing_tables_are_completed_from_those_that_are_there() -> None:
    maps, _ = tables_of_two_modes(24)
    mean, modes = principal_tables(maps[1:], modes=2)
    seen = maps[0].copy()
    seen[:, 30:50, 20:45] = np.nan

    completed = TableModel(mean, modes, noise_mm=0.5).complete(seen, MODEL_RAYS)

    assert np.abs(completed - maps[0])[:, 30:50, 20:45].max() < 0.1
    assert np.abs(mean - maps[0])[:, 30:50, 20:45].max() > 0.2


def test_denser_rays_get_the_same_vault() -> None:
    maps, _ = tables_of_two_modes(24)
    model = TableModel(*principal_tables(maps, modes=2))
    dense = VaultRays(1.5)

    inner = np.arange(-30, 31)  # rays of the model; every second of the dense ones
    own, denser = (inner * step + rays.shape[0] // 2 for step, rays in ((1, MODEL_RAYS), (2, dense)))
    seen, denser_seen = (np.full((2, *rays.shape), np.nan) for rays in (MODEL_RAYS, dense))
    seen[np.ix_((0, 1), own, own)] = denser_seen[np.ix_((0, 1), denser, denser)] = maps[0][np.ix_((0, 1), own, own)]

    coarse, fine = model.complete(seen, MODEL_RAYS), model.complete(denser_seen, dense)

    assert fine.shape == (2, *dense.shape)
    np.testing.assert_allclose(
        fine[np.ix_((0, 1), denser, denser)], coarse[np.ix_((0, 1), own, own)], rtol=0, atol=1e-4
    )
    between = (fine[:, denser[:-1]] + fine[:, denser[1:]]) / 2
    np.testing.assert_allclose(fine[:, denser[:-1] + 1], between, rtol=0, atol=1e-4)


def test_where_nothing_is_measured_the_vault_is_the_mean() -> None:
    maps, _ = tables_of_two_modes(24)
    model = TableModel(*principal_tables(maps, modes=2))

    completed = model.complete(np.full((2, *MODEL_RAYS.shape), np.nan), MODEL_RAYS)

    np.testing.assert_allclose(completed, model.mean, atol=1e-5)


def test_gaps_are_filled_with_the_nearest_entry() -> None:
    np.testing.assert_array_equal(nearest_filled(np.array([[1.0, np.nan], [1.0, 1.0]])), np.ones((2, 2)))
    np.testing.assert_array_equal(nearest_filled(np.full((2, 2), np.nan)), np.zeros((2, 2)))


def test_weights_without_a_model_of_the_tables_still_load(tmp_path: Path) -> None:
    state = SkullCompleter((32, 32, 32), (4, 8), (2, 2), 4).state_dict()
    del state["table_mean"], state["table_modes"]
    torch.save(state, tmp_path / "old.pt")

    assert TableModel.of(SkullCompleter.from_file(tmp_path / "old.pt")) is None
