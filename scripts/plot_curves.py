"""Draw the training curves of one or more runs."""

from bundle.skull_implant.commands.command_line import run_command


def plot_curves(runs: str, path: str) -> None:
    """Draw Dice loss, KL divergence and held-out DSC of both stages.

    Args:
        runs: output folders of training, separated by commas.
        path: picture to write, .png.
    """
    from pathlib import Path

    from bundle.skull_implant.scores import figures
    from bundle.skull_implant.whole_files import check_writable

    check_writable(Path(path).parent)
    figures.plot_curves([each for each in runs.split(",") if each], Path(path))
    print(f"wrote {path}")


if __name__ == "__main__":
    run_command(plot_curves)
