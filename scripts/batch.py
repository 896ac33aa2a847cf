"""Complete every skull below a folder."""

from bundle.skull_implant.commands.command_line import run_command


def batch(
    input_root: str,
    output_root: str,
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
    workers: int = 0,
    memory_gb: float = 0.0,
    timeout_s: float = 900.0,
    scheduler: str = "",
) -> int:
    """Do every CT series and every volume file below INPUT_ROOT; the same command again does what is left.

    Each case gets OUTPUT_ROOT/<case>/ as scripts.complete writes it; summary.csv and summary.json tell of all.
    A finished case is recognized by the content of its files, the settings, the weights and the bundle's version.

    Args:
        input_root: folder, searched with its subfolders.
        output_root: folder of the results.
        gamma: 0 reconstructs the input, 1 completes it, more thickens the implant.
        defect_class: auto, cranial or facial.
        threshold_hu: bone is at least this; not used for masks.
        device: auto, cpu or cuda.
        model_file: weights.
        keep_decoded: also write decoded.nii.gz, the decoder's own skull, uncleaned.
        candidates: implants to choose from, 1 to 20, the recommended one first; in candidates/ of each case.
        keep_agreement: also write agreement.nii.gz, the percentage of ten random implants that hold each voxel.
        secondary_capture: for a DICOM series, also write preview.dcm, the preview as a DICOM Secondary Capture.
        mesh: formats of the implant's surface: stl, ply, obj, or several with commas between.
        triangles: of the surface, at most.
        clearance_mm: the surface keeps at least this from the bone; the masks do not change.
        minimum_thickness_mm: an implant of which more than 5 % is thinner is marked for review.
        overwrite: replace earlier results of another input, other settings or other weights.
        workers: cases at a time; 0 for as many as this machine has cores and memory for.
        memory_gb: of all cases together; 0 for three quarters of this machine's, or no limit on other machines.
        timeout_s: a case that takes longer is stopped and failed.
        scheduler: address of a dask scheduler, tcp://host:port, whose workers see these folders; else this machine.
    """
    from pathlib import Path

    from bundle.skull_implant.archive.batch import Resources, run_batch
    from bundle.skull_implant.model.shipped_weights import model_path

    settings = {
        "gamma": gamma,
        "defect_class": defect_class,
        "threshold_hu": threshold_hu,
        "keep_decoded": keep_decoded,
        "candidates": candidates,
        "keep_agreement": keep_agreement,
        "secondary_capture": secondary_capture,
        "mesh": mesh,
        "triangles": triangles,
        "clearance_mm": clearance_mm,
        "minimum_thickness_mm": minimum_thickness_mm,
    }
    outcomes = run_batch(
        Path(input_root),
        Path(output_root),
        settings,
        model_path(model_file),
        device=device,
        overwrite=overwrite,
        resources=Resources(workers, memory_gb, timeout_s, scheduler),
    )
    return int(any(outcome.status == "failed" for outcome in outcomes))


if __name__ == "__main__":
    run_command(batch)
