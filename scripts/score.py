"""Score one result against a known implant."""

from bundle.skull_implant.commands.command_line import run_command


def score(result_dir: str, truth: str) -> None:
    """Print implant DSC, boundary DSC and HD95 in mm of a result, by the AutoImplant challenge's definitions.

    Args:
        result_dir: what scripts.complete wrote for the case.
        truth: mask of the true implant on the same grid.
    """
    from pathlib import Path

    import SimpleITK as sitk

    from bundle.skull_implant.design.metrics import score_implant
    from bundle.skull_implant.errors import InputError
    from bundle.skull_implant.volume import Volume

    masks = {}
    for name, path in (
        ("implant", Path(result_dir) / "implant.nii.gz"),
        ("skull", Path(result_dir) / "skull.nii.gz"),
        ("truth", Path(truth)),
    ):
        if not path.is_file():
            raise InputError(f"{path}: the {name} mask must exist; run scripts.complete first or check the path")
        masks[name] = Volume.from_image(sitk.ReadImage(str(path)))
    if not masks["truth"].grid.same_as(masks["implant"].grid):
        wanted, got = (" x ".join(map(str, masks[name].grid.size)) for name in ("implant", "truth"))
        got = "the same size elsewhere or turned" if got == wanted else got
        raise InputError(
            f"{truth}: must lie on the result's grid, {wanted}, got {got}; resample it onto implant.nii.gz"
        )
    voxels = {name: volume.voxels > 0 for name, volume in masks.items()}
    found = score_implant(voxels["implant"], voxels["truth"], voxels["skull"], masks["skull"].grid.spacing)
    print(f"implant against the truth: DSC {found.dsc:.3f}, boundary DSC {found.bdsc:.3f}, HD95 {found.hd95_mm:.2f} mm")


if __name__ == "__main__":
    run_command(score)
