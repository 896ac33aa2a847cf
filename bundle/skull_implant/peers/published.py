"""The method paper's own networks (Li et al. 2022), from checkpoints of its published code, in that code's convention.

What differs from :class:`SkullCompleter`: the code is `mu + sigma`, which MONAI's `VarAutoEncoder` gives in evaluation
mode, never standardized; the decoupled decoder ends in batch norm, PReLU and ReLU; the network sees the whole field of
view of a scan, resized with nearest neighbors, in no common frame. Axes stay as they are stored, so a scan must be
stored as the training volumes were.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.networks.blocks import Convolution
from monai.networks.nets import VarAutoEncoder
from torch import nn
from torch.nn import functional

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.model.network import DEFECT_CLASSES, LATENT_CLASSES, load_state


class PublishedDecoder(nn.Module):
    """The decoupled decoder: code `(B, latent_size)` to two scores `(B, 2, X, Y, Z)`, none below 0.

    Names are those of the published checkpoints: `decodeL`, `conv1`, `conv2`, ...

    Args:
        channels: of the encoder's convolutions; mirrored.
        latent_size: numbers in a code.
        final_size: voxels of the coarsest level; (4, 4, 2) in the paper.
    """

    def __init__(self, channels: Sequence[int], latent_size: int, final_size: Sequence[int]) -> None:
        super().__init__()
        self.coarsest = (channels[-1], *final_size)
        self.decodeL = nn.Linear(latent_size, int(np.prod(self.coarsest)))
        sizes = [*channels[::-1], 2]
        self.names = [f"conv{number}" for number in range(1, len(sizes))]
        for name, before, after in zip(self.names, sizes, sizes[1:], strict=False):
            self.add_module(name, Convolution(3, before, after, strides=2, norm="batch", is_transposed=True))

    def forward(self, code: torch.Tensor) -> torch.Tensor:
        """Scores of background and skull."""
        features = functional.relu(self.decodeL(code)).view(-1, *self.coarsest)
        for name in self.names:
            features = functional.relu(self.get_submodule(name)(features))
        return features


class PublishedVAE(nn.Module):
    """Encoder of a published VAE and the decoder that belongs to it, with `encode` and `decode` as in SkullCompleter.

    Args:
        spatial_size: voxels that every scan is resized to.
        channels: of the convolutions, each of stride 2.
        latent_size: numbers in a code.
        decoupled: with the stage-2 decoder; else with the VAE's own, as in the paper's comparison with beta = 0.0001.
    """

    # For type checkers: register_buffer declares nothing.
    spatial_size: torch.Tensor
    dev: torch.Tensor
    centroids: torch.Tensor

    def __init__(
        self, spatial_size: Sequence[int], channels: Sequence[int], latent_size: int, decoupled: bool = True
    ) -> None:
        super().__init__()
        total = 2 ** len(channels)
        if any(size % total for size in spatial_size):
            raise ValueError(f"spatial_size {tuple(spatial_size)} must be divisible by {total}")
        self.vae = VarAutoEncoder(
            3, (1, *spatial_size), 2, latent_size, channels, [2] * len(channels), norm="batch", use_sigmoid=False
        )
        final_size = [size // total for size in spatial_size]
        self.decoder = PublishedDecoder(channels, latent_size, final_size) if decoupled else None
        self.register_buffer("published", torch.tensor(1))  # tells this class's files from a SkullCompleter's
        self.register_buffer("decoupled", torch.tensor(decoupled))
        self.register_buffer("spatial_size", torch.tensor(list(spatial_size)))
        self.register_buffer("channels", torch.tensor(list(channels)))
        self.register_buffer("centroids", torch.zeros(len(LATENT_CLASSES), latent_size))
        self.register_buffer("dev", torch.full((len(DEFECT_CLASSES), latent_size), torch.nan))

    @classmethod
    def from_file(cls, model_file: str | Path) -> PublishedVAE:
        """What `scripts.import_published` wrote, in evaluation mode.

        Raises:
            InputError: the file is missing or is not such a model.
        """
        state = load_state(model_file)
        try:
            size, channels = state["spatial_size"].tolist(), state["channels"].tolist()
            network = cls(size, channels, state["dev"].shape[1], bool(state["decoupled"]))
            network.load_state_dict(state)
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(
                f"{Path(model_file).name}: model_file must be an imported published model, got other keys; "
                "make one with `python -m scripts.import_published VAE DECODER MODEL_FILE`"
            ) from error
        return network.eval()

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """`mu + sigma`, `(B, latent_size)`, of skulls `(B, 1, X, Y, Z)` in 0 and 1."""
        mean, log_variance = self.vae.encode_forward(image)
        return mean + torch.exp(0.5 * log_variance)

    def scores(self, code: torch.Tensor) -> torch.Tensor:
        """Scores `(B, 2, X, Y, Z)` of background and skull, as the published code takes the larger of."""
        if self.decoder is None:
            return self.vae.decode_forward(code, use_sigmoid=False)
        return self.decoder(code)

    def decode(self, code: torch.Tensor) -> torch.Tensor:
        """Probability of skull `(B, 1, X, Y, Z)`; above one half where the published code's argmax is 1."""
        return torch.softmax(self.scores(code), dim=1)[:, 1:]

    def step(self, defect_class: str) -> torch.Tensor:
        """DEV of a class, `(latent_size,)`: the mean code of complete skulls minus that of defective ones (eq. 12).

        Raises:
            InputError: unknown class, or the model was imported without codes of that class.
        """
        if defect_class not in DEFECT_CLASSES:
            raise InputError(f"defect_class must be {' or '.join(DEFECT_CLASSES)}, got {defect_class!r}")
        dev = self.dev[DEFECT_CLASSES.index(defect_class)]
        if dev.isnan().any():
            raise InputError(
                f"model_file must hold DEV of {defect_class} defects, it holds none; import it again with --codes, or "
                f"with --complete and --{defect_class} folders of skulls"
            )
        return dev

    @torch.no_grad()
    def complete(self, skull: np.ndarray, gamma: float = 1.0, defect_class: str = "cranial") -> np.ndarray:
        """The decoded skull of `z + gamma * DEV` (eq. 13) on a scan's own grid.

        Args:
            skull: (X, Y, Z), bone above 0, of any size; axes as in the training volumes.
            gamma: 0 reconstructs and needs no DEV, 1 completes, more thickens.
            defect_class: cranial or facial.

        Returns:
            (X, Y, Z) bool. The probability is interpolated linearly and thresholded at one half after, because nearest
            neighbors would leave steps; the published code writes the resized grid itself and inverts nothing.
        """
        step = self.step(defect_class) if gamma else 0.0
        code = self.encode(self.resize(skull)) + gamma * step
        probability = functional.interpolate(self.decode(code), skull.shape, mode="trilinear", align_corners=False)
        return np.asarray((probability[0, 0] > 0.5).cpu().numpy())

    def resize(self, skull: np.ndarray) -> torch.Tensor:
        """The whole field of view at the network's size, nearest neighbors: `(1, 1, X, Y, Z)` in 0 and 1.

        The same voxels as MONAI's `Resize(mode="nearest")`.
        """
        image = torch.from_numpy(np.ascontiguousarray(skull > 0)).float()[None, None]
        return functional.interpolate(image.to(self.dev.device), self.spatial_size.tolist(), mode="nearest")

    def set_dev(self, means: dict[str, np.ndarray]) -> None:
        """Set DEV from mean codes (latent_size,) of complete skulls and of those of one or both defect classes."""
        for index, name in enumerate(LATENT_CLASSES):
            if name in means:
                self.centroids[index] = torch.as_tensor(means[name])
        for index, name in enumerate(DEFECT_CLASSES):
            if name in means:
                self.dev[index] = torch.as_tensor(means["complete"] - means[name])

    @torch.no_grad()
    def mean_code(self, skulls: Iterable[np.ndarray]) -> np.ndarray:
        """Mean of the codes of skulls (X, Y, Z), each resized, `(latent_size,)`."""
        codes = [self.encode(self.resize(skull))[0].double() for skull in skulls]
        return np.asarray(torch.stack(codes).mean(0).cpu().numpy())


