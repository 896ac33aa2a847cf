"""One request to MONAI Label's server, through its own client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from bundle.skull_implant.commands.packaging import BUNDLE_NAME
from bundle.skull_implant.errors import InputError


class Client(Protocol):
    """What is used here of `monailabel.client.MONAILabelClient`."""

    def get_server_url(self) -> str:
        """Address of the server."""

    def infer(self, model: str, image_id: str, params: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """File of the label map and the result's parameters."""


def ask(client: Client, image: str, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Skull and implant of an image in the server's folder of studies.

    Args:
        client: of a running server.
        image: name of the image file without its suffix.
        options: of the panel, such as `gamma`.

    Returns:
        File of the label map and the report.

    Raises:
        InputError: no server answers there, it knows no such image, it failed, or it refused the scan.
    """
    asked = {"result_extension": ".nrrd", "result_dtype": "uint8", **options}
    try:
        file, result = client.infer(BUNDLE_NAME, image, asked)
    except OSError as error:
        rule = f"a server started by `make label` must answer, got: {' '.join(str(error).split())}"
        raise InputError(f"{client.get_server_url()}: {rule}; start it with the folder of {image}") from error
    except Exception as error:  # the client's own class, which is in the environment of `make label` alone
        told = f"{type(error).__name__} {' '.join(str(error).split())}"
        raise InputError(f"{client.get_server_url()}: no answer for {image} but {told}; see its terminal") from error
    if result["status"] == "refused":
        raise InputError(f"{image}: the server refused it: {'; '.join(result['reasons'])}")
    return file, result
