"""A fitted code decodes closer to the bone that is there, and a hole does not pull it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bundle.skull_implant.model.code_fitting import CodeFit
from bundle.skull_implant.model.network import SkullCompleter
from tests.small_models import small_network

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def network() -> SkullCompleter:
    torch.manual_seed(0)
    return small_network().eval()


def _distance(network: SkullCompleter, code: torch.Tensor, image: torch.Tensor) -> float:
    return float((network.decode(code) - image).detach().square().sum())


def test_no_steps_leave_the_code_as_it_is(network: SkullCompleter) -> None:
    start = torch.randn(2, network.latent_mean.numel())
    image = network.decode(torch.randn_like(start)).detach()

    assert CodeFit(steps=0)(network, image, start) is start


def test_a_fit_brings_the_decoded_skull_nearer_to_the_bone(network: SkullCompleter) -> None:
    truth = torch.randn(1, network.latent_mean.numel(), generator=torch.Generator().manual_seed(1))
    image, start = network.decode(truth).detach(), torch.zeros_like(truth)
    fitted = CodeFit(steps=100, learning_rate=0.05, prior=0.0, core_mm=1e6)(network, image, start)

    assert _distance(network, fitted, image) < 0.7 * _distance(network, start, image)
    assert not fitted.requires_grad


def test_the_networks_weights_get_no_gradient(network: SkullCompleter) -> None:
    start = torch.zeros(1, network.latent_mean.numel())
    CodeFit(steps=2)(network, network.decode(start + 1).detach(), start)

    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_hole_and_its_surroundings_are_left_out(network: SkullCompleter) -> None:
    image = torch.zeros(1, 1, *network.box.spatial_size)
    image[..., :4] = 1.0  # bone at the bottom only
    weight = CodeFit()._weight(torch.ones_like(image), image, network.box.spacing_mm)

    assert weight[..., :2].all()
    assert not weight[..., -2:].any()


def test_with_a_strong_prior_the_code_stays_where_it_was(network: SkullCompleter) -> None:
    start = torch.zeros(1, network.latent_mean.numel())
    image = network.decode(start + 1).detach()
    loose = CodeFit(steps=20, prior=0.0)(network, image, start)
    tight = CodeFit(steps=20, prior=1e4)(network, image, start)

    assert tight.abs().max() < 0.5 * loose.abs().max()


def test_its_steps_are_those_of_pytorchs_optimizer() -> None:
    gradients = torch.randn(5, 2, 7, generator=torch.Generator().manual_seed(2))
    code, theirs = torch.zeros(2, 7), torch.zeros(2, 7, requires_grad=True)
    moments, step, optimizer = (
        (torch.zeros(2, 7), torch.zeros(2, 7)),
        torch.tensor(0.0),
        torch.optim.Adam([theirs], 0.1),
    )

    for gradient in gradients:
        CodeFit(learning_rate=0.1)._adam(code, gradient, moments, step)
        theirs.grad = gradient
        optimizer.step()

    torch.testing.assert_close(code, theirs.detach(), rtol=0.0, atol=0.0)


def test_it_does_without_pytorchs_compiler() -> None:
    code = (
        "import sys; import torch; from tests.small_models import small_network\n"
        "from bundle.skull_implant.model.code_fitting import CodeFit\n"
        "network = small_network(); start = torch.zeros(1, network.latent_mean.numel())\n"
        "known = 'torch._dynamo' in sys.modules\n"
        "CodeFit(1)(network, network.decode(start).detach(), start)\n"
        "sys.exit('torch._dynamo' in sys.modules and not known)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
