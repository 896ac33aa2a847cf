"""Time the product's commands."""

from bundle.skull_implant.command_line import run_command


def benchmark(
    what: str,
    output_dir: str = "runs/benchmark",
    size: tuple[int, ...] = (512, 512, 250),
    runs: int = 2,
    cases: int = 4,
    workers: tuple[int, ...] = (1, 2),
) -> None:
    """Print seconds and memory of one case, cold and warm, and cases per minute of batches, beside one at a time.

    A synthetic head as large as a hospital's CT, as a DICOM series. Cold is `scripts.complete` with Python's start,
    warm a process of `scripts.batch` that has done a case before. Other work on the machine makes all of it longer.

    Args:
        what: inference.
        output_dir: for the scans and the results; each scan of the default size takes 130 MB.
        size: voxels of the scan.
        runs: of one case, cold and warm.
        cases: of the batches; 0 leaves them out.
        workers: of each batch, with commas between.
    """
    from pathlib import Path

    from bundle.skull_implant import benchmarking
    from bundle.skull_implant.errors import InputError

    if what != "inference":
        raise InputError(f"benchmark: what must be inference, got {what!r}")
    if len(size) != 3 or min(size) < 64 or runs < 1:
        raise InputError(f"--size must be three numbers of 64 or more and --runs at least 1, got {size} and {runs}")
    if cases < 0 or min(workers, default=0) < 1:
        raise InputError(f"--cases must be 0 or more and --workers 1 or more, got {cases} and {workers}")
    root, folder = Path(__file__).resolve().parents[1], Path(output_dir)
    scans = benchmarking.write_scans(folder, (size[0], size[1], size[2]), max(1, cases))
    timed = benchmarking.time_commands(scans[0], folder / "cold", root, runs)
    timed += benchmarking.time_warm_cases(scans[0], folder / "warm", root, runs)
    print(benchmarking.stage_table(timed, size), flush=True)
    if cases:
        print()
        print(benchmarking.time_batches(scans, folder, root, workers))


if __name__ == "__main__":
    run_command(benchmark)
