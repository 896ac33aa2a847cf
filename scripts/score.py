"""Score one result against a known implant."""

from bundle.skull_implant.commands.command_line import run_command


def score(result_dir: str, truth: str) -> None:
    """Print implant DSC, boundary DSC and HD95 in mm of a result, by the AutoImplant challenge's definitions.

    Args:
        result_dir: what scripts.complete wrote for the case.
        truth: mask of the true implant on the same grid.
    """
    from pathlib import Path

    import numpy as np

    from bundle.skull_implant.design.metrics import score_implant
    from bundle.skull_implant.errors import InputError
    from bundle.skull_implant.input.image_file import read_header, read_voxels

    masks = {}
    for name, path, way_out in (
        ("implant", Path(result_dir) / "implant.nii.gz", "RESULT_DIR is the folder that scripts.complete wrote"),
        ("skull", Path(result_dir) / "skull.nii.gz", "RESULT_DIR is the folder that scripts.complete wrote"),
        ("truth", Path(truth), "TRUTH is the mask of the piece that was cut out"),
    ):
        if not path.is_file():
            raise InputError(f"{path}: the {name} must be a file, none is there; {way_out}")
        masks[name] = read_voxels(read_header(path))
        values = np.unique(masks[name].voxels)
        if len(values) > 2 or 0 not in values:
            found = f"{len(values)} values from {values[0]:g} to {values[-1]:g}"
            raise InputError(f"{path}: the {name} must be a mask of 0 and one other value, got {found}; {way_out}")
    if not masks["truth"].voxels.any():
        raise InputError(f"{truth}: the truth must hold an implant, it is empty; {way_out}")
    if not masks["truth"].grid.same_as(masks["implant"].grid):
        wanted, got = (" x ".join(map(str, masks[name].grid.size)) for name in ("implant", "truth"))
        got = "the same size elsewhere or turned" if got == wanted else got
        raise InputError(
            f"{truth}: must lie on the result's grid, {wanted}, got {got}; resample it onto implant.nii.gz"
        )
    voxels = {name: volume.voxels > 0 for name, volume in masks.items()}
    fit = score_implant(voxels["implant"], voxels["truth"], voxels["skull"], masks["skull"].grid.spacing)
    print(f"implant against the truth: DSC {fit.dsc:.3f}, boundary DSC {fit.bdsc:.3f}, HD95 {fit.hd95_mm:.2f} mm")


if __name__ == "__main__":
    run_command(score)
