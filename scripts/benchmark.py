"""Time the product's commands."""

from bundle.skull_implant.command_line import run_command


def benchmark(
    what: str, output_dir: str = "runs/benchmark", size: tuple[int, ...] = (), runs: int = 2, steps: int = 6
) -> None:
    """Print how long a case or a training step takes, on synthetic heads.

    Args:
        what: inference: seconds per stage and peak memory of `scripts.complete`; or training: volumes a second of our
            step and of plain training out of MONAI's parts, their ratio, and the floor of a step.
        output_dir: for the heads and the results.
        size: voxels, of the scan (512,512,250 if not given) or of the training grid (128,128,64).
        runs: how many times.
        steps: of a training run, in batches of 4.
    """
    from pathlib import Path

    from bundle.skull_implant.errors import InputError

    if what not in ("inference", "training"):
        raise InputError(f"benchmark: what must be inference or training, got {what!r}")
    size = size or ((512, 512, 250) if what == "inference" else (128, 128, 64))
    if len(size) != 3 or min(size) < 64 or min(runs, steps) < 1:
        raise InputError(
            f"--size must be three numbers of 64 or more, --runs and --steps at least 1, got {size}, {runs} and {steps}"
        )
    if what == "inference":
        from bundle.skull_implant.benchmarking import benchmark_inference

        root = Path(__file__).resolve().parents[1]
        print(benchmark_inference(Path(output_dir), (size[0], size[1], size[2]), runs, root))
        return
    from bundle.skull_implant.training_benchmark import benchmark_training

    if any(each % 64 for each in size):
        raise InputError(f"--size must be multiples of 64 for six strides of 2, got {size}; for example 128,128,64")
    print(benchmark_training(Path(output_dir), (size[0], size[1], size[2]), runs, steps))


if __name__ == "__main__":
    run_command(benchmark)
