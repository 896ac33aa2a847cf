"""The supervised peer: what it learns from, that it learns, and its file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.losses import DiceCELoss

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.model.implant_unet import ImplantUNet
from bundle.skull_implant.train.training_data import SkullBatches, SkullDataset
from bundle.skull_implant.train.unet_training import HeldOutImplantDice, ImplantLoss, ImplantStep
from bundle.skull_implant.train.weights import save_weights
from tests.small_models import BOX, engine_of, small_dataset, small_images, small_network


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> SkullDataset:
    """Two complete skulls and one whose own hole a guess fills."""
    folder = small_dataset(tmp_path_factory.mktemp("dataset"), training=2, defective=1).folder
    return SkullDataset(str(folder), "training", BOX.spatial_size, defective=True)


def small_unet() -> ImplantUNet:
    torch.manual_seed(0)
    return ImplantUNet(BOX.spatial_size, (4, 8, 16))


def test_the_target_is_what_a_defect_took_and_unknown_under_a_guess(dataset: SkullDataset) -> None:
    (batch,) = SkullBatches(dataset, batch_size=9, wholes=True)
    missing = batch["whole"] - batch["image"]
    taken = missing.flatten(1).sum(1)
    guessed = batch["whole_known"].flatten(1).amin(1) == 0

    assert not taken[batch["kind"] == 0].any()
    assert (taken[batch["kind"] == 2] > 10).all()
    assert guessed.sum() == 3  # the three volumes of the third skull, also where a cut took the guess away
    guess = dataset[2]["implant"] > 0.5
    assert not batch["whole_known"][guessed][:, guess].any()


def test_the_loss_falls_in_twenty_steps(dataset: SkullDataset) -> None:
    network = small_unet()
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    engine = engine_of(network, optimizer)
    batches = SkullBatches(dataset, batch_size=9, wholes=True, fixed_defects=True)
    step = ImplantStep(ImplantLoss())

    losses = [float(step(engine, batch)["loss"]) for _ in range(20) for batch in batches]

    assert losses[-1] < 0.7 * losses[0]


def test_unknown_bone_does_not_enter_the_loss() -> None:
    logits, missing = torch.randn(2, 1, 4, 4, 4).requires_grad_(), torch.rand(2, 1, 4, 4, 4)
    known = torch.ones_like(missing)
    known[:, :, :2] = 0.0
    loss = ImplantLoss()(logits, missing, known)
    loss.backward()

    other = torch.where(known == 0, 7.0, logits.detach()), torch.where(known == 0, 1.0, missing)

    assert float(ImplantLoss()(*other, known)) == pytest.approx(float(loss.detach()))
    assert logits.grad is not None
    assert not logits.grad[known == 0].any()
    assert logits.grad[known == 1].all()


def test_an_undamaged_skull_gains_nothing_beyond_the_cross_entropy() -> None:
    """With a Dice term it gains 1 where the last trace of probability goes, at the cost of every hole."""
    empty, known = torch.zeros(1, 1, 4, 4, 4), torch.ones(1, 1, 4, 4, 4)

    traces, nothing = (float(ImplantLoss()(torch.full_like(empty, logit), empty, known)) for logit in (-6.0, -12.0))

    assert 0 < traces - nothing < 0.01


def test_the_loss_is_monais_dice_and_cross_entropy_in_damaged_skulls() -> None:
    logits, missing = torch.randn(3, 1, 4, 5, 6), torch.rand(3, 1, 4, 5, 6)
    monais = DiceCELoss(sigmoid=True, squared_pred=True)(logits, missing)

    assert float(ImplantLoss()(logits, missing, torch.ones_like(missing))) == pytest.approx(float(monais), rel=1e-6)


def test_a_perfect_answer_has_a_held_out_score_of_one_and_an_empty_one_of_zero(dataset: SkullDataset) -> None:
    batches = SkullBatches(dataset, batch_size=3, wholes=True, fixed_defects=True)
    truths = [batch["whole"] - batch["image"] for batch in batches]

    class Oracle(torch.nn.Module):
        def missing(self, image: torch.Tensor) -> torch.Tensor:
            return answers.pop(0)[-len(image) :]

    scores = []
    for size in (1.0, 0.0):
        batches.epoch, answers = 0, [size * truth[1:] for truth in truths]
        scores.append(HeldOutImplantDice(Oracle(), batches, torch.device("cpu"))())  # type: ignore[arg-type]

    assert scores == [1.0, 0.0]


def test_a_file_and_a_checkpoint_of_training_give_the_same_network(tmp_path: Path) -> None:
    network, image = small_unet().eval(), small_images()
    save_weights(network, tmp_path / "unet.pt")
    torch.save({"network": network.state_dict(), "epoch": 3}, tmp_path / "checkpoint.pt")

    for name in ("unet.pt", "checkpoint.pt"):
        read = ImplantUNet.from_file(tmp_path / name)
        assert read.box == BOX
        torch.testing.assert_close(read.missing(image), network.missing(image))


def test_another_network_is_refused(tmp_path: Path) -> None:
    save_weights(small_network(), tmp_path / "model.pt")

    with pytest.raises(InputError, match=r"model.pt: a U-Net must be what training with configs/unet.yaml wrote"):
        ImplantUNet.from_file(tmp_path / "model.pt")
