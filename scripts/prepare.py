"""Make a training set of complete skulls."""

from bundle.skull_implant.commands.command_line import run_command


def prepare(
    source: str,
    dataset_dir: str,
    split: str = "",
    validation_share: float = 0.2,
    template: str = "models/model.pt",
    threshold_hu: float = 300.0,
    spatial_size: tuple[int, ...] = (256, 256, 128),
    seed: int = 0,
    defective: str = "",
    completer: str = "models/model.pt",
) -> None:
    """Turn complete skulls into a training set in the canonical box.

    Args:
        source: folder in the SkullFix layout (complete_skull/, implant/), or of volume files and DICOM folders.
        dataset_dir: where to write; must not hold a dataset yet.
        split: JSON file with a list "validation" of case names; else a random share is drawn.
        validation_share: of the cases, when no split is given.
        template: model whose mean vault the skulls are aligned with, or "build" to make one from the training skulls.
        threshold_hu: bone threshold where the source is CT.
        spatial_size: voxels of the stored grid along right, anterior, superior.
        seed: of the random split.
        defective: folder of skulls that have a hole of their own and no truth, to learn bone from as well.
        completer: model that fills the holes of the defective skulls, so that more defects can be cut into them; what
            it fills in is never a target.
    """
    from functools import partial
    from pathlib import Path

    from bundle.skull_implant.errors import InputError
    from bundle.skull_implant.frame.canonical_grid import CanonicalBox
    from bundle.skull_implant.model.network import SkullCompleter
    from bundle.skull_implant.model.shipped_weights import model_path
    from bundle.skull_implant.train import preparing
    from bundle.skull_implant.train.dataset_folder import DATALIST
    from bundle.skull_implant.train.hole_filling import fill_hole
    from bundle.skull_implant.whole_files import check_writable

    folder = Path(dataset_dir)
    if (folder / DATALIST).exists():
        raise InputError(f"{dataset_dir}: DATASET_DIR must not hold a {DATALIST} yet; remove it or name another folder")
    if len(spatial_size) != 3 or min(spatial_size) < 1:
        raise InputError(
            f"--spatial_size must be three numbers of 1 or more, got {spatial_size}; for example 256,256,128"
        )
    if not 0.0 <= validation_share <= 1.0:
        raise InputError(f"--validation_share must lie between 0 and 1, got {validation_share:g}; 0 takes one")
    check_writable(folder)
    sources = preparing.find_sources(Path(source))
    holed = preparing.find_sources(Path(defective)) if defective else []
    validation = preparing.validation_names([each.name for each in sources], split, validation_share, seed)
    training = [each for each in sources if each.name not in validation]
    if not training:
        raise InputError(f"{source}: all {len(sources)} skulls are for validation; give more, or a smaller share")
    vault = (
        preparing.build_template(training, threshold_hu)
        if template == "build"
        else SkullCompleter.from_file(model_path(template)).template
    )
    box = CanonicalBox((spatial_size[0], spatial_size[1], spatial_size[2]))
    fill = partial(fill_hole, network=SkullCompleter.from_file(model_path(completer))) if holed else None
    preparing.prepare_dataset(sources, folder, validation, vault, box, threshold_hu, holed, fill)


if __name__ == "__main__":
    run_command(prepare)
