"""Start MONAI Label's server with this bundle."""

from bundle.skull_implant.commands.command_line import run_command


def serve_label(
    studies: str, host: str = "127.0.0.1", port: int = 8000, folder: str = ".label", dry_run: bool = False
) -> None:
    """Pack the bundle, put it into MONAI Label's app and start its server for the images in STUDIES.

    Args:
        studies: folder of NIfTI, NRRD or MHA files, whose labels go to its subfolder labels/; or a DICOMweb address.
        host: address to listen on; the server knows no passwords, so others than this machine's own are yours to guard.
        port: to listen on.
        folder: for the app, made anew at each start; a second server needs another one.
        dry_run: check and lay out everything, and print the server's command without starting it.
    """
    import os
    import shlex
    from pathlib import Path

    from bundle.skull_implant.commands.packaging import package_bundle
    from bundle.skull_implant.errors import InputError
    from bundle.skull_implant.slicer.label_server import (
        check_environment,
        lock_folder,
        prepare_app,
        server_command,
        server_environment,
    )

    root = Path(__file__).resolve().parents[1]
    remote = studies.startswith(("http://", "https://"))
    if not remote and not Path(studies).is_dir():
        raise InputError(f"{studies}: STUDIES must be a folder of images, none is there; make it or name another one")
    check_environment(root / "requirements-label.txt")
    lock_folder(Path(folder))
    app = prepare_app(package_bundle(root, Path(folder)), Path(folder))
    words = server_command(app.absolute(), studies if remote else str(Path(studies).absolute()), host, port)
    if dry_run:
        print(shlex.join(words))
        return
    print(f"MONAI Label for {studies}: http://{host}:{port} once it says 'Application startup complete'", flush=True)
    os.execve(words[0], words, server_environment())


if __name__ == "__main__":
    run_command(serve_label)