def import_checkpoints(
    vae_file: str | Path, decoder_file: str | Path | None, spatial_size: Sequence[int] = (256, 256, 128)
) -> PublishedVAE:
    """A network with the weights of published checkpoints, without DEV, in evaluation mode.

    Args:
        vae_file: state dict of MONAI's `VarAutoEncoder`.
        decoder_file: state dict of the decoupled decoder, or None for the VAE's own.
        spatial_size: voxels that scans were resized to; the paper's 256 x 256 x 128.

    Raises:
        InputError: a file is missing, is no state dict, or its layers are not the published ones.
    """
    weights = _checkpoint(vae_file)
    channels = _channels(weights, vae_file)
    latent_size = weights["mu.weight"].shape[0]
    try:
        network = PublishedVAE(spatial_size, channels, latent_size, decoder_file is not None)
    except ValueError as error:
        raise InputError(
            f"--spatial_size must be divisible by {2 ** len(channels)}, 2 for each convolution of "
            f"{Path(vae_file).name}, got {tuple(spatial_size)}; give the size that its scans were resized to"
        ) from error
    _load(network.vae, weights, vae_file, spatial_size)
    if decoder_file is not None and network.decoder is not None:
        _load(network.decoder, _checkpoint(decoder_file), decoder_file, spatial_size)
    return network.eval()


