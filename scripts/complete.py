"""Complete one skull and design its implant."""

from bundle.skull_implant.commands.command_line import run_command


def complete(
    input: str,
    output_dir: str,
    gamma: float = 1.0,
    defect_class: str = "auto",
    threshold_hu: float = 300.0,
    device: str = "auto",
    model_file: str = "models/model.pt",
    keep_decoded: bool = False,
    candidates: int = 1,
    keep_agreement: bool = False,
    secondary_capture: bool = False,
    mesh: str = "stl",
    triangles: int = 200_000,
    clearance_mm: float = 0.0,
    minimum_thickness_mm: float = 1.0,
    overwrite: bool = False,
    series_number: int | None = None,
) -> None:
    """Read a head CT or skull mask with a hole, write the completed skull and the implant to OUTPUT_DIR/<case>/.

    Args:
        input: a NIfTI, NRRD or MHA file (HU or a binary skull mask), or a DICOM folder.
        output_dir: folder of the results.
        gamma: 0 reconstructs the input, 1 completes it, more thickens the implant.
        defect_class: auto, cranial or facial.
        threshold_hu: bone is at least this; not used for masks.
        device: auto, cpu or cuda.
        model_file: weights.
        keep_decoded: also write decoded.nii.gz, the decoder's own skull, uncleaned.
        candidates: implants to choose from, 1 to 20: the recommended one, then a thicker, a thinner, a rounder and a
            flatter one, other gammas and random samples, as the bone leaves them open; in candidates/, best fit first.
        keep_agreement: also write agreement.nii.gz, the percentage of ten random implants that hold each voxel.
        secondary_capture: for a DICOM folder, also write preview.dcm, the preview as a DICOM Secondary Capture.
        mesh: formats of the implant's surface: stl, ply, obj, or several with commas between.
        triangles: of the surface, at most.
        clearance_mm: the surface keeps at least this from the bone; the masks do not change.
        minimum_thickness_mm: an implant of which more than 5 % is thinner is marked for review.
        overwrite: replace an earlier result.
        series_number: of a DICOM folder, read this CT series; else the one with the most slices.
    """
    settings = {key: value for key, value in locals().items() if key not in ("input", "device")}
    from pathlib import Path

    from bundle.skull_implant.commands.before_work import tell_and_check

    tell_and_check(input)

    from bundle.skull_implant.commands import completion
    from bundle.skull_implant.model.shipped_weights import model_path

    root = Path(__file__).resolve().parents[1]
    settings["model_file"] = str(model_path(model_file))
    chosen = completion.choose_device(device)
    for folder in completion.complete(
        root / "configs" / "inference.yaml", dataset_dir=input, device=chosen, **settings
    ):
        print("wrote " + " ".join(str(path) for path in sorted(folder.rglob("*")) if path.is_file()))


if __name__ == "__main__":
    run_command(complete)
