"""The unrolled vault, what the hole network sees of it, and how it learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Engine

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.fit.hole_completion import HoleCompletion, UnrolledBone
from bundle.skull_implant.fit.table_model import TableModel
from bundle.skull_implant.model.network import SkullCompleter
from bundle.skull_implant.model.unrolled_vault import (
    CHANNELS,
    HEIGHTS_MM,
    carried_on,
    hole_features,
    make_hole_network,
    plate_logits,
    relative_profiles,
)
from bundle.skull_implant.train.hole_training import (
    RAYS,
    HeldOutHoles,
    HoleBatches,
    HoleStep,
    UnrolledSkulls,
    held_out_skulls,
)
from bundle.skull_implant.train.table_fitting import fit_table_model
from tests.end_to_end import run_module
from tests.small_models import small_dataset, small_network, vault_dataset

SIZE = RAYS.shape[0]
VERTEX = SIZE // 2


def _plate(outer_mm: float, thickness_mm: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Tables (1, 2, N, N) of one plate everywhere, and its bone along the rays (1, N, N, H)."""
    tables = torch.tensor([outer_mm, outer_mm - thickness_mm])[None, :, None, None].expand(1, 2, SIZE, SIZE).clone()
    height = torch.from_numpy(RAYS.heights_mm).float()
    profile = ((height <= outer_mm) & (height > outer_mm - thickness_mm)).float()
    return tables, profile.expand(1, SIZE, SIZE, -1)


def test_bone_is_counted_from_the_expected_outer_table() -> None:
    for outer in (0.0, 2.5):
        tables, profiles = _plate(outer, 6.0)
        relative = relative_profiles(profiles, tables[:, 0], RAYS)[0, :, VERTEX, VERTEX]
        solid = [height for height, share in zip(HEIGHTS_MM, relative, strict=True) if share > 0.5]
        assert solid == [-5, -4, -3, -2, -1, 0]


def test_what_lies_beyond_the_rays_is_empty() -> None:
    tables, profiles = _plate(0.0, 6.0)
    relative = relative_profiles(torch.ones_like(profiles), tables[:, 0] + RAYS.outside_mm, RAYS)
    above = torch.tensor(HEIGHTS_MM) > 0
    assert not relative[:, above].any()
    assert relative[:, torch.tensor(HEIGHTS_MM) < 0].all()


def test_a_plate_is_solid_between_its_tables() -> None:
    tables, _ = _plate(1.0, 6.0)
    logits = plate_logits(tables)[0, :, VERTEX, VERTEX]
    assert [height for height, logit in zip(HEIGHTS_MM, logits, strict=True) if logit > 0] == [-5, -4, -3, -2, -1]


def test_the_other_side_is_seen_beside_each_side() -> None:
    tables, profiles = _plate(0.0, 6.0)
    tables[:, :, :VERTEX] += 3.0  # the left half is larger
    features = hole_features(profiles, tables, torch.ones(1, SIZE, SIZE), tables[0] * 0, RAYS)
    assert features.shape == (1, CHANNELS, SIZE, SIZE)
    other = 2 * len(HEIGHTS_MM) + 2  # outer table there minus here
    left, right = features[0, other, VERTEX - 5, VERTEX], features[0, other, VERTEX + 5, VERTEX]
    assert left == pytest.approx(-3.0 / 4.0)
    assert right == pytest.approx(3.0 / 4.0)


def test_values_are_carried_on_smoothly() -> None:
    x = torch.linspace(-1, 1, SIZE)[None, None, :, None].expand(1, 1, SIZE, SIZE)
    known = torch.ones(1, 1, SIZE, SIZE)
    known[..., 30:50, 30:50] = 0
    carried = carried_on(x * known, known)
    assert torch.equal(carried[known > 0], x[known > 0])
    assert (carried - x).abs().max() < 0.15
    assert x[..., 30:50, 30:50].abs().max() > 0.2


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dataset")
    vault_dataset(path)
    return path


@pytest.fixture(scope="module")
def skulls(dataset: Path) -> UnrolledSkulls:
    return UnrolledSkulls(str(dataset), defective=True, folds=2, modes=2)


