"""The beta-VAE and the network that a workflow sees: encode, step along DEV, decode (Li et al. 2022)."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.frame.canonical_grid import CanonicalBox
from bundle.skull_implant.frame.vault_template import VaultTemplate
from bundle.skull_implant.model.encoder_decoder import Decoder, Encoder
from bundle.skull_implant.model.facial_network import FacialNetwork, fine_box, make_facial_network
from bundle.skull_implant.model.shipped_weights import check_weights
from bundle.skull_implant.model.unrolled_vault import make_hole_network

logger = logging.getLogger(__name__)

DEFECT_CLASSES = ("cranial", "facial")
LATENT_CLASSES = ("complete", *DEFECT_CLASSES)
TABLE_MAP = (83, 83)  # rays of 3 degrees down to 120 degrees from the vertex


class SkullCompleter(nn.Module):
    """Stage-1 encoder, stage-2 decoder and the latent statistics: one tensor in, one tensor out.

    Everything that inference needs travels in the state dict, as buffers: sizes, box, mean vault, statistics.

    Args:
        spatial_size: voxels of the canonical grid along right, anterior, superior.
        box_mm: size of the canonical box.
        box_top_mm: how far the box reaches above the vertex.
        channels: of each strided convolution.
        strides: of each strided convolution.
        latent_size: numbers in a code.
        template_size: entries along one side of the mean vault's map.
        prelu: the paper's activation; else a leaky ReLU.
        refined_levels: coarsest levels of the decoder that have a second convolution.
        table_modes: principal components in the shape model of the vault's tables.
        hole_network: also has the network of :mod:`unrolled_vault`, for cranial holes.
        facial_network: also has the network of :mod:`facial_network`, for facial defects.
    """

    __jit_unused_properties__ = ("template", "box", "fine_box")  # no tensors; TorchScript would compile them

    if TYPE_CHECKING:  # register_buffer declares nothing, and TorchScript cannot read annotations of a class
        spatial_size: torch.Tensor
        box_mm: torch.Tensor
        box_top_mm: torch.Tensor
        latent_mean: torch.Tensor
        latent_std: torch.Tensor
        centroids: torch.Tensor
        dev: torch.Tensor
        dev_slope: torch.Tensor
        class_weight: torch.Tensor
        class_bias: torch.Tensor
        table_mean: torch.Tensor
        table_modes: torch.Tensor
        template_mm: torch.Tensor
        template_step_deg: torch.Tensor
        usual_rotation: torch.Tensor

    def __init__(
        self,
        spatial_size: Sequence[int],
        channels: Sequence[int],
        strides: Sequence[int],
        latent_size: int,
        box_mm: Sequence[float] = (176.0, 224.0, 160.0),
        box_top_mm: float = 6.0,
        template_size: int = 69,
        prelu: bool = True,
        refined_levels: int = 0,
        table_modes: int = 0,
        hole_network: bool = False,
        facial_network: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(spatial_size, channels, strides, latent_size, prelu)
        self.decoder = Decoder(spatial_size, channels, strides, latent_size, prelu, refined_levels)
        # The faster layout of 3D convolutions, on CPUs and GPUs.
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.register_buffer("prelu", torch.tensor(prelu))
        self.register_buffer("refined_levels", torch.tensor(refined_levels))
        self.register_buffer("spatial_size", torch.tensor(list(spatial_size)))
        self.register_buffer("channels", torch.tensor(list(channels)))
        self.register_buffer("strides", torch.tensor(list(strides)))
        self.register_buffer("box_mm", torch.tensor(list(box_mm), dtype=torch.float64))
        self.register_buffer("box_top_mm", torch.tensor(box_top_mm, dtype=torch.float64))
        self.register_buffer("latent_mean", torch.zeros(latent_size))
        self.register_buffer("latent_std", torch.ones(latent_size))
        self.register_buffer("centroids", torch.zeros(len(LATENT_CLASSES), latent_size))
        self.register_buffer("dev", torch.zeros(len(DEFECT_CLASSES), latent_size))
        self.register_buffer("dev_slope", torch.zeros(len(DEFECT_CLASSES), latent_size, latent_size))
        self.register_buffer("class_weight", torch.zeros(len(LATENT_CLASSES), latent_size))
        self.register_buffer("class_bias", torch.zeros(len(LATENT_CLASSES)))
        # Of table_model.TableModel, on rays of 3 degrees.
        self.register_buffer("table_mean", torch.zeros(2, *TABLE_MAP))
        self.register_buffer("table_modes", torch.zeros(table_modes, 2, *TABLE_MAP))
        self.hole_network: nn.Module | None = make_hole_network() if hole_network else None
        self.facial_network: FacialNetwork | None = make_facial_network(self.box) if facial_network else None
        self.register_buffer("template_mm", torch.zeros(template_size, template_size, dtype=torch.float64))
        self.register_buffer("template_step_deg", torch.tensor(4.0, dtype=torch.float64))
        self.register_buffer("usual_rotation", torch.eye(3, dtype=torch.float64))

    @classmethod
    def from_file(cls, model_file: str | Path) -> SkullCompleter:
        """A completer of the sizes that a checkpoint holds, with its weights, in evaluation mode.

        Raises:
            InputError: the file is missing or is not a checkpoint of this class.
        """
        state = load_state(model_file)
        if "published" in state:
            raise InputError(
                f"{Path(model_file).name}: model_file must be a completer written by training, got the method paper's "
                "published networks; use `python -m scripts.complete_published`"
            )
        _drop_older_facial_network(state, Path(model_file).name)
        try:
            network = cls(
                state["spatial_size"].tolist(),
                state["channels"].tolist(),
                state["strides"].tolist(),
                state["latent_mean"].numel(),
                state["box_mm"].tolist(),
                float(state["box_top_mm"]),
                state["template_mm"].shape[0],
                bool(state["prelu"]),
                int(state["refined_levels"]),
                len(state.setdefault("table_modes", torch.zeros(0, 2, *TABLE_MAP))),
                *(any(key.startswith(f"{each}.") for key in state) for each in ("hole_network", "facial_network")),
            )
            state.setdefault("table_mean", network.table_mean)
            network.load_state_dict(state)
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(
                f"{Path(model_file).name}: model_file must be a completer written by training, got other keys; "
                "train one with `python -m monai.bundle run training --config_file configs/train.yaml`"
            ) from error
        return network.eval()

    @property
    def template(self) -> VaultTemplate:
        """The mean vault that this model's training skulls were aligned with."""
        # Copies: a network that is sent to another process moves to shared memory, and views would be left behind.
        radii, rotation = (each.cpu().numpy().copy() for each in (self.template_mm, self.usual_rotation))
        return VaultTemplate(radii, float(self.template_step_deg), rotation)

    @property
    def box(self) -> CanonicalBox:
        """The canonical box that this network sees."""
        size, size_mm = self.spatial_size.tolist(), self.box_mm.tolist()
        return CanonicalBox((size[0], size[1], size[2]), (size_mm[0], size_mm[1], size_mm[2]), float(self.box_top_mm))

    @property
    def fine_box(self) -> CanonicalBox:
        """The same box at the grid of the facial network."""
        return fine_box(self.box)

    @torch.no_grad()
    def start_decoder(self, decoder: Decoder, warm: bool = True) -> None:
        """Take over the decoder of raw codes, so that standardized ones give the same skulls.

        Args:
            decoder: stage 1's, of the same sizes.
            warm: False leaves this one as it is.
        """
        if not warm:
            return
        self.decoder.load_state_dict(decoder.state_dict())
        weight = decoder.linear.weight
        self.decoder.linear.weight.copy_(weight * self.latent_std)
        self.decoder.linear.bias.copy_(decoder.linear.bias + weight @ self.latent_mean)

    def start_hole_network(self) -> nn.Module:
        """The hole network, a new one if there is none."""
        if self.hole_network is None:
            self.hole_network = make_hole_network().to(self.table_mean.device)
        return self.hole_network

    def start_facial_network(self) -> FacialNetwork:
        """The facial network, a new one if there is none."""
        if self.facial_network is None:
            self.facial_network = make_facial_network(self.box).to(self.table_mean.device)
        return self.facial_network

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """Standardized posterior mean `(B, latent_size)` of a skull `(B, 1, X, Y, Z)`."""
        mean, _ = self.encoder(image)
        return (mean - self.latent_mean) / self.latent_std

    def code_deviation(self, image: torch.Tensor) -> torch.Tensor:
        """Standard deviation of the standardized code's posterior `(B, latent_size)`, at most 1, that of all skulls.

        A collapsed posterior (beta = 100) has a sigma far above the deviation of all means; its samples say nothing.
        """
        _, log_variance = self.encoder(image)
        return (torch.exp(0.5 * log_variance) / self.latent_std).clamp_max(1.0)

    def decode(self, code: torch.Tensor) -> torch.Tensor:
        """Probability of skull `(B, 1, X, Y, Z)` of a standardized code."""
        return torch.softmax(self.decoder(code), dim=1)[:, 1:]

    def class_probabilities(self, code: torch.Tensor) -> torch.Tensor:
        """Probability of complete, cranial, facial `(B, 3)`, by linear discriminants of the standardized code."""
        return torch.softmax(code @ self.class_weight.T + self.class_bias, dim=1)

    def step(self, code: torch.Tensor, class_index: torch.Tensor) -> torch.Tensor:
        """DEV conditioned on the code: the step from a defective to the complete skull's code, `(B, latent_size)`.

        The mean step of the class (Li et al. 2022) plus a linear function of how this code differs from the class's
        centroid, because a class's mean cannot know where a patient's hole is. With a `dev_slope` of 0 it is the
        paper's DEV.

        Args:
            code: (B, latent_size), standardized.
            class_index: (B,), in :data:`DEFECT_CLASSES`.
        """
        deviation = code - self.centroids[1 + class_index]
        return self.dev[class_index] + torch.einsum("bij,bj->bi", self.dev_slope[class_index], deviation)

    @torch.jit.unused
    def completed(self, code: torch.Tensor, defect_class: str) -> torch.Tensor:
        """Probability of skull `(B, 1, X, Y, Z)` at gamma = 1, of codes (B, latent_size) with a defect of a class."""
        index = torch.full((len(code),), DEFECT_CLASSES.index(defect_class), device=code.device)
        return self.decode(code + self.step(code, index))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Complete skulls at gamma = 1: probability `(B, 1, X, Y, Z)`."""
        code = self.encode(image)
        class_index = self.class_probabilities(code)[:, 1:].argmax(dim=1)
        return self.decode(code + self.step(code, class_index))


class SkullVAE(nn.Module):
    """Stage 1: the completer's encoder, trained together with a decoder of its own.

    Args:
        completer: gives the encoder, which is shared, and the decoder's sizes.
    """

    def __init__(self, completer: SkullCompleter) -> None:
        super().__init__()
        self.encoder = completer.encoder
        self.decoder = copy.deepcopy(completer.decoder)
        self.latent_size = completer.latent_mean.numel()

    def forward(
        self, image: torch.Tensor, noise: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits, mean and log variance of skulls (B, 1, X, Y, Z).

        Args:
            image: skulls.
            noise: (B, latent_size), standard normal: the code is the posterior's sample there. Without, it is drawn in
                training mode, and the code is the mean in evaluation mode.
        """
        mean, log_variance = self.encoder(image)
        if noise is None and self.training:
            noise = torch.randn_like(mean)
        code = mean if noise is None else mean + noise * torch.exp(0.5 * log_variance)
        return self.decoder(code), mean, log_variance


def load_state(model_file: str | Path) -> dict[str, Any]:
    """A checkpoint's plain state dict, read with `weights_only=True`.

    Raises:
        InputError: missing or unreadable file, or a `models/model.pt` that is not the shipped one.
    """
    path = Path(model_file)
    if not path.is_file():
        raise InputError(f"{path}: model_file must exist; train one or give the shipped models/model.pt")
    check_weights(path)
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # torch raises many kinds for a broken file
        raise InputError(
            f"{path.name}: model_file must be a PyTorch state dict, it cannot be read; copy it again"
        ) from error


def _drop_older_facial_network(state: dict[str, Any], name: str) -> None:
    """Take out the facial network of version 0.5.0, which saw other voxels."""
    older = [key for key in state if key.startswith("facial_network.") and not key.startswith("facial_network.unet.")]
    for key in older:
        del state[key]
    if older:
        logger.warning(
            "%s: its facial network is of version 0.5.0 and left out; train one with configs/facial.yaml", name
        )
