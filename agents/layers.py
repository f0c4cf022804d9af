"""The layers of the networks: fully connected ones with and without noise, and convolutions as the products that they are fastest as."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from agents.config import AgentConfig, ConfigError
from agents.operators import once, own_float_products, own_products, traced
from agents.stacks import tiled
from agents.taps import CHANNELS, WINOGRAD_TAPS, convolution

WINOGRAD_EPS = 5e-7
"""With a smaller epsilon Adam would turn rounding errors, where a gradient is exactly 0, into steps as long as any."""
FEW_INPUTS = 16
"""A vector register's worth of numbers."""


class Linear(nn.Linear):
    """A fully connected layer whose weights may carry learned factorised Gaussian noise (Fortunato et al. 2018, section 3b).

    Weights may be in bfloat16 (:meth:`FlatNetwork.rounded`): one row of features is then multiplied in float32, several in bfloat16.

    ``noise_offset`` is where its share of a network's noise vector begins: first one number per input, then one per output, each of
    them f(x) = sgn(x) sqrt(|x|) of a standard normal x.
    """

    def __init__(self, inputs: int, outputs: int, sigma: float | None, noise_offset: int) -> None:
        super().__init__(inputs, outputs)
        self.offset, self.noise_width = noise_offset, 0
        if sigma is not None:
            self.noise_width = inputs + outputs
            self.weight_sigma = nn.Parameter(torch.full((outputs, inputs), sigma / math.sqrt(inputs)))
            self.bias_sigma = nn.Parameter(torch.full((outputs,), sigma / math.sqrt(inputs)))

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        acting = len(x) == 1 and not torch.is_grad_enabled()
        if acting:
            # with several seeds the compiler makes a loop of the product, and would compute x anew in it
            x = once(x)
        weight: Tensor = self.weight
        bias: Tensor = self.bias
        if noise is not None and self.noise_width:
            own = noise[self.offset : self.offset + self.noise_width]
            of_inputs, of_outputs = own[: self.in_features], own[self.in_features :]
            weight = weight + self.weight_sigma * (of_outputs[:, None] * of_inputs)
            bias = bias + self.bias_sigma * of_outputs
        if acting and x.dim() == 2 and (weight is not self.weight or weight.dtype != x.dtype or traced()):
            # compiled, one loop over the weights: none is written to memory with its noise or as float32, and no library is called
            return (weight * x).sum(-1)[None] + bias
        return self._product(x, weight, bias)

    def _product(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if x.dim() == 2 and self.in_features < FEW_INPUTS and torch.is_grad_enabled():
            # the gradient of the weights as [inputs, outputs]: with so few columns the other way round takes five times as long
            return torch.bmm(x[None], weight.t()[None])[0] + bias
        if weight.dtype != x.dtype and not torch.is_autocast_enabled(x.device.type):
            return nn.functional.linear(x.to(weight.dtype), weight).float() + bias
        return nn.functional.linear(x, weight, bias)


class PatchConv2d(nn.Conv2d):
    """A convolution without padding as one matrix product over its patches.

    For small images it is as fast, and under vmap much faster: S products become one batched product, S convolutions a grouped one.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, outputs, H', W']."""
        (height, width), stride = self.kernel_size, self.stride
        patches = x.unfold(2, height, stride[0]).unfold(3, width, stride[1])  # [B, C, H', W', h, w], a view
        rows = patches.movedim(1, 3).flatten(3)  # [B, H', W', C h w]
        return nn.functional.linear(rows, self.weight.flatten(1), self.bias).movedim(-1, 1)


class TileConv2d(nn.Conv2d):
    """A convolution whose patches do not overlap, as one matrix product over them: a pixel is moved once, and so is its gradient."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W], or its :meth:`tiles`, to [B, outputs, H', W']."""
        return _product(self, x if x.dim() == 6 else self.tiles(x))

    def tiles(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, H', W', h, w, C]. On a CPU the channels of a pixel lie side by side already (agents/replay.py)."""
        return tiled(x, *self.kernel_size)

    def tile_size(self, bf16: bool) -> tuple[int, ...]:
        return self.kernel_size


class StridedConv2d(nn.Conv2d):
    """A convolution whose patches overlap, by a stride that divides its kernel. As torch's, but on a CPU faster in three cases.

    One image is a matrix product over its patches. A batch is a convolution of stride 1 over tiles as large as the stride
    (agents/taps.py) where compiled code multiplies such numbers itself and has a form for the taps. Elsewhere one in bfloat16 is a
    matrix product over its patches too: torch's gradients take two to three times as long. Only a first layer, which has far more
    patches than the others, stays a convolution, but one over 2 x 2 pixels, whose channels count as its own: with few channels
    torch's gradient takes twice as long.

    ``winograd`` is whether gradients that are exactly 0 may be rounding errors, as agents/winograd.h makes them.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int | tuple[int, int], stride: int = 1, winograd: bool = True
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride)
        self.winograd = winograd

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W], or its :meth:`tiles`, to [B, outputs, H', W']."""
        if x.device.type != "cpu":
            return self._conv_forward(x, self.weight.contiguous(), self.bias)  # as it was measured there
        if x.dim() == 4 and len(x) == 1 and not torch.is_grad_enabled():
            (height, width), (down, right) = self.kernel_size, self.stride
            pixels = x.permute(0, 2, 3, 1)
            if not pixels.is_contiguous():
                pixels = once(pixels.contiguous())  # patches are copied number by number otherwise
            patches = pixels.unfold(1, height, down).unfold(2, width, right).permute(0, 1, 2, 4, 5, 3)
            return _product(self, once(patches.contiguous()))
        bf16 = torch.is_autocast_enabled("cpu")
        if self.by_taps(bf16):
            return self._over_taps(x if x.dim() == 6 else tiled(x.bfloat16() if bf16 else x, *self.stride).contiguous())
        if x.dim() == 6:
            return self._of_tiles(x)
        return _product(self, self._patches(x.bfloat16())) if bf16 else super().forward(x)

    def tiles(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, H / h, W / w, h, w, C], as a batch is read by taps or in bfloat16."""
        return tiled(x, *self.tile_size(x.dtype == torch.bfloat16))

    def tile_size(self, bf16: bool) -> tuple[int, ...]:
        return self.stride if self.by_taps(bf16) else (2, 2)

    def by_taps(self, bf16: bool) -> bool:
        """Whether a batch is done by agents/taps.py, on a CPU."""
        if not traced():  # first: torch.compile cannot look into what asks the CPU
            return False
        if self.in_channels * math.prod(self.stride) % CHANNELS or self.out_channels % CHANNELS:
            return False
        taps = tuple(size // step for size, step in zip(self.kernel_size, self.stride, strict=True))
        return own_products() is not None if bf16 else self.winograd and taps in WINOGRAD_TAPS and own_float_products()

    def _over_taps(self, tiles: Tensor) -> Tensor:
        weight = tiled(self.weight.to(tiles.dtype), *self.stride).contiguous()
        bias = tiles.new_zeros(self.out_channels) if self.bias is None else self.bias.to(tiles.dtype)
        return convolution(tiles.flatten(3), weight.flatten(3), bias).movedim(-1, 1)

    def _of_tiles(self, x: Tensor) -> Tensor:
        outputs, height, width = self.out_channels, self.kernel_size[0] // 2, self.kernel_size[1] // 2
        weight = tiled(self.weight.to(x.dtype), 2, 2).reshape(outputs, height, width, -1)
        stride = (self.stride[0] // 2, self.stride[1] // 2)
        return nn.functional.conv2d(x.flatten(3).permute(0, 3, 1, 2), weight.permute(0, 3, 1, 2), self.bias, stride)

    def _patches(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, H', W', h, w, C], as shifted images side by side, whose gradient is a sum of shifted gradients."""
        tiles = tiled(x, *self.stride)
        down, right = (size // step for size, step in zip(self.kernel_size, self.stride, strict=True))  # tiles in a patch
        rows, columns = tiles.shape[1] - down + 1, tiles.shape[2] - right + 1
        beside = torch.cat([tiles[:, :, k : k + columns] for k in range(right)], dim=4)
        return torch.cat([beside[:, k : k + rows] for k in range(down)], dim=3)


class Transition(nn.Module):
    """The features that follow on those of an image when an action is taken: two 3 x 3 convolutions (Schwarzer et al. 2021, section 2.3).

    The action enters as planes, all ones for the one taken and zeros for the others.
    """

    def __init__(self, channels: int, num_actions: int) -> None:
        super().__init__()
        self.num_actions = num_actions
        self.first = nn.Conv2d(channels + num_actions, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, features: Tensor, action: Tensor) -> Tensor:
        """[B, C, H, W] and [B] int64 to [B, C, H, W]."""
        taken = action[:, None] == torch.arange(self.num_actions, device=action.device)
        planes = taken.to(features.dtype)[:, :, None, None].expand(-1, -1, *features.shape[2:])
        x = torch.relu(self.first(torch.cat([features, planes], dim=1)))
        return torch.relu(self.second(x))


def scaled_features(features: Tensor) -> Tensor:
    """[B, ...], each image's from 0 to 1, so that predictions of predictions keep their size (as in MuZero)."""
    flat = features.flatten(1)
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    return ((flat - low) / (high - low + 1e-5)).view_as(features)


class Impala(nn.Module):
    """The residual encoder of Espeholt et al. 2018 (figure 3, right): fifteen convolutions of 3 x 3 in three stages, each of which halves
    the image. What follows cuts its features off at 0, as every encoder's."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        for channels in (16 * width, 32 * width, 32 * width):
            self.stages.append(_Stage(inputs, channels))
            inputs = channels
        self.out_channels = inputs

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, out_channels, H / 8, W / 8], each halving rounded up."""
        for stage in self.stages:
            x = stage(x)
        return x

    def out_size(self, size: int) -> int:
        for _ in self.stages:
            size = (size + 1) // 2
        return size


class _Stage(nn.Module):
    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, channels, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2)) for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(self.first(x), 3, stride=2, padding=1)
        for block in self.blocks:
            change = x
            for conv in cast(nn.ModuleList, block):
                change = conv(torch.relu(change))
            x = x + change
        return x


