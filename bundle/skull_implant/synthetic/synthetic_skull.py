"""An adult skull and the soft tissue around it, made of formulas alone: no patient's data went into it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bundle.skull_implant.synthetic.modeling_clay import Clay, Point, blend


@dataclass(frozen=True)
class Anatomy:
    """Signed depths in mm, positive inside, float32 `(X, Y, Z)`, on a grid of `step_mm` from `corner` on.

    The frame is the head's own: LPS axes (x to the left, y backwards, z up), mm, origin in the middle of the vault; its
    vertex is at z = 70, the foramen magnum at z = -60.

    Args:
        step_mm: isotropic grid spacing.
        corner: mm of voxel (0, 0, 0).
        vault: depth beneath the outer surface of the braincase.
        thickness: of its wall, mm.
        bone: depth in bone: wall, base, face, upper spine.
        skin: depth beneath the skin.
        air: depth in sinuses, nose and ear canals.
    """

    step_mm: float
    corner: Point
    vault: np.ndarray
    thickness: np.ndarray
    bone: np.ndarray
    skin: np.ndarray
    air: np.ndarray

    @property
    def axes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Coordinates x, y, z in mm, shaped to broadcast."""
        return _axes(self.bone.shape, self.corner, self.step_mm)


def sculpt(seed: int = 0, *, step_mm: float = 1.0) -> Anatomy:
    """A skull of adult proportions; the seed varies size by 2 %, contours by about 1 mm, left and right separately.

    The proportions are textbook ones (breadth 140, length 178, basion to bregma 132 mm), the shapes our choice, by eye.
    """
    rng = np.random.default_rng(seed)
    corner = (-88.0, -118.0, -112.0)
    shape = tuple(int(extent / step_mm) for extent in (176.0, 226.0, 194.0))
    axes = _axes(shape, corner, step_mm)
    vault = _braincase(axes, step_mm, rng)
    thickness = _wall_thickness(axes, rng)
    clay = Clay(axes, corner, step_mm, rng)
    face = clay.empty()
    _add_base_and_face(clay, face)
    air = clay.empty()
    _add_air(clay, air)
    orbits = clay.empty()
    clay.add(orbits, (32.0, -92.0, -38.0), (14.0, -34.0, -34.0), 20.0, 4.0)
    face = np.minimum(face, -orbits)
    wall = np.minimum(vault, thickness - vault)
    bone = blend(wall, face, 3.0)
    clay.carve(bone, (0.0, 30.0, -75.0), (0.0, 30.0, -45.0), 16.0, 16.0)  # foramen magnum
    bone = np.minimum(bone, -air)
    skin = _skin(clay, vault, np.maximum(face, vault))
    return Anatomy(step_mm, corner, vault, thickness, bone, skin, air)


def smooth_field(
    shape_axes: tuple[np.ndarray, ...], rng: np.random.Generator, wavelength_mm: float = 110.0
) -> np.ndarray:
    """A sum of six random plane waves, standard deviation about 1, smooth over a third of the wavelength."""
    x, y, z = shape_axes
    field = np.zeros(np.broadcast_shapes(x.shape, y.shape, z.shape), np.float32)
    for _ in range(6):
        wave = rng.normal(size=3)
        wave *= 2 * np.pi / wavelength_mm / np.linalg.norm(wave) * rng.uniform(0.6, 1.2)
        field += np.cos((wave[0] * x + wave[1] * y + wave[2] * z + rng.uniform(0, 2 * np.pi)).astype(np.float32))
    return field / np.float32(np.sqrt(3.0))


