"""A plain MONAI datalist as a training set: JSON with "training" and "validation" entries of "image" and "label".

It is prepared once, into a folder beside it, and used from there as long as list and files stay the same.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.frame.canonical_grid import CanonicalBox
from bundle.skull_implant.frame.skull_mask import clean_binary_mask
from bundle.skull_implant.frame.vault_template import VaultTemplate
from bundle.skull_implant.hashes import hash_files
from bundle.skull_implant.input.image_file import read_header, read_voxels
from bundle.skull_implant.input.reading import case_name, read_case
from bundle.skull_implant.model.network import SkullCompleter
from bundle.skull_implant.model.shipped_weights import OWN, model_path
from bundle.skull_implant.train import preparing, processes
from bundle.skull_implant.train.dataset_folder import DATALIST, DatasetFolder
from bundle.skull_implant.train.preparing import Source
from bundle.skull_implant.volume import Volume
from bundle.skull_implant.whole_files import check_writable

logger = logging.getLogger(__name__)

STORED_SIZE = (256, 256, 128)


@dataclass(frozen=True)
class LabeledSource(Source):
    """A skull of a datalist: `skull` is its image, a CT or a mask.

    Args:
        label: 0 background, 1 bone, 2 the implant, as this bundle's own label map; or the complete skull alone, beside
            an image that is the defective skull; None for an image that is the complete skull.
    """

    label: Path | None = None

    def read_skull(self, threshold_hu: float) -> Volume:
        """Bone and implant on the label's grid.

        Raises:
            InputError: unreadable, or a label with other values.
        """
        if self.label is None:
            return super().read_skull(threshold_hu)
        labels = self._labels()
        return clean_binary_mask(Volume((labels.voxels > 0).astype(np.uint8), labels.grid))

    def read_implant(self) -> Volume | None:
        """What is labeled 2, or what the label has more than an image that is a mask; None if that is nothing.

        Raises:
            InputError: the label is not the whole skull, because the mask is mostly outside, or they are on two grids.
        """
        if self.label is None:
            return None
        labels = self._labels()
        piece = labels.voxels == 2
        if not piece.any():
            image = read_case(self.skull)
            if image.is_mask:
                if not image.volume.grid.same_as(labels.grid):
                    raise InputError(
                        f"{self.label.name}: label must lie on the grid of {self.skull.name}, another arrived; "
                        "resample it, or give bone as 1 and the implant as 2"
                    )
                bone, whole = image.volume.voxels > 0, labels.voxels > 0
                if 2 * np.count_nonzero(bone & whole) < np.count_nonzero(bone):
                    raise InputError(
                        f"{self.label.name}: label must be the complete skull, most of the image's bone is not in it; "
                        "give bone as 1 and the implant as 2"
                    )
                piece = whole & ~bone
        return Volume(piece.astype(np.uint8), labels.grid) if piece.any() else None

    def _labels(self) -> Volume:
        path = Path(self.label or "")
        volume = read_voxels(read_header(path))
        values = np.unique(volume.voxels).tolist()
        if not {0, 1, 2}.issuperset(values) or len(values) < 2:
            listed = ", ".join(f"{value:g}" for value in values[:6])
            raise InputError(
                f"{path.name}: label must hold 0 background, 1 skull and 2 implant if there is one, {listed} arrived; "
                "export the skull alone"
            )
        return volume


def open_dataset(dataset_dir: str | Path) -> DatasetFolder:
    """A training set: what `scripts.prepare` wrote, or a MONAI datalist, which is prepared first.

    Args:
        dataset_dir: folder, or the datalist's JSON file.

    Raises:
        InputError: neither, or a list that cannot be prepared.
    """
    path = Path(dataset_dir)
    return DatasetFolder(prepare_datalist(path) if path.is_file() else path)


def check_dataset(dataset_dir: str | Path) -> None:
    """Raise InputError where :func:`open_dataset` finds neither or a part of it is missing; nothing is prepared."""
    path = Path(dataset_dir)
    if path.is_file():
        if not (_prepared(path, read_datalist(path)) / DATALIST).is_file():
            check_writable(path.parent)
    else:
        DatasetFolder(path).check()


def dataset_hash(dataset_dir: str | Path) -> str:
    """SHA-256 that tells one training set from another, by the content of its cases.

    Raises:
        InputError: neither of what :func:`open_dataset` takes.
    """
    return hash_files([open_dataset(dataset_dir).folder / DATALIST])


def prepare_datalist(path: Path, spatial_size: tuple[int, int, int] = STORED_SIZE) -> Path:
    """The folder of a datalist's prepared skulls, made if it is not there; of several processes by the first one.

    Without "validation" a fifth of the cases is drawn for it. Skulls are aligned with the shipped model's mean vault.

    Args:
        path: of the JSON file; its entries are relative to it.
        spatial_size: voxels of the stored grid.
    """
    parts = read_datalist(path)
    folder = _prepared(path, parts, spatial_size)
    if processes.is_first() and not (folder / DATALIST).is_file():
        logger.info("%s: preparing %d skulls in %s", path.name, sum(map(len, parts.values())), folder.name)
        own = model_path(OWN)
        template = (
            SkullCompleter.from_file(own).template
            if own.is_file()
            else preparing.build_template(parts["training"], 300.0)
        )
        _prepare(parts, folder, template, spatial_size)
    processes.wait()
    return folder


def _prepared(
    path: Path, parts: Mapping[str, Sequence[LabeledSource]], spatial_size: tuple[int, int, int] = STORED_SIZE
) -> Path:
    """The folder for a datalist's prepared skulls, another one for other files."""
    files = [each for sources in parts.values() for source in sources for each in (source.skull, source.label) if each]
    stamps = [(str(each), each.stat().st_size, each.stat().st_mtime_ns) for each in files]
    identity = json.dumps([path.read_text(), stamps, spatial_size])
    return path.with_name(f"{path.stem}_prepared_{hashlib.sha256(identity.encode()).hexdigest()[:8]}")


