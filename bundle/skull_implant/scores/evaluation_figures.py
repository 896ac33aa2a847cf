"""The figures of an evaluation, drawn from its tables, its models and its dataset."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.model.network import DEFECT_CLASSES, SkullCompleter
from bundle.skull_implant.scores.figures import plot_curves, plot_implant_scores, plot_skull_scores
from bundle.skull_implant.scores.latent_figures import ClassCodes, gamma_sweep, plot_gamma_sweep, plot_latents
from bundle.skull_implant.scores.score_table import read_scores, read_skull_scores
from bundle.skull_implant.scores.scoring_protocol import Protocol
from bundle.skull_implant.train.latent_statistics import encode_classes
from bundle.skull_implant.train.training_data import DefectCutter, SkullDataset
from bundle.skull_implant.whole_files import check_writable

logger = logging.getLogger(__name__)

PARTS = ("training", "validation")


@dataclass(frozen=True)
class EvaluationFigures:
    """What is drawn beside the tables of an evaluation.

    Args:
        protocol: gives models and dataset; of several methods with one model file the first gives the name.
        curve_runs: output folders of training whose curves are drawn; none draws none.
        gammas: of the sweep; the method paper's 0, 0.3, 0.5 and 1, and one that is too large.
        gamma_person: validation person of the sweep; "" takes the first with an official defect.
    """

    protocol: Protocol
    curve_runs: Sequence[str] = ()
    gammas: Sequence[float] = field(default_factory=lambda: (0.0, 0.3, 0.5, 1.0, 5.0))
    gamma_person: str = ""

    def draw(self, output_dir: str) -> list[Path]:
        """Write the figures beside the `scores.csv` and `skulls.csv` of a folder.

        Returns:
            The files: `box_plots_<part>.png`, `skull_box_plots_<part>.png`, `latents.png`, `gamma_<class>.png` of the
            first model, `training_curves.png`.

        Raises:
            InputError: no scores there, an unknown person, no curves in a run, or a folder that cannot be written.
        """
        folder = check_writable(output_dir)
        scores, skulls = read_scores(folder / "scores.csv"), read_skull_scores(folder / "skulls.csv")
        drawn = []
        if self.curve_runs:
            drawn.append(folder / "training_curves.png")
            plot_curves(self.curve_runs, drawn[-1])
        for part in dict.fromkeys(score.part for score in scores):
            drawn.append(folder / f"box_plots_{part}.png")
            plot_implant_scores(scores, part, drawn[-1])
        for part in dict.fromkeys(score.part for score in skulls):
            drawn.append(folder / f"skull_box_plots_{part}.png")
            plot_skull_scores(skulls, part, drawn[-1])
        drawn += self._draw_latents(folder)
        for path in drawn:
            logger.info("wrote %s", path)
        return drawn

    def _draw_latents(self, folder: Path) -> list[Path]:
        names: dict[str, str] = {}
        for name, (model_file, *_) in {**self.protocol.models, **self.protocol.other_models}.items():
            names.setdefault(str(model_file), name)
        codes: dict[str, tuple[ClassCodes, ClassCodes]] = {}
        drawn: list[Path] = []
        datasets: dict[tuple[int, int, int], dict[str, SkullDataset]] = {}
        for model_file, name in names.items():
            network = SkullCompleter.from_file(model_file)
            size = network.box.spatial_size
            if size not in datasets:
                datasets[size] = {part: SkullDataset(self.protocol.dataset_dir, part, size) for part in PARTS}
            parts = datasets[size]
            codes[name] = (self._codes(network, parts["training"]), self._codes(network, parts["validation"]))
            if not drawn:
                drawn = self._draw_sweeps(folder, network, parts["validation"], name)
        plot_latents(codes, folder / "latents.png")
        return [*drawn, folder / "latents.png"]

    def _codes(self, network: SkullCompleter, dataset: SkullDataset) -> ClassCodes:
        """One code a person and class; the cranial defect is the official one where there is one."""
        cutter = DefectCutter(dataset.box, official_share=1.0)
        codes, kinds, _ = encode_classes(network, dataset, cutter, (1, 1, 1), self.protocol.seed)
        return ClassCodes(codes, kinds, len(dataset))

    def _draw_sweeps(self, folder: Path, network: SkullCompleter, dataset: SkullDataset, method: str) -> list[Path]:
        index = self._sweep_index(dataset)
        item = dataset[index]
        official = item["implant"] if dataset.has_implant[index] else None
        cutter = DefectCutter(dataset.box, official_share=1.0)
        paths = []
        for kind in DEFECT_CLASSES:
            defective = cutter.cut(item["image"], official, kind, np.random.default_rng(self.protocol.seed))
            bone, piece = _numpy(defective), _numpy(item["image"] - defective)
            decoded = gamma_sweep(network, bone, kind, self.gammas)
            paths.append(folder / f"gamma_{kind}.png")
            title = f"{method}: person {dataset.names[index]} (validation), {kind} defect; outlined: what is missing"
            plot_gamma_sweep(bone, piece, decoded, self.gammas, dataset.box, title, paths[-1])
        return paths

    def _sweep_index(self, dataset: SkullDataset) -> int:
        if not self.gamma_person:
            return dataset.has_implant.index(True) if any(dataset.has_implant) else 0
        if self.gamma_person not in dataset.names:
            listed = ", ".join(dataset.names[:5])
            raise InputError(
                f"gamma_person must be one of the validation persons ({listed}, ...), got {self.gamma_person!r}"
            )
        return dataset.names.index(self.gamma_person)


def _numpy(volume: torch.Tensor) -> np.ndarray:
    """(1, X, Y, Z) -> (X, Y, Z)."""
    return volume[0].cpu().numpy()
