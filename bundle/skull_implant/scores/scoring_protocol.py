"""What an evaluation scores: which methods, on which persons, with which defects."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.hashes import bundle_state, hash_file
from bundle.skull_implant.scores.score_table import SITES
from bundle.skull_implant.train.datalist import open_dataset
from bundle.skull_implant.train.dataset_folder import DATALIST
from bundle.skull_implant.train.preparing import Source

WITHOUT_DEFECT_NETWORKS = "without hole and facial network"  # a rim fit by decoder and shape model alone
ModelSettings = tuple[str, float, int, bool | str]


@dataclass(frozen=True)
class Protocol:
    """What is scored. Rows come in this order: baselines, shape model, U-Net, models, other models.

    Args:
        models: method -> (model file, gamma, steps of the code's fit, whether to fit the rim: true, false or
            :data:`WITHOUT_DEFECT_NETWORKS`).
        dataset_dir: prepared training set: its parts, its training skulls for the baselines.
        other_models: more of them.
        varied_holes: a person, 0 to 10; the ten sites take turns over the persons.
        persons: part -> how many of it, drawn with the seed; 0 takes all.
        baselines: also score the completions without a model.
        unet: file of a trained :class:`ImplantUNet` to score too; "" for none.
        shape_model: also score the tables' shape model alone.
        aligned_by: model file whose mean vault aligns the skulls and whose shape model is scored; "" takes the first of
            `models`.
        whole_skulls: also score whole decoded skulls, as the method paper does, of the models without further steps.
        threshold_hu: where the source is CT.
        seed: of holes, slabs and persons.
        device: that the networks run on; shape model, baselines and the fit to the rim are NumPy's.

    Raises:
        InputError: a number of varied holes that no person can have, or an unknown rim fit.
    """

    models: dict[str, ModelSettings]
    dataset_dir: str
    other_models: dict[str, ModelSettings] = field(default_factory=dict)
    varied_holes: int = 2
    persons: dict[str, int] = field(default_factory=lambda: {"validation": 0, "training": 0})
    baselines: bool = True
    unet: str = ""
    shape_model: bool = False
    aligned_by: str = ""
    whole_skulls: bool = True
    threshold_hu: float = 300.0
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not 0 <= self.varied_holes <= len(SITES):
            raise InputError(
                f"varied_holes must be 0 to {len(SITES)} a person, one for each site, got {self.varied_holes}"
            )
        for name, (_, _, _, rim_fit) in self.all_models.items():
            if not isinstance(rim_fit, bool) and rim_fit != WITHOUT_DEFECT_NETWORKS:
                raise InputError(
                    f"rim_fit of {name} must be true, false or {WITHOUT_DEFECT_NETWORKS!r}, got {rim_fit!r}"
                )

    @property
    def own_model(self) -> str:
        """Model file whose mean vault aligns the skulls."""
        return str(self.aligned_by or next(iter(self.models.values()))[0])

    @property
    def all_models(self) -> dict[str, ModelSettings]:
        """Every completer's method, in the order of the rows."""
        return {**self.models, **self.other_models}

    def fingerprint(self) -> dict[str, Any]:
        """Plain values that are equal for protocols that give the same scores.

        Files stand for themselves by their content, so that a model that was trained on is another one.

        Raises:
            InputError: a file cannot be read.
        """
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        plain["version"], _ = bundle_state()
        plain["dataset_dir"] = _digest(_datalist(self.dataset_dir))
        plain["unet"] = _digest(self.unet) if self.unet else ""
        plain["aligned_by"] = _digest(self.own_model)
        for name in ("models", "other_models"):
            plain[name] = {method: [_digest(file), *rest] for method, (file, *rest) in plain[name].items()}
        return plain

    def differs_from(self, earlier: Mapping[str, Any]) -> list[str]:
        """Names of what gives other scores than an earlier protocol did; methods and parts may have come since.

        Args:
            earlier: its :meth:`fingerprint`.
        """

        def holds(name: str, own: Any, before: Any) -> bool:
            if name in ("models", "other_models", "persons"):
                return all(own.get(key) == value for key, value in before.items())
            return own == before or (name in ("baselines", "shape_model", "unet") and not before)

        own = self.fingerprint()
        return [name for name in own if name not in earlier or not holds(name, own[name], earlier[name])]


@dataclass(frozen=True)
class PersonJob:
    """One person's defects.

    Args:
        source: the complete skull.
        part: "validation" or "training".
        sites: of the varied holes.
        number: of the person in the part; with the seed it makes the holes.
    """

    source: Source
    part: str
    sites: tuple[str, ...]
    number: int

    @property
    def person(self) -> tuple[str, str]:
        """Part and name, which rows of a person have."""
        return self.part, self.source.name


def person_jobs(protocol: Protocol, sources: Mapping[str, Source]) -> list[PersonJob]:
    """Every person of a protocol, part after part.

    Raises:
        InputError: a person of the dataset is not in the source.
    """
    return [job for part in protocol.persons for job in _jobs_of_part(protocol, part, sources)]


def _jobs_of_part(protocol: Protocol, part: str, sources: Mapping[str, Source]) -> list[PersonJob]:
    names = [entry["name"] for entry in open_dataset(protocol.dataset_dir).lists[part]]
    missing = sorted(set(names) - set(sources))
    if missing:
        raise InputError(
            f"{part} persons must be in SOURCE, missing {', '.join(missing[:5])}; give the folder that was prepared"
        )
    if protocol.persons[part]:
        chosen = np.random.default_rng(protocol.seed).permutation(len(names))[: protocol.persons[part]]
        names = [names[i] for i in sorted(chosen)]
    count = protocol.varied_holes
    return [
        PersonJob(sources[name], part, tuple(SITES[(number * count + i) % len(SITES)] for i in range(count)), number)
        for number, name in enumerate(names)
    ]


def _datalist(dataset_dir: str) -> Path:
    path = Path(dataset_dir)
    return path / DATALIST if path.is_dir() else path


def _digest(path: str | Path) -> str:
    """SHA-256 of a file's content."""
    try:
        return hash_file(Path(path))
    except OSError as error:
        raise InputError(f"{path}: must be a file that can be read ({error.strerror}); check the path") from error