def _product(layer: nn.Conv2d, patches: Tensor) -> Tensor:
    """A convolution over its patches [B, H', W', h, w, C]: [B, outputs, H', W']."""
    return nn.functional.linear(patches.flatten(3), layer.weight.permute(0, 2, 3, 1).flatten(1), layer.bias).movedim(-1, 1)


def convolutions(config: AgentConfig, obs_shape: tuple[int, ...]) -> Sequence[nn.Conv2d | Impala]:
    """Of an encoder, for observations of this shape. Raises ConfigError where these are none that it can take."""
    encoder = config.encoder
    if encoder == "mlp":
        return []
    if len(obs_shape) != 3:
        what = "agent.augment" if config.augment else f"agent.encoder {encoder}"
        raise ConfigError(f"{what} needs image observations, this environment gives {obs_shape}: use an agent with encoder mlp")
    channels = obs_shape[0]
    if encoder == "minatar":  # Young and Tian 2019
        return [PatchConv2d(channels, 16, 3)]
    if min(obs_shape[1:]) < 36:
        raise ConfigError(
            f"agent.encoder {encoder} needs at least 36 x 36 pixels, this environment gives {obs_shape}: use minatar"
        )
    if encoder == "impala":
        return [Impala(channels, config.encoder_width)]
    if encoder == "der":  # van Hasselt et al. 2019, appendix: "data-efficient" as in Kaixhin's Rainbow
        return [TileConv2d(channels, 32, 5, stride=5), TileConv2d(32, 64, 5, stride=5)]
    winograd = config.optimiser_eps >= WINOGRAD_EPS
    sizes = (channels, 32, 8, 4), (32, 64, 4, 2), (64, 64, 3, 1)
    return [StridedConv2d(inputs, outputs, kernel, stride, winograd) for inputs, outputs, kernel, stride in sizes]


def feature_width(convs: Sequence[nn.Conv2d | Impala], obs_shape: tuple[int, ...]) -> int:
    """How many features the convolutions leave of an observation."""
    if not convs:
        return math.prod(obs_shape)
    height, width = obs_shape[1:]
    for conv in convs:
        if isinstance(conv, Impala):
            height, width = conv.out_size(height), conv.out_size(width)
            continue
        height = (height - conv.kernel_size[0]) // conv.stride[0] + 1
        width = (width - conv.kernel_size[1]) // conv.stride[1] + 1
    return convs[-1].out_channels * height * width
