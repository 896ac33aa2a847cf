"""Measure what the canonical frame costs on real skulls."""

from bundle.skull_implant.commands.command_line import run_command


def check_frame(
    source: str,
    cases: int = 20,
    ceiling_cases: int = 20,
    model_file: str = "models/model.pt",
    output_dir: str = "runs/frame",
    threshold_hu: float = 300.0,
    workers: int = 2,
    seed: int = 0,
) -> None:
    """Print how far a hole moves the frame, and the implant DSC of a perfect network at three grid sizes.

    Args:
        source: folder in the SkullFix layout (complete_skull/, implant/), or of volume files and DICOM folders.
        cases: how many, drawn at random; 0 takes all.
        ceiling_cases: in how many of them the implant DSC of a perfect network is measured too, which takes longest.
        model_file: gives the mean vault, the box and the third grid size.
        output_dir: where frame.csv and frame.md go.
        threshold_hu: bone threshold where the source is CT.
        workers: processes; each needs about 3 GB.
        seed: of the draw, slabs and holes.
    """
    from bundle.skull_implant.errors import InputError
    from bundle.skull_implant.frame.canonical_grid import CanonicalBox
    from bundle.skull_implant.model.network import SkullCompleter
    from bundle.skull_implant.model.shipped_weights import model_path
    from bundle.skull_implant.scores.frame_check import FrameCheck, check_frames

    if workers < 1 or cases < 0 or ceiling_cases < 0:
        raise InputError(
            "--workers must be at least 1, --cases and --ceiling_cases at least 0, "
            f"got {workers}, {cases} and {ceiling_cases}; 0 cases takes all"
        )
    network = SkullCompleter.from_file(model_path(model_file))
    own = network.box
    sizes = dict.fromkeys([(256, 256, 128), (128, 128, 64), own.spatial_size])
    boxes = tuple(CanonicalBox(size, own.size_mm, own.top_mm) for size in sizes)
    print(
        check_frames(
            source, output_dir, FrameCheck(network.template, boxes, threshold_hu, seed), cases, ceiling_cases, workers
        )
    )
    print(f"wrote {output_dir}/frame.csv and {output_dir}/frame.md")


if __name__ == "__main__":
    run_command(check_frame)
