"""Make a synthetic head CT with a hole, as a DICOM series, and its truth."""

from bundle.skull_implant.commands.command_line import run_command


def make_demo_ct(output_dir: str, seed: int = 0, overwrite: bool = False) -> None:
    """Write a DICOM series `ct/`, `truth/complete_skull.nii.gz` and `truth/implant.nii.gz`, of no patient.

    Args:
        output_dir: folder, created if needed.
        seed: another number, another head.
        overwrite: replace what an earlier run wrote.
    """
    from pathlib import Path

    from bundle.skull_implant.errors import InputError
    from bundle.skull_implant.output.dicom_writing import write_ct_series
    from bundle.skull_implant.synthetic.synthetic_head import synthetic_head
    from bundle.skull_implant.volume import write_volume
    from bundle.skull_implant.whole_files import check_writable

    check_writable(output_dir)
    series, truth = Path(output_dir) / "ct", Path(output_dir) / "truth"
    targets = (series, truth / "complete_skull.nii.gz", truth / "implant.nii.gz")
    for path in targets:
        if path.exists() and not overwrite:
            raise InputError(f"{path}: already there; name another folder or pass --overwrite")
    head = synthetic_head(seed)
    hole_ml = head.implant.voxels.sum() * head.implant.grid.voxel_ml
    print(f"synthetic head {seed}: {' x '.join(map(str, head.hu.grid.size))} voxels, a hole of {hole_ml:.1f} ml")
    write_volume(targets[1], head.complete_skull)
    write_volume(targets[2], head.implant)
    write_ct_series(series, head.hu, uid_seed=f"head {seed}", overwrite=overwrite)
    print("wrote " + ", ".join(map(str, targets)))


if __name__ == "__main__":
    run_command(make_demo_ct)
