"""Compare the bundle's model with its own steps, with simple methods, and with the peer that a user would train."""

from bundle.skull_implant.commands.command_line import run_command


def compare(
    source: str,
    dataset_dir: str,
    output_dir: str,
    model_file: str = "models/model.pt",
    unet: str = "",
    beta100: str = "",
    persons: int = 0,
    varied_holes: int = 5,
    peers: bool = True,
    fit_steps: int = 30,
    threshold_hu: float = 300.0,
    workers: int = 2,
    seed: int = 0,
) -> None:
    """Score every method on validation persons and print one table; a run that was stopped goes on.

    A method that is asked for later, the U-Net for one, is scored alone and comes into the table of the same folder.

    Args:
        source: folder of the complete skulls that DATASET_DIR was prepared from.
        dataset_dir: prepared training set, or a MONAI datalist; it names the validation persons.
        output_dir: where scores.csv, sites.csv, table.md and box_plots_validation.png go.
        model_file: the bundle's model; its mean vault aligns all skulls.
        unet: U-Net that `training_unet` of configs/unet.yaml trained; without, it has no rows.
        beta100: the method paper's VAE, beta 100, trained with configs/train.yaml; without, it has no rows.
        persons: of the validation part, drawn at random; 0 takes all.
        varied_holes: a person, 0 to 10; the ten sites take turns over the persons.
        peers: False scores what inference does and nothing else.
        fit_steps: of gradient descent that fit the code, as inference has them.
        threshold_hu: bone threshold where the source is CT.
        workers: processes; each needs about 2 GB.
        seed: of holes, slabs and persons.
    """
    import logging
    from pathlib import Path

    from bundle.skull_implant.errors import InputError
    from bundle.skull_implant.model.shipped_weights import model_path
    from bundle.skull_implant.scores.evaluation import evaluate
    from bundle.skull_implant.scores.figures import plot_implant_scores
    from bundle.skull_implant.scores.score_table import read_scores
    from bundle.skull_implant.scores.scoring_protocol import WITHOUT_DEFECT_NETWORKS, ModelSettings, Protocol

    if workers < 1 or persons < 0 or fit_steps < 1:
        raise InputError(
            "--workers and --fit_steps must be at least 1, --persons at least 0, "
            f"got {workers}, {fit_steps} and {persons}; 0 persons takes all"
        )
    if not peers and (unet or beta100):
        raise InputError("--peers False scores the bundle's model alone; leave --unet and --beta100 out")
    model_file = str(model_path(model_file))
    methods: dict[str, ModelSettings] = {}
    if peers:
        for flag, given in (("unet", unet), ("beta100", beta100)):
            if not given:
                logging.getLogger(__name__).info("no --%s: the table has no rows of it", flag)
        methods |= {"VAE beta 100, z + DEV (Li et al. 2022)": (beta100, 1.0, 0, False)} if beta100 else {}
        methods |= {
            "VAE z": (model_file, 0.0, 0, False),
            "VAE z + DEV": (model_file, 1.0, 0, False),
            "VAE z + DEV, code fitted": (model_file, 1.0, fit_steps, False),
            "VAE z + DEV, code and rim fitted, no defect networks": (
                model_file,
                1.0,
                fit_steps,
                WITHOUT_DEFECT_NETWORKS,
            ),
        }
    methods["VAE z + DEV, code and rim fitted"] = (model_file, 1.0, fit_steps, True)
    protocol = Protocol(
        models=methods,
        dataset_dir=dataset_dir,
        varied_holes=varied_holes,
        persons={"validation": persons},
        baselines=peers,
        unet=unet,
        shape_model=peers,
        aligned_by=model_file,
        whole_skulls=False,
        threshold_hu=threshold_hu,
        seed=seed,
    )
    print(evaluate(source, output_dir, protocol, workers))
    box_plots = Path(output_dir) / "box_plots_validation.png"
    plot_implant_scores(read_scores(Path(output_dir) / "scores.csv"), "validation", box_plots)
    print(f"wrote {output_dir}/scores.csv, {output_dir}/sites.csv, {output_dir}/table.md and {box_plots}")


if __name__ == "__main__":
    run_command(compare)
