"""The methods that a protocol names, made of their files."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.fit.rim_fit import RimFit
from bundle.skull_implant.fit.table_model import TableModel
from bundle.skull_implant.frame.vault_template import VaultTemplate
from bundle.skull_implant.model.code_fitting import CodeFit
from bundle.skull_implant.model.implant_unet import ImplantUNet
from bundle.skull_implant.model.inferers import CompletionInferer
from bundle.skull_implant.model.network import SkullCompleter
from bundle.skull_implant.peers.baselines import BASELINES
from bundle.skull_implant.peers.table_completion import TableCompletion
from bundle.skull_implant.scores.implant_methods import (
    BaselineMethod,
    CompleterMethod,
    ImplantMethod,
    InferenceMethod,
    ShapeModelMethod,
    UNetMethod,
)
from bundle.skull_implant.scores.scoring_protocol import WITHOUT_DEFECT_NETWORKS, Protocol
from bundle.skull_implant.steps.designing import ImplantDesigner
from bundle.skull_implant.train.datalist import open_dataset


def methods_of(protocol: Protocol) -> dict[str, ImplantMethod]:
    """The methods of a protocol, in the order of the rows; files are read once a process.

    Raises:
        InputError: a file cannot be read, or a shape model is wanted of a model that has none.
    """
    device = protocol.device
    own = _completer(protocol.own_model, device)
    template = aligning_template(protocol)
    methods: dict[str, ImplantMethod] = {}
    if protocol.baselines:
        skulls = _training_skulls(protocol.dataset_dir, own.box.spatial_size)
        methods |= {name: BaselineMethod(name, skulls, own.box, template) for name in BASELINES}
    if protocol.shape_model:
        tables = TableModel.of(own)
        if tables is None:
            raise InputError(
                f"{protocol.own_model}: must hold a shape model to score it alone, has none; train with this version"
            )
        methods["PCA shape model"] = ShapeModelMethod(TableCompletion(tables), own.box, template)
    if protocol.unet:
        methods["U-Net"] = UNetMethod(_unet(protocol.unet, device), template)
    for name, (model_file, gamma, steps, rim_fit) in protocol.all_models.items():
        network = _completer(model_file, device)
        if rim_fit is True:
            methods[name] = InferenceMethod(ImplantDesigner(network, gamma=gamma, fit_steps=steps))
            continue
        inferer = CompletionInferer(gamma, code_fit=CodeFit(steps))
        fit = RimFit(TableModel.of(network)) if rim_fit == WITHOUT_DEFECT_NETWORKS else None
        methods[name] = CompleterMethod(network, inferer, template, fit)
    return methods


def aligning_template(protocol: Protocol) -> VaultTemplate:
    """The mean vault that all skulls of a protocol are aligned with."""
    return _completer(protocol.own_model, protocol.device).template


@lru_cache(maxsize=8)
def _completer(model_file: str, device: str) -> SkullCompleter:
    return SkullCompleter.from_file(model_file).to(device)


@lru_cache(maxsize=1)
def _unet(path: str, device: str) -> ImplantUNet:
    return ImplantUNet.from_file(path).to(device)


@lru_cache(maxsize=1)
def _training_skulls(dataset_dir: str, spatial_size: tuple[int, int, int]) -> np.ndarray:
    return np.stack([skull.complete for skull in open_dataset(dataset_dir).read("training", spatial_size)])