def _axes(shape: tuple[int, ...], corner: Point, step_mm: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x, y, z = (
        np.float32(start) + np.float32(step_mm) * np.arange(n, dtype=np.float32)
        for n, start in zip(shape, corner, strict=True)
    )
    return x[:, None, None], y[None, :, None], z[None, None, :]


def _braincase(axes: tuple[np.ndarray, ...], step_mm: float, rng: np.random.Generator) -> np.ndarray:
    """Depth beneath an egg: wider behind, flat temples, steep forehead, base that falls backwards."""
    x, y, z = axes
    size = 1 + 0.02 * rng.uniform(-1, 1, 3)
    lean = y - 0.07 * np.clip(z, 0, None)  # the vertex lies behind the middle
    half_width = size[0] * 70.5 * (1 + 0.045 * np.tanh((lean - 8) / 45) - 0.015)
    half_height = np.where(z > 0, size[2] * 70.0, 46 + 15 * np.tanh((y + 12) / 25)).astype(np.float32)
    low = np.abs(z) / half_height
    corner = 3.6 - 1.0 * np.tanh((y + 10) / 30)  # the forehead goes straight down to the orbits
    f = (np.abs(x) / half_width) ** 2.15 + (np.abs(lean) / (size[1] * 87.0)) ** 2.1
    f += np.where(z > 0, low**1.95, low**corner)
    f = np.maximum(f, 1e-4) ** np.float32(1 / 2.1)
    slope = np.sqrt(sum(np.square(part) for part in np.gradient(f, step_mm)))
    depth = ((1 - f) / np.maximum(slope, 0.004)).astype(np.float32)
    for (cx, cy, cz), height, width in (
        ((60.0, 28.0, 32.0), 2.5, 28.0),  # parietal eminences
        ((30.0, -76.0, 30.0), 2.0, 22.0),  # frontal eminences
        ((62.0, -44.0, -14.0), -5.0, 26.0),  # temples
        ((0.0, 88.0, -8.0), 4.0, 28.0),  # occiput
        ((0.0, 70.0, 45.0), -2.5, 26.0),  # flat above it
    ):
        spread = (np.abs(x) - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2
        depth += np.float32(height) * np.exp(-spread / np.float32(2 * (width / 1.6) ** 2))
    return depth + np.float32(0.7) * smooth_field(axes, rng)


def _wall_thickness(axes: tuple[np.ndarray, ...], rng: np.random.Generator) -> np.ndarray:
    """4 mm at the temples and in the base, up to 8 mm at forehead and occiput."""
    x, y, z = axes
    temple = np.exp(-(((np.abs(x) - 66) / 22) ** 2) - ((y + 10) / 45) ** 2 - ((z + 20) / 32) ** 2)
    midline = np.exp(-((x / 24) ** 2))
    ends = np.exp(-(((np.abs(y) - 86) / 26) ** 2))
    roof = np.exp(-(((np.abs(x) - 28) / 20) ** 2) - ((y + 58) / 24) ** 2 - ((z + 28) / 12) ** 2)
    thickness = 5.8 - 1.6 * temple + 1.0 * ends + 0.6 * midline - 3.0 * roof + 0.35 * smooth_field(axes, rng, 60.0)
    return np.clip(thickness, 2.2, 8.0).astype(np.float32)


def _add_base_and_face(clay: Clay, face: np.ndarray) -> None:
    """Round cones: from, to, radius there and there; each also on the other side."""
    for start, end, r0, r1 in (
        ((60.0, 20.0, -40.0), (14.0, -4.0, -42.0), 9.0, 6.0),  # petrous pyramid
        ((0.0, -12.0, -36.0), (0.0, 12.0, -56.0), 8.0, 5.0),  # clivus
        ((0.0, -16.0, -40.0), (0.0, -24.0, -42.0), 12.0, 11.0),  # body of the sphenoid
        ((12.0, -24.0, -28.0), (50.0, -40.0, -14.0), 3.0, 3.5),  # its wing
        ((58.0, 26.0, -42.0), (52.0, 24.0, -70.0), 11.0, 6.0),  # mastoid
        ((6.0, -82.0, -18.0), (32.0, -77.0, -16.0), 9.0, 8.0),  # brow
        ((32.0, -77.0, -16.0), (49.0, -64.0, -22.0), 7.0, 5.5),
        ((49.0, -64.0, -20.0), (53.0, -62.0, -48.0), 5.0, 8.0),  # zygoma
        ((53.0, -62.0, -50.0), (34.0, -74.0, -62.0), 8.0, 9.0),
        ((50.0, -58.0, -30.0), (42.0, -40.0, -34.0), 5.0, 5.0),  # side wall of the orbit
        ((52.0, -56.0, -46.0), (44.0, -40.0, -44.0), 4.0, 4.0),
        ((36.0, -78.0, -58.0), (13.0, -84.0, -50.0), 5.5, 5.0),  # rim below the orbit
        ((56.0, -58.0, -50.0), (67.0, -28.0, -48.0), 5.0, 3.6),  # zygomatic arch
        ((67.0, -28.0, -48.0), (63.0, 6.0, -44.0), 3.6, 4.5),
        ((8.0, -84.0, -22.0), (14.0, -83.0, -54.0), 7.0, 5.5),  # frontal process of the maxilla
        ((14.0, -83.0, -54.0), (18.0, -84.0, -84.0), 5.5, 7.0),  # beside the nose
        ((2.0, -90.0, -24.0), (3.0, -99.0, -48.0), 4.0, 2.5),  # nasal bones
        ((28.0, -68.0, -66.0), (24.0, -64.0, -84.0), 16.0, 12.0),  # maxilla, hollowed later
        ((0.0, -92.0, -92.0), (18.0, -86.0, -93.0), 6.0, 6.0),  # upper jaw and teeth
        ((18.0, -86.0, -93.0), (28.0, -58.0, -91.0), 6.0, 6.0),
        ((0.0, -80.0, -86.0), (0.0, -48.0, -84.0), 2.0, 2.0),  # palate
        ((10.0, -78.0, -86.0), (12.0, -50.0, -84.0), 3.0, 3.0),
        ((18.0, -38.0, -60.0), (22.0, -36.0, -88.0), 3.0, 3.0),  # pterygoid
        ((50.0, 0.0, -52.0), (52.0, -1.0, -66.0), 6.0, 5.0),  # condyle and ramus of the mandible
        ((52.0, -1.0, -64.0), (51.0, -4.0, -104.0), 5.0, 6.0),
        ((51.0, -27.0, -60.0), (50.0, -22.0, -104.0), 3.0, 6.0),
        ((51.0, -11.0, -74.0), (50.0, -12.0, -104.0), 5.0, 6.0),
        ((51.0, -19.0, -76.0), (50.0, -18.0, -104.0), 4.5, 6.0),
        ((50.0, -14.0, -108.0), (32.0, -58.0, -114.0), 7.0, 7.0),
        ((32.0, -58.0, -112.0), (0.0, -84.0, -112.0), 7.0, 7.5),
        ((28.0, -56.0, -103.0), (17.0, -80.0, -103.0), 4.5, 4.5),  # lower teeth
        ((17.0, -80.0, -103.0), (0.0, -87.0, -103.0), 4.5, 4.0),
        ((0.0, 14.0, -68.0), (0.0, 14.0, -112.0), 6.0, 9.0),  # upper spine
        ((26.0, 24.0, -72.0), (24.0, 24.0, -80.0), 7.0, 7.0),
        ((26.0, 26.0, -74.0), (0.0, 48.0, -76.0), 3.5, 4.0),
        ((18.0, 26.0, -92.0), (0.0, 56.0, -98.0), 5.0, 5.0),
    ):
        clay.add(face, start, end, r0, r1, blend_mm=6.0)


def _add_air(clay: Clay, air: np.ndarray) -> None:
    for start, end, r0, r1 in (
        ((6.0, -84.0, -44.0), (6.0, -50.0, -50.0), 4.5, 5.0),  # nose, a septum between the sides
        ((8.0, -88.0, -62.0), (8.0, -46.0, -66.0), 6.5, 6.0),
        ((8.0, -100.0, -72.0), (8.0, -46.0, -76.0), 6.0, 6.0),
        ((0.0, -36.0, -72.0), (0.0, -26.0, -112.0), 9.0, 8.0),  # pharynx
        ((26.0, -72.0, -66.0), (25.0, -60.0, -80.0), 12.0, 10.0),  # maxillary sinus
        ((7.0, -17.0, -40.0), (7.0, -26.0, -42.0), 6.0, 6.0),  # sphenoid sinus
        ((8.0, -79.0, -16.0), (14.0, -79.0, -12.0), 3.0, 2.5),  # frontal sinus
        ((86.0, 12.0, -42.0), (50.0, 10.0, -42.0), 3.0, 2.5),  # ear canal
    ):
        clay.add(air, start, end, r0, r1)
    for x, y, z in ((58, 24, -44), (55, 28, -52), (59, 30, -50), (54, 22, -58), (56, 28, -60), (52, 24, -64)):
        clay.add(air, (x, y, z), (x - 3.0, y, z), 2.2, 1.8)  # mastoid cells


def _skin(clay: Clay, vault: np.ndarray, bone: np.ndarray) -> np.ndarray:
    """Depth beneath the skin: scalp of 5 to 8 mm, face, neck, ears and nose."""
    x, y, z = clay.axes
    # 6 mm over the vault, 8 mm towards the neck
    skin = vault + 6.0 + 2.0 * np.clip(-z / 60, 0, 1) * (y > 0)
    for center, radii in (
        ((0.0, -44.0, -66.0), (66.0, 52.0, 62.0)),  # face
        ((0.0, 8.0, -105.0), (58.0, 66.0, 60.0)),  # neck
        ((0.0, -66.0, -108.0), (34.0, 34.0, 24.0)),  # chin
    ):
        away = np.sqrt(sum(((a - c) / r) ** 2 for a, c, r in zip((x, y, z), center, radii, strict=True)))
        skin = blend(skin, (1 - away) * np.float32(min(radii)), 12.0)
    skin = blend(skin, bone + 5.0, 6.0)
    clay.add(skin, (0.0, -90.0, -30.0), (0.0, -112.0, -66.0), 8.0, 10.0, blend_mm=8.0)  # nose
    clay.add(skin, (9.0, -102.0, -70.0), (12.0, -94.0, -70.0), 7.0, 6.0, blend_mm=6.0)
    for start, end, r0, r1 in (
        ((72.0, 12.0, -60.0), (78.0, 22.0, -48.0), 4.0, 3.0),  # ears
        ((78.0, 22.0, -48.0), (82.0, 28.0, -28.0), 3.0, 3.0),
        ((82.0, 28.0, -28.0), (80.0, 16.0, -20.0), 3.0, 3.0),
        ((80.0, 16.0, -20.0), (74.0, 10.0, -32.0), 3.0, 3.0),
        ((74.0, 22.0, -36.0), (78.0, 22.0, -36.0), 9.0, 6.0),
    ):
        clay.add(skin, start, end, r0, r1, blend_mm=4.0)
    return skin
