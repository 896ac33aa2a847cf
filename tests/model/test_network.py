"""The completer encodes, steps along DEV and decodes, and a file of it holds everything that inference needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bundle.skull_implant.errors import InputError
from bundle.skull_implant.model.encoder_decoder import Decoder, Encoder
from bundle.skull_implant.model.network import SkullCompleter, SkullVAE, load_state
from bundle.skull_implant.train.weights import save_weights
from tests.small_models import small_images, small_network


@pytest.fixture
def network() -> SkullCompleter:
    return small_network()


def test_a_decoder_of_raw_codes_gives_the_same_skulls_from_standardized_ones() -> None:
    network, other = small_network(0), small_network(1)
    raw = torch.randn(3, 7)

    network.start_decoder(other.decoder)

    code = (raw - network.latent_mean) / network.latent_std
    torch.testing.assert_close(network.decoder(code), other.decoder(raw), rtol=1e-4, atol=1e-5)
    assert network.decoder.linear.weight is not other.decoder.linear.weight


def test_a_code_has_the_latent_size_and_a_decoded_skull_the_size_of_the_grid(network: SkullCompleter) -> None:
    code = network.encode(small_images(3))

    assert code.shape == (3, 7)
    assert network.decode(code).shape == (3, 1, 16, 24, 16)


def test_a_code_is_the_posterior_mean_less_the_training_mean_over_the_training_spread(network: SkullCompleter) -> None:
    images = small_images()
    mean, _ = network.encoder(images)

    expected = torch.stack([(row - network.latent_mean) / network.latent_std for row in mean])
    torch.testing.assert_close(network.encode(images), expected)


def test_a_decoded_skull_is_the_softmax_of_the_second_channel(network: SkullCompleter) -> None:
    code = torch.randn(2, 7)
    logits = network.decoder(code)
    expected = logits[:, 1].exp() / (logits[:, 0].exp() + logits[:, 1].exp())

    torch.testing.assert_close(network.decode(code)[:, 0], expected)


def test_the_network_decodes_the_code_moved_by_the_step_of_the_more_probable_defect(network: SkullCompleter) -> None:
    images = small_images()
    code = network.encode(images)
    defect = network.class_probabilities(code)[:, 1:].argmax(1)

    torch.testing.assert_close(network(images), network.decode(code + network.step(code, defect)))
    assert not torch.allclose(network(images), network.decode(code))


@pytest.mark.parametrize("defect", [0, 1])
def test_a_skull_that_looks_complete_still_takes_the_more_probable_defects_step(
    network: SkullCompleter, defect: int
) -> None:
    network.class_weight.zero_()
    network.class_bias.copy_(torch.tensor([50.0, 0.0, 0.0]))
    network.class_bias[1 + defect] = 10.0
    code = network.encode(small_images())
    step = network.step(code, torch.tensor([defect] * 3))

    assert network.class_probabilities(code).argmax(1).tolist() == [0, 0, 0]
    torch.testing.assert_close(network(small_images()), network.decode(code + step))


def test_without_a_slope_the_step_is_the_dev_of_the_class(network: SkullCompleter) -> None:
    network.dev_slope.zero_()

    torch.testing.assert_close(network.step(torch.randn(3, 7), torch.tensor([1, 0, 1])), network.dev[[1, 0, 1]])


def test_at_a_classs_centroid_the_step_is_its_dev_whatever_the_slope(network: SkullCompleter) -> None:
    torch.testing.assert_close(network.step(network.centroids[1:], torch.tensor([0, 1])), network.dev)


def test_away_from_the_centroid_the_slope_of_the_class_is_added(network: SkullCompleter) -> None:
    for defect in (0, 1):
        away = torch.randn(7)
        found = network.step((network.centroids[1 + defect] + away)[None], torch.tensor([defect]))[0]
        torch.testing.assert_close(found - network.dev[defect], network.dev_slope[defect] @ away, atol=1e-5, rtol=1e-5)


def test_class_probabilities_are_a_linear_softmax_that_sums_to_one(network: SkullCompleter) -> None:
    code = torch.randn(4, 7)
    probability = network.class_probabilities(code)
    scores = torch.stack([(network.class_weight * row).sum(1) + network.class_bias for row in code])

    torch.testing.assert_close(probability.sum(1), torch.ones(4))
    torch.testing.assert_close(probability.log() - probability.log()[:, :1], scores - scores[:, :1])


def test_skulls_of_a_batch_do_not_see_each_other(network: SkullCompleter) -> None:
    images = small_images(3)

    torch.testing.assert_close(network(images)[1:2], network(images[1:2]))


def test_a_grid_that_the_strides_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(16, 20, 16\) must be divisible by the product of the strides, 8"):
        SkullCompleter([16, 20, 16], [3, 5], [2, 4], 7)


def test_encoder_and_decoder_mirror_each_other_at_the_papers_depth() -> None:
    sizes: dict[str, Any] = {
        "spatial_size": (64, 64, 128), "channels": (2, 2, 3, 3, 4, 4), "strides": (2,) * 6, "latent_size": 32
    }  # fmt: skip
    encoder, decoder = Encoder(**sizes).eval(), Decoder(**sizes).eval()
    mean, log_variance = encoder(torch.rand(1, 1, 64, 64, 128))

    assert encoder.final_size == decoder.final_size == [1, 1, 2]
    assert mean.shape == log_variance.shape == (1, 32)
    assert decoder(mean).shape == (1, 2, 64, 64, 128)


@pytest.mark.parametrize("shift", [-5.0, 5.0])
def test_logits_are_not_bounded_so_that_the_dice_can_reach_zero(network: SkullCompleter, shift: float) -> None:
    code = torch.randn(2, 7)
    before = network.decoder(code).detach()
    dict(network.decoder.named_parameters())["layers.1.conv.bias"].data += shift

    torch.testing.assert_close(network.decoder(code), before + shift)


def test_a_written_completer_is_read_back_with_its_sizes_and_gives_the_same_skulls(
    network: SkullCompleter, tmp_path: Path
) -> None:
    save_weights(network, tmp_path / "model.pt")
    back = SkullCompleter.from_file(tmp_path / "model.pt")

    assert not back.training
    assert back.state_dict().keys() == network.state_dict().keys()
    for key, value in network.state_dict().items():
        torch.testing.assert_close(back.state_dict()[key], value, rtol=0, atol=0)
    torch.testing.assert_close(back(small_images()), network(small_images()), rtol=0, atol=0)


def test_box_and_mean_vault_travel_in_the_file(tmp_path: Path) -> None:
    odd = SkullCompleter([8, 16, 8], [2], [4], 3, box_mm=(170.0, 230.0, 155.5), box_top_mm=7.25, template_size=11)
    odd.template_mm.copy_(torch.arange(121).view(11, 11) / 3)
    odd.template_step_deg.fill_(12.5)
    save_weights(odd, tmp_path / "model.pt")
    back = SkullCompleter.from_file(tmp_path / "model.pt")

    assert (back.box.spatial_size, back.box.size_mm, back.box.top_mm) == ((8, 16, 8), (170.0, 230.0, 155.5), 7.25)
    assert back.template.step_deg == 12.5
    assert back.template.radii_mm[10, 10] == 120 / 3  # to the last bit of a double


def test_a_missing_model_is_named_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.pt: model_file must exist; train one"):
        SkullCompleter.from_file(tmp_path / "nowhere.pt")


def _refused(path: Path, content: Any) -> str:
    torch.save(content, path)
    with pytest.raises(InputError) as caught:
        SkullCompleter.from_file(path)
    return str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        {"encoder.weight": torch.zeros(3)},
        {"model": {"spatial_size": torch.zeros(3)}, "epoch": 3},
        {"spatial_size": [16, 16, 16]},
    ],
    ids=["another network", "a trainer's checkpoint", "lists for tensors"],
)
def test_another_networks_file_is_refused_in_one_line(tmp_path: Path, content: Any) -> None:
    message = _refused(tmp_path / "other.pt", content)

    assert message.startswith("other.pt: model_file must be a completer written by training")
    assert "\n" not in message


@pytest.mark.parametrize("content", [torch.zeros(3), 7, [1, 2, 3]], ids=["a tensor", "a number", "a list"])
def test_a_file_without_a_state_dict_is_refused(tmp_path: Path, content: Any) -> None:
    assert "must be a PyTorch state dict" in _refused(tmp_path / "other.pt", content)


def test_a_damaged_file_is_refused(network: SkullCompleter, tmp_path: Path) -> None:
    save_weights(network, tmp_path / "model.pt")
    content = (tmp_path / "model.pt").read_bytes()
    (tmp_path / "model.pt").write_bytes(content[: len(content) // 2])

    with pytest.raises(InputError, match=r"model\.pt: model_file must be a PyTorch state dict, it cannot be read"):
        load_state(tmp_path / "model.pt")


@pytest.mark.parametrize("key", ["dev", "encoder.mean.weight", "box_mm"])
def test_a_file_without_one_of_its_parts_is_refused(network: SkullCompleter, tmp_path: Path, key: str) -> None:
    state = network.state_dict()
    del state[key]

    assert "must be a completer" in _refused(tmp_path / "model.pt", state)


def test_sizes_that_do_not_fit_the_weights_are_refused(network: SkullCompleter, tmp_path: Path) -> None:
    for size in ([32, 24, 16], [15, 24, 16]):
        state = network.state_dict()
        state["spatial_size"] = torch.tensor(size)
        assert "must be a completer" in _refused(tmp_path / "model.pt", state)


def test_stage_one_trains_the_completers_encoder_and_a_decoder_of_its_own(network: SkullCompleter) -> None:
    vae = SkullVAE(network)

    assert vae.encoder is network.encoder
    assert not {id(p) for p in vae.decoder.parameters()} & {id(p) for p in network.decoder.parameters()}


def test_in_evaluation_mode_stage_one_decodes_the_mean(network: SkullCompleter) -> None:
    vae, images = SkullVAE(network).eval(), small_images()
    logits, mean, log_variance = vae(images)

    assert logits.shape == (3, 2, 16, 24, 16)
    assert mean.shape == log_variance.shape == (3, 7)
    torch.testing.assert_close(logits, vae.decoder(mean))


def test_in_training_mode_the_code_is_drawn_from_the_posterior(network: SkullCompleter) -> None:
    class Fixed(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.tensor([[1.0, -2.0]]).repeat(len(image), 1), torch.tensor([[0.0, 2.0]]).repeat(len(image), 1)

    torch.manual_seed(0)
    vae = SkullVAE(network)
    vae.encoder, vae.decoder = Fixed(), torch.nn.Identity()
    code, _, _ = vae.train()(torch.zeros(20000, 1))

    torch.testing.assert_close(code.mean(0), torch.tensor([1.0, -2.0]), atol=0.06, rtol=0)
    torch.testing.assert_close(code.std(0), torch.tensor([1.0, torch.e]), atol=0.06, rtol=0)


def test_the_activation_and_a_second_convolution_travel_in_the_file(tmp_path: Path) -> None:
    network = SkullCompleter((16, 24, 16), [3, 5, 6], [2, 2, 2], 7, prelu=False, refined_levels=2).eval()
    plain = SkullCompleter((16, 24, 16), [3, 5, 6], [2, 2, 2], 7)
    torch.save(network.state_dict(), tmp_path / "model.pt")

    again = SkullCompleter.from_file(tmp_path / "model.pt")

    image = small_images(2)
    torch.testing.assert_close(again(image), network(image))
    assert len(again.decoder.layers) == len(plain.decoder.layers) + 2
    assert not any(isinstance(layer, torch.nn.PReLU) for layer in again.modules())
    assert any(isinstance(layer, torch.nn.PReLU) for layer in plain.modules())
