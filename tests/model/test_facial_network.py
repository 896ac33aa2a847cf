"""The facial network: what it sees, that it learns, what it decides, and how it travels with a completer."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.networks.utils import pixelunshuffle

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.fit.facial_fit import FacialFit
from bundle.skull_implant.fit.rim_fit import Refined
from bundle.skull_implant.frame.canonical_grid import CanonicalBox
from bundle.skull_implant.model.defect_class import NO_HOLE, UNDECIDED
from bundle.skull_implant.model.facial_network import (
    THIN_BONE,
    FacialNetwork,
    fine_box,
    finer,
    make_facial_network,
    missing_bone,
    to_channels,
    to_voxels,
)
from bundle.skull_implant.model.implant_unet import ImplantUNet
from bundle.skull_implant.model.inferers import CompletionInferer
from bundle.skull_implant.model.light_unet import light_unet
from bundle.skull_implant.model.network import DEFECT_CLASSES, SkullCompleter
from bundle.skull_implant.scores.implant_methods import CompleterMethod, InferenceMethod
from bundle.skull_implant.scores.scored_methods import methods_of
from bundle.skull_implant.scores.scoring_protocol import WITHOUT_DEFECT_NETWORKS, Protocol
from bundle.skull_implant.steps.transforms import CaseData, Implantd
from bundle.skull_implant.train.facial_training import FacialStep, HeldOutFacialDice, completed, start_facial_network
from bundle.skull_implant.train.training_data import SkullBatches, SkullDataset
from bundle.skull_implant.train.unet_training import ImplantLoss
from bundle.skull_implant.train.weights import save_weights
from bundle.skull_implant.volume import Volume
from tests.end_to_end import Outcome, run_module
from tests.made_up_skulls import pose
from tests.small_models import BOX, engine_of, small_dataset, small_images, small_network

FACIAL = DEFECT_CLASSES.index("facial")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> SkullDataset:
    folder = small_dataset(tmp_path_factory.mktemp("dataset"), training=3).folder
    return SkullDataset(str(folder), "training", fine_box(BOX).spatial_size)


def _saying(logit: float) -> SkullCompleter:
    """A completer whose facial network misses everything or nothing."""
    network = small_network()
    output = network.start_facial_network().unet.get_submodule("output_block")
    for name, weight in output.named_parameters():
        torch.nn.init.constant_(weight, logit if name.endswith("bias") else 0.0)
    return network.eval()


def test_blocks_of_voxels_become_channels_and_come_back() -> None:
    volumes = torch.arange(2 * 3 * 4 * 6 * 5).view(2, 3, 4, 6, 5)

    channels = to_channels(volumes, (2, 3, 1))

    assert channels.shape == (2, 3 * 6, 2, 2, 5)
    torch.testing.assert_close(channels[1, 6:12, 1, 0, 4], volumes[1, 1, 2:4, 0:3, 4].reshape(-1))
    assert torch.equal(to_voxels(channels, (2, 3, 1)), volumes)
    even = volumes[..., :4]
    assert torch.equal(to_channels(even, (2, 2, 2)), pixelunshuffle(even, 3, 2))


def test_it_sees_the_bone_of_both_sides_and_what_is_decoded_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    network = FacialNetwork((16, 24, 16), (2, 1, 1))
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(network.unet, "forward", lambda x: seen.append(x) or torch.zeros(1, 2, *x.shape[2:]))
    image, decoded = torch.zeros(1, 1, 32, 24, 16), torch.zeros(1, 1, 16, 24, 16)
    image[0, 0, 4, 20, 3], decoded[0, 0, 2, 20, 3], decoded[0, 0, 3, 20, 3] = 1.0, 0.8, 0.7

    network(image, decoded)

    (features,) = seen
    assert features.shape == (1, 5, 16, 16, 16)  # two thirds, from the front
    there = features[0, :, :, 12, 3]
    torch.testing.assert_close(there[:, 2], torch.tensor([1.0, 0.0, 0.0, 0.0, 0.3]))
    torch.testing.assert_close(there[:, 3], torch.tensor([0.0, 0.0, 0.0, 0.0, 0.7]))
    torch.testing.assert_close(there[:, 13], torch.tensor([0.0, 0.0, 0.0, 1.0, 0.0]))  # the other side, mirrored
    assert float(features.sum()) == pytest.approx(3.0)


@pytest.mark.parametrize("size", [(64, 96, 64), (16, 24, 16), (20, 28, 20)])
def test_it_runs_on_every_grid_that_can_be_halved_twice(size: tuple[int, int, int]) -> None:
    box = CanonicalBox(size)
    network = make_facial_network(box).eval()
    fine = torch.zeros(1, 1, *fine_box(box).spatial_size)
    coarse = torch.zeros(1, 1, *size)

    assert missing_bone(network, fine, coarse).shape == missing_bone(network, coarse, coarse).shape == fine.shape


def test_it_says_nothing_of_the_back_of_the_head() -> None:
    network = _saying(9.0).start_facial_network()
    missing = missing_bone(network, small_images(1), small_images(1))
    assert (network.front, missing.shape[3]) == (16, 48)
    assert (missing[:, :, :, 16:] > 0.9).all()
    assert (missing[:, :, :, :16] < 1e-9).all()


def test_a_grid_that_is_fine_already_is_not_doubled() -> None:
    assert make_facial_network(CanonicalBox((256, 256, 128))).factors == (1, 1, 1)


def test_a_head_and_its_mirror_image_get_the_same_answer() -> None:
    network = _saying(0.0).start_facial_network()
    torch.nn.init.normal_(network.unet.get_submodule("output_block").conv.conv.weight)
    image, decoded = small_images(2), small_images(2, seed=1)
    missing = missing_bone(network, image, decoded)
    assert not torch.allclose(missing, torch.sigmoid(network(finer(image, (2, 2, 2)), decoded)), atol=1e-3)
    torch.testing.assert_close(missing_bone(network, image.flip(2), decoded.flip(2)).flip(2), missing)


def test_a_coarse_skull_is_seen_as_its_repeated_voxels() -> None:
    network = _saying(0.0).start_facial_network()
    torch.nn.init.normal_(network.unet.get_submodule("output_block").conv.conv.weight)
    image, decoded = small_images(2), small_images(2, seed=1)
    torch.testing.assert_close(
        missing_bone(network, image, decoded), missing_bone(network, finer(image, (2, 2, 2)), decoded)
    )


def test_a_grid_that_is_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match=r"spatial_size \(16, 24, 12\) must be divisible by 4 and at least 16"):
        make_facial_network(CanonicalBox((16, 24, 12)))


@pytest.mark.parametrize("kinds", [("facial",), ("complete", "facial", "facial")])
def test_batches_hold_the_kinds_that_are_asked_for(dataset: SkullDataset, kinds: tuple[str, ...]) -> None:
    batches = SkullBatches(dataset, batch_size=len(kinds), wholes=True, kinds=kinds)
    made = list(batches)
    assert len(made) == len(batches) == len(dataset)
    names = ("complete", "cranial", "facial")
    assert all([names[kind] for kind in batch["kind"]] == list(kinds) for batch in made)
    if len(kinds) == 3:
        assert not torch.equal(made[0]["image"][1], made[0]["image"][2])  # another slab


def test_it_learns_what_defects_took_and_nothing_of_whole_skulls(dataset: SkullDataset) -> None:
    completer = small_network()
    torch.manual_seed(0)
    network = start_facial_network(completer)
    engine = engine_of(network, torch.optim.AdamW(network.parameters(), lr=0.01))
    kinds = ("complete", "cranial", "facial", "facial")
    (batch,) = SkullBatches(dataset, batch_size=12, wholes=True, kinds=kinds, sites=["bifrontal"])
    others = {name: value.clone() for name, value in completer.state_dict().items() if "facial_network" not in name}
    step = FacialStep(completer, ImplantLoss(), blurred_share=0.0)

    losses = [float(step(engine, batch)["loss"]) for _ in range(40)]

    decoded = completed(completer.eval(), batch["image"], batch["kind"])
    missing = missing_bone(network.eval(), batch["image"], decoded).flatten(1) > 0.5
    truth = (batch["whole"] - batch["image"]).flatten(1) > 0.5
    damaged = batch["kind"] > 0
    overlap = 2 * (missing & truth).sum(1) / (missing.sum(1) + truth.sum(1)).clamp_min(1)
    print(f"loss {losses[0]:.3f} to {losses[-1]:.3f}, voxels {missing.sum(1).tolist()}, DSC {overlap.tolist()}")
    assert losses[-1] < 0.7 * losses[0]
    assert overlap[damaged].mean() > 0.5
    assert missing[~damaged].sum() < 0.05 * missing[damaged].sum()
    state = completer.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in others.items())


@pytest.mark.parametrize(("share", "blurred"), [(0.0, False), (1.0, True)])
def test_some_batches_show_no_more_than_the_decoders_grid(
    dataset: SkullDataset, monkeypatch: pytest.MonkeyPatch, share: float, blurred: bool
) -> None:
    completer = small_network()
    network = start_facial_network(completer)
    engine = engine_of(network, torch.optim.SGD(network.parameters(), lr=0.0))
    (batch,) = SkullBatches(dataset, batch_size=12, wholes=True, kinds=("complete", "facial"), seed=1)
    seen: list[torch.Tensor] = []
    forward = network.forward
    monkeypatch.setattr(network, "forward", lambda image, decoded: seen.append(image) or forward(image, decoded))

    FacialStep(completer, ImplantLoss(), blurred_share=share)(engine, batch)

    coarse = finer(torch.nn.functional.avg_pool3d(batch["image"], 2), (2, 2, 2))
    torch.testing.assert_close(seen[0], coarse if blurred else batch["image"])
    assert not torch.equal(coarse, batch["image"])


def test_a_network_that_misses_nothing_scores_nothing(dataset: SkullDataset) -> None:
    batches = SkullBatches(dataset, batch_size=2, wholes=True, kinds=("facial", "facial"))
    truths = torch.cat([(batch["whole"] - batch["image"]).flatten(1) > 0.5 for batch in batches]).sum(1)
    seen = np.prod(fine_box(BOX).spatial_size) * 2 / 3  # from the front
    everything = (2 * truths / (truths + seen)).mean()
    for logit, expected in ((-9.0, 0.0), (9.0, float(everything))):
        completer = _saying(logit)
        score = HeldOutFacialDice(completer, completer.start_facial_network(), batches, torch.device("cpu"))()
        assert score == pytest.approx(expected, abs=1e-5)


FINE = fine_box(BOX)
BONE = np.random.default_rng(0).random(FINE.spatial_size) < 0.3
DECODED = Refined(np.full(BOX.spatial_size, 0.3, np.float32), np.zeros(BOX.spatial_size, np.float32), BOX)


def _refined(network: SkullCompleter, gamma: float = 1.0) -> Refined:
    fit, frame = FacialFit.of(network), pose()
    assert fit is not None
    return fit.refine(DECODED, Volume(BONE, FINE.grid(frame)), frame, torch.zeros(7), gamma)


@pytest.mark.parametrize(("gamma", "added"), [(1.0, 0.6), (0.5, 0.3), (0.0, 0.0), (-1.0, 0.0), (5.0, 3.0)])
def test_gamma_scales_what_is_added_to_the_bone(gamma: float, added: float) -> None:
    refined = _refined(_saying(float(np.log(0.6 / 0.4))), gamma)

    expected = BONE.astype(np.float32)
    expected[:, 16:] = np.minimum(expected[:, 16:] + THIN_BONE * added, 1.0)
    assert refined.box == FINE
    np.testing.assert_allclose(refined.bone_share, BONE, atol=1e-5)
    np.testing.assert_allclose(refined.probability, expected, atol=1e-5)


def test_where_nothing_is_found_missing_the_decoded_skull_stays() -> None:
    assert _refined(_saying(-9.0)) is DECODED
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
        "bundle.skull_implant.model.defect_class.class_by_shape",
        lambda *_: torch.full((3,), by_shape, dtype=torch.long),
    )

    found = CompletionInferer()(small_images(), network)

    assert found["class_index"].tolist() == [expected] * 3
    assert bool(found["class_decided"].all()) == (by_shape != UNDECIDED)


@pytest.mark.parametrize(("voxels", "facial"), [(2, False), (20, True)])
def test_little_missing_bone_is_no_facial_defect(monkeypatch: pytest.MonkeyPatch, voxels: int, facial: bool) -> None:
    voxel_ml = float(np.prod(BOX.spacing_mm)) / 1000.0
    monkeypatch.setattr("bundle.skull_implant.model.defect_class.FACIAL_ML", 10 * voxel_ml)
    monkeypatch.setattr("bundle.skull_implant.model.defect_class.class_by_shape", lambda *_: torch.tensor([NO_HOLE]))
    missing = torch.zeros(1, 1, *FINE.spatial_size)
    missing.view(-1)[: 8 * voxels] = 1.0
    monkeypatch.setattr("bundle.skull_implant.model.defect_class.missing_bone", lambda *_: missing)

    found = CompletionInferer()(torch.zeros(1, 1, *BOX.spatial_size), _saying(0.0))

    assert bool(found["class_index"][0] == FACIAL) == facial


@pytest.mark.parametrize(("low", "high", "facial"), [(40, 20, True), (20, 40, False), (0, 0, False)])
def test_a_shape_that_decides_nothing_is_facial_where_most_is_missing_below_the_vault(
    monkeypatch: pytest.MonkeyPatch, low: int, high: int, facial: bool
) -> None:
    monkeypatch.setattr("bundle.skull_implant.model.defect_class.class_by_shape", lambda *_: torch.tensor([UNDECIDED]))
    missing = torch.zeros(1, 1, *FINE.spatial_size)
    missing[0, 0, :, -1, 0].view(-1)[:low] = 1.0
    missing[0, 0, :, :, -1].view(-1)[:high] = 1.0
    monkeypatch.setattr("bundle.skull_implant.model.defect_class.missing_bone", lambda *_: missing)
    network = _saying(0.0)
    network.class_weight.zero_()
    network.class_bias.copy_(torch.tensor([0.0, 1.0, 0.0]))

    found = CompletionInferer()(torch.zeros(1, 1, *BOX.spatial_size), network)

    assert bool(found["class_index"][0] == FACIAL) == bool(found["class_decided"][0]) == facial


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

    assert asked.box == weaker.box == FINE
    assert (asked.probability[:, 16:] > 0.9).all()
    np.testing.assert_array_equal(weaker.probability, weaker.bone_share)
    np.testing.assert_array_equal(unasked.probability, decoded)


@pytest.mark.parametrize(("rim_fit", "asked"), [(True, True), (False, False), (WITHOUT_DEFECT_NETWORKS, False)])
def test_a_scored_method_asks_it_where_its_name_says_so(tmp_path: Path, rim_fit: bool | str, asked: bool) -> None:
    save_weights(_saying(9.0), tmp_path / "model.pt")
    settings = {"model": (str(tmp_path / "model.pt"), 1.0, 0, rim_fit)}
    protocol = Protocol(settings, dataset_dir="", baselines=False)

    method = methods_of(protocol)["model"]

    if asked:
        assert isinstance(method, InferenceMethod)
        assert method.designer.after.facial_fit is not None
    else:  # which knows no facial network
        assert isinstance(method, CompleterMethod)


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
    save_weights(network, tmp_path / "model.pt")

    loaded = SkullCompleter.from_file(tmp_path / "model.pt")

    assert loaded.hole_network is None
    assert loaded.facial_network is not None
    assert loaded.start_facial_network() is loaded.facial_network
    np.testing.assert_allclose(_refined(loaded).probability, _refined(network).probability)


def test_the_facial_network_of_an_older_version_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    network = small_network()
    older = {f"facial_network.{name}": value for name, value in light_unet(2, (8, 16, 32)).state_dict().items()}
    torch.save(network.state_dict() | older, tmp_path / "model.pt")

    loaded = SkullCompleter.from_file(tmp_path / "model.pt")

    assert loaded.facial_network is None
    assert torch.equal(loaded.dev, network.dev)
    assert caplog.messages == [
        "model.pt: its facial network is of version 0.5.0 and left out; train one with configs/facial.yaml"
    ]


def test_it_starts_as_a_u_net_that_sees_neither_other_side_nor_decoded_skull(tmp_path: Path) -> None:
    torch.manual_seed(2)
    unet = ImplantUNet(BOX.spatial_size, (8, 16, 32)).eval()
    torch.nn.init.constant_(unet.unet.get_submodule("output_block").conv.conv.bias, -0.3)
    save_weights(unet, tmp_path / "unet.pt")
    completer = small_network()

    network = start_facial_network(completer, str(tmp_path / "unet.pt")).eval()

    image, decoded = torch.zeros(1, 1, *BOX.spatial_size), small_images(1, seed=1)
    image[:, :, :, -16:] = small_images(1)[:, :, :, -16:]
    front = unet.unet(image[:, :, :, -16:])  # instance norm is over what it sees
    started = network(finer(image, (2, 2, 2)), decoded)[:, :, :, -32:]
    torch.testing.assert_close(started, finer(front, (2, 2, 2)), atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        next(network.parameters()).add_(1.0)
    again = start_facial_network(completer, str(tmp_path / "unet.pt"))
    assert again is network  # a trained one goes on from where it is


@pytest.mark.parametrize("channels", [(8, 16, 24), (8, 16, 32, 64)])
def test_a_u_net_of_other_sizes_is_refused(tmp_path: Path, channels: tuple[int, ...]) -> None:
    save_weights(ImplantUNet((16, 24, 16), channels), tmp_path / "unet.pt")

    with pytest.raises(InputError, match=r"unet.pt: start_unet must be a U-Net whose levels below the first have"):
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

    def run(**more: str) -> Outcome:
        given = words | more
        return run_module(
            "monai.bundle", "run", "facial_training", *(word for key in given for word in (f"--{key}", given[key]))
        )

    refused, done = run(start_unet=str(tmp_path / "unet.pt")), run()

    assert refused.status == 1
    assert "Traceback" not in refused.stderr
    assert "unet.pt: a U-Net must exist, no such file" in refused.stderr.splitlines()[-1]
    assert done.status == 0, done.stderr
    trained = SkullCompleter.from_file(tmp_path / "run" / "model.pt").state_dict()
    start = torch.load(tmp_path / "start.pt", weights_only=True)
    assert all(torch.equal(trained[name], value) for name, value in start.items())
    assert any(name.startswith("facial_network.") for name in trained)
    assert (tmp_path / "run" / "facial.csv").read_text().count("\n") == 3
