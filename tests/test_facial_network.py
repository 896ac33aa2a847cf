"""The facial network: what it sees, that it learns, what it decides, and how it travels with a completer."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bundle.skull_implant.defect_class import NO_HOLE, UNDECIDED
from bundle.skull_implant.errors import InputError
from bundle.skull_implant.facial_network import THIN_BONE, FacialFit, facial_features, make_facial_network, missing_bone
from bundle.skull_implant.facial_training import (
    FacialStep,
    HeldOutFacialDice,
    start_facial_network,
)
from bundle.skull_implant.implant_methods import CompleterMethod
from bundle.skull_implant.implant_unet import ImplantUNet
from bundle.skull_implant.inferers import CompletionInferer
from bundle.skull_implant.latent_statistics import save_completer
from bundle.skull_implant.network import DEFECT_CLASSES, SkullCompleter
from bundle.skull_implant.scored_methods import methods_of
from bundle.skull_implant.scoring_protocol import WITHOUT_DEFECT_NETWORKS, Protocol
from bundle.skull_implant.training_data import SkullBatches, SkullDataset
from bundle.skull_implant.transforms import CaseData, Implantd
from bundle.skull_implant.unet_training import ImplantLoss
from bundle.skull_implant.volume import Volume
from tests.end_to_end import run_module
from tests.made_up_skulls import pose
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
def test_it_runs_on_every_grid_that_can_be_halved_twice(size: tuple[int, int, int]) -> None:
    network = make_facial_network(size).eval()
    image = torch.zeros(1, 1, *size)
    assert missing_bone(network, image, image).shape == image.shape


def test_a_grid_that_is_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match=r"spatial_size \(16, 24, 12\) must be divisible by 4 and at least 16"):
        make_facial_network((16, 24, 12))


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
    decoded = completer.completed(completer.encode(batch["image"]), "facial")
    missing = missing_bone(network.eval(), batch["image"], decoded).flatten(1) > 0.5
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
    truths = torch.cat([(batch["whole"] - batch["image"]).flatten(1) > 0.5 for batch in batches]).sum(1)
    everything = (2 * truths / (truths + np.prod(BOX.spatial_size))).mean()
    for logit, expected in ((-9.0, 0.0), (9.0, float(everything))):
        completer = _saying(logit)
        score = HeldOutFacialDice(completer, completer.start_facial_network(), batches, torch.device("cpu"))()
        assert score == pytest.approx(expected, abs=1e-5)


BONE = np.linspace(0.0, 1.0, int(np.prod(BOX.spatial_size)), dtype=np.float32).reshape(BOX.spatial_size)


def _refined(network: SkullCompleter, gamma: float = 1.0) -> np.ndarray:
    fit = FacialFit.of(network)
    assert fit is not None
    return fit.refine(np.full_like(BONE, 0.3), BONE, torch.zeros(7), gamma)


@pytest.mark.parametrize(("gamma", "added"), [(1.0, 0.6), (0.5, 0.3), (0.0, 0.0), (-1.0, 0.0), (5.0, 3.0)])
def test_gamma_scales_what_is_added_to_the_bone(gamma: float, added: float) -> None:
    network = _saying(float(np.log(0.6 / 0.4)))
    np.testing.assert_allclose(_refined(network, gamma), np.minimum(BONE + THIN_BONE * added, 1.0), atol=1e-5)


def test_where_nothing_is_found_missing_the_decoded_skull_stays() -> None:
    assert (_refined(_saying(-9.0)) == np.float32(0.3)).all()
    assert FacialFit.of(small_network()) is None


@pytest.mark.parametrize(
    ("by_shape", "logit", "code_says", "expected"),
    [
        (NO_HOLE, 9.0, 0, 1),
        (NO_HOLE, -9.0, 0, 0),
        (NO_HOLE, -9.0, 1, 0),
        (UNDECIDED, 9.0, 0, 0),
        (UNDECIDED, -9.0, 1, 1),
        (0, 9.0, 1, 0),
        (1, -9.0, 0, 1),
    ],
)
def test_it_decides_the_class_where_the_shape_does_not(
    monkeypatch: pytest.MonkeyPatch, by_shape: int, logit: float, code_says: int, expected: int
) -> None:
    network = _saying(logit)
    network.class_weight.zero_()
    network.class_bias.copy_(torch.tensor([0.0, 1.0 - code_says, code_says]))
    monkeypatch.setattr(
        "bundle.skull_implant.inferers.class_by_shape", lambda *_: torch.full((3,), by_shape, dtype=torch.long)
    )

    found = CompletionInferer()(small_images(), network)

    assert found["class_index"].tolist() == [expected] * 3
    assert bool(found["class_decided"].all()) == (by_shape != UNDECIDED)


@pytest.mark.parametrize(("voxels", "facial"), [(2, False), (20, True)])
def test_little_missing_bone_is_no_facial_defect(monkeypatch: pytest.MonkeyPatch, voxels: int, facial: bool) -> None:
    voxel_ml = float(np.prod(BOX.spacing_mm)) / 1000.0
    monkeypatch.setattr("bundle.skull_implant.inferers.SMALLEST_ML", 10 * voxel_ml)
    monkeypatch.setattr("bundle.skull_implant.inferers.class_by_shape", lambda *_: torch.tensor([NO_HOLE]))
    missing = torch.zeros(1, 1, *BOX.spatial_size)
    missing.view(-1)[:voxels] = 1.0
    monkeypatch.setattr("bundle.skull_implant.inferers.missing_bone", lambda *_: missing)

    found = CompletionInferer()(torch.zeros(1, 1, *BOX.spatial_size), _saying(0.0))

    assert bool(found["class_index"][0] == FACIAL) == facial


def _case(completer: SkullCompleter) -> CaseData:
    image, frame = small_images(1)[0], pose()
    outputs = CompletionInferer(defect_class="facial")(image[None], completer)
    data: CaseData = {
        "image": image,
        "frame": frame,
        "skull": Volume(image[0].numpy() > 0.5, BOX.grid(frame)),
        "defect_class": "facial",
    }
    return data | {name: value[0] for name, value in outputs.items()}


def test_inference_asks_it_and_without_the_fit_does_not() -> None:
    completer = _saying(9.0)
    data = _case(completer)
    decoded = data["pred"][0].numpy()

    asked = Implantd(completer).complete(decoded, data)
    weaker = Implantd(completer).complete(decoded, data, gamma=0.0)
    unasked = Implantd(completer, rim_fit=False).complete(decoded, data)

    assert (asked.probability > 0.9).all()
    np.testing.assert_array_equal(weaker.probability, data["image"][0])
    np.testing.assert_array_equal(unasked.probability, decoded)


@pytest.mark.parametrize(("rim_fit", "asked"), [(True, True), (False, False), (WITHOUT_DEFECT_NETWORKS, False)])
def test_a_scored_method_asks_it_where_its_name_says_so(tmp_path: Path, rim_fit: bool | str, asked: bool) -> None:
    save_completer(_saying(9.0), tmp_path / "model.pt")
    settings = {"model": (str(tmp_path / "model.pt"), 1.0, 0, rim_fit)}
    protocol = Protocol(settings, dataset_dir="", baselines=False)

    method = methods_of(protocol)["model"]

    assert isinstance(method, CompleterMethod)
    assert (method.facial_fit is not None) == asked


def test_another_text_is_no_rim_fit() -> None:
    with pytest.raises(InputError, match="rim_fit of model must be true, false or 'without"):
        Protocol({"model": ("model.pt", 1.0, 0, "without hole network")}, dataset_dir="")


def test_it_can_be_scripted_with_its_completer() -> None:
    completer, images = _saying(0.5), small_images()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(completer)
    torch.testing.assert_close(scripted(images), completer(images))


def test_a_completer_carries_it_through_its_file(tmp_path: Path) -> None:
    network = _saying(3.0)
    save_completer(network, tmp_path / "model.pt")

    loaded = SkullCompleter.from_file(tmp_path / "model.pt")

    assert loaded.hole_network is None
    assert loaded.facial_network is not None
    assert loaded.start_facial_network() is loaded.facial_network
    np.testing.assert_allclose(_refined(loaded), _refined(network))


def test_it_starts_as_a_u_net_that_does_not_look_at_the_decoded_skull(tmp_path: Path) -> None:
    torch.manual_seed(2)
    unet = ImplantUNet(BOX.spatial_size, (8, 16, 32)).eval()
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
    trained = SkullCompleter.from_file(tmp_path / "run" / "model.pt").state_dict()
    start = torch.load(tmp_path / "start.pt", weights_only=True)
    assert all(torch.equal(trained[name], value) for name, value in start.items())
    assert any(name.startswith("facial_network.") for name in trained)
    assert (tmp_path / "run" / "facial.csv").read_text().count("\n") == 3