def test_no_shape_model_has_seen_the_skull_that_it_is_for(skulls: UnrolledSkulls) -> None:
    odd = np.stack([skulls.skulls[number]["tables"] for number in (1, 3)])
    whole = np.isfinite(odd).all(axis=(0, 1))
    expected = np.concatenate([odd, odd[:, :, ::-1]]).mean(0)
    both = whole & whole[::-1]
    np.testing.assert_allclose(skulls.model_of(0).mean[:, both], expected[:, both], atol=1e-3)
    assert skulls.model_of(0) is skulls.model_of(2)
    assert skulls.model_of(0) is not skulls.model_of(1)


def test_what_was_guessed_is_cut_and_never_asked_for(skulls: UnrolledSkulls) -> None:
    guessed = skulls.skulls[3]["guessed"]
    assert guessed.any()
    hole = skulls.cut(3, np.ones(RAYS.shape, bool))
    assert not (hole["asked"] & guessed).any()
    assert hole["asked"].any()
    assert not skulls.skulls[0]["guessed"].any()
    assert skulls.cut(3, np.zeros(RAYS.shape, bool))["cut"][guessed].all()


def test_no_bone_of_a_hole_is_shown(skulls: UnrolledSkulls) -> None:
    batches = HoleBatches(skulls, torch.zeros(2, *RAYS.shape), batch_size=3, holes=1, seed=4)
    for batch in batches:
        asked = batch["asked"][:, None] > 0
        bone = batch["features"][:, : len(HEIGHTS_MM)]
        assert bone[asked.expand_as(bone)].max() == -1  # -1 is empty, 1 is bone
        assert bone.max() == pytest.approx(1.0, abs=1e-5)
        truth = batch["truth"]
        assert truth[asked.expand_as(truth)].max() > 0.9


def test_an_epoch_is_repeatable_and_the_next_one_differs(skulls: UnrolledSkulls) -> None:
    first, second = (HoleBatches(skulls, torch.zeros(2, *RAYS.shape), holes=1, seed=1) for _ in range(2))
    one, other = next(iter(first)), next(iter(second))
    assert torch.equal(one["features"], other["features"])
    assert not torch.equal(one["features"], next(iter(second))["features"])
    assert len(list(first)) == len(first)


