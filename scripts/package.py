"""Pack the bundle for MONAI Label and the Model Zoo."""

from bundle.skull_implant.commands.command_line import run_command


def package(output_dir: str = "dist") -> None:
    """Write skull_implant_v<version>.zip to OUTPUT_DIR: README, configs, weights, docs, licence, package and commands.

    Args:
        output_dir: folder of the zip; an earlier one of the same version is replaced.
    """
    from pathlib import Path

    from bundle.skull_implant.commands.packaging import package_bundle

    path = package_bundle(Path(__file__).resolve().parents[1], Path(output_dir))
    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    run_command(package)
