"""Turn checkpoints of the method paper's published code into one model file."""

from bundle.skull_implant.commands.command_line import run_command


def import_published(
    vae: str,
    decoder: str,
    model_file: str,
    codes: str = "",
    complete: str = "",
    cranial: str = "",
    facial: str = "",
    spatial_size: tuple[int, ...] = (256, 256, 128),
    threshold_hu: float = 300.0,
    overwrite: bool = False,
) -> None:
    """Write MODEL_FILE for scripts.complete_published: the VAE's encoder, a decoder, and DEV where codes are known.

    Args:
        vae: state dict of MONAI's VarAutoEncoder.
        decoder: state dict of the decoupled decoder, or "own" for the VAE's own (the paper's beta = 0.0001).
        model_file: target.
        codes: .npy with the training skulls' codes in thirds: cranial, facial, complete (zu_beta100.npy), for DEV.
        complete: folder of complete training skulls, for DEV instead of codes; with cranial or facial or both.
        cranial: folder of the same skulls with cranial defects.
        facial: folder of the same skulls with facial defects.
        spatial_size: voxels that scans were resized to.
        threshold_hu: bone is at least this where skulls are CT.
        overwrite: replace an earlier MODEL_FILE.
    """
    from pathlib import Path

    from bundle.skull_implant.errors import InputError
    from bundle.skull_implant.peers.published import import_checkpoints, mean_codes_of_file
    from bundle.skull_implant.train.preparing import find_sources
    from bundle.skull_implant.train.weights import save_weights
    from bundle.skull_implant.whole_files import check_writable

    if Path(model_file).exists() and not overwrite:
        raise InputError(f"{model_file}: already there; name another file or pass --overwrite")
    check_writable(Path(model_file).parent)
    if len(spatial_size) != 3 or min(spatial_size) < 1:
        raise InputError(f"--spatial_size must be three numbers above 0, got {spatial_size}; for example 256,256,128")
    folders = {"complete": complete, "cranial": cranial, "facial": facial}
    given = {kind: folder for kind, folder in folders.items() if folder}
    if given and (codes or "complete" not in given or len(given) < 2):
        raise InputError(
            f"DEV must come from --codes alone or from --complete with --cranial or --facial, got "
            f"{', '.join('--' + kind for kind in [*given, *(['codes'] if codes else [])])}; give one of the two"
        )
    network = import_checkpoints(vae, None if decoder == "own" else decoder, spatial_size)
    means = mean_codes_of_file(codes, network.dev.shape[1], ("cranial", "facial", "complete")) if codes else {}
    for kind, folder in given.items():
        sources = find_sources(Path(folder))
        print(f"{kind}: {len(sources)} skulls from {folder}")
        means[kind] = network.mean_code(source.read_skull(threshold_hu).voxels for source in sources)
    network.set_dev(means)
    save_weights(network, model_file)
    if not means:
        print("no DEV: this model reconstructs (--gamma 0) and cannot complete; import with --codes or --complete")


if __name__ == "__main__":
    run_command(import_published)
