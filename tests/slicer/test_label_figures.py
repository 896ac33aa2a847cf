"""Slicer's file of segments, pictures of it, and the time of the server, in the environment of `make label`."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from bundle.skull_implant.volume import Grid, Volume
from tests.end_to_end import ROOT, small_head
from tests.label_servers import NOT_INSTALLED

pytestmark = [
    pytest.mark.label,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
pytest.importorskip("slicerio", reason=NOT_INSTALLED)
pytest.importorskip("monailabel", reason=NOT_INSTALLED)


def label_map() -> Volume:
    head = small_head(0)
    labels = head.complete_skull.voxels.astype(np.uint8)
    labels[head.implant.voxels > 0] = 2
    return Volume(labels, head.hu.grid)


def test_segments_come_back_from_slicers_file_with_names_voxels_and_an_oblique_grid(tmp_path: Path) -> None:
    import slicerio

    from bundle.skull_implant.slicer.label_figures import read_segments, write_segmentation

    turn = Rotation.from_euler("xyz", (9.0, -6.0, 4.0), degrees=True).as_matrix()
    plain = label_map()
    grid = Grid(plain.grid.size, (2.0, 1.5, 2.5), (-71.5, 130.25, 77.0), tuple(turn.ravel().tolist()))

    write_segmentation(tmp_path / "a.seg.nrrd", Volume(plain.voxels, grid))

    segments = read_segments(tmp_path / "a.seg.nrrd")
    assert list(segments) == ["skull", "implant"]
    for name, value in (("skull", 1), ("implant", 2)):
        np.testing.assert_array_equal(segments[name].voxels, plain.voxels == value)
        np.testing.assert_allclose(segments[name].grid.affine, grid.affine, rtol=0, atol=1e-9)
    stored = slicerio.read_segmentation(str(tmp_path / "a.seg.nrrd"))["segments"]
    assert [segment["labelValue"] for segment in stored] == [1, 2]


def test_the_pictures_show_both_segments_and_each_gamma(tmp_path: Path) -> None:
    from matplotlib.image import imread

    from bundle.skull_implant.slicer.label_figures import (
        COLORS,
        draw_gammas,
        draw_segments,
        read_segments,
        write_segmentation,
    )

    write_segmentation(tmp_path / "a.seg.nrrd", label_map())
    segments = read_segments(tmp_path / "a.seg.nrrd")

    draw_segments(small_head(0).hu, segments, tmp_path / "a.png", (-150.0, 700.0))
    draw_gammas({0.5: segments, 1.0: segments}, tmp_path / "b.png")

    for name, share in (("a.png", 0.005), ("b.png", 0.02)):
        picture = imread(tmp_path / name)[..., :3]
        blue = picture[..., 2] - picture[..., 0]  # of the implant's color, and of no bone's
        assert np.mean(blue > 0.5 * (COLORS["implant"][2] - COLORS["implant"][0])) > share, name
        assert 0.1 < np.mean(picture.max(axis=2) > 0.1) < 0.9


def test_the_server_and_the_command_are_timed_on_the_same_scan(tmp_path: Path) -> None:
    from bundle.skull_implant.slicer.label_benchmark import benchmark_label

    table = benchmark_label(tmp_path, (96, 116, 84), 1, ROOT)

    rows = re.findall(r"^\| ([\w. -]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", table, re.MULTILINE)
    assert [row[0] for row in rows] == ["start of the server", "request to the server", "python -m scripts.complete"]
    assert all(float(number) > 0 for row in rows for number in row[1:])
