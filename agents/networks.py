"""Q-networks, and the flat view of their parameters that the learner computes with."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from agents.config import AgentConfig, ConfigError


class QNetwork(nn.Module):
    """Observations [B, *obs_shape] (float32 or uint8) to action values [B, A].

    The ``nature`` encoder reads uint8 pixels and divides them by 255; ``minatar`` reads planes of zeros and ones.
    """

    def __init__(self, config: AgentConfig, obs_shape: tuple[int, ...], num_actions: int) -> None:
        super().__init__()
        self.dueling = config.dueling
        self.scale = 1 / 255 if config.encoder == "nature" else 1.0
        convs = _convolutions(config.encoder, obs_shape)
        self.convs = nn.ModuleList(convs)
        width = _feature_width(convs, obs_shape)
        trunk = config.hidden[:-1] if config.dueling else config.hidden
        self.trunk = nn.ModuleList()
        for hidden in trunk:
            self.trunk.append(nn.Linear(width, hidden))
            width = hidden
        if config.dueling:
            self.value_hidden = nn.Linear(width, config.hidden[-1])
            self.advantage_hidden = nn.Linear(width, config.hidden[-1])
            width = config.hidden[-1]
            self.value = nn.Linear(width, 1)
        self.advantage = nn.Linear(width, num_actions)  # without dueling: the action values themselves

    def forward(self, obs: Tensor) -> Tensor:
        x = obs.float()
        if len(self.convs):
            x = (x * self.scale).contiguous(memory_format=torch.channels_last)
            for conv in self.convs:
                x = torch.relu(conv(x))
        x = x.flatten(1)
        for layer in self.trunk:
            x = torch.relu(layer(x))
        if not self.dueling:
            return self.advantage(x)
        value = self.value(torch.relu(self.value_hidden(x)))
        advantage = self.advantage(torch.relu(self.advantage_hidden(x)))
        return value + advantage - advantage.mean(dim=-1, keepdim=True)


def _convolutions(encoder: str, obs_shape: tuple[int, ...]) -> list[nn.Conv2d]:
    if encoder == "mlp":
        return []
    if len(obs_shape) != 3:
        raise ConfigError(f"agent.encoder {encoder} needs image observations, this environment gives {obs_shape}: use mlp")
    channels = obs_shape[0]
    if encoder == "minatar":  # Young and Tian 2019
        return [nn.Conv2d(channels, 16, 3)]
    if min(obs_shape[1:]) < 36:
        raise ConfigError(
            f"agent.encoder nature needs at least 36 x 36 pixels, this environment gives {obs_shape}: use minatar"
        )
    return [nn.Conv2d(channels, 32, 8, stride=4), nn.Conv2d(32, 64, 4, stride=2), nn.Conv2d(64, 64, 3)]


def _feature_width(convs: list[nn.Conv2d], obs_shape: tuple[int, ...]) -> int:
    if not convs:
        return math.prod(obs_shape)
    height, width = obs_shape[1:]
    for conv in convs:
        height = (height - conv.kernel_size[0]) // conv.stride[0] + 1
        width = (width - conv.kernel_size[1]) // conv.stride[1] + 1
    return convs[-1].out_channels * height * width


@dataclass(frozen=True)
class FlatNetwork:
    """A network as a pure function of one flat parameter vector [P].

    One vector instead of a dozen tensors makes the optimiser one fused loop, the target copy one call and the hash of the final
    parameters one line. ``slices`` says where each named parameter lies: name -> (offset, shape).
    """

    module: nn.Module  # on the meta device: it holds shapes, never values
    slices: dict[str, tuple[int, torch.Size]]
    size: int

    def unflatten(self, flat: Tensor) -> dict[str, Tensor]:
        """Views into ``flat`` [P] by parameter name."""
        return {name: flat[offset : offset + math.prod(shape)].view(shape) for name, (offset, shape) in self.slices.items()}

    def apply(self, params: dict[str, Tensor], obs: Tensor) -> Tensor:
        """Action values [B, A] of observations [B, *obs_shape]."""
        return functional_call(self.module, params, (obs,))

    def init(self, generator: torch.Generator) -> Tensor:
        """Fresh parameters [P]: weights and biases uniform within +-1/sqrt(fan_in), as in Mnih et al. 2015."""
        flat = torch.empty(self.size)
        fan_in = 1
        for name, view in self.unflatten(flat).items():
            if name.endswith("weight"):  # a layer's weight comes before its bias
                fan_in = math.prod(view.shape[1:])
            bound = 1 / math.sqrt(fan_in)
            view.uniform_(-bound, bound, generator=generator)
        return flat


def flat_network(build: Callable[[], nn.Module]) -> FlatNetwork:
    """Lay the parameters of ``build()`` end to end."""
    module = build().to("meta")
    slices, offset = {}, 0
    for name, parameter in module.named_parameters():
        slices[name] = (offset, parameter.shape)
        offset += parameter.numel()
    return FlatNetwork(module, slices, offset)
