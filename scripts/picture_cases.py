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
    overwrite: bool = False,
) -> None:
    """Draw implant and true piece of six cases: best, median and worst by implant DSC, of official and varied holes.

    Args:
        scores: scores.csv of an evaluation, as it was written, with protocol.json beside it.
        source: complete skulls on their native grids, as the evaluation read them.
        output_dir: where the pictures go.
        dataset_dir: prepared training set that the evaluation took its persons from.
        model_file: weights.
        method: of the scores, one of the model's, by which cases are chosen.
        part: validation or training.
        overwrite: replace earlier pictures.
    """
    from pathlib import Path

    from bundle.skull_implant.model.shipped_weights import model_path
    from bundle.skull_implant.scores import case_pictures

    pictures = case_pictures.picture_cases(
        Path(scores), Path(source), Path(output_dir), dataset_dir, model_path(model_file), method, part, overwrite
    )
    print("wrote " + " ".join(map(str, pictures)))


if __name__ == "__main__":
    run_command(picture_cases)
