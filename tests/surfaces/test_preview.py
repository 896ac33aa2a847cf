"""Pictures of made-up heads in which the sides, the colors and the silhouettes are known."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from matplotlib.figure import Figure
from PIL import Image
from scipy import ndimage
from scipy.spatial.transform import Rotation

from bundle.skull_implant.surfaces.preview import implant_view, render_preview
from bundle.skull_implant.surfaces.scene import Scene
from bundle.skull_implant.surfaces.surface_view import View, render_surface
from bundle.skull_implant.volume import Grid, Volume

WHITE, TEAL = (1.0, 1.0, 1.0), (0.0, 0.6, 0.8)
IDENTITY = np.eye(3)
OBLIQUE = Rotation.from_euler("xyz", [15, -10, 20], degrees=True).as_matrix()
MIRRORED = OBLIQUE @ np.diag([-1.0, 1.0, 1.0])
DIRECTIONS = pytest.mark.parametrize(
    "direction", [IDENTITY, OBLIQUE, MIRRORED], ids=["straight", "oblique", "mirrored"]
)


def test_from_the_front_the_patients_left_is_on_the_right() -> None:
    right, up, toward = View((0.0, -1.0, 0.0)).axes
    assert right == pytest.approx([1, 0, 0])
    assert up == pytest.approx([0, 0, 1])
    assert toward == pytest.approx([0, -1, 0])


def test_from_above_the_face_is_up() -> None:
    right, up, _ = View((0.0, 0.0, 3.0)).axes
    assert up == pytest.approx([0, -1, 0])
    assert right == pytest.approx([-1, 0, 0])


@pytest.mark.parametrize(
    ("toward", "name"), [((0, -1, 0), "front"), ((-1, 1, 1), "back, right, above"), ((1, 0, -0.1), "left")]
)
def test_a_view_says_where_the_viewer_is(toward: tuple[float, float, float], name: str) -> None:
    assert View(toward).name == name


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("seed", [0, 1])
def test_rays_meet_what_a_projection_along_the_axis_shows(axis: int, seed: int) -> None:
    scene = _blob_scene(seed)
    toward = tuple(float(value) for value in np.eye(3)[axis] * (-1 if axis == 1 else 1))
    image = render_surface(scene, View(toward), width=160, height=160, supersampling=3)
    covered_mm2 = image[..., 3].sum() * _pixel_mm(scene, View(toward), 160) ** 2
    fine = ndimage.zoom(scene.solid, 4, order=1, grid_mode=True, mode="nearest") >= 0.5
    assert covered_mm2 == pytest.approx(fine.any(axis=axis).sum() / 16.0, rel=0.03)


@pytest.mark.parametrize("toward", [(0, -1, 0), (0.5, -1.0, 0.3), (-0.7, 0.4, -0.6)])
def test_a_ball_is_round_from_everywhere(toward: tuple[float, float, float]) -> None:
    points = np.stack(np.indices((94, 94, 94)), axis=-1) - 46.5
    scene = Scene.from_masks([_volume(np.linalg.norm(points, axis=-1) <= 45.0)], [WHITE])
    image = render_surface(scene, View(toward), width=120, height=120)
    covered_mm2 = image[..., 3].sum() * _pixel_mm(scene, View(toward), 120) ** 2
    assert covered_mm2 == pytest.approx(np.pi * 45.0**2, rel=0.01)
    assert np.mean(image[58:62, 58:62, 0]) > 1.5 * np.mean(image[100:110, 58:62, 0])  # lit from above


def test_the_nearer_label_hides_the_farther() -> None:
    voxels = np.zeros((2, 30, 30, 30))
    voxels[0, 5:25, 5:10, 5:25] = 1
    voxels[1, 10:20, 20:25, 10:20] = 1
    scene = Scene.from_masks([_volume(part) for part in voxels], [WHITE, TEAL])
    front = render_surface(scene, View((0, -1, 0)), width=60, height=60)
    back = render_surface(scene, View((0, 1, 0)), width=60, height=60)
    assert np.ptp(front[30, 30, :3]) < 0.02  # white, whatever the light
    assert back[30, 30, 0] < 0.1 < 0.3 < back[30, 30, 2]  # teal


def test_hiding_a_label_opens_the_hole_and_keeps_the_frame() -> None:
    skull, implant = _head(IDENTITY)
    scene = Scene.from_masks([skull, implant], [WHITE, TEAL])
    view = implant_view(scene)
    completed, opened = render_surface(scene, view), render_surface(scene.only(0), view)
    teal = (completed[..., 2] - completed[..., 0] > 0.15) & (completed[..., 3] > 0.99)
    assert teal.mean() > 0.05
    assert (opened[..., 2] - opened[..., 0]).max() < 0.02
    untouched = ~ndimage.binary_dilation(teal, iterations=25)  # the rim's shade reaches a little farther
    assert np.abs(completed - opened)[untouched].max() < 0.03


@DIRECTIONS
def test_the_picture_does_not_depend_on_the_grid(direction: np.ndarray) -> None:
    view, centers, areas_mm2 = View((0.5, -1.0, 0.3)), [], []
    for way in (IDENTITY, direction):
        scene = Scene.from_masks(_head(way, toward=(0.8, -0.5, 0.3)), [WHITE, TEAL])
        picture = render_surface(scene, view, width=120, height=120)
        centers.append(_teal_center(picture * 255))
        areas_mm2.append(picture[..., 3].sum() * _pixel_mm(scene, view, 120) ** 2)
    assert centers[1] == pytest.approx(centers[0], abs=0.02)
    assert areas_mm2[1] == pytest.approx(areas_mm2[0], rel=0.02)


def test_nothing_to_draw_is_refused() -> None:
    empty = _volume(np.zeros((5, 5, 5)))
    with pytest.raises(ValueError, match="nothing to draw"):
        Scene.from_masks([empty, empty], [WHITE, TEAL])


@DIRECTIONS
def test_the_implant_lies_on_its_own_side_of_every_slice(tmp_path: Path, direction: np.ndarray) -> None:
    pixels = _preview(tmp_path, *_head(direction, toward=(0.8, -0.3, 0.5)))  # left, a little front, above
    assert pixels.shape == (500, 800, 3)
    axial, coronal, sagittal = (_teal_center(pixels[30:250, 270 * n : 260 + 270 * n]) for n in range(3))
    assert axial[0] > 0.55  # the patient's left is on the right
    assert coronal[0] > 0.55
    assert coronal[1] < 0.45  # superior is up
    assert sagittal[0] < 0.5  # anterior is on the left


@DIRECTIONS
def test_the_third_view_looks_straight_at_the_implant(tmp_path: Path, direction: np.ndarray) -> None:
    pixels = _preview(tmp_path, *_head(direction, toward=(-0.5, 0.8, 0.3)))
    across, along = _teal_center(pixels[255:480, 535:795])
    assert (across, along) == pytest.approx((0.5, 0.5), abs=0.08)


def test_without_an_implant_the_skull_is_drawn_and_the_picture_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    original = Figure.text

    def recording(figure: Figure, x: float, y: float, text: str, **style: object) -> object:
        written.append(text)
        return original(figure, x, y, text, **style)

    monkeypatch.setattr(Figure, "text", recording)
    skull, implant = _head(IDENTITY)
    pixels = _preview(tmp_path, skull, Volume(np.zeros_like(implant.voxels), implant.grid), title="case 7")
    assert "case 7" in written
    assert "no implant" in written
    assert not np.isfinite(_teal_center(pixels)[0])
    assert all((pixels[y : y + 200, x : x + 250] > 100).mean() > 0.03 for y in (30, 260) for x in (5, 270, 540))


def test_an_empty_skull_is_refused(tmp_path: Path) -> None:
    skull, implant = _head(IDENTITY)
    with pytest.raises(ValueError, match="skull is empty"):
        render_preview(Volume(np.zeros_like(skull.voxels), skull.grid), implant, tmp_path / "preview.png")


def test_a_failed_picture_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half_written(_figure: Figure, path: Path, **_style: object) -> None:
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", half_written)
    with pytest.raises(OSError, match="disk full"):
        _preview(tmp_path, *_head(IDENTITY))
    assert list(tmp_path.iterdir()) == []


def test_a_picture_depends_on_nothing_but_what_is_inside(tmp_path: Path) -> None:
    skull, implant = _head(OBLIQUE)
    render_preview(skull, implant, tmp_path / "a.png", dots_per_inch=40)
    skull, implant = (Volume(mask.voxels.astype(np.int16) * 9, mask.grid) for mask in (skull, implant))
    render_preview(skull, implant, tmp_path / "b.png", dots_per_inch=40)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.realdata
@pytest.mark.parametrize("case", ["005", "044"])
def test_a_real_case_is_drawn_in_seconds(shared_dir: Path, tmp_path: Path, case: str) -> None:
    folder = shared_dir / "skullfix" / "training_set"
    complete, implant = (
        Volume.from_image(sitk.ReadImage(str(folder / name / f"{case}.nrrd"))) for name in ("complete_skull", "implant")
    )
    skull = Volume(complete.voxels & (1 - implant.voxels), complete.grid)
    started = time.process_time()
    pixels = _preview(tmp_path, skull, implant, dots_per_inch=100)
    assert pixels.shape == (1000, 1600, 3)
    assert time.process_time() - started < 10.0  # processor seconds; about 3 on an idle machine
    assert _teal_center(pixels[60:500, :520])[1] > 0.5  # all official holes are at the back


def _volume(voxels: np.ndarray) -> Volume:
    return Volume(
        voxels.astype(np.uint8), Grid(voxels.shape, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), tuple(np.eye(3).ravel()))
    )


def _blob_scene(seed: int) -> Scene:
    """Two labels of smooth blobs on a small grid, made without resampling."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(2, 40, 34, 30)), (0, 3, 3, 3))
    masks = np.pad(noise > np.percentile(noise, 92), ((0, 0), (5, 5), (5, 5), (5, 5)))
    occupancy = np.stack([ndimage.gaussian_filter(mask.astype(np.float32), 0.9) for mask in masks])
    occupancy /= np.maximum(occupancy.sum(axis=0), 1.0)
    grid = _volume(masks[0]).grid
    return Scene(occupancy, (WHITE, TEAL), grid, np.argwhere(occupancy.max(axis=0) > 0.3))


