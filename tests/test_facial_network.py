"""The facial network: what it sees, that it learns, what it decides, and how it travels with a completer."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.facial_network import FacialFit, facial_features, make_facial_network, missing_bone
from bundle.skull_implant.facial_training import (
    FacialStep,
    HeldOutFacialDice,
    facial_completion,
    start_facial_network,
)
from bundle.skull_implant.implant_unet import ImplantUNet
from bundle.skull_implant.inferers import CompletionInferer
from bundle.skull_implant.latent_statistics import save_completer
from bundle.skull_implant.network import DEFECT_CLASSES, SkullCompleter
from bundle.skull_implant.training_data import SkullBatches, SkullDataset
from bundle.skull_implant.unet_training import ImplantLoss
from tests.end_to_end import run_module
from tests.small_models import BOX, small_dataset, small_images, small_network

FACIAL = DEFECT_CLASSES.index("facial")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> SkullDataset:
    folder = small_dataset(tmp_path_factory.mktemp("dataset"), training=3).folder
    return SkullDataset(str(folder), "training", BOX.spatial_size)


def _saying(logit: float) -> SkullCompleter:
    """A completer whose facial network misses everything or nothing."""
    network = small_network()
    output = network.start_facial_network().get_submodule("output_block")
    for name, weight in output.named_parameters():
        torch.nn.init.constant_(weight, logit if name.endswith("bias") else 0.0)
    return network.eval()


def test_it_sees_the_bone_and_what_is_decoded_beside_it() -> None:
    bone, decoded = torch.tensor([1.0, 0.4, 0.0]), torch.tensor([0.7, 0.9, 0.2])
    features = facial_features(bone.view(1, 1, 3, 1, 1), decoded.view(1, 1, 3, 1, 1))
    torch.testing.assert_close(features.flatten(2)[0], torch.tensor([[1.0, 0.4, 0.0], [0.0, 0.5, 0.2]]))


@pytest.mark.parametrize("size", [(64, 96, 64), (16, 24, 16), (20, 28, 20)])
def test_it_has_as_many_levels_as_the_grid_can_be_halved_for(size: tuple[int, int, int]) -> None:
    network = make_facial_network(size).eval()
    image = torch.zeros(1, 1, *size)
    assert missing_bone(network, image, image).shape == image.shape


@pytest.mark.parametrize("kinds", [("facial",), ("complete", "facial", "facial")])
def test_batches_hold_the_kinds_that_are_asked_for(dataset: SkullDataset, kinds: tuple[str, ...]) -> None:
    batches = SkullBatches(dataset, batch_size=len(kinds), wholes=True, kinds=kinds)
    made = list(batches)
    assert len(made) == len(batches) == len(dataset)
    names = ("complete", "cranial", "facial")
    assert all([names[kind] for kind in batch["kind"]] == list(kinds) for batch in made)
    if len(kinds) == 3:
        assert not torch.equal(made[0]["image"][1], made[0]["image"][2])  # another slab


def test_it_learns_what_slabs_took_and_nothing_of_other_volumes(dataset: SkullDataset) -> None:
    completer = small_network()
    torch.manual_seed(0)
    network = start_facial_network(completer)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    engine = SimpleNamespace(network=network, optimizer=optimizer, state=SimpleNamespace(device=torch.device("cpu")))
    batches = SkullBatches(dataset, batch_size=12, wholes=True, kinds=("complete", "cranial", "facial", "facial"))
    (batch,) = batches
    others = {name: value.clone() for name, value in completer.state_dict().items() if "facial_network" not in name}
    step = FacialStep(completer, ImplantLoss())

    losses = [float(step(engine, batch)["loss"]) for _ in range(40)]  # type: ignore[arg-type]

    completer.eval()
    missing = missing_bone(network, batch["image"], facial_completion(completer, batch["image"])).flatten(1) > 0.5
    found = missing.sum(1)
    truth = ((batch["whole"] - batch["image"]).flatten(1) > 0.5).sum(1)
    facial = batch["kind"] == 2
    print(f"loss {losses[0]:.3f} to {losses[-1]:.3f}, voxels {found.tolist()}")
    assert losses[-1] < 0.7 * losses[0]
    assert found[facial].sum() > 0.5 * truth[facial].sum()
    assert found[~facial].sum() < 0.1 * found[facial].sum()
    state = completer.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in others.items())


def test_a_network_that_misses_nothing_scores_nothing(dataset: SkullDataset) -> None:
    batches = SkullBatches(dataset, batch_size=2, wholes=True, kinds=("facial", "facial"))
    assert HeldOutFacialDice(_saying(-9.0), batches, torch.device("cpu"))() == 0.0
    assert HeldOutFacialDice(_saying(9.0), batches, torch.device("cpu"))() > 0.0


def test_what_is_missing_is_added_to_the_bone() -> None:
    bone = np.linspace(0.0, 1.0, int(np.prod(BOX.spatial_size)), dtype=np.float32).reshape(BOX.spatial_size)
    empty = np.zeros_like(bone)

    for logit, expected in ((-20.0, bone), (0.0, np.minimum(bone + 0.5, 1.0)), (20.0, np.ones_like(bone))):
        fit = FacialFit.of(_saying(logit))
        assert fit is not None
        np.testing.assert_allclose(fit.refine(empty, bone), expected, atol=1e-5)
    assert FacialFit.of(small_network()) is None


@pytest.mark.parametrize(("by_shape", "logit", "expected"), [(-1, 9.0, 1), (-1, -9.0, 0), (0, 9.0, 0), (1, -9.0, 1)])
def test_it_decides_the_class_where_the_shape_does_not(
    monkeypatch: pytest.MonkeyPatch, by_shape: int, logit: float, expected: int
) -> None:
    network = _saying(logit)
    network.class_weight.zero_()
    network.class_bias.copy_(torch.tensor([0.0, 1.0, 0.0]))  # the code says cranial
    monkeypatch.setattr(
        "bundle.skull_implant.inferers.class_by_shape", lambda *_: torch.full((3,), by_shape, dtype=torch.long)
    )

    found = CompletionInferer()(small_images(), network)

    assert found["class_index"].tolist() == [expected] * 3
    assert found["class_by_shape"].tolist() == [by_shape >= 0 or logit > 0] * 3


def test_a_completer_carries_it_through_its_file(tmp_path: Path) -> None:
    network = _saying(3.0)
    save_completer(network, tmp_path / "model.pt")

    loaded = SkullCompleter.from_file(tmp_path / "model.pt")

    assert loaded.hole_network is None
    assert loaded.facial_network is not None
    assert loaded.start_facial_network() is loaded.facial_network
    fits = FacialFit.of(network), FacialFit.of(loaded)
    image = small_images(1)[0, 0].numpy()
    np.testing.assert_allclose(*(fit.refine(image, image) for fit in fits if fit is not None))


def test_it_starts_as_a_u_net_that_does_not_look_at_the_decoded_skull(tmp_path: Path) -> None:
    torch.manual_seed(2)
    unet = ImplantUNet(BOX.spatial_size, (8, 16, 32, 64)).eval()
    save_completer(unet, tmp_path / "unet.pt")
    completer = small_network()

    network = start_facial_network(completer, str(tmp_path / "unet.pt")).eval()

    image, decoded = small_images(2), small_images(2, seed=1)
    torch.testing.assert_close(missing_bone(network, image, decoded), unet.missing(image))
    with torch.no_grad():
        next(network.parameters()).add_(1.0)
    again = start_facial_network(completer, str(tmp_path / "unet.pt"))
    assert again is network  # a trained one goes on from where it is


def test_a_u_net_of_other_sizes_is_refused(tmp_path: Path) -> None:
    save_completer(ImplantUNet(BOX.spatial_size, (4, 8, 16)), tmp_path / "unet.pt")

    with pytest.raises(InputError, match=r"unet.pt: start_unet must be a U-Net of the facial network's channels"):
        start_facial_network(small_network(), str(tmp_path / "unet.pt"))


@pytest.mark.slow
def test_the_workflow_adds_a_network_to_a_model(tmp_path: Path) -> None:
    small_dataset(tmp_path / "dataset", training=2)
    torch.save(small_network().state_dict(), tmp_path / "start.pt")
    words = {
        "config_file": "['configs/train.yaml','configs/compact.yaml','configs/facial.yaml']",
        "start_model": str(tmp_path / "start.pt"),
        "dataset_dir": str(tmp_path / "dataset"),
        "output_dir": str(tmp_path / "run"),
        "facial_epochs": "2",
        "defective_skulls": "False",
        "bfloat16": "False",
        "tensorboard": "False",
    }

    done = run_module(
        "monai.bundle", "run", "facial_training", *(word for key in words for word in (f"--{key}", words[key]))
    )

    assert done.status == 0, done.stderr
    assert SkullCompleter.from_file(tmp_path / "run" / "model.pt").facial_network is not None
    assert (tmp_path / "run" / "facial.csv").read_text().count("\n") == 3
