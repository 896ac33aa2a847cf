"""Other implants for the same hole, to choose from, and where they agree.

A surgeon is not helped by ten near-copies. Of a cranial hole the first alternatives are therefore the limits of what
the bone leaves open: a thicker, a thinner, a rounder and a flatter plate that meet the rim as the recommended one
does (:class:`PlatePosterior`); then come steps of gamma, then random samples. Of a facial defect, which has no two
tables, and without the rim fit these are steps of gamma and samples: of the encoder's posterior, and of how sure the
facial network's probabilities are.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
import torch

from bundle.skull_implant.design.metrics import dice
from bundle.skull_implant.design.rim_metrics import RimScore
from bundle.skull_implant.fit.plate_posterior import LIMITS, Plate, PlatePosterior
from bundle.skull_implant.model.network import SkullCompleter
from bundle.skull_implant.steps.report import ReviewRules
from bundle.skull_implant.steps.transforms import CaseData, CaseTransform, Completion, Implantd, timed
from bundle.skull_implant.volume import Volume

RECOMMENDED = "recommended"


@dataclass(frozen=True)
class CandidateRules:
    """What is proposed.

    Args:
        deviations: standard deviations from the recommended plate to its limits, between which nine of ten true plates
            should lie.
        gamma_steps: added to the chosen gamma.
        alike_dsc: an implant that overlaps an earlier one more is no choice and left out.
        attempts: proposals are made up to so many times what was asked for.
        samples: of the agreement map.
        seed: of all random numbers.
        facial_log_sd: standard deviation of the logarithm of gamma in samples of a facial implant, which scales the
            facial network's probabilities: some draws are surer than it is and some less.
        minimum_cover: candidates that close a smaller share of their hole come last, however well they fit.
    """

    deviations: float = 1.64
    gamma_steps: tuple[float, ...] = (0.25, -0.25, 0.5, -0.5)
    alike_dsc: float = 0.995
    attempts: int = 2
    samples: int = 10
    seed: int = 0
    facial_log_sd: float = 0.5
    minimum_cover: float = ReviewRules.minimum_hole_cover


@dataclass(frozen=True)
class Candidate:
    """An implant to choose, and its fit.

    Args:
        name: "recommended", "thicker", "thinner", "rounder", "flatter", "gamma_1.25", "sample_1" and so on.
        implant: on the scan's grid.
        gamma: that it was decoded with.
        rim: its gap and step.
        dsc: overlap with the recommended implant.
        cover: share of its hole that it closes; NaN of a facial one.
    """

    name: str
    implant: Volume
    gamma: float
    rim: RimScore
    dsc: float
    cover: float = math.nan

    def fit_mm(self) -> float:
        """Sum of gaps and steps, mm; infinite where there is no rim to measure at, as of a facial implant."""
        total = float(sum(asdict(self.rim).values()))
        return total if math.isfinite(total) else math.inf

    def figures(self) -> dict[str, object]:
        """JSON-ready, for the report."""
        rim = {name: round(value, 2) if math.isfinite(value) else None for name, value in asdict(self.rim).items()}
        volume_ml = round(float(np.count_nonzero(self.implant.voxels)) * self.implant.grid.voxel_ml, 2)
        return {
            "name": self.name,
            "gamma": round(self.gamma, 4),
            "volume_ml": volume_ml,
            "dsc_with_recommended": round(self.dsc, 3),
            "hole_cover": round(self.cover, 3) if math.isfinite(self.cover) else None,
            "rim": rim,
        }


class Candidatesd(CaseTransform):
    """Add `candidates`, a ranked list whose first is `implant`, and `agreement_map`, each if it is asked for.

    The agreement map is a uint8 Volume on the scan's grid: of each voxel the percentage of `samples` random implants
    that hold it; 0 on bone.

    Args:
        network: decodes.
        designer: made `implant`.
        gamma: that it was made with.
        count: candidates that are wanted; 1 is `implant` alone, and then no list is made.
        keep_agreement: make the map.
        rules: what is proposed.
    """

    def __init__(
        self,
        network: SkullCompleter,
        designer: Implantd,
        gamma: float = 1.0,
        count: int = 1,
        keep_agreement: bool = False,
        rules: CandidateRules | None = None,
    ) -> None:
        self.network = network
        self.designer = designer
        self.gamma = gamma
        self.count = count
        self.keep_agreement = keep_agreement
        self.rules = rules or CandidateRules()

    def step(self, data: CaseData) -> None:
        """Comes after the designer."""
        if self.count == 1 and not self.keep_agreement:
            return
        alternatives = Alternatives(self.network, self.designer, data, self.gamma, self.rules)
        if self.count > 1:
            with timed(data, "candidates"):
                data["candidates"] = self._ranked(alternatives, data)
            if len(data["candidates"]) < self.count:
                found = f"{len(data['candidates'])} of {self.count} candidates are written"
                data.setdefault("warnings", []).append(f"{found}, the others were empty or like an earlier one")
        if self.keep_agreement:
            with timed(data, "agreement map"):
                data["agreement_map"] = agreement_map(alternatives, data["skull"], self.rules.samples)
                data["agreement_samples"] = self.rules.samples

    def _ranked(self, alternatives: Alternatives, data: CaseData) -> list[Candidate]:
        """The recommended implant, then the others, best fit first."""
        first: Volume = data["implant"]
        if not first.voxels.any():
            return []

        def measured(name: str, implant: Volume, gamma: float, dsc: float) -> Candidate:
            if data["defect_class"] != "cranial":  # a face has no rim to measure at
                rim, cover = RimScore(*[math.nan] * 4), math.nan
            elif implant is first:
                rim, cover = data["rim"], data["hole_cover"].share
            else:
                rim, closed = self.designer.measure(implant, data)
                cover = closed.share
            return Candidate(name, implant, gamma, rim, dsc, cover)

        found = [measured(RECOMMENDED, first, self.gamma, 1.0)]
        for name, gamma, implant in itertools.islice(alternatives.proposals(), self.rules.attempts * self.count):
            overlaps = [dice(each.implant.voxels, implant.voxels) for each in found]
            if implant.voxels.any() and max(overlaps) <= self.rules.alike_dsc:
                found.append(measured(name, implant, gamma, overlaps[0]))
            if len(found) == self.count:
                break
        least = self.rules.minimum_cover
        return [found[0], *sorted(found[1:], key=lambda each: (each.cover < least, each.fit_mm(), -each.dsc))]


class Alternatives:
    """Implants of one case other than the recommended one.

    Args:
        network: decodes.
        designer: made the recommended implant.
        data: of the case, after the designer.
        gamma: that it was made with.
        rules: what is proposed.
    """

    def __init__(
        self, network: SkullCompleter, designer: Implantd, data: CaseData, gamma: float, rules: CandidateRules
    ) -> None:
        self.network, self.designer, self.data, self.gamma, self.rules = network, designer, data, gamma, rules
        self.completion: Completion = data["completion"]
        self.has_plate = data["defect_class"] == "cranial" and designer.rim_fit is not None

    def proposals(self) -> Iterator[tuple[str, float, Volume]]:
        """Name, gamma and implant, without an end."""
        if self.has_plate:
            for which in LIMITS:
                yield which, self.gamma, self._moved(self._posterior.limit(which, self.rules.deviations))
        for step in self.rules.gamma_steps:
            gamma = self.gamma + step
            yield f"gamma_{gamma:g}", gamma, self._decoded(self._code(gamma), gamma)
        for number in itertools.count():
            yield f"sample_{number + 1}", *self.sample(number)

    def sample(self, number: int) -> tuple[float, Volume]:
        """Gamma and implant of one random draw; the same number gives the same one."""
        random = np.random.default_rng([self.rules.seed, number])
        if self.has_plate:
            return self.gamma, self._moved(self._posterior.sample(random))
        code = self._code(self.gamma)
        noise = torch.from_numpy(random.standard_normal(len(code))).to(code)
        gamma = self.gamma * math.exp(self.rules.facial_log_sd * random.standard_normal())
        return gamma, self._decoded(code + self._code_deviation * noise, gamma)

    @cached_property
    def _plate(self) -> Plate:
        made = self.completion
        return Plate(
            made.probability, made.bone_share, made.holes.cores, self.data["frame"], made.box, self.network.template
        )

    @cached_property
    def _posterior(self) -> PlatePosterior:
        fit = self.designer.rim_fit
        assert fit is not None
        return PlatePosterior(self._plate.hole, self._plate.covered, fit.errors.plate)

    def _moved(self, change: np.ndarray) -> Volume:
        return self.designer.design(self.completion.of(self._plate.changed(change)), self.data)

    def _code(self, gamma: float) -> torch.Tensor:
        return self.data["code"] + gamma * self.data["code_step"]

    @cached_property
    @torch.no_grad()
    def _code_deviation(self) -> torch.Tensor:
        return self.network.code_deviation(self._on_device(self.data["image"])[None])[0].to(self.data["code"])

    def _on_device(self, tensor: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(tensor).to(self.network.latent_mean.device)

    @torch.no_grad()
    def _decoded(self, code: torch.Tensor, gamma: float) -> Volume:
        probability = self.network.decode(self._on_device(code)[None])[0, 0].cpu().numpy()
        # The hole is where it was; a face is looked at anew, because there what is decoded decides where it is.
        holes = self.completion.holes if self.data["defect_class"] == "cranial" else None
        return self.designer.design(self.designer.complete(probability, self.data, holes, gamma), self.data)


def agreement_map(alternatives: Alternatives, skull: Volume, samples: int) -> Volume:
    """Percentage of random implants that hold a voxel, uint8, on the scan's grid.

    Args:
        alternatives: gives the samples.
        skull: gives the grid.
        samples: how many.
    """
    count = np.zeros(skull.voxels.shape, np.uint8, order="F")
    for number in range(samples):
        count += alternatives.sample(number)[1].voxels
    return Volume(np.rint(count * np.float32(100.0 / samples)).astype(np.uint8), skull.grid)
