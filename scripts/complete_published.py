"""Complete one skull with the method paper's published networks."""

from bundle.skull_implant.commands.command_line import run_command


def complete_published(
    input: str,
    output_dir: str,
    model_file: str,
    gamma: float = 1.0,
    defect_class: str = "cranial",
    opening_mm: float = 0.0,
    threshold_hu: float = 300.0,
    device: str = "auto",
    overwrite: bool = False,
) -> None:
    """Write skull, decoded skull, implant and completed skull to OUTPUT_DIR/<case>/, by the paper's own convention.

    To compare with the paper; scripts.complete designs better implants.

    Args:
        input: a NIfTI, NRRD or MHA file (a binary skull mask or HU), or a DICOM folder.
        output_dir: folder of the results.
        model_file: what scripts.import_published wrote.
        gamma: 0 reconstructs the input, 1 completes it, more thickens the implant.
        defect_class: cranial or facial.
        opening_mm: 0 leaves the implant as published; else it is opened with a ball of this radius, one piece kept.
        threshold_hu: bone is at least this; not used for masks.
        device: auto, cpu or cuda.
        overwrite: replace an earlier result.
    """
    from bundle.skull_implant.commands.completion import choose_device
    from bundle.skull_implant.peers.published import PublishedVAE
    from bundle.skull_implant.peers.published_completion import complete_with_published

    network = PublishedVAE.from_file(model_file).to(choose_device(device))
    paths = complete_with_published(
        input,
        output_dir,
        network,
        gamma=gamma,
        defect_class=defect_class,
        opening_mm=opening_mm,
        threshold_hu=threshold_hu,
        overwrite=overwrite,
    )
    print("wrote " + " ".join(map(str, paths)))


if __name__ == "__main__":
    run_command(complete_published)
