"""The two loss terms agree with independent implementations, and have their optimum where they should."""

from __future__ import annotations

import pytest
import torch
from monai.losses import DiceLoss

from bundle.skull_implant.train.losses import SkullDiceLoss, kl_divergence


def _random_pair(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(3, 2, 5, 6, 7, generator=generator, dtype=torch.float64)
    return logits, torch.rand(3, 1, 5, 6, 7, generator=generator, dtype=torch.float64)


def _both_channels(target: torch.Tensor) -> torch.Tensor:
    return torch.cat([1 - target, target], dim=1)


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("binary", [True, False])
def test_the_dice_term_and_its_gradient_are_monais_of_both_channels_times_the_weight(
    squared: bool, binary: bool
) -> None:
    logits, target = _random_pair()
    if binary:
        target = (target > 0.8).double()
    monai = DiceLoss(softmax=True, squared_pred=squared, reduction="sum")
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()

    loss, expected = SkullDiceLoss(80.0, squared)(ours, target), 80.0 * monai(theirs, _both_channels(target))
    loss.backward()
    expected.backward()

    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_the_weight_multiplies_the_loss() -> None:
    logits, target = _random_pair()

    heavy, plain = (SkullDiceLoss(weight)(logits, target) for weight in (80.0, 1.0))
    torch.testing.assert_close(heavy, 80 * plain)


def test_the_loss_of_a_batch_is_the_sum_over_its_skulls() -> None:
    logits, target = _random_pair()
    loss = SkullDiceLoss()

    torch.testing.assert_close(loss(logits, target), sum(loss(logits[i : i + 1], target[i : i + 1]) for i in range(3)))


def test_perfect_logits_lose_nothing_and_opposite_ones_lose_both_channels() -> None:
    target = (_random_pair()[1] > 0.5).double()
    logits = 200 * (_both_channels(target) - 0.5)

    assert SkullDiceLoss(weight=80.0)(logits, target).item() == pytest.approx(0.0, abs=1e-6)
    assert SkullDiceLoss(weight=80.0)(-logits, target).item() == pytest.approx(3 * 2 * 80.0, rel=1e-4)


def test_an_empty_skull_that_is_decoded_empty_loses_nothing() -> None:
    logits = torch.tensor([50.0, -50.0]).view(1, 2, 1, 1, 1).expand(1, 2, 4, 4, 4)

    assert SkullDiceLoss()(logits, torch.zeros(1, 1, 4, 4, 4)).item() == pytest.approx(0.0, abs=1e-4)


def test_single_precision_is_enough_for_a_grid_of_the_papers_size() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(1, 2, 128, 128, 64, generator=generator)
    target = (torch.rand(1, 1, 128, 128, 64, generator=generator) > 0.9).float()

    exact = SkullDiceLoss()(logits.double(), target.double())
    torch.testing.assert_close(SkullDiceLoss()(logits, target).double(), exact, rtol=1e-5, atol=0.0)


def test_partial_volume_is_kept_by_the_squared_dice_and_thresholded_away_by_the_plain_one() -> None:
    target = torch.rand(1, 1, 6, 6, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    logits = torch.zeros(1, 2, 6, 6, 6, dtype=torch.float64)

    logits[:, 1:] = torch.logit(target)  # softmax gives the target itself
    kept = {squared: SkullDiceLoss(squared=squared)(logits, target).item() for squared in (True, False)}
    logits[:, 1:] = torch.where(target > 0.5, 50.0, -50.0)
    thresholded = {squared: SkullDiceLoss(squared=squared)(logits, target).item() for squared in (True, False)}

    assert kept[True] == pytest.approx(0.0, abs=1e-6)
    assert thresholded[True] > 1.0
    assert thresholded[False] < kept[False]


def test_what_is_not_known_counts_nowhere() -> None:
    logits, target = _random_pair()
    known = torch.ones_like(target)
    known[..., 3:] = 0
    elsewhere = known + (1 - known) * torch.rand(known.shape, dtype=torch.float64)
    loss = SkullDiceLoss()
    ours = logits.clone().requires_grad_()

    masked = loss(ours, target, known)
    masked.backward()

    torch.testing.assert_close(masked, loss(logits[..., :3], target[..., :3]))
    torch.testing.assert_close(masked, loss(logits * elsewhere, target * elsewhere, known))
    assert not ours.grad[..., 3:].any()


def test_where_all_is_known_a_mask_changes_nothing() -> None:
    logits, target = _random_pair()

    loss = SkullDiceLoss()
    torch.testing.assert_close(loss(logits, target, torch.ones_like(target)), loss(logits, target))


def test_the_divergence_is_that_of_torch_distributions_summed() -> None:
    generator = torch.Generator().manual_seed(3)
    mean, log_variance = torch.randn(4, 32, generator=generator), torch.randn(4, 32, generator=generator)
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, (0.5 * log_variance).exp()), normal(0.0, 1.0)).sum()

    torch.testing.assert_close(kl_divergence(mean, log_variance), expected)


def test_the_standard_normal_has_no_divergence_from_itself() -> None:
    assert kl_divergence(torch.zeros(2, 5), torch.zeros(2, 5)).item() == 0.0


def test_a_mean_of_one_costs_one_half_and_a_variance_of_e_a_known_amount() -> None:
    assert kl_divergence(torch.ones(1, 6), torch.zeros(1, 6)).item() == pytest.approx(6 * 0.5)
    assert kl_divergence(torch.zeros(1, 1), torch.ones(1, 1)).item() == pytest.approx((torch.e - 2) / 2)
