"""Picture the best, the median and the worst case of an evaluation."""

from bundle.skull_implant.commands.command_line import run_command


def picture_cases(
    scores: str,
    source: str,
    output_dir: str,
    dataset_dir: str,
    model_file: str = "models/model.pt",
    method: str = "VAE z + DEV, code and rim fitted",
    part: str = "validation",
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Draw implant and true piece of six cases: best, median and worst by implant DSC, of official and varied holes.

    Args:
        scores: scores.csv of an evaluation.
        source: complete skulls on their native grids, as the evaluation read them.
        output_dir: where the pictures go.
        dataset_dir: prepared training set that the evaluation took its persons from.
        model_file: weights.
        method: of the scores, by which cases are chosen.
        part: validation or training.
        seed: of the evaluation.
        overwrite: replace earlier pictures.
    """
    from pathlib import Path

    from bundle.skull_implant.scores import case_pictures

    root = Path(__file__).resolve().parents[1]
    weights = root / model_file if model_file == "models/model.pt" else Path(model_file)
    pictures = case_pictures.picture_cases(
        Path(scores), Path(source), Path(output_dir), dataset_dir, weights, method, part, seed, overwrite
    )
    print("wrote " + " ".join(map(str, pictures)))


if __name__ == "__main__":
    run_command(picture_cases)
