"""Time MONAI Label's server and the command line on the same scan, in the environment that `make label` makes."""

from bundle.skull_implant.commands.command_line import run_command


def benchmark_label(
    output_dir: str = "runs/benchmark_label", size: tuple[int, ...] = (512, 512, 250), runs: int = 2
) -> None:
    """Print seconds and peak memory of one inference through the server, and by `scripts.complete`.

    Args:
        output_dir: for the scan, the server's app and the results.
        size: voxels of the scan, a synthetic head.
        runs: how many times each.
    """
    from pathlib import Path

    from bundle.skull_implant.errors import InputError
    from bundle.skull_implant.slicer.label_server import check_environment
    from bundle.skull_implant.whole_files import check_writable

    if len(size) != 3 or min(size) < 64 or runs < 1:
        raise InputError(f"--size must be three numbers of 64 or more and --runs at least 1, got {size} and {runs}")
    check_writable(output_dir)
    root = Path(__file__).resolve().parents[1]
    check_environment(root / "requirements-label.txt")
    from bundle.skull_implant.slicer.label_benchmark import benchmark_label as measure

    print(measure(Path(output_dir), (size[0], size[1], size[2]), runs, root))


if __name__ == "__main__":
    run_command(benchmark_label)
