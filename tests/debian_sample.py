"""Debian's sample CT of a head (package invesalius-examples): a real head holder, in HU, outside the repository."""

from __future__ import annotations

import plistlib
import tarfile
from pathlib import Path

import numpy as np
import pytest

from bundle.skull_implant.volume import Grid, Volume


def debian_sample(path: Path = Path("/usr/share/doc/invesalius-examples/examples/Cranium.inv3")) -> Volume:
    """The sample as int16 HU on an LPS grid, 0.957 x 0.957 x 1.5 mm; skips the test where the package is not installed.

    The file stores slices from low to high and rows from posterior to anterior; rows are turned here, so that the
    direction is the identity. Columns are taken to run to the patient's left, as in the DICOM series it was made from.
    """
    if not path.is_file():
        pytest.skip(f"no sample CT: {path} is absent; apt-get install invesalius-examples")
    with tarfile.open(path) as archive:
        files = {Path(name).name: archive.extractfile(name) for name in archive.getnames() if "." in name[2:]}
        header, matrix = files["main.plist"].read(), files["matrix.dat"].read()
    facts = plistlib.loads(header)
    slices = np.frombuffer(matrix, np.int16).reshape(facts["matrix"]["shape"])
    voxels = np.ascontiguousarray(slices[:, ::-1, :].transpose(2, 1, 0))  # (slice, row, column) -> (X, Y, Z)
    identity = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    return Volume(voxels, Grid(voxels.shape, tuple(facts["spacing"]), (0.0, 0.0, 0.0), identity))
