"""Name new weights of the bundle's own in its metadata."""

from bundle.skull_implant.commands.command_line import run_command


def register_weights() -> None:
    """Write the SHA-256 of models/model.pt to configs/metadata.json; run it whenever that file is replaced by hand.

    Commands refuse a models/model.pt of another SHA-256. Training registers what it writes there itself, and model
    files at other places need not be registered.
    """
    from bundle.skull_implant.model.shipped_weights import register_weights

    print(f"configs/metadata.json: models/model.pt has SHA-256 {register_weights()}")


if __name__ == "__main__":
    run_command(register_weights)
