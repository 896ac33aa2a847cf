"""Picture what MONAI Label's server answers for one scan."""

from bundle.skull_implant.commands.command_line import run_command


def picture_label(
    scan: str,
    output_dir: str,
    server: str = "http://127.0.0.1:8000",
    gammas: tuple[float, ...] = (0.5, 1.0, 1.5),
    window_hu: tuple[float, ...] = (-150.0, 700.0),
) -> None:
    """Ask a running server for SCAN at several gammas; write label_segments.png, label_gamma.png and the .seg.nrrd.

    Args:
        scan: image file with a head CT, in the server's folder of studies.
        output_dir: for the pictures and Slicer's segmentation file of the gamma nearest to 1.
        server: its address.
        gammas: to picture.
        window_hu: black and white of the slices.
    """
    import tempfile
    from pathlib import Path

    from bundle.skull_implant.errors import InputError
    from bundle.skull_implant.input.reading import case_name, read_case
    from bundle.skull_implant.slicer.label_client import ask
    from bundle.skull_implant.slicer.label_server import REMEDY
    from bundle.skull_implant.volume import Volume
    from bundle.skull_implant.whole_files import check_writable, whole_file

    try:
        import SimpleITK as sitk
        from monailabel.client import MONAILabelClient

        from bundle.skull_implant.slicer.label_figures import (
            draw_gammas,
            draw_segments,
            read_segments,
            write_segmentation,
        )
    except ImportError as error:
        raise InputError(f"{error.name} must be installed here; {REMEDY}") from error

    folder = check_writable(output_dir)
    answers = {}
    with tempfile.TemporaryDirectory() as downloads:
        client = MONAILabelClient(server, tmpdir=downloads)
        for gamma in gammas:
            file, _ = ask(client, case_name(scan), {"gamma": gamma})
            segmentation = Path(downloads) / f"{gamma}.seg.nrrd"
            write_segmentation(segmentation, Volume.from_image(sitk.ReadImage(file)))
            answers[gamma] = read_segments(segmentation)
        nearest = min(gammas, key=lambda gamma: abs(gamma - 1.0))
        kept = folder / f"{case_name(scan)}.seg.nrrd"
        with whole_file(kept) as partial:
            partial.write_bytes((Path(downloads) / f"{nearest}.seg.nrrd").read_bytes())
    pictures = folder / "label_segments.png", folder / "label_gamma.png"
    draw_segments(read_case(scan).volume, answers[nearest], pictures[0], (window_hu[0], window_hu[1]))
    draw_gammas(answers, pictures[1])
    print(f"wrote {pictures[0]}, {pictures[1]} and {kept}")


if __name__ == "__main__":
    run_command(picture_label)
