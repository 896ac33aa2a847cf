"""Training batches hold every skull in every class, cut as the class says, and can be drawn again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.synthetic.defects import CranialHole, FacialSlab
from bundle.skull_implant.train.augmentation import Deformation
from bundle.skull_implant.train.training_data import DefectCutter, SkullBatches, SkullDataset
from tests.small_models import BOX, small_dataset

COMPLETE, CRANIAL, FACIAL = 0, 1, 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_dataset(tmp_path_factory.mktemp("dataset")).folder


@pytest.fixture
def dataset(folder: Path) -> SkullDataset:
    return SkullDataset(str(folder), "training", BOX.spatial_size)


@pytest.fixture
def cutter() -> DefectCutter:
    return DefectCutter(BOX)


def _epoch(batches: SkullBatches) -> dict[str, torch.Tensor]:
    found = list(batches)
    return {key: torch.cat([batch[key] for batch in found]) for key in ("image", "known", "kind")}


def test_a_dataset_holds_the_skulls_of_its_part_in_order(folder: Path, dataset: SkullDataset) -> None:
    assert dataset.names == ["000", "001", "002", "003"]
    assert len(dataset) == 4
    assert SkullDataset(str(folder), "validation", BOX.spatial_size).names == ["004"]


def test_an_item_is_a_whole_skull_and_its_implant_as_they_were_written(dataset: SkullDataset) -> None:
    item = dataset[2]
    right, anterior, superior = BOX.coordinates()
    implant = (item["image"] > 0) & (right > 5) & (anterior > 20) & (superior > -60)

    assert item["image"].shape == (1, 16, 24, 16)
    assert set(item["image"].unique().tolist()) == {0.0, 1.0}
    assert 500 < item["image"].sum() < 2500
    torch.testing.assert_close(item["implant"], implant.float())
    assert implant.any()


def test_a_skull_without_an_official_implant_has_an_empty_one(dataset: SkullDataset) -> None:
    assert dataset.has_implant == [False, True, True, True]
    assert not dataset[0]["implant"].any()


def test_a_dataset_at_half_the_size_holds_shares_of_bone(folder: Path, dataset: SkullDataset) -> None:
    half = SkullDataset(str(folder), "training", (8, 12, 8))
    share = dataset[1]["image"].view(8, 2, 12, 2, 8, 2).mean((1, 3, 5))

    assert half.box.spatial_size == (8, 12, 8)
    torch.testing.assert_close(half[1]["image"][0], share, atol=0.51 / 255, rtol=0)


def test_a_folder_without_a_dataset_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"must hold a dataset\.json that .* run `python -m scripts\.prepare"):
        SkullDataset(str(tmp_path), "training", (8, 8, 8))


def test_a_changed_case_is_refused(tmp_path: Path) -> None:
    folder = small_dataset(tmp_path).folder
    (folder / "cases" / "001.npz").write_bytes(b"something else")

    with pytest.raises(InputError, match=r"cases/001\.npz: must be as scripts\.prepare wrote it"):
        SkullDataset(str(folder), "training", BOX.spatial_size)


def test_the_complete_class_is_the_skull_itself(dataset: SkullDataset, cutter: DefectCutter) -> None:
    skull = dataset[1]["image"]

    assert cutter.cut(skull, None, "complete", np.random.default_rng(0)) is skull


@pytest.mark.parametrize("kind", ["cranial", "facial"])
def test_a_defect_takes_bone_away_and_touches_nothing_else(
    dataset: SkullDataset, cutter: DefectCutter, kind: str
) -> None:
    skull = dataset[1]["image"] * 0.75
    before = skull.clone()
    for seed in range(10):
        left = cutter.cut(skull, None, kind, np.random.default_rng(seed))
        gone = skull - left

        torch.testing.assert_close(skull, before)  # the skull in memory is not the one that is cut
        assert set(left.unique().tolist()) <= {0.0, 0.75}
        assert set(gone.unique().tolist()) == {0.0, 0.75}
        assert 0.005 < gone.sum() / skull.sum() < 0.5


def test_a_facial_defect_is_at_the_front_over_the_full_height(dataset: SkullDataset, cutter: DefectCutter) -> None:
    skull = dataset[1]["image"]
    right, anterior, superior = BOX.coordinates()
    gone = (skull - cutter.cut(skull, None, "facial", np.random.default_rng(3)))[0] > 0
    kept = (skull[0] > 0) & ~gone
    front = anterior[skull[0] > 0].max()

    assert front - 48.0 <= anterior[gone].min()
    assert anterior[gone].max() == front
    between = (right >= right[gone].min()) & (right <= right[gone].max())
    assert anterior[kept & between].max() <= front - 40.0  # nothing is left in front of the slab's back face
    assert superior[gone].min() == superior[(skull[0] > 0) & between & (anterior > front - 40.0)].min()


@pytest.mark.parametrize("kind", ["cranial", "facial"])
def test_a_gpu_cuts_what_a_cpu_cuts(
    dataset: SkullDataset, cutter: DefectCutter, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    skull = dataset[1]["image"] * 0.75
    cuts = [cutter.cut(skull, None, kind, np.random.default_rng(seed)) for seed in range(5)]
    monkeypatch.setattr(DefectCutter, "_take_out", DefectCutter._without)

    for seed, cut in enumerate(cuts):
        assert torch.equal(cutter.cut(skull, None, kind, np.random.default_rng(seed)), cut)


def test_the_official_defect_is_used_as_often_as_asked(dataset: SkullDataset) -> None:
    item = dataset[1]
    official = item["image"] - item["implant"]
    for share, expected in ((0.0, 0), (1.0, 40), (0.5, 20)):
        cutter, generator = DefectCutter(BOX, share), np.random.default_rng(0)
        cuts = [cutter.cut(item["image"], item["implant"], "cranial", generator) for _ in range(40)]
        assert sum(torch.equal(cut, official) for cut in cuts) == pytest.approx(expected, abs=8 if share == 0.5 else 0)


def test_without_an_official_implant_the_hole_is_a_varied_one(dataset: SkullDataset) -> None:
    skull = dataset[0]["image"]
    cutter, generator = DefectCutter(BOX, official_share=1.0), np.random.default_rng(0)
    cuts = {tuple((skull - cutter.cut(skull, None, "cranial", generator)).nonzero()[:, 1:].flatten().tolist())
            for _ in range(6)}  # fmt: skip

    assert len(cuts) == 6
    assert () not in cuts


def test_an_empty_volume_is_cut_without_an_error(cutter: DefectCutter) -> None:
    nothing = torch.zeros(1, *BOX.spatial_size)
    for kind in ("cranial", "facial"):
        assert not cutter.cut(nothing, None, kind, np.random.default_rng(0)).any()


def test_an_epoch_holds_each_skull_once_in_each_class(dataset: SkullDataset) -> None:
    batches = SkullBatches(dataset, batch_size=5)
    sizes = [len(batch["kind"]) for batch in batches]
    epoch = _epoch(batches)

    assert sizes == [5, 5, 2]
    assert len(batches) == 3
    assert torch.bincount(epoch["kind"]).tolist() == [4, 4, 4]
    complete = epoch["image"][epoch["kind"] == COMPLETE]
    for index in range(4):
        assert sum(torch.equal(image, dataset[index]["image"]) for image in complete) == 1


def test_the_three_classes_of_a_person_share_one_deformation(dataset: SkullDataset) -> None:
    for batch in SkullBatches(dataset, batch_size=6, deformation=Deformation()):
        assert batch["kind"].tolist() == [COMPLETE, CRANIAL, FACIAL] * 2
        for complete, cranial, facial in batch["image"].split(3):
            assert (cranial <= complete + 1e-6).all()
            assert (facial <= complete + 1e-6).all()
            assert cranial.sum() < complete.sum()
            assert facial.sum() < complete.sum()


def test_deformed_skulls_are_skulls_yet_but_not_the_ones_that_were_stored(dataset: SkullDataset) -> None:
    epoch = _epoch(SkullBatches(dataset, batch_size=6, deformation=Deformation()))
    stored = torch.stack([dataset[index]["image"] for index in range(4)])
    for image in epoch["image"][epoch["kind"] == COMPLETE]:
        overlap = 2 * (image * stored).sum((1, 2, 3, 4)) / (image.sum() + stored.sum((1, 2, 3, 4)))
        assert 0.4 < overlap.max() < 0.99


def test_fixed_defects_are_the_same_in_every_epoch_and_for_every_seed(dataset: SkullDataset) -> None:
    def volumes(batches: SkullBatches) -> set[bytes]:
        return {image.numpy().tobytes() for image in _epoch(batches)["image"]}

    first = SkullBatches(dataset, 4, official_share=1.0, fixed_defects=True)
    once, again = volumes(first), volumes(first)

    assert once == again == volumes(SkullBatches(dataset, 4, official_share=1.0, fixed_defects=True, seed=1))
    assert len(once) == 12
    drawn = SkullBatches(dataset, 4, official_share=1.0)
    assert volumes(drawn) != volumes(drawn)


def test_epochs_differ_and_the_same_seed_repeats_them(dataset: SkullDataset) -> None:
    batches, again, other = (SkullBatches(dataset, 4, Deformation(), seed=seed) for seed in (1, 1, 2))
    first, second = _epoch(batches), _epoch(batches)

    torch.testing.assert_close(first, _epoch(again), rtol=0, atol=0)
    torch.testing.assert_close(second, _epoch(again), rtol=0, atol=0)
    assert not torch.equal(first["image"], second["image"])
    assert not torch.equal(first["image"], _epoch(other)["image"])


def test_a_resumed_run_sees_the_epoch_that_an_unbroken_one_would_have(dataset: SkullDataset) -> None:
    unbroken, resumed = (SkullBatches(dataset, 4, Deformation(), seed=3) for _ in range(2))
    epochs = [_epoch(unbroken) for _ in range(3)]
    resumed.epoch = 2

    torch.testing.assert_close(_epoch(resumed), epochs[2], rtol=0, atol=0)


def test_an_epoch_that_was_left_early_does_not_disturb_the_next(dataset: SkullDataset) -> None:
    unbroken, left = (SkullBatches(dataset, 4, Deformation(), seed=3) for _ in range(2))
    _epoch(unbroken)
    next(iter(left))

    torch.testing.assert_close(_epoch(left), _epoch(unbroken), rtol=0, atol=0)


@pytest.mark.parametrize("binary", [True, False])
def test_volumes_are_thresholded_only_where_asked(dataset: SkullDataset, binary: bool) -> None:
    values = _epoch(SkullBatches(dataset, 4, Deformation(), binary=binary))["image"].unique()

    assert (values.tolist() == [0.0, 1.0]) is binary
    assert values.min() == 0.0
    assert values.max() <= 1.0 + 1e-5


def test_a_batch_size_below_one_is_refused(dataset: SkullDataset) -> None:
    with pytest.raises(InputError, match="batch_size must be at least 1, got 0"):
        SkullBatches(dataset, batch_size=0)


def test_skulls_whose_own_hole_was_filled_come_in_each_class_too(tmp_path: Path) -> None:
    small_dataset(tmp_path, training=2, defective=3)
    dataset = SkullDataset(str(tmp_path), "training", BOX.spatial_size, defective=True)

    epoch = _epoch(SkullBatches(dataset, batch_size=4))

    assert (len(dataset), dataset.complete_count) == (5, 2)
    assert epoch["kind"].bincount().tolist() == [5, 5, 5]


def test_nothing_is_known_where_a_hole_was_filled_and_a_little_around(tmp_path: Path) -> None:
    small_dataset(tmp_path, training=2, defective=3)
    dataset = SkullDataset(str(tmp_path), "training", BOX.spatial_size, defective=True)
    margin_mm = 12.0

    for batch in SkullBatches(dataset, batch_size=3, deformation=Deformation(), guess_margin_mm=margin_mm):
        complete, cranial, facial = batch["known"]
        assert (cranial >= complete).all()
        assert (facial >= complete).all()
        unknown = complete[0] == 0
        share = float(unknown.float().mean())
        assert share == 0 or 0.005 < share < 0.3
    undeformed = SkullBatches(dataset, batch_size=15, guess_margin_mm=margin_mm)
    batch = next(iter(undeformed))
    guesses = [dataset[number]["implant"] for number in range(2, 5)]
    unknown = 1 - batch["known"][batch["kind"] == COMPLETE]
    assert sum(bool(each.any()) for each in unknown) == 3
    for guess in guesses:
        inside = [each for each in unknown if each.any() and not (guess * (1 - each)).any()]
        near = ndimage.binary_dilation(guess[0].numpy() > 0, np.ones((3, 3, 3)))
        assert any(np.array_equal(each[0].numpy() > 0, near) for each in inside)


def test_a_hole_from_which_the_guess_was_cut_again_is_known(tmp_path: Path) -> None:
    small_dataset(tmp_path, training=2, defective=3)
    dataset = SkullDataset(str(tmp_path), "training", BOX.spatial_size, defective=True)

    for batch in SkullBatches(dataset, batch_size=3, official_share=1.0):
        assert batch["known"][batch["kind"] == CRANIAL].all()
        assert batch["known"][batch["kind"] == COMPLETE].all() or (batch["image"][0] * (1 - batch["known"][0])).any()


def test_all_of_a_complete_skull_is_known(dataset: SkullDataset) -> None:
    assert _epoch(SkullBatches(dataset, batch_size=5))["known"].all()


def test_they_are_left_out_unless_asked_for(tmp_path: Path) -> None:
    small_dataset(tmp_path, training=2, defective=3)

    assert len(SkullDataset(str(tmp_path), "training", BOX.spatial_size)) == 2


def test_the_edge_of_a_hole_takes_a_share_of_its_voxels() -> None:
    sharp, soft = DefectCutter(BOX), DefectCutter(BOX, edge_samples=4)
    whole = torch.ones(1, *BOX.spatial_size)
    x = float(BOX.coordinates()[0, 5, 0, 0])
    slab = FacialSlab(-1000.0, x - 0.25 * float(BOX.spacing_mm[0]), 1000.0)  # three quarters of the sixth layer on

    assert sharp.apply(whole, None, slab)[0, 4:7, 0, 0].tolist() == [1.0, 0.0, 0.0]
    assert soft.apply(whole, None, slab)[0, 4:7, 0, 0].tolist() == [1.0, 0.25, 0.0]


def test_no_samples_are_refused() -> None:
    with pytest.raises(InputError, match="edge_samples must be at least 1, got 0"):
        DefectCutter(BOX, edge_samples=0)


def test_cranial_holes_lie_at_the_sites_that_are_asked_for() -> None:
    numbers = np.random.default_rng(0)
    brow = DefectCutter(BOX, sites=["frontal_right", "bifrontal"])
    drawn = [brow.draw(False, "cranial", numbers) for _ in range(20)]
    assert all(isinstance(hole, CranialHole) and hole.axis[1] > 0.5 for hole in drawn)

    everywhere = [DefectCutter(BOX).draw(False, "cranial", numbers) for _ in range(50)]
    assert any(isinstance(hole, CranialHole) and hole.axis[1] < -0.5 for hole in everywhere)


@pytest.mark.parametrize(("sites", "got"), [(["chin", "vertex"], "chin"), ([], "none")])
def test_unknown_sites_are_refused(sites: list[str], got: str) -> None:
    with pytest.raises(InputError, match=f"sites must be some of frontal_right, .*hemicraniectomy, got {got}$"):
        DefectCutter(BOX, sites=sites)
