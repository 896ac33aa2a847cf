"""Time the product's commands."""

from bundle.skull_implant.command_line import run_command


def benchmark(
    what: str, output_dir: str = "runs/benchmark", size: tuple[int, ...] = (512, 512, 250), runs: int = 2
) -> None:
    """Print seconds per stage and peak memory of `scripts.complete` on a synthetic head as large as a hospital's CT.

    Args:
        what: inference.
        output_dir: for the scan and the results.
        size: voxels of the scan.
        runs: how many times.
    """
    from pathlib import Path

    from bundle.skull_implant.benchmarking import benchmark_inference
    from bundle.skull_implant.errors import InputError

    if what != "inference":
        raise InputError(f"benchmark: what must be inference, got {what!r}")
    if len(size) != 3 or min(size) < 64 or runs < 1:
        raise InputError(f"--size must be three numbers of 64 or more and --runs at least 1, got {size} and {runs}")
    print(benchmark_inference(Path(output_dir), (size[0], size[1], size[2]), runs, Path(__file__).resolve().parents[1]))


if __name__ == "__main__":
    run_command(benchmark)
