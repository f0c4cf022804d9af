"""Random shift and brightness of image observations (Yarats et al. 2021, section 3.1; brightness: their appendix E)."""

from __future__ import annotations

import torch
from torch import Tensor


def augment(obs: Tensor, uniform: Tensor, normal: Tensor, shift_pixels: int, intensity_scale: float) -> Tensor:
    """Images [N, C, H, W] moved and brightened, one draw an image: [N, C, H, W] float32.

    Args:
        obs: uint8 or float32.
        uniform: [N, 2] in [0, 1): how far each image moves down and right, evenly from -shift_pixels to shift_pixels. What comes
            in from outside repeats the border.
        normal: [N] standard normal, cut at -2 and 2: the brightness is multiplied by 1 + intensity_scale * normal.
    """
    shift = (uniform * (2 * shift_pixels + 1)).long() - shift_pixels
    height, width = obs.shape[-2:]
    rows = (torch.arange(height, device=obs.device) - shift[:, :1]).clamp(0, height - 1)  # [N, H]
    columns = (torch.arange(width, device=obs.device) - shift[:, 1:]).clamp(0, width - 1)
    image = torch.arange(obs.shape[0], device=obs.device)[:, None, None, None]
    channel = torch.arange(obs.shape[1], device=obs.device)[:, None, None]
    moved = obs[image, channel, rows[:, None, :, None], columns[:, None, None, :]]
    return moved.float() * (1 + intensity_scale * normal.clamp(-2, 2))[:, None, None, None]
