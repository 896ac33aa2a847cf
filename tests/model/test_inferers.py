"""Gamma scales the step along DEV, and the defect class chooses which."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.model.code_fitting import CodeFit
from bundle.skull_implant.model.inferers import CompletionInferer
from bundle.skull_implant.model.network import DEFECT_CLASSES, SkullCompleter
from tests.small_models import small_images, small_network


@pytest.fixture
def network() -> SkullCompleter:
    return small_network()


@pytest.fixture
def codes_only(monkeypatch: pytest.MonkeyPatch) -> SkullCompleter:
    """A network whose `pred` is the code that would have been decoded."""
    network = small_network()
    monkeypatch.setattr(network, "decode", lambda code: code)
    return network


def test_gamma_zero_reconstructs_the_input(network: SkullCompleter) -> None:
    images = small_images()
    found = CompletionInferer(gamma=0.0)(images, network)["pred"]

    torch.testing.assert_close(found, network.decode(network.encode(images)))


def test_gamma_one_completes_as_the_network_does_by_itself(network: SkullCompleter) -> None:
    for image in small_images().split(1):
        index = int(network.class_probabilities(network.encode(image))[:, 1:].argmax())
        completed = CompletionInferer(defect_class=DEFECT_CLASSES[index])(image, network)["pred"]

        torch.testing.assert_close(completed, network(image))


@pytest.mark.parametrize("gamma", [-1.0, 0.3, 1.0, 5.0])
def test_gamma_scales_the_step(codes_only: SkullCompleter, gamma: float) -> None:
    images = small_images()
    found = CompletionInferer(gamma)(images, codes_only)
    code = codes_only.encode(images)

    torch.testing.assert_close(found["pred"] - code, gamma * codes_only.step(code, found["class_index"]))


def test_gamma_scales_the_papers_dev_where_the_step_has_no_slope(codes_only: SkullCompleter) -> None:
    codes_only.dev_slope.zero_()
    images = small_images()
    found = CompletionInferer(0.3)(images, codes_only)

    torch.testing.assert_close(found["pred"] - codes_only.encode(images), 0.3 * codes_only.dev[found["class_index"]])


@pytest.mark.parametrize(("defect_class", "row"), [("cranial", 0), ("facial", 1)])
def test_a_named_class_takes_its_own_step_whatever_the_skull_looks_like(
    codes_only: SkullCompleter, defect_class: str, row: int
) -> None:
    images = small_images()
    found = CompletionInferer(1.0, defect_class)(images, codes_only)
    code = codes_only.encode(images)

    assert found["class_index"].tolist() == [row] * 3
    torch.testing.assert_close(found["pred"] - code, codes_only.step(code, torch.tensor([row] * 3)))


@pytest.mark.parametrize("row", [0, 1])
def test_auto_takes_the_more_probable_defect_of_each_skull(codes_only: SkullCompleter, row: int) -> None:
    codes_only.class_bias.copy_(torch.tensor([50.0, 0.0, 0.0]))
    codes_only.class_weight.zero_()
    codes_only.class_bias[1 + row] = 10.0
    found = CompletionInferer()(small_images(), codes_only)

    assert found["class_index"].tolist() == [row] * 3
    assert found["class_probability"].argmax(1).tolist() == [0] * 3  # it still says that they look complete


class TowardsZero(CodeFit):
    """A fit whose result is known: the code of zeros, whatever it starts from."""

    def __call__(self, network: SkullCompleter, image: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(start)


@pytest.mark.parametrize("gamma", [-1.0, 0.3, 1.0, 5.0])
def test_with_a_fit_gamma_scales_the_step_to_the_fitted_code(codes_only: SkullCompleter, gamma: float) -> None:
    images = small_images()
    found = CompletionInferer(gamma, "cranial", TowardsZero())(images, codes_only)

    torch.testing.assert_close(found["pred"], (1.0 - gamma) * codes_only.encode(images), atol=1e-5, rtol=1e-5)


def test_a_fit_starts_from_the_completed_code_and_sees_the_patients_bone(codes_only: SkullCompleter) -> None:
    images, seen = small_images(), []

    class Watched(CodeFit):
        def __call__(self, network: SkullCompleter, image: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
            seen.append((network, image, start))
            return start

    found = CompletionInferer(0.5, "cranial", Watched())(images, codes_only)
    unfitted = CompletionInferer(0.5, "cranial")(images, codes_only)

    ((network, image, start),) = seen
    assert network is codes_only
    torch.testing.assert_close(image, images)
    torch.testing.assert_close(start, CompletionInferer(1.0, "cranial")(images, codes_only)["pred"])
    torch.testing.assert_close(found["pred"], unfitted["pred"], atol=1e-5, rtol=1e-5)


def test_a_facial_defect_is_not_fitted(codes_only: SkullCompleter) -> None:
    images = small_images()
    fitted = CompletionInferer(1.0, "facial", TowardsZero())(images, codes_only)["pred"]

    torch.testing.assert_close(fitted, CompletionInferer(1.0, "facial")(images, codes_only)["pred"])


def test_of_a_mixed_batch_only_the_cranial_defects_are_fitted(
    codes_only: SkullCompleter, monkeypatch: pytest.MonkeyPatch
) -> None:
    likely = torch.tensor([[0.2, 0.5, 0.3], [0.2, 0.3, 0.5], [0.0, 0.9, 0.1]])
    monkeypatch.setattr(codes_only, "class_probabilities", lambda code: likely)
    images = small_images()
    found = CompletionInferer(1.0, code_fit=TowardsZero())(images, codes_only)
    facial = CompletionInferer(1.0, "facial")(images, codes_only)

    assert found["class_index"].tolist() == [0, 1, 0]
    torch.testing.assert_close(found["pred"][[0, 2]], torch.zeros(2, 7), atol=1e-5, rtol=0)
    torch.testing.assert_close(found["pred"][1], facial["pred"][1])


def test_gamma_zero_reconstructs_the_input_also_with_a_fit(codes_only: SkullCompleter) -> None:
    images = small_images()

    torch.testing.assert_close(
        CompletionInferer(0.0, "cranial", TowardsZero())(images, codes_only)["pred"], codes_only.encode(images)
    )


def test_class_probabilities_are_the_networks(network: SkullCompleter) -> None:
    images = small_images()
    found = CompletionInferer(0.5, "facial")(images, network)["class_probability"]

    torch.testing.assert_close(found, network.class_probabilities(network.encode(images)))


def test_a_result_carries_no_gradient(network: SkullCompleter) -> None:
    assert not CompletionInferer()(small_images().requires_grad_(), network)["pred"].requires_grad


def test_an_array_is_as_good_as_a_tensor(network: SkullCompleter) -> None:
    images = small_images()

    torch.testing.assert_close(
        CompletionInferer()(np.asarray(images), network)["pred"], CompletionInferer()(images, network)["pred"]
    )


def test_a_number_may_come_as_text_as_from_a_command_line(codes_only: SkullCompleter) -> None:
    assert CompletionInferer("0.25").gamma == 0.25


@pytest.mark.parametrize("gamma", ["much", None, [1.0]])
def test_a_gamma_that_is_no_number_is_refused(gamma: Any) -> None:
    with pytest.raises(InputError, match="gamma must be a number, got"):
        CompletionInferer(gamma)


@pytest.mark.parametrize("gamma", [10.5, -11, float("nan"), float("inf")])
def test_a_gamma_out_of_reach_is_refused(gamma: float) -> None:
    with pytest.raises(InputError, match="gamma must lie between -10 and 10, got"):
        CompletionInferer(gamma)


def test_an_unknown_class_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="defect_class must be auto, cranial or facial, got 'spinal'"):
        CompletionInferer(1.0, "spinal")
