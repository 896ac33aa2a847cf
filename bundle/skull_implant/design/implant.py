"""From a completed skull to the implant: solid, in the hole and nowhere else, on the scan's own grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from bundle.skull_implant.design.holes import bone_beside_mm, further_holes, open_parts
from bundle.skull_implant.design.implant_seam import with_seam
from bundle.skull_implant.frame.canonical_frame import CanonicalFrame
from bundle.skull_implant.frame.canonical_grid import CanonicalBox, crop_grid, scanned, to_native
from bundle.skull_implant.frame.vault_rays import vault_center
from bundle.skull_implant.frame.vault_template import VAULT_END_DEG, VaultTemplate
from bundle.skull_implant.mask_morphology import distance_mm, far_from_bone, large_components, opened
from bundle.skull_implant.volume import Grid, Volume


@dataclass(frozen=True)
class ImplantRules:
    """What counts as implant: a decoded skull is 1 mm off everywhere, so a raw difference is a film over the head.

    Args:
        level: probability above which the decoded skull is bone.
        core_mm: the hole's core is decoded bone at least this far from the patient's bone; a film never is.
        reach_mm: beyond `core_mm`, how far the implant may reach from its core towards and over the rim.
        corner_mm: of a cranial implant, how far from its core it may reach where rays from the vault's center meet
            hardly any bone and half a core fits: into corners, such as the drill holes of a craniotomy, but not into a
            saw's cut.
        grazed_mm: so much bone is hardly any: a drill hole's wall that a ray grazes, not a plate.
        opening_mm: radius of the ball that must fit everywhere in the implant but at its seam with the bone.
        seam_mm: of decoded bone, what the opening took at the seam comes back where a ball of this radius does not fit
            between implant and bone; else the implant's edge would be round and leave a groove.
        shell_mm: of a cranial implant, how far inside and outside the fitted outer vault its core may lie.
        border_mm: cores this near to the end of the scan are missing scan, not missing bone.
        wall_mm: of a cranial implant: how far from its core a ray from the vault's center must meet no bone, because
            air cells, the orbits and the grooves of the skull base are no holes.
        minimum_ml: a smaller piece is no implant.
        facial_share: a facial implant keeps all pieces of at least this share of the largest, because a face is many
            bones; a cranial one is one piece for each hole.
        maximum_candidates: so many of the largest cores are looked at for further holes in the vault.
        nose_ml: a smaller core at the root of the nose is no hole: there the frontal sinus and the nose leave openings.
        nose_deg: polar angle from which on, in front and within `nose_mm` of the midline, the root of the nose lies.
        nose_mm: half its width.
        face_deg: from here on, at least `face_mm` in front of the vault's center, nothing is a hole: there is the face.
        face_mm: where it begins.
    """

    level: float = 0.5
    core_mm: float = 4.0
    reach_mm: float = 1.5
    corner_mm: float = 12.0
    grazed_mm: float = 2.0
    opening_mm: float = 1.0
    seam_mm: float = 2.0
    shell_mm: tuple[float, float] = (20.0, 8.0)
    border_mm: float = 4.0
    wall_mm: float = 30.0
    minimum_ml: float = 0.5
    facial_share: float = 0.1
    maximum_candidates: int = 8
    nose_ml: float = 0.5
    nose_deg: float = 85.0
    nose_mm: float = 20.0
    face_deg: float = 100.0
    face_mm: float = 30.0


@dataclass(frozen=True)
class Holes:
    """Where a skull has holes.

    Args:
        cores: (X, Y, Z) bool each, canonical: what is decoded far from all bone, the largest first.
        corners: (X, Y, Z) bool, canonical: around the cores on rays that meet hardly any bone; None in a face, which
            has none.
        below_ml: how much of the first goes on below the vault, towards the skull base, where no implant is designed.
    """

    cores: list[np.ndarray]
    corners: np.ndarray | None = None
    below_ml: float = 0.0


def design_implant(
    probability: np.ndarray,
    bone_share: np.ndarray,
    skull: Volume,
    frame: CanonicalFrame,
    box: CanonicalBox,
    template: VaultTemplate,
    *,
    cranial: bool = True,
    rules: ImplantRules | None = None,
) -> Volume:
    """What is missing: decoded skull minus bone, grown back from the holes' cores, opened.

    Args:
        probability: (X, Y, Z) of skull, decoded, canonical.
        bone_share: (X, Y, Z) share of the patient's bone, canonical.
        skull: the patient's bone, bool, on the scan's grid.
        frame: of this case.
        box: canonical box.
        template: mean vault, which tells where the vault is.
        cranial: look for holes in the vault only, one piece each; False looks everywhere, for facial defects.
        rules: what counts as implant.

    Returns:
        Bool voxels on the scan's grid, never on bone; all False when there is no hole.
    """
    rules = rules or ImplantRules()
    holes = find_holes(probability, bone_share, skull.grid, frame, box, template, cranial=cranial, rules=rules)
    return fill_holes(holes, probability, skull, frame, box, share=1.0 if cranial else rules.facial_share, rules=rules)


def find_holes(
    probability: np.ndarray,
    bone_share: np.ndarray,
    grid: Grid,
    frame: CanonicalFrame,
    box: CanonicalBox,
    template: VaultTemplate,
    *,
    cranial: bool,
    rules: ImplantRules,
) -> Holes:
    """The largest connected part of the decoded skull that is far from all bone, and those like it.

    Like it are, of a cranial defect, the cores that clearly fill another hole (:func:`further_holes`), and of a facial
    one all of at least `facial_share` of its size, together one core. Arguments as for :func:`design_implant`.
    """
    in_scan = scanned(box.coordinates().numpy(), grid, frame, rules.border_mm)
    far = in_scan & far_from_bone(probability > rules.level, bone_share, box.spacing_mm, rules.core_mm)
    if not cranial:
        core = large_components(far, rules.facial_share)
        return Holes([core] if core.any() else [])
    in_vault = in_scan & vault_shell(frame, box, template, rules.shell_mm)
    labels, _ = ndimage.label(open_parts(far & in_vault, bone_share, frame, box, template, rules.wall_mm))
    sizes = np.bincount(labels.ravel())[1:]
    largest = [labels == 1 + number for number in np.argsort(-sizes, kind="stable")[: rules.maximum_candidates]]
    cores = [core for core in largest if not _in_face(core, frame, box, template, rules)]
    if not cores:
        return Holes([])
    holes = [cores[0], *further_holes(cores, bone_share, frame, box, template)]
    spacing = tuple(float(mm) for mm in box.spacing_mm)
    around = in_vault & (distance_mm(np.any(holes, axis=0), spacing) <= rules.corner_mm)
    beside_mm = bone_beside_mm(around, bone_share, frame, box, template, rules.wall_mm)
    corners = np.zeros_like(around)
    corners[around] = beside_mm.sum(0) <= rules.grazed_mm
    corners = opened(corners, spacing, rules.core_mm / 2)
    return Holes(holes, corners, _below_vault_ml(far, cores[0], frame, box, template))


def fill_holes(
    holes: Holes,
    probability: np.ndarray,
    skull: Volume,
    frame: CanonicalFrame,
    box: CanonicalBox,
    *,
    share: float,
    rules: ImplantRules,
) -> Volume:
    """The implant of each hole, in one mask.

    Args:
        holes: of this skull.
        probability: (X, Y, Z) of skull, decoded, canonical.
        skull: the patient's bone, bool, on the scan's grid.
        frame: of this case.
        box: canonical box.
        share: of each core, pieces of at least this share of its largest; 1 for that alone.
        rules: what counts as implant.

    Returns:
        Bool voxels on the scan's grid, never on bone; all False when there is no hole.
    """
    implant = np.zeros(skull.voxels.shape, bool, order="F")  # x fastest, as volumes are read and written
    margin_mm = max(rules.core_mm, 0.0 if holes.corners is None else rules.corner_mm) + rules.reach_mm + 1.0
    for core in holes.cores:
        window = _native_window(core, frame, box, skull.grid, margin_mm)
        part = crop_grid(skull.grid, [s.start for s in window], [s.stop - s.start for s in window])
        bone = skull.voxels[window]
        decoded = to_native(probability, frame, box, part) > rules.level
        inside_core = to_native(core.astype(np.float32), frame, box, part) > 0.25
        corners = np.zeros_like(bone)
        if holes.corners is not None:
            corners = to_native(holes.corners.astype(np.float32), frame, box, part) > 0.5
        piece = _grow(decoded & ~bone, bone, inside_core, corners, part.spacing, rules, share)
        if piece.sum() * skull.grid.voxel_ml >= rules.minimum_ml:
            implant[window] |= piece
    return Volume(implant, skull.grid)


def vault_shell(
    frame: CanonicalFrame, box: CanonicalBox, template: VaultTemplate, shell_mm: tuple[float, float]
) -> np.ndarray:
    """Canonical voxels (X, Y, Z) near the fitted outer vault, down to 25 degrees below its equator."""
    points = box.coordinates().numpy().reshape(3, -1).T + np.array([0.0, 0.0, template.vertex_mm * frame.scales[2]])
    scaled = points / frame.scales
    radius, theta = template.radius(scaled)
    length = np.linalg.norm(points, axis=1)
    gap = length * (1.0 - radius / np.maximum(np.linalg.norm(scaled, axis=1), 1e-6))  # mm outside the vault
    near = (gap > -shell_mm[0]) & (gap < shell_mm[1]) & (theta < VAULT_END_DEG)
    return np.asarray(near.reshape(box.spatial_size))


def _in_face(
    core: np.ndarray, frame: CanonicalFrame, box: CanonicalBox, template: VaultTemplate, rules: ImplantRules
) -> bool:
    """Whether a core's middle lies in the face, or the core is small and lies at the root of the nose."""
    middle = np.argwhere(core).mean(0) * box.spacing_mm + box.affine[:3, 3]
    _, theta = template.radius((middle - vault_center(frame.scales, template))[None] / frame.scales)
    small = np.count_nonzero(core) * np.prod(box.spacing_mm) / 1000.0 < rules.nose_ml
    at_nose = small and theta[0] > rules.nose_deg and middle[1] > 0 and abs(middle[0]) < rules.nose_mm
    return bool(at_nose or (theta[0] > rules.face_deg and middle[1] > rules.face_mm))


