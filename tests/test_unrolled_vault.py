"""The unrolled vault, what the hole network sees of it, and how it learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Engine

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.hole_completion import HoleCompletion, UnrolledBone
from bundle.skull_implant.hole_training import (
    RAYS,
    HeldOutHoles,
    HoleBatches,
    HoleStep,
    UnrolledSkulls,
    held_out_skulls,
)
from bundle.skull_implant.network import SkullCompleter
from bundle.skull_implant.table_model import TableModel, fit_table_model
from bundle.skull_implant.unrolled_vault import (
    CHANNELS,
    HEIGHTS_MM,
    carried_on,
    hole_features,
    make_hole_network,
    plate_logits,
    relative_profiles,
)
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


def _unrolled(outer_mm: float = 1.0, sureness: float = 0.0) -> UnrolledBone:
    """A plate 6 mm thick, whose logits a network multiplied by 1 + sureness."""
    tables = _plate(outer_mm, 6.0)[0]
    return UnrolledBone(tables[0].numpy(), sureness * plate_logits(tables)[0].numpy(), RAYS)


def _at(bone: UnrolledBone, above_mm: float) -> np.ndarray:
    """Logits at two directions, a height above the fitted vault."""
    return bone.logits_at(np.array([[0.0, 0.0, 1.0], [0.3, 0.2, 0.9]]), np.full(2, above_mm))


def test_without_a_correction_the_bone_is_the_expected_plate() -> None:
    bone = _unrolled()
    for above, solid in ((0.9, True), (1.1, False), (-4.9, True), (-5.1, False)):
        assert ((_at(bone, above) > 0) == solid).all()


def test_a_correction_is_counted_from_the_outer_table() -> None:
    bone = _unrolled()
    bone.correction[HEIGHTS_MM.index(2)] = 9.0
    assert (_at(bone, 3.0) > 0).all()
    assert (_at(bone, 4.0) < 0).all()


def test_sure_probabilities_promise_more() -> None:
    hole = np.zeros(RAYS.shape, bool)
    hole[30:40, 30:40] = True
    sure, unsure = (_unrolled(0.0, sureness).expected_dsc(hole) for sureness in (8.0, -0.9))
    assert 0.9 < sure <= 1.0  # the tables themselves are as likely bone as not
    assert unsure < 0.7
    assert np.isnan(_unrolled().expected_dsc(hole & False))


def _random_completion(seed: int = 1) -> HoleCompletion:
    """A network that says anything, and a shape model that knows a plate 6 mm thick."""
    torch.manual_seed(seed)
    network = make_hole_network()
    torch.nn.init.normal_(network.final_conv.weight)
    return HoleCompletion(network.eval(), TableModel(_plate(0.0, 6.0)[0][0].numpy(), np.zeros((1, 2, *RAYS.shape))))


def test_left_and_right_are_treated_alike() -> None:
    _, profiles = _plate(0.0, 6.0)
    bone = profiles[0].numpy().copy()
    bone[10:30] = np.roll(bone[10:30], 3, axis=2)  # the left half is larger
    bone[50:60, 30:50] = 0.0
    trusted = np.ones(RAYS.shape, bool)
    trusted[20:25, 20:25] = False
    complete = _random_completion()

    def completed(flip: bool) -> UnrolledBone:
        sides = slice(None, None, -1 if flip else 1)
        return complete(bone[sides].reshape(SIZE * SIZE, -1), trusted[sides], RAYS)

    straight, mirrored = completed(False), completed(True)
    np.testing.assert_allclose(mirrored.correction, straight.correction[:, ::-1], atol=2e-3)
    np.testing.assert_allclose(mirrored.tables, straight.tables[:, ::-1], atol=1e-3)


def test_what_is_not_trusted_is_no_measurement() -> None:
    _, profiles = _plate(0.0, 6.0)
    bone = profiles[0].numpy().copy()
    bone[30:50, 30:50] = 0.0
    strap = np.zeros(RAYS.shape, bool)
    strap[25:30, 30:50] = True
    bone[strap] = np.roll(bone[strap], 12, axis=-1)  # 6 mm outside
    complete = _random_completion()

    alike, fooled = (complete(bone.reshape(SIZE * SIZE, -1), trusted, RAYS) for trusted in (~strap, strap | True))

    hole = (slice(30, 40), slice(30, 50))
    assert np.abs(alike.tables[0][hole]).max() < 0.3  # half a sample of the ray
    assert np.abs(fooled.tables[0][hole]).max() > 1.0


def test_at_work_it_sees_what_it_saw_in_training(skulls: UnrolledSkulls, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = HoleBatches(skulls, torch.zeros(2, *RAYS.shape), batch_size=1, noise_mm=0.0)
    monkeypatch.setattr(batches, "mean", torch.from_numpy(skulls.model_of(0).mean))
    hole = skulls.cut(0, np.linalg.norm(skulls.skulls[0]["points"] - [40.0, 10.0, -25.0], axis=-1) < 25.0)
    batch = batches._batch([hole], np.random.default_rng(0))
    bone = hole["profiles"].astype(np.float32) / 255 * ~hole["cut"][..., None]
    seen: list[torch.Tensor] = []

    class Watched(torch.nn.Linear):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            seen.append(features)
            return torch.zeros(2, len(HEIGHTS_MM), *RAYS.shape)

    complete = HoleCompletion(Watched(1, 1), skulls.model_of(0))
    found = complete(bone.reshape(SIZE * SIZE, -1), np.ones(RAYS.shape, bool), RAYS)

    inside, vault = hole["asked"], RAYS.polar_deg < 90.0  # below, other rays meet no bone either
    assert inside.sum() > 100
    expected = plate_logits(torch.from_numpy(found.tables)[None])[0]
    assert (expected - batch["expected"][0])[:, inside].abs().max() < 0.05
    assert (seen[0][0] - batch["features"][0])[:, vault].abs().mean() < 0.01


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
