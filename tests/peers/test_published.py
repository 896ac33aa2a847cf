"""The published networks give what their own code gives: MONAI's network, and the decoder's layers in their order."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.networks.blocks import Convolution
from monai.networks.nets import VarAutoEncoder
from monai.transforms import Resize
from torch import nn
from torch.nn import functional

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.model.network import SkullCompleter
from bundle.skull_implant.peers.published import PublishedVAE, import_checkpoints, mean_codes_of_file
from bundle.skull_implant.train.weights import save_weights
from tests.end_to_end import Outcome, read, run_module, write_voxels

# Variances with which random weights neither fade nor explode from layer to layer.
PAPER: dict[str, Any] = {
    "size": (256, 256, 128),
    "channels": (32, 64, 64, 128, 128, 256),
    "latent_size": 32,
    "variance": 0.3,
}
SMALL: dict[str, Any] = {"size": (16, 24, 8), "channels": (3, 4, 5), "latent_size": 6, "variance": 0.02}
ORDER = ("cranial", "facial", "complete")


class DecoderOfTheirs(nn.Module):
    """A linear layer, then transposed convolutions of stride 2, a ReLU after each; the coarsest level is reshaped."""

    def __init__(self, size: tuple[int, ...], channels: tuple[int, ...], latent_size: int) -> None:
        super().__init__()
        self.coarsest = (channels[-1], *(each // 2 ** len(channels) for each in size))
        self.decodeL = nn.Linear(latent_size, int(np.prod(self.coarsest)))
        wide = [*reversed(channels), 2]
        self.count = len(channels)
        for i in range(self.count):
            block = Convolution(
                spatial_dims=3, in_channels=wide[i], out_channels=wide[i + 1], strides=2, norm="batch",
                is_transposed=True,
            )  # fmt: skip
            setattr(self, f"conv{i + 1}", block)

    def forward(self, code: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.decodeL(code))
        x = x.reshape(len(code), *self.coarsest)
        for i in range(self.count):
            x = functional.relu(getattr(self, f"conv{i + 1}")(x))
        return x


def shaken(network: nn.Module, seed: int, variance: float) -> nn.Module:
    """Random batch statistics as well, in evaluation mode."""
    torch.manual_seed(seed)
    for name, value in network.state_dict().items():
        if name.endswith("running_mean"):
            value.normal_(0.0, variance)
        elif name.endswith("running_var"):
            value.uniform_(0.5 * variance, 1.5 * variance)
    return network.eval()


def published(folder: Path, size: Any, channels: Any, latent_size: int, variance: float) -> tuple[nn.Module, nn.Module]:
    """Networks as the published code makes them, and their checkpoints vae.pth and decoder.pth."""
    torch.manual_seed(3)
    vae = shaken(
        VarAutoEncoder(
            spatial_dims=3, in_shape=(1, *size), out_channels=2, channels=channels, latent_size=latent_size,
            strides=(2,) * len(channels), num_res_units=0, norm="batch",
        ), 1, variance,
    )  # fmt: skip
    decoder = shaken(DecoderOfTheirs(size, channels, latent_size), 2, variance)
    torch.save(vae.state_dict(), folder / "vae.pth")
    torch.save(decoder.state_dict(), folder / "decoder.pth")
    return vae, decoder


def small(folder: Path) -> PublishedVAE:
    published(folder, **SMALL)
    return import_checkpoints(folder / "vae.pth", folder / "decoder.pth", SMALL["size"])


def blob(size: tuple[int, ...] = (40, 44, 36)) -> np.ndarray:
    """A thick shell."""
    points = np.stack(np.meshgrid(*(np.linspace(-1, 1, each) for each in size), indexing="ij"))
    radius = np.sqrt((points**2).sum(0))
    return np.asarray((radius < 0.9) & (radius > 0.5))


def equal_to_theirs(folder: Path, shape: dict[str, Any], image: torch.Tensor) -> None:
    vae, decoder = published(folder, **shape)
    network = import_checkpoints(folder / "vae.pth", folder / "decoder.pth", shape["size"])
    with torch.no_grad():
        own_scores, mean, log_variance, code = vae(image)
        theirs = decoder(code)
        ours = network.encode(image)
        scores = network.scores(ours)
        torch.testing.assert_close(code, mean + torch.exp(log_variance / 2))
        torch.testing.assert_close(ours, code)
        torch.testing.assert_close(scores, theirs, rtol=1e-5, atol=1e-6)
        assert theirs.isfinite().all()
        assert theirs.std() > 0
        assert torch.equal(network.decode(ours)[0, 0] > 0.5, theirs[0].argmax(0) == 1)
        network.decoder = None
        torch.testing.assert_close(torch.sigmoid(network.scores(ours)), own_scores, rtol=1e-5, atol=1e-6)


def test_encoder_and_decoder_give_what_the_published_code_gives(tmp_path: Path) -> None:
    image = (torch.rand(2, 1, *SMALL["size"], generator=torch.Generator().manual_seed(0)) > 0.5).float()

    equal_to_theirs(tmp_path, SMALL, image)


@pytest.mark.slow
def test_the_same_at_the_size_of_the_paper(tmp_path: Path) -> None:
    image = torch.from_numpy(blob(PAPER["size"])).float()[None, None]

    equal_to_theirs(tmp_path, PAPER, image)
    state = torch.load(tmp_path / "decoder.pth")
    assert {name.split(".")[0] for name in state} == {"decodeL", *(f"conv{i}" for i in range(1, 7))}
    assert state["decodeL.weight"].shape == (8192, 32)


def test_a_scan_is_resized_as_a_whole_by_nearest_neighbors_as_monai_does(tmp_path: Path) -> None:
    scan = blob((37, 61, 23))
    theirs = Resize(SMALL["size"], mode="nearest")(scan[None].astype(np.float32))

    assert torch.equal(small(tmp_path).resize(scan)[0], torch.as_tensor(np.asarray(theirs)))


def test_gamma_moves_along_dev_and_0_reconstructs(tmp_path: Path) -> None:
    network = small(tmp_path)
    generator = np.random.default_rng(0)
    means = {kind: generator.normal(size=6) for kind in ORDER}
    network.set_dev(means)
    np.testing.assert_allclose(network.step("facial"), means["complete"] - means["facial"], rtol=1e-6)

    scan = blob(SMALL["size"])
    with torch.no_grad():
        code = network.encode(network.resize(scan))
        wanted = [network.scores(code + gamma * network.step("cranial"))[0].argmax(0) == 1 for gamma in (0, 1, 5)]

    for gamma, theirs in zip((0, 1, 5), wanted, strict=True):
        np.testing.assert_array_equal(network.complete(scan, gamma, "cranial"), theirs)
    assert not torch.equal(wanted[0], wanted[2])


def test_the_result_lies_on_the_scans_own_grid(tmp_path: Path) -> None:
    scan = blob((37, 61, 23))

    assert small(tmp_path).complete(scan, gamma=0).shape == scan.shape


def test_dev_comes_from_saved_codes_in_thirds(tmp_path: Path) -> None:
    codes = np.arange(9 * 6, dtype=float).reshape(9, 1, 6)
    np.save(tmp_path / "zu.npy", codes)

    means = mean_codes_of_file(tmp_path / "zu.npy", 6, ORDER)

    assert list(means) == list(ORDER)
    np.testing.assert_array_equal(means["cranial"], np.arange(6.0) + 6)
    np.testing.assert_array_equal(means["complete"], np.arange(6.0) + 6 * 7)


def test_the_mean_code_of_skulls_is_the_mean_of_their_codes(tmp_path: Path) -> None:
    network = small(tmp_path)
    scans = [blob((20, 24, 12)), blob((30, 20, 18))[::-1]]
    with torch.no_grad():
        each = [network.encode(network.resize(scan))[0].numpy() for scan in scans]

    np.testing.assert_allclose(network.mean_code(scans), np.mean(each, axis=0), rtol=1e-6)


def test_a_written_model_loads_with_the_same_weights(tmp_path: Path) -> None:
    network = small(tmp_path)
    network.set_dev({kind: np.full(6, number) for number, kind in enumerate(ORDER)})
    save_weights(network, tmp_path / "model.pt")

    loaded = PublishedVAE.from_file(tmp_path / "model.pt").state_dict()

    for name, value in network.state_dict().items():
        assert torch.equal(loaded[name], value), name


def imported(folder: Path, *words: object) -> Outcome:
    target = folder / "model.pt"
    size = ",".join(map(str, SMALL["size"]))
    return run_module(
        "scripts.import_published", folder / "vae.pth", folder / "decoder.pth", target, "--spatial_size", size, *words
    )


def test_the_commands_import_and_complete_a_scan(tmp_path: Path) -> None:
    published(tmp_path, **SMALL)
    skull = blob()
    hole = np.zeros_like(skull)
    hole[:, :, 30:] = True
    for kind, voxels in (("complete", skull), ("cranial", skull & ~hole)):
        (tmp_path / kind).mkdir()
        write_voxels(tmp_path / kind / "a.nrrd", voxels)
    outcome = imported(tmp_path, "--complete", tmp_path / "complete", "--cranial", tmp_path / "cranial")
    assert outcome.status == 0, outcome.stderr
    case = tmp_path / "cranial" / "a.nrrd"

    done = run_module("scripts.complete_published", case, tmp_path / "out", tmp_path / "model.pt", "--gamma", "2")

    assert done.status == 0, done.stderr
    found = {kind: read(tmp_path / "out" / "a" / f"{kind}.nii.gz") for kind in ("skull", "decoded", "implant")}
    completed = read(tmp_path / "out" / "a" / "completed.nii.gz")
    wanted = PublishedVAE.from_file(tmp_path / "model.pt").complete(skull & ~hole, 2.0, "cranial")
    np.testing.assert_array_equal(found["decoded"].voxels > 0, wanted)
    np.testing.assert_array_equal(found["implant"].voxels > 0, wanted & ~(skull & ~hole))
    np.testing.assert_array_equal(completed.voxels, found["skull"].voxels | found["implant"].voxels)
    assert completed.grid == read(case).grid
    again = run_module("scripts.complete_published", case, tmp_path / "out", tmp_path / "model.pt")
    assert again.status == 1
    assert "skull.nii.gz: already there" in again.stderr


def test_opening_leaves_one_piece_of_the_implant(tmp_path: Path) -> None:
    from bundle.skull_implant.peers.published_completion import complete_with_published

    network = small(tmp_path)
    case = write_voxels(tmp_path / "a.nrrd", np.where(np.indices((40, 44, 36))[2] < 18, blob(), 0).astype(np.uint8))
    volumes = []
    for opening_mm in (0.0, 3.0):
        folder = tmp_path / str(opening_mm)
        complete_with_published(case, folder, network, gamma=0.0, opening_mm=opening_mm)
        volumes.append(read(folder / "a" / "implant.nii.gz").voxels > 0)

    assert volumes[1].sum() < volumes[0].sum()
    assert not (volumes[1] & ~volumes[0]).any()


def test_a_model_without_dev_reconstructs_and_refuses_to_complete(tmp_path: Path) -> None:
    published(tmp_path, **SMALL)
    outcome = imported(tmp_path)
    assert outcome.status == 0, outcome.stderr
    assert "no DEV" in outcome.stdout
    case = write_voxels(tmp_path / "a.nrrd", blob().astype(np.uint8))

    refused = run_module("scripts.complete_published", case, tmp_path / "out", tmp_path / "model.pt")
    done = run_module("scripts.complete_published", case, tmp_path / "out", tmp_path / "model.pt", "--gamma", "0")

    assert refused.status == 1
    assert refused.stderr.startswith("model_file must hold DEV of cranial defects, it holds none; import it again")
    assert refused.stderr.count("\n") == 1
    assert done.status == 0, done.stderr


def truncated(folder: Path) -> None:
    content = (folder / "decoder.pth").read_bytes()
    (folder / "decoder.pth").write_bytes(content[: len(content) // 2])


def other_channels(folder: Path) -> None:
    torch.save(DecoderOfTheirs(SMALL["size"], (3, 4, 7), 6).state_dict(), folder / "decoder.pth")


def swapped(folder: Path) -> None:
    os.replace(folder / "decoder.pth", folder / "vae.pth")


@pytest.mark.parametrize(
    ("damage", "words", "says"),
    [
        (lambda folder: (folder / "vae.pth").unlink(), (), "vae.pth: a checkpoint must exist, no such file"),
        (truncated, (), "decoder.pth: must be a state dict of tensors"),
        (lambda folder: torch.save(torch.zeros(3), folder / "vae.pth"), (), "vae.pth: must be a state dict of tensors"),
        (lambda folder: torch.save({"epoch": 3}, folder / "vae.pth"), (), "vae.pth: must be a state dict of tensors"),
        (other_channels, (), "decoder.pth: decodeL.weight must be (30, 6)"),
        (swapped, (), "vae.pth: must be of MONAI's VarAutoEncoder"),
        (lambda _: None, ("--spatial_size", "16,16,8"), "vae.pth: mu.weight must be (6, 20)"),
        (lambda _: None, ("--spatial_size", "16,20,8"), "--spatial_size must be divisible by 8"),
        (lambda _: None, ("--spatial_size", "16,16"), "--spatial_size must be three numbers"),
        (lambda _: None, ("--cranial", "somewhere"), "DEV must come from --codes alone or from --complete"),
        (lambda folder: np.save(folder / "zu.npy", np.zeros((4, 6))), ("--codes", "zu.npy"), "zu.npy: --codes must be"),
        (lambda folder: np.save(folder / "zu.npy", np.full((3, 6), np.nan)), ("--codes", "zu.npy"), "finite numbers"),
        (lambda _: None, ("--codes", "none.npy"), "none.npy: --codes must be a .npy file"),
        (lambda folder: (folder / "model.pt").touch(), (), "model.pt: already there"),
    ],
)
def test_a_bad_file_ends_with_1_and_one_line(
    damage: Callable[[Path], object],
    words: tuple[str, ...],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    published(tmp_path, **SMALL)
    damage(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())

    outcome = imported(tmp_path, *words)

    assert outcome.status == 1
    assert says in outcome.stderr
    assert outcome.stderr.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_each_kind_of_model_names_the_command_for_the_other(tmp_path: Path) -> None:
    save_weights(small(tmp_path), tmp_path / "published.pt")
    save_weights(SkullCompleter((8, 8, 8), [4], [2], 3), tmp_path / "own.pt")

    with pytest.raises(InputError, match=r"published.pt: .*use `python -m scripts.complete_published`"):
        SkullCompleter.from_file(tmp_path / "published.pt")
    with pytest.raises(InputError, match=r"own.pt: .*scripts.import_published"):
        PublishedVAE.from_file(tmp_path / "own.pt")
