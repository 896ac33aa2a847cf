"""The prepared training set on disk: canonical skulls, one bit a voxel, a datalist and the mean vault."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.frame.canonical_frame import CanonicalFrame
from bundle.skull_implant.frame.canonical_grid import CanonicalBox, resize
from bundle.skull_implant.frame.vault_template import VaultTemplate
from bundle.skull_implant.hashes import hash_file
from bundle.skull_implant.whole_files import whole_file, write_text

DATALIST = "dataset.json"
PARTS = ("training", "validation", "defective")  # defective: their own hole filled with a guess, for training


@dataclass(frozen=True)
class PreparedSkull:
    """A skull in the canonical box.

    Args:
        name: of the case.
        complete: (X, Y, Z) uint8, share of bone times 255.
        implant: the same for the piece of an official defect, or None; in the part "defective" a model's guess.
        scales: (3,), of its canonical frame.
    """

    name: str
    complete: np.ndarray
    implant: np.ndarray | None
    scales: np.ndarray


def write_skull(
    folder: Path, name: str, complete: np.ndarray, implant: np.ndarray | None, frame: CanonicalFrame
) -> dict[str, str]:
    """Write one case and return its datalist entry.

    Args:
        folder: the dataset's folder.
        name: of the case.
        complete: (X, Y, Z) bool.
        implant: (X, Y, Z) bool or None.
        frame: where the case lies in its scan.
    """
    path = folder / "cases" / f"{name}.npz"
    arrays: dict[str, Any] = {
        "shape": complete.shape,
        "complete": np.packbits(complete),
        "frame": frame.affine,
        "scales": frame.scales,
    }
    if implant is not None:
        arrays["implant"] = np.packbits(implant)
    with whole_file(path) as partial:
        np.savez_compressed(partial, **arrays)
    return {"name": name, "image": f"cases/{name}.npz", "sha256": hash_file(path)}


def write_datalist(
    folder: Path, lists: dict[str, list[dict[str, str]]], box: CanonicalBox, template: VaultTemplate
) -> None:
    """Write `dataset.json`, last of all, so that a folder with one is whole."""
    content = {
        "box": {"spatial_size": box.spatial_size, "size_mm": box.size_mm, "top_mm": box.top_mm},
        "template": {
            "step_deg": template.step_deg,
            "radii_mm": np.round(template.radii_mm, 3).tolist(),
            "usual_rotation": np.round(template.usual_rotation, 6).tolist(),
        },
        **lists,
    }
    write_text(folder / DATALIST, json.dumps(content) + "\n")


class DatasetFolder:
    """A prepared training set.

    Args:
        folder: what `scripts.prepare` wrote.

    Raises:
        InputError: no such folder or no datalist in it.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            content = json.loads((self.folder / DATALIST).read_text())
            box, template = content["box"], content["template"]
            self.lists: dict[str, list[dict[str, str]]] = {key: content.get(key, []) for key in PARTS}
            self.box = CanonicalBox(tuple(box["spatial_size"]), tuple(box["size_mm"]), float(box["top_mm"]))
            self.template = VaultTemplate(
                np.asarray(template["radii_mm"]), float(template["step_deg"]), np.asarray(template["usual_rotation"])
            )
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise InputError(
                f"{folder}: dataset_dir must hold a {DATALIST} that scripts.prepare wrote; "
                f"run `python -m scripts.prepare SOURCE {folder}`, or give a datalist's own file"
            ) from error

    def read(self, part: str, spatial_size: tuple[int, int, int]) -> list[PreparedSkull]:
        """Skulls of one of :data:`PARTS` at a grid size.

        Raises:
            InputError: a case is missing or damaged, or the part is empty.
        """
        self._check_listed(part)
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # unpacking and resampling leave Python's lock alone
            return list(pool.map(lambda entry: self._read_one(entry, spatial_size), self.lists[part]))

    def check(self) -> None:
        """Raise InputError where a part that training needs is empty, or a file is not there; nothing is read."""
        for part in PARTS:
            self._check_listed(part)
            for entry in self.lists[part]:
                self._file(entry)

    def _check_listed(self, part: str) -> None:
        if not self.lists[part] and part != "defective":
            raise InputError(
                f"{self.folder.name}: {part} must list at least one skull, got none; prepare with --validation_share"
            )

    def _file(self, entry: dict[str, str]) -> Path:
        path = self.folder / entry["image"]
        if not path.is_file():
            raise InputError(f"{entry['image']}: must be where scripts.prepare wrote it, it is missing; prepare again")
        return path

    def skulls(self, part: str, spatial_size: tuple[int, int, int]) -> Iterator[PreparedSkull]:
        """As :meth:`read`, one after the other."""
        for entry in self.lists[part]:
            yield self._read_one(entry, spatial_size)

    def _read_one(self, entry: dict[str, str], spatial_size: tuple[int, int, int]) -> PreparedSkull:
        path = self._file(entry)
        if hash_file(path) != entry["sha256"]:
            raise InputError(f"{entry['image']}: must be as scripts.prepare wrote it, it has changed; prepare again")
        with np.load(path) as arrays:
            shape = tuple(int(size) for size in arrays["shape"])
            volumes = {
                key: np.unpackbits(arrays[key], count=int(np.prod(shape))).reshape(shape)
                for key in ("complete", "implant")
                if key in arrays
            }
            scales = np.asarray(arrays["scales"], dtype=float)
        resized = {key: self._bytes(value, spatial_size) for key, value in volumes.items()}
        return PreparedSkull(entry["name"], resized["complete"], resized.get("implant"), scales)

    def _bytes(self, voxels: np.ndarray, spatial_size: tuple[int, int, int]) -> np.ndarray:
        """Voxels 0 and 1 at a grid size, as share of bone times 255."""
        if voxels.shape == tuple(spatial_size):
            return voxels * np.uint8(255)
        return np.rint(255 * resize(voxels, self.box, spatial_size)).astype(np.uint8)