def test_a_skull_whose_own_hole_lies_where_official_ones_do_gets_another(
    skulls: UnrolledSkulls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(skulls, "official", [skulls.skulls[3]["guessed"]])
    batches = HoleBatches(skulls, torch.zeros(2, *RAYS.shape), official_share=1.0)

    hole = batches._draw(3, np.random.default_rng(0))

    assert hole["asked"].sum() >= 30


def test_held_out_holes_stay(skulls: UnrolledSkulls) -> None:
    batches = HoleBatches(skulls, torch.zeros(2, *RAYS.shape), holes=1, noise_mm=0.0)
    assert torch.equal(next(iter(batches))["features"], next(iter(batches))["features"])


def test_it_learns(skulls: UnrolledSkulls) -> None:
    torch.manual_seed(0)
    batches = HoleBatches(skulls, torch.zeros(2, *RAYS.shape), batch_size=2, holes=1, noise_mm=2.0, seed=0)
    batch = next(iter(batches))
    network = make_hole_network()
    engine = Engine(lambda *_: None)
    engine.network, engine.optimizer = network, torch.optim.AdamW(network.parameters(), 3e-3)
    engine.state.device = torch.device("cpu")
    losses = [float(HoleStep()(engine, batch)["dice"]) for _ in range(40)]
    print(f"Dice term {losses[0]:.3f} to {losses[-1]:.3f}")
    assert losses[-1] < 0.7 * losses[0]


def test_a_network_that_corrects_nothing_scores_the_expected_plate(skulls: UnrolledSkulls) -> None:
    batches = HoleBatches(skulls, torch.zeros(2, *RAYS.shape), holes=1, noise_mm=0.0)
    network = make_hole_network()
    plain = HeldOutHoles(network, batches, torch.device("cpu"))()
    torch.nn.init.constant_(network.final_conv.bias, -20.0)  # nothing anywhere
    assert 0.5 < plain <= 1.0
    assert HeldOutHoles(network, batches, torch.device("cpu"))() == 0.0


def _at(bone: UnrolledBone, above_mm: float) -> np.ndarray:
    """Logits at two directions, a height above the fitted vault, of a plate from 1 to -5 mm."""
    up = np.array([[0.0, 0.0, 1.0], [0.3, 0.2, 0.9]])
    return bone.logits_at(up, np.full(2, above_mm), np.full(2, 1.0), np.full(2, -5.0))


def test_without_a_correction_the_bone_is_the_expected_plate() -> None:
    plate = plate_logits(_plate(1.0, 6.0)[0])[0].numpy()
    bone = UnrolledBone(plate, np.zeros_like(plate), RAYS)
    for above, solid in ((0.9, True), (1.1, False), (-4.9, True), (-5.1, False)):
        assert ((_at(bone, above) > 0) == solid).all()


def test_a_correction_is_counted_from_the_outer_table() -> None:
    plate = plate_logits(_plate(1.0, 6.0)[0])[0].numpy()
    correction = np.zeros_like(plate)
    correction[HEIGHTS_MM.index(2)] = 9.0
    bone = UnrolledBone(plate, correction, RAYS)
    assert (_at(bone, 3.0) > 0).all()
    assert (_at(bone, 4.0) < 0).all()


def test_sure_probabilities_promise_more() -> None:
    plate, hole = plate_logits(_plate(0.0, 6.0)[0])[0].numpy(), np.zeros(RAYS.shape, bool)
    hole[30:40, 30:40] = True
    sure, unsure = (UnrolledBone(factor * plate, 0 * plate, RAYS).expected_dsc(hole) for factor in (9.0, 0.1))
    assert 0.9 < sure <= 1.0  # the tables themselves are as likely bone as not
    assert unsure < 0.7
    assert np.isnan(UnrolledBone(plate, 0 * plate, RAYS).expected_dsc(hole & False))


def test_left_and_right_are_treated_alike() -> None:
    torch.manual_seed(1)
    network = make_hole_network()
    torch.nn.init.normal_(network.final_conv.weight)
    tables, profiles = _plate(0.0, 6.0)
    tables[:, :, 10:30] += 1.5
    measured = np.ones(RAYS.shape, bool)
    measured[50:60, 30:50] = False
    complete = HoleCompletion(network.eval(), torch.zeros(2, *RAYS.shape))

    def completed(flip: bool) -> np.ndarray:
        sides = slice(None, None, -1 if flip else 1)
        bone = profiles[0].numpy()[sides].reshape(SIZE * SIZE, -1)
        return complete(bone, tables[0].numpy()[:, sides], measured[sides], RAYS).correction

    np.testing.assert_allclose(completed(True), completed(False)[:, ::-1], atol=1e-3)


def test_a_completer_carries_the_network_through_its_file(dataset: Path, tmp_path: Path) -> None:
    network = SkullCompleter((32, 32, 32), (4, 8), (2, 2), 4)
    assert HoleCompletion.of(network) is None
    fit_table_model(network, str(dataset), modes=2)
    torch.nn.init.constant_(network.start_hole_network().final_conv.bias, 3.0)
    torch.save(network.state_dict(), tmp_path / "model.pt")

    loaded = SkullCompleter.from_file(tmp_path / "model.pt")

    assert TableModel.of(loaded) is not None
    assert loaded.hole_network is not None
    assert (loaded.hole_network.final_conv.bias == 3.0).all()
    assert loaded.start_hole_network() is loaded.hole_network


@pytest.mark.slow
def test_the_workflow_adds_a_network_to_a_model(tmp_path: Path) -> None:
    small_dataset(tmp_path / "dataset", training=3)
    network = small_network()
    fit_table_model(network, str(tmp_path / "dataset"), modes=1)
    torch.save(network.state_dict(), tmp_path / "start.pt")

    words = {
        "config_file": "['configs/train.yaml','configs/compact.yaml','configs/holes.yaml']",
        "start_model": str(tmp_path / "start.pt"),
        "dataset_dir": str(tmp_path / "dataset"),
        "output_dir": str(tmp_path / "run"),
        "hole_epochs": "1",
        "holes_per_skull": "1",
        "defective_skulls": "False",
        "tensorboard": "False",
    }
    done = run_module(
        "monai.bundle", "run", "hole_training", *(word for key in words for word in (f"--{key}", words[key]))
    )

    assert done.status == 0, done.stderr
    trained = SkullCompleter.from_file(tmp_path / "run" / "model.pt")
    assert trained.hole_network is not None
    assert torch.equal(trained.state_dict()["latent_mean"], network.latent_mean)
    assert (tmp_path / "run" / "holes.csv").read_text().count("\n") == 2


def test_a_model_without_a_shape_model_is_refused(dataset: Path) -> None:
    with pytest.raises(InputError, match="must hold a shape model"):
        held_out_skulls(str(dataset), small_network())