def mean_codes_of_file(path: str | Path, latent_size: int, order: Sequence[str]) -> dict[str, np.ndarray]:
    """Mean codes of each class from the codes that the published code saves.

    Args:
        path: `.npy`, (N, 1, latent_size) or (N, latent_size): as many of each class, one class after the other.
        latent_size: of the model.
        order: of the classes; the published file has cranial, facial, complete.

    Raises:
        InputError: no such array.
    """
    name = Path(path).name
    try:
        codes = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{name}: --codes must be a .npy file of numbers, it cannot be read; check the path"
        ) from error
    shape = codes.shape
    if codes.ndim == 3 and shape[1] == 1:
        codes = codes[:, 0]  # (N, 1, latent_size) -> (N, latent_size)
    if codes.ndim != 2 or codes.shape[1] != latent_size or len(codes) % len(order) or not len(codes):
        rule = f"--codes must be N x {latent_size} numbers, as many of each of {', '.join(order)}, in this order"
        raise InputError(f"{name}: {rule}, got {' x '.join(map(str, shape))}; save the codes of this model's skulls")
    if codes.dtype.kind not in "fiu" or not np.isfinite(codes).all():
        raise InputError(f"{name}: --codes must be finite numbers, others arrived; save the codes of this model again")
    parts = np.split(codes.astype(float), len(order))
    return {kind: part.mean(axis=0) for kind, part in zip(order, parts, strict=True)}


def _checkpoint(path: str | Path) -> dict[str, Any]:
    if not Path(path).is_file():
        raise InputError(f"{path}: a checkpoint must exist, no such file; check the path")
    try:
        state = load_state(path)
        if all(isinstance(value, torch.Tensor) for value in state.values()) and state:
            return state
    except (InputError, TypeError, ValueError):
        pass
    raise InputError(
        f"{Path(path).name}: must be a state dict of tensors, as torch.save(network.state_dict(), ...) writes it; "
        "it cannot be read as one; save the state dict instead of the network, or copy the file again"
    )


def _channels(weights: dict[str, Any], path: str | Path) -> list[int]:
    channels: list[int] = []
    while (weight := weights.get(f"encode.encode_{len(channels)}.conv.weight")) is not None:
        channels.append(weight.shape[0])
    if not channels or "mu.weight" not in weights or "logvar.weight" not in weights:
        first = ", ".join(list(weights)[:3])
        raise InputError(
            f"{Path(path).name}: must be of MONAI's VarAutoEncoder, with encode.encode_0.conv, mu and logvar, got "
            f"{first}, ...; give the VAE first and the decoder second"
        )
    return channels


def _load(network: nn.Module, weights: dict[str, Any], path: str | Path, spatial_size: Sequence[int]) -> None:
    """Load weights, and name the first layer that does not fit."""
    own = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in weights.items()}
    for name in [*own, *given]:
        if own.get(name) != given.get(name):
            size = " x ".join(map(str, spatial_size))
            raise InputError(
                f"{Path(path).name}: {name} must be {own.get(name, 'absent')} in the published network at {size} voxels"
                f", got {given.get(name, 'none')}; give the checkpoint of that network, or its --spatial_size"
            )
    network.load_state_dict(weights)