def read_datalist(path: Path) -> dict[str, list[LabeledSource]]:
    """Skulls of "training" and "validation"; other keys of the file are passed over.

    Raises:
        InputError: no such list, an entry without an image, or a file that is missing.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: dataset_dir must be a folder or a JSON datalist, it cannot be read") from error
    lists = {part: content.get(part, []) if isinstance(content, dict) else [] for part in ("training", "validation")}
    if not lists["training"]:
        raise InputError(
            f"{path.name}: a datalist must have entries in 'training', got none; see MONAI's Decathlon format"
        )
    parts = {part: [_source(entry, part, path) for entry in entries] for part, entries in lists.items()}
    names = [source.name for sources in parts.values() for source in sources]
    if len(set(names)) < len(names):  # `case_1/ct.nii.gz`, `case_2/ct.nii.gz`
        parts = {
            part: [replace(each, name=f"{each.skull.absolute().parent.name}_{each.name}") for each in sources]
            for part, sources in parts.items()
        }
        names = [source.name for sources in parts.values() for source in sources]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{path.name}: each case must be listed once, more than once is {twice[0]}; remove one")
    if not parts["validation"] and len(names) < 2:
        raise InputError(
            f"{path.name}: a datalist must have at least two skulls, one for validation, got one; add more"
        )
    if not parts["validation"]:
        held_out = preparing.validation_names(names, "", 0.2, seed=0)
        parts["validation"] = [source for source in parts["training"] if source.name in held_out]
        parts["training"] = [source for source in parts["training"] if source.name not in held_out]
    return parts


def _source(entry: Mapping[str, Any], part: str, path: Path) -> LabeledSource:
    image = entry.get("image") if isinstance(entry, Mapping) else None
    if not isinstance(image, str):
        raise InputError(f"{path.name}: each entry of {part!r} must have an 'image', got {str(entry)[:80]}")
    label = entry.get("label") or None
    files = [path.parent / each for each in (image, label) if each]
    for each in files:
        if not each.exists():
            raise InputError(f"{path.name}: {each.name}: must be there, no such file; paths are relative to the list")
    return LabeledSource(case_name(files[0]), files[0], label=files[1] if label else None)


def _prepare(
    parts: Mapping[str, Sequence[LabeledSource]],
    folder: Path,
    template: VaultTemplate,
    spatial_size: tuple[int, int, int],
) -> None:
    sources = [source for sources in parts.values() for source in sources]
    validation = [source.name for source in parts["validation"]]
    try:
        preparing.prepare_dataset(sources, folder, validation, template, CanonicalBox(spatial_size), threshold_hu=300.0)
    except OSError as error:
        raise InputError(
            f"{folder.name}: the folder of the datalist must allow writing ({error.strerror}); copy the list elsewhere"
        ) from error
