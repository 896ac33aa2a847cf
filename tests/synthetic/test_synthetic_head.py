"""The synthetic head has adult proportions, the layers of a head, and a truth that fits its CT."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.frame.skull_mask import skull_mask_from_hu
from bundle.skull_implant.synthetic.synthetic_head import SyntheticHead, synthetic_head
from bundle.skull_implant.volume import Volume
from scripts.make_demo_ct import make_demo_ct

COARSE = {"size": (120, 120, 88), "spacing": (2.0, 2.0, 2.0), "detail_mm": 2.0}


@pytest.fixture(scope="module")
def head() -> SyntheticHead:
    return synthetic_head(0, **COARSE)


@pytest.fixture(scope="module")
def upright() -> SyntheticHead:
    return synthetic_head(0, tilt_degrees=(0.0, 0.0, 0.0), **COARSE)


def extent_mm(mask: Volume, above_mm: float = 1e3) -> np.ndarray:
    """Size of the bounding box of what lies at most `above_mm` below the mask's top."""
    points = np.argwhere(mask.voxels) * mask.grid.spacing
    points = points[points[:, 2] > points[:, 2].max() - above_mm]
    return points.max(0) - points.min(0) + mask.grid.spacing


def test_the_skull_has_adult_proportions(upright: SyntheticHead) -> None:
    width, length, _ = extent_mm(upright.complete_skull, above_mm=88.0)

    assert 134 <= width <= 146
    assert 173 <= length <= 188
    assert 150 <= extent_mm(upright.complete_skull)[2] <= 180
    assert 450 <= upright.complete_skull.voxels.sum() * upright.complete_skull.grid.voxel_ml <= 750


def test_left_and_right_are_nearly_but_not_exactly_mirror_images(upright: SyntheticHead) -> None:
    skull = upright.complete_skull.voxels[:, :, 40:]
    center = (np.nonzero(skull.any((1, 2)))[0][[0, -1]]).mean()
    mirrored = np.roll(skull[::-1], round(2 * center) + 1, axis=0)

    assert 0.7 < 2 * (skull & mirrored).sum() / (skull.sum() + mirrored.sum()) < 0.99


def test_implant_is_one_piece_of_a_craniectomy_size_taken_from_the_skull(head: SyntheticHead) -> None:
    implant = head.implant.voxels

    assert not (implant & ~head.complete_skull.voxels).any()
    assert ndimage.label(implant)[1] == 1
    assert 15 <= implant.sum() * head.implant.grid.voxel_ml <= 45
    assert 60 <= np.linalg.norm(extent_mm(head.implant)[1:]) / np.sqrt(2) <= 85


def test_truth_is_what_the_scan_shows(head: SyntheticHead) -> None:
    mask = skull_mask_from_hu(head.hu).voxels
    bone = head.complete_skull.voxels & ~head.implant.voxels

    assert 2 * (mask & bone).sum() / (mask.sum() + bone.sum()) > 0.98
    assert (mask & head.implant.voxels).sum() < 0.02 * head.implant.voxels.sum()


def test_holder_and_wire_are_in_the_scan_and_not_in_the_truth(head: SyntheticHead) -> None:
    dense = head.hu.voxels >= 300
    far = ndimage.distance_transform_edt(~head.complete_skull.voxels, sampling=head.hu.grid.spacing) > 12

    assert (dense & far).sum() * head.hu.grid.voxel_ml > 50
    assert head.hu.voxels[far].max() > 1000  # the wire


def test_tissues_have_the_hu_of_tissues(head: SyntheticHead) -> None:
    hu = head.hu.voxels
    inside = ndimage.distance_transform_edt(~head.complete_skull.voxels, sampling=head.hu.grid.spacing) > 20
    brain = hu[inside & (np.indices(hu.shape)[2] > 55) & (hu > -200) & (hu < 200)]

    assert 25 <= np.median(brain) <= 40
    assert np.median(hu[:, 2]) < -950
    assert hu.dtype == np.int16
    assert hu.min() >= -1024
    assert 900 <= np.percentile(hu[head.complete_skull.voxels & ~head.implant.voxels], 95) <= 1500


def test_noise_has_the_standard_deviation_asked_for() -> None:
    quiet = synthetic_head(3, noise_sd_hu=0.0, **COARSE).hu.voxels.astype(float)
    noisy = synthetic_head(3, noise_sd_hu=18.0, **COARSE).hu.voxels.astype(float)
    clear = (quiet > -900) & (quiet < 2500)  # air is clipped at -1024

    assert (noisy - quiet)[clear].std() == pytest.approx(18.0, rel=0.03)
    assert abs((noisy - quiet)[clear].mean()) < 0.2


def test_the_same_seed_gives_the_same_head_and_another_seed_another(head: SyntheticHead) -> None:
    again, other = synthetic_head(0, **COARSE), synthetic_head(1, **COARSE)

    np.testing.assert_array_equal(again.hu.voxels, head.hu.voxels)
    np.testing.assert_array_equal(again.implant.voxels, head.implant.voxels)
    assert (other.complete_skull.voxels != head.complete_skull.voxels).sum() > 1000


def test_the_head_is_cropped_at_the_neck_only(head: SyntheticHead) -> None:
    skull = head.complete_skull.voxels

    assert not skull[[0, -1]].any()
    assert not skull[:, [0, -1]].any()
    assert not skull[:, :, -5:].any()
    assert skull[:, :, 0].any()
    assert (head.hu.voxels[30:90, 20:80, -2:] < -800).all()  # air above the scalp
    assert (head.hu.voxels[:, 0] < -800).all()  # and before the nose


def test_the_demo_command_writes_series_and_truth_on_one_grid(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    make_demo_ct(str(tmp_path / "demo"), seed=1)

    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path / "demo" / "ct"))
    scan = Volume.from_image(sitk.ReadImage(names))
    for name in ("complete_skull", "implant"):
        mask = Volume.from_image(sitk.ReadImage(str(tmp_path / "demo" / "truth" / f"{name}.nii.gz")))
        np.testing.assert_allclose(mask.grid.affine, scan.grid.affine, atol=1e-4)  # NIfTI holds single precision
        assert np.unique(mask.voxels).tolist() == [0, 1]
    assert sum(Path(name).stat().st_size for name in names) < 100e6
    assert "implant.nii.gz" in capsys.readouterr().out.splitlines()[-1]
    with pytest.raises(InputError, match=r"ct: already there.*--overwrite"):
        make_demo_ct(str(tmp_path / "demo"))
