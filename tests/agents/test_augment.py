"""Random shift and brightness against a slow reference that pads by repeating the border and crops."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from agents.augment import augment
from agents.config import AgentConfig
from agents.learner import Learner, augmented, split_noise
from agents.replay import ReplayLayout
from agents.update import Batch


def reference(obs: NDArray[np.uint8], down: int, right: int, pad: int, factor: float) -> NDArray[np.float64]:
    """One image [C, H, W], padded by ``pad`` pixels of its border and cropped so that it moves down and right."""
    padded = np.pad(obs.astype(np.float64), ((0, 0), (pad, pad), (pad, pad)), mode="edge")
    height, width = obs.shape[1:]
    return padded[:, pad - down : pad - down + height, pad - right : pad - right + width] * factor


def images(count: int, seed: int = 0, size: tuple[int, int, int] = (4, 11, 9)) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, *size), dtype=np.uint8)


def test_every_shift_is_that_of_padding_and_cropping() -> None:
    """All 81 shifts of up to 4 pixels, one an image, each from the middle of its share of [0, 1)."""
    shifts = [(down, right) for down in range(-4, 5) for right in range(-4, 5)]
    obs = images(81)
    uniform = torch.tensor([[(down + 4.5) / 9, (right + 4.5) / 9] for down, right in shifts], dtype=torch.float64)
    normal = torch.randn(81, generator=torch.Generator().manual_seed(0))
    actual = augment(torch.from_numpy(obs), uniform, normal, 4, 0.05)
    assert actual.dtype == torch.float32
    assert (normal.abs() > 2).any()
    for k, (down, right) in enumerate(shifts):
        factor = 1 + 0.05 * min(2.0, max(-2.0, normal[k].item()))
        np.testing.assert_allclose(actual[k], reference(obs[k], down, right, 4, factor), rtol=1e-6)


def test_every_shift_is_equally_likely_and_down_and_right_are_independent() -> None:
    """A single bright pixel in the middle says how far its image moved."""
    count = 40_000
    obs = torch.zeros(count, 1, 9, 9)
    obs[:, :, 4, 4] = 1
    uniform = torch.rand(count, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    moved = augment(obs, uniform, torch.zeros(count), 4, 0.05)
    at = moved.flatten(1).argmax(1)
    assert (moved.flatten(1).sum(1) == 1).all()
    assert stats.chisquare(np.bincount(at, minlength=81)).pvalue > 1e-3, "each of 9 x 9 places"


def test_the_ends_of_the_unit_interval_are_the_largest_shifts() -> None:
    obs = torch.zeros(2, 1, 9, 9)
    obs[:, :, 4, 4] = 1
    uniform = torch.tensor([[0.0, np.nextafter(1, 0)], [np.nextafter(1, 0), 0.0]], dtype=torch.float64)
    moved = augment(obs, uniform, torch.zeros(2), 4, 0.0)
    assert [divmod(int(image.argmax()), 9) for image in moved] == [(0, 8), (8, 0)]


def test_without_shift_and_brightness_nothing_changes() -> None:
    obs = torch.from_numpy(images(5))
    uniform = torch.rand(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.equal(augment(obs, uniform, torch.randn(5), 0, 0.0), obs.float())


def test_brightness_is_a_normal_factor_cut_at_two_standard_deviations() -> None:
    count = 20_000
    normal = torch.randn(count, generator=torch.Generator().manual_seed(2))
    factor = augment(torch.ones(count, 1, 1, 1), torch.zeros(count, 2), normal, 0, 0.05).flatten().double().numpy()
    assert factor.min() == pytest.approx(0.9, abs=1e-6)
    assert factor.max() == pytest.approx(1.1, abs=1e-6)
    inside = factor[(factor > 0.9 + 1e-6) & (factor < 1.1 - 1e-6)]
    assert len(inside) / count == pytest.approx(stats.norm.cdf(2) - stats.norm.cdf(-2), abs=0.006)
    assert stats.kstest((inside - 1) / 0.05, stats.truncnorm(-2, 2).cdf).pvalue > 1e-3


def test_a_batch_is_augmented_image_by_image_and_next_observations_apart() -> None:
    """Two seeds of three stacks of four frames: each stack moves as one, by numbers of its own."""
    config = replace(AgentConfig(encoder="minatar", augment=True), shift_pixels=2, intensity_scale=0.1)
    g = torch.Generator().manual_seed(3)
    obs, next_obs = (torch.from_numpy(images(6, seed)).unflatten(0, (2, 3)) for seed in (1, 2))
    shift = torch.rand(2, 2, 3, 2, dtype=torch.float64, generator=g)
    normal = torch.randn(2, 2, 3, generator=g)
    column = torch.zeros(2, 3)
    result = augmented(config, Batch(obs, column.long(), column, column, next_obs, column), shift, normal)
    factors = set()
    for k, (before, after) in enumerate([(obs, result.obs), (next_obs, result.next_obs)]):
        assert after.shape == before.shape
        for seed in range(2):
            for b in range(3):
                down, right = (int(np.floor(5 * u)) - 2 for u in shift[seed, k, b].tolist())
                factor = 1 + 0.1 * min(2.0, max(-2.0, normal[seed, k, b].item()))
                expected = reference(before[seed, b].numpy(), down, right, 2, factor)
                np.testing.assert_allclose(after[seed, b], expected, rtol=1e-6)
                factors.add(factor)
    assert len(factors) == 12


def test_sampling_shifts_and_brightness_of_both_observations_are_drawn_apart() -> None:
    config = AgentConfig(encoder="minatar", augment=True, batch_size=16, replay_capacity=50)
    layout = ReplayLayout(2, 1, 50, (4, 10, 10), True, 1, "zeros", None, 1, 0.99, False)
    it = Learner(config, layout, 3, (0, 1))
    learning = it._learning()
    which, _, shift, intensity = split_noise(config, it.network, learning.uniform, learning.normal)
    assert (which.shape, shift.shape, intensity.shape) == ((2, 16), (2, 2, 16, 2), (2, 2, 16))
    for parts in ((which, shift), (intensity,)):
        numbers = torch.cat([part.flatten() for part in parts])
        assert len(numbers.unique()) == len(numbers), "no number is used twice"