def _pixel_mm(scene: Scene, view: View, pixels: int) -> float:
    """Millimeters per pixel of a square picture: the frame's larger side, 4 voxels of margin, 3 % of air."""
    placed = scene.frame @ view.axes[:2].T
    return float(1.03 * (np.ptp(placed, axis=0).max() + 8.0) / pixels * scene.grid.spacing[0])


def _head(direction: np.ndarray, toward: tuple[float, float, float] = (0.6, 0.7, 0.4)) -> tuple[Volume, Volume]:
    """An ellipsoid shell of 140 x 180 x 140 mm around LPS (10, -20, 30), and a round piece cut out in a direction."""
    center, radii, spacing = np.array([10.0, -20.0, 30.0]), np.array([70.0, 90.0, 70.0]), np.array([1.6, 1.8, 2.5])
    size = np.ceil(2 * 120.0 / spacing).astype(int)
    origin = center - direction @ ((size - 1) / 2 * spacing)
    grid = Grid(tuple(size.tolist()), tuple(spacing), tuple(origin), tuple(direction.ravel()))
    points = np.stack(np.indices(grid.size), axis=-1) @ grid.affine[:3, :3].T + origin - center
    level = np.linalg.norm(points / radii, axis=-1)
    shell = (level <= 1.0) & (np.linalg.norm(points / (radii - 7.0), axis=-1) >= 1.0)
    axis = np.array(toward) / np.linalg.norm(toward)
    piece = shell & (points @ axis > np.cos(np.radians(27)) * np.linalg.norm(points, axis=-1))
    return Volume((shell & ~piece).astype(np.uint8), grid), Volume(piece.astype(np.uint8), grid)


def _preview(folder: Path, skull: Volume, implant: Volume, title: str = "", dots_per_inch: int = 50) -> np.ndarray:
    render_preview(skull, implant, folder / "preview.png", title=title, dots_per_inch=dots_per_inch)
    assert [path.name for path in folder.iterdir()] == ["preview.png"]
    with Image.open(folder / "preview.png") as image:
        return np.asarray(image.convert("RGB")).astype(float)


def _teal_center(pixels: np.ndarray) -> tuple[float, float]:
    """Where the implant's color is in a picture, as shares of its width and height; nan if nowhere."""
    rows, columns = np.nonzero((pixels[..., 2] - pixels[..., 0] > 60) & (pixels[..., 2] > 80))
    if not len(rows):
        return float("nan"), float("nan")
    return float(columns.mean() / pixels.shape[1]), float(rows.mean() / pixels.shape[0])
