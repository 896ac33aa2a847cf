"""The bundle as one zip in the Model Zoo's layout, the same bytes for the same files."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.whole_files import check_writable, whole_file

BUNDLE_NAME = "skull_implant"
# What belongs, as patterns below the bundle's root. Nothing is taken because it happens to lie there.
CONTENTS = (
    "CHANGELOG.md",
    "LICENSE",
    "README.md",
    "requirements*.txt",
    "bundle/skull_implant/**/*.py",
    "configs/*.conf",
    "configs/*.json",
    "configs/*.yaml",
    "docs/*.md",
    "docs/data_license.txt",
    "docs/figures/*.png",
    "models/model.pt",
    "scripts/*.py",
)
REQUIRED = ("LICENSE", "configs/metadata.json", "configs/inference.yaml", "docs/README.md", "models/model.pt")
EPOCH = (1980, 1, 1, 0, 0, 0)  # the first moment that a zip can name


def bundle_files(root: Path) -> list[str]:
    """Paths below the root of all files that belong to the bundle, sorted, with forward slashes.

    Raises:
        InputError: a file is missing without which it is no bundle.
    """
    found = sorted(path.relative_to(root).as_posix() for pattern in CONTENTS for path in root.glob(pattern))
    missing = [name for name in REQUIRED if name not in found]
    if missing:
        raise InputError(f"{root.name}: a bundle must hold {', '.join(missing)}; run this in a whole clone")
    return found


def package_bundle(root: Path, output_dir: Path) -> Path:
    """Write `skull_implant_v<version>.zip`, with everything in one folder `skull_implant/`, whole or not at all.

    Args:
        root: of the bundle.
        output_dir: made if it is not there; an earlier zip of the version is replaced.

    Returns:
        The zip.

    Raises:
        InputError: the bundle is not complete, or the folder cannot be written.
    """
    names = bundle_files(root)
    version = json.loads((root / "configs" / "metadata.json").read_text())["version"]
    target = check_writable(output_dir) / f"{BUNDLE_NAME}_v{version}.zip"
    with whole_file(target) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name in names:
            entry = zipfile.ZipInfo(f"{BUNDLE_NAME}/{name}", EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o100644 << 16  # a plain file that everybody may read
            archive.writestr(entry, (root / name).read_bytes())
    return target
