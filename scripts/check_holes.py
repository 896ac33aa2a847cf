"""Check the bundle on a complete head of your own: ten virtual holes, each implant scored against the piece."""

from bundle.skull_implant.commands.command_line import run_command


def check_holes(
    input: str,
    output_dir: str,
    model_file: str = "models/model.pt",
    threshold_hu: float = 300.0,
    sites: str = "",
    seed: int = 0,
    keep_masks: bool = False,
    overwrite: bool = False,
) -> None:
    """Print DSC, boundary DSC, HD95, gap, step and status of the implants of virtual holes in a complete head.

    Args:
        input: a head CT or skull mask without a defect: a NIfTI, NRRD or MHA file, or a DICOM folder.
        output_dir: where holes.csv and holes.md go.
        model_file: weights.
        threshold_hu: bone is at least this; not used for masks.
        sites: of the holes, with commas between, as in vertex,occipital; empty takes all ten.
        seed: of the holes' places and outlines.
        keep_masks: also write each piece and each implant as a mask.
        overwrite: replace an earlier result.
    """
    from pathlib import Path

    from bundle.skull_implant.model.shipped_weights import model_path
    from bundle.skull_implant.scores import hole_check

    chosen = tuple(part for part in sites.split(",") if part)
    folder = Path(output_dir)
    rows = hole_check.check_head(
        input, folder, model_path(model_file), threshold_hu, chosen, seed, keep_masks, overwrite
    )
    print(hole_check.hole_table(rows))
    print(f"wrote {folder}/holes.csv and {folder}/holes.md")


if __name__ == "__main__":
    run_command(check_holes)
