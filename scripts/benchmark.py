"""Time the product's commands."""

from bundle.skull_implant.commands.command_line import run_command


def benchmark(
    what: str,
    output_dir: str = "runs/benchmark",
    size: tuple[int, ...] = (),
    runs: int = 2,
    cases: int = 4,
    workers: tuple[int, ...] = (1, 2),
    steps: int = 6,
) -> None:
    """Print how long a case or a training step takes, on synthetic heads. Other work on the machine makes it longer.

    inference: seconds and memory of one case, cold and warm, and cases per minute of batches, beside one at a time.
    Cold is `scripts.complete` with Python's start, warm a process of `scripts.batch` that has done a case before.
    training: volumes a second of our step and of plain training out of MONAI's parts, their ratio, and a step's floor.

    Args:
        what: inference or training.
        output_dir: for the heads and the results; each scan of the default size takes 130 MB.
        size: voxels, of the scan (512,512,250 if not given) or of the training grid (128,128,64).
        runs: how many times.
        cases: of inference's batches; 0 leaves them out.
        workers: of each batch, with commas between.
        steps: of a training run, in batches of 4.
    """
    from pathlib import Path

    from bundle.skull_implant.errors import InputError
    from bundle.skull_implant.whole_files import check_writable

    if what not in ("inference", "training"):
        raise InputError(f"benchmark: what must be inference or training, got {what!r}")
    size = size or ((512, 512, 250) if what == "inference" else (128, 128, 64))
    if len(size) != 3 or min(size) < 64 or min(runs, steps) < 1:
        raise InputError(
            f"--size must be three numbers of 64 or more, --runs and --steps at least 1, got {size}, {runs} and {steps}"
        )
    if cases < 0 or min(workers, default=0) < 1:
        raise InputError(f"--cases must be 0 or more and --workers 1 or more, got {cases} and {workers}")
    root, folder = Path(__file__).resolve().parents[1], Path(output_dir)
    check_writable(folder)
    voxels = (size[0], size[1], size[2])
    if what == "inference":
        from bundle.skull_implant.speed import benchmarking

        scans = benchmarking.write_scans(folder, voxels, max(1, cases))
        timed = benchmarking.time_commands(scans[0], folder / "cold", root, runs)
        timed += benchmarking.time_warm_cases(scans[0], folder / "warm", root, runs)
        print(benchmarking.stage_table(timed, size), flush=True)
        if cases:
            print()
            print(benchmarking.time_batches(scans, folder, root, workers))
        return
    from bundle.skull_implant.speed.training_benchmark import benchmark_training

    if any(each % 64 for each in size):
        raise InputError(f"--size must be multiples of 64 for six strides of 2, got {size}; for example 128,128,64")
    print(benchmark_training(folder, voxels, runs, steps))


if __name__ == "__main__":
    run_command(benchmark)