def _below_vault_ml(
    far: np.ndarray, core: np.ndarray, frame: CanonicalFrame, box: CanonicalBox, template: VaultTemplate
) -> float:
    """How much of what is far from bone and connected with a core lies below the vault's end."""
    labels, _ = ndimage.label(far)
    index = np.argwhere(labels == labels[tuple(np.argwhere(core)[0])])
    points = index * np.diag(box.affine)[:3] + box.affine[:3, 3]
    points[:, 2] += template.vertex_mm * frame.scales[2]
    _, theta = template.radius(points / frame.scales)
    return float(np.count_nonzero(theta >= VAULT_END_DEG) * np.prod(box.spacing_mm)) / 1000.0


def _grow(
    difference: np.ndarray,
    bone: np.ndarray,
    core: np.ndarray,
    corners: np.ndarray,
    spacing: tuple[float, ...],
    rules: ImplantRules,
    share: float,
) -> np.ndarray:
    """The difference near core and corners, opened but at the seam, its cavities filled; pieces of a share or more."""
    far = difference & core & (distance_mm(bone, spacing) >= 0.75 * rules.core_mm)
    if not far.any():
        return far
    near_core = distance_mm(far, spacing) <= 0.75 * rules.core_mm + rules.reach_mm
    near = difference & (near_core | (distance_mm(difference & corners, spacing) <= rules.reach_mm))
    piece = large_components(opened(near, spacing, rules.opening_mm), share)
    filled = np.asarray(ndimage.binary_fill_holes(piece)) & ~bone
    return with_seam(filled, near, bone, spacing, rules.seam_mm)


def _native_window(
    core: np.ndarray, frame: CanonicalFrame, box: CanonicalBox, grid: Grid, margin_mm: float
) -> tuple[slice, ...]:
    """Slices of the scan around a canonical mask."""
    index = np.argwhere(core)
    low, high = index.min(0), index.max(0)
    corners = np.array(np.meshgrid(*zip(low, high, strict=True), indexing="ij")).reshape(3, -1)
    to_index = grid.inverse_affine @ frame.affine @ box.affine
    native = to_index[:3, :3] @ corners + to_index[:3, 3:]
    margin = margin_mm / np.asarray(grid.spacing)
    begin = np.clip(np.floor(native.min(1) - margin), 0, None).astype(int)
    end = np.minimum(np.ceil(native.max(1) + margin).astype(int) + 1, grid.size)
    return tuple(slice(int(a), int(max(a + 1, b))) for a, b in zip(begin, end, strict=True))
