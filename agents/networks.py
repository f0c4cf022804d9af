"""Q-networks, and the flat view of their parameters that the learner computes with."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, TypeGuard, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from agents.config import AgentConfig
from agents.layers import (
    Linear,
    StridedConv2d,
    TileConv2d,
    Transition,
    convolutions,
    feature_width,
    scaled_features,
)
from agents.operators import kept, once, own_products, traced
from agents.stacks import MOST_WIDE, STACK, Tiles


class QNetwork(nn.Module):
    """Observations [B, *obs_shape] (float32 or uint8) to what the head learns of the return, [B, A, Z].

    Z is 1 (scalar: the action value), the number of atoms (c51: logits), of quantiles (qr) or of the taus given (iqn).
    :meth:`q_values` turns that into action values. The encoders read pixels of 0 to 255 and divide them by
    255, but ``minatar`` reads planes of zeros and ones.
    """

    def __init__(self, config: AgentConfig, obs_shape: tuple[int, ...], num_actions: int) -> None:
        super().__init__()
        self.config, self.num_actions = config, num_actions
        self.scale = 1 / 255 if config.encoder in ("nature", "der", "impala") else 1.0
        convs = convolutions(config, obs_shape)
        self.convs = nn.ModuleList(convs)
        width = feature_width(convs, obs_shape)
        self.noise_width = 0  # standard normal numbers that one forward pass with noise takes
        self.trunk = nn.ModuleList()
        for hidden in config.hidden[:-1]:
            self.trunk.append(self._linear(width, hidden))
            width = hidden
        if config.head == "iqn":  # the quantile enters before the last hidden layer: after the convolutions, in the paper
            self.tau_embedding = nn.Linear(config.tau_cosines, width)
        outputs = {"scalar": 1, "c51": config.num_atoms, "qr": config.num_quantiles, "iqn": 1}[config.head]
        last = config.hidden[-1]
        if config.dueling:
            self.value_hidden = self._linear(width, last)
            self.value = self._linear(last, outputs)
        self.advantage_hidden = self._linear(width, last)
        self.advantage = self._linear(last, num_actions * outputs)  # without dueling: the action values themselves
        if config.self_predict:
            self.transition = Transition(convs[-1].out_channels, num_actions)
            projected = sum(layer.out_features for layer in self._first_hidden())
            self.predictor = nn.Linear(projected, projected)

    def _linear(self, inputs: int, outputs: int) -> Linear:
        layer = Linear(inputs, outputs, self.config.noisy_sigma if self.config.noisy else None, self.noise_width)
        self.noise_width += layer.noise_width
        return layer

    def tiles(self) -> Tiles | None:
        """How the first layer reads stacks that agents/stacks.py takes out of the replay; None where that does not fit."""
        first = self.convs[0] if len(self.convs) else None
        if self.config.precision != "bf16" or self.config.augment or not (traced() and own_products() is not None):
            return None
        if not isinstance(first, TileConv2d | StridedConv2d) or first.in_channels != STACK:
            return None
        height, width = first.tile_size(True)
        return Tiles(height, width, self.scale) if width <= MOST_WIDE else None

    def scaled(self, obs: Tensor, bf16: bool = False) -> Tensor:
        """Observations [B, *obs_shape] as the first layer reads them: one tensor for all networks that look at them.

        Tiles where it reads those, bfloat16 if ``bf16``; else float32, which layers round themselves. Those that are tiles stay.
        """
        if obs.is_floating_point() and obs.dim() == 6:
            return obs
        x = obs.float() * self.scale if self.scale != 1 else obs.float()
        first = self.convs[0] if len(self.convs) else None
        if isinstance(first, TileConv2d) or (
            isinstance(first, StridedConv2d)
            and x.device.type == "cpu"
            and (bf16 or (first.by_taps(False) and len(x) > 1))  # one alone is acted on
        ):
            # one by one, in rows of a product, each pixel would cost the compiler two divisions
            return once(first.tiles(x.bfloat16() if bf16 else x).contiguous())
        return x

    def forward(
        self,
        obs: Tensor,
        noise: Tensor | None = None,
        tau: Tensor | None = None,
        bf16: bool = False,
        scaled: bool = False,
        legal: Tensor | None = None,
    ) -> Tensor:
        """[B, A, Z].

        Args:
            obs: as the environments give them, or, where ``scaled``, as :meth:`scaled` does.
            noise: [noise_width] standard normal, for a noisy network; None takes the mean weights.
            tau: [B, N] quantiles in (0, 1), for iqn; None takes the midpoints of ``num_tau_act`` equal parts.
            bf16: convolutions and hidden layers in bfloat16.
            legal: [A] bool, the outputs that are actions of this game; None or [0]: all are.
        """
        noise = self._shaped(noise)
        with self._precision(obs, bf16):
            features = self._features(obs if scaled else self.scaled(obs, bf16))
            value_hidden, advantage_hidden = self._hidden(features, noise, tau)
        return self._outputs(value_hidden, advantage_hidden, noise, legal)

    def predicting(
        self, obs: Tensor, action: Tensor, noise: Tensor | None, tau: Tensor | None, bf16: bool, legal: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """What :meth:`forward` gives at scaled observations, and what is predicted of those that follow, [B, K, D], after each of the
        actions [B, K] (self_predict)."""
        noise = self._shaped(noise)
        with self._precision(obs, bf16):
            features = self._features(obs)
            value_hidden, advantage_hidden = self._hidden(features, noise, tau)
            ahead = []
            for taken in action.unbind(1):
                features = scaled_features(self.transition(features, taken))
                ahead.append(features)
            predicted = self.predictor(self._projected(torch.stack(ahead, 1).flatten(0, 1)))
        out = self._outputs(value_hidden, advantage_hidden, noise, legal)
        return out, predicted.float().unflatten(0, action.shape)

    def projected(self, obs: Tensor, bf16: bool) -> Tensor:
        """Scaled observations [B, ...] as predictions are compared with them: [B, D] (self_predict)."""
        with self._precision(obs, bf16):
            return self._projected(self._features(obs)).float()

    def _projected(self, features: Tensor) -> Tensor:
        """[B, D]: of the first fully connected layers, without noise and before they are cut off at 0."""
        return torch.cat([layer(features.flatten(1)) for layer in self._first_hidden()], dim=1)

    def _first_hidden(self) -> list[Linear]:
        if len(self.trunk):
            return [cast(Linear, self.trunk[0])]
        return [self.value_hidden, self.advantage_hidden] if self.config.dueling else [self.advantage_hidden]

    @staticmethod
    def _precision(obs: Tensor, bf16: bool) -> AbstractContextManager[Any]:
        return torch.autocast(obs.device.type, torch.bfloat16) if bf16 else nullcontext()

    def _shaped(self, noise: Tensor | None) -> Tensor | None:
        """f of Fortunato et al. 2018, eq. 10, of standard normal numbers [noise_width]."""
        return noise if noise is None or not self.noise_width else once(noise.sign() * noise.abs().sqrt())

    def _outputs(
        self, value_hidden: Tensor | None, advantage_hidden: Tensor, noise: Tensor | None, legal: Tensor | None
    ) -> Tensor:
        batch = advantage_hidden.shape[:-1]  # [B], or [B, N] with quantiles
        out = self.advantage(advantage_hidden.float(), noise).unflatten(-1, (self.num_actions, -1))
        if value_hidden is not None:
            value = self.value(value_hidden.float(), noise)
            out = value.unsqueeze(-2) + out - mean_over_actions(out, legal)
        return out if len(batch) == 1 else out.squeeze(-1).transpose(-1, -2)

    def _features(self, x: Tensor) -> Tensor:
        """What the convolutions make of scaled observations, [B, C, H, W]; the observations themselves where there are none."""
        for conv in self.convs:
            x = torch.relu(conv(x))
        last = self.convs[-1] if len(self.convs) else None
        if isinstance(last, StridedConv2d) and x.device.type == "cpu" and last.by_taps(torch.is_autocast_enabled("cpu")):
            x = kept(x.contiguous())  # turned by itself it is in vectors, in what reads it number by number
        return scaled_features(x) if self.config.self_predict else x

    def _hidden(self, features: Tensor, noise: Tensor | None, tau: Tensor | None) -> tuple[Tensor | None, Tensor]:
        """Inputs of the output layers, [B, H] or [B, N, H]: of the value stream (dueling), and of the advantages."""
        x = features.flatten(1)
        for layer in self.trunk:
            x = torch.relu(layer(x, noise))
        if self.config.head == "iqn":
            x = self._at_quantiles(x, self.midpoints(x) if tau is None else tau)
        value = torch.relu(self.value_hidden(x, noise)) if self.config.dueling else None
        return value, torch.relu(self.advantage_hidden(x, noise))

    def _at_quantiles(self, x: Tensor, tau: Tensor) -> Tensor:
        """Features [B, F] at quantiles [B, N]: [B, N, F] (Dabney et al. 2018a, eq. 4; i = 0 to n - 1 as there)."""
        frequencies = math.pi * torch.arange(self.config.tau_cosines, device=x.device, dtype=x.dtype)
        return x.unsqueeze(1) * torch.relu(self.tau_embedding(torch.cos(tau.unsqueeze(-1) * frequencies)))

    def midpoints(self, x: Tensor) -> Tensor:
        """[B, K]: (2i - 1) / 2K for every row of ``x``."""
        parts = self.config.num_tau_act
        return ((torch.arange(parts, device=x.device, dtype=x.dtype) + 0.5) / parts).expand(x.shape[0], parts)

    def q_values(self, out: Tensor, legal: Tensor | None = None) -> Tensor:
        """Action values [..., A]: the means of what :meth:`forward` returns, [..., A, Z]; -inf where an output is no action."""
        values = out.softmax(-1) @ self.support(out) if self.config.head == "c51" else out.mean(-1)
        return values.masked_fill(~legal, -torch.inf) if masks(legal) else values

    def support(self, like: Tensor) -> Tensor:
        """[Z]: the returns that the atoms of c51 stand for."""
        config = self.config
        return torch.linspace(config.v_min, config.v_max, config.num_atoms, device=like.device, dtype=like.dtype)


def masks(legal: Tensor | None) -> TypeGuard[Tensor]:
    """Whether some outputs of a network may be no actions: games side by side have the most actions of any."""
    return legal is not None and legal.shape[-1] > 0


def mean_over_actions(values: Tensor, legal: Tensor | None) -> Tensor:
    """The mean [..., 1, Z] of ``values`` [..., A, Z] over the actions of the game; ``legal`` as for :meth:`QNetwork.forward`."""
    if not masks(legal):
        return values.mean(dim=-2, keepdim=True)
    return (values * legal[:, None]).sum(dim=-2, keepdim=True) / legal.sum()


Pieces = tuple[Tensor, ...]
"""A network's parameters, or one number for each: a few vectors [P1], [P2], ... that make one [P] end to end."""

LARGE_NUMEL = 100_000
"""A parameter tensor from which on it pays on a CPU to be a piece by itself: its gradient is then read by the optimiser where it was
computed, and not written to memory once more, end to end with the others."""


@dataclass(frozen=True)
class FlatNetwork:
    """A network as a pure function of its parameters end to end: one vector [P], or that vector in pieces.

    One vector instead of a dozen tensors makes the optimiser one fused loop, the target copy one call and the hash of the final
    parameters one line. ``slices`` says where each named parameter lies: name -> (offset, shape). The weights ``channels_last`` lie
    there as [outputs, height, width, inputs], which is how convolutions read them and give their gradients.
    """

    module: QNetwork  # on the meta device: it holds shapes, never values
    slices: dict[str, tuple[int, torch.Size]]
    channels_last: frozenset[str]
    size: int
    methods: dict[str, _Method]  # of the module, beside its forward

    @property
    def noise_width(self) -> int:
        """Standard normal numbers that one forward pass takes; 0 without noisy layers."""
        return self.module.noise_width

    def unflatten(self, *pieces: Tensor) -> dict[str, Tensor]:
        """Views by parameter name, into one vector [P] or into pieces."""
        views, rest, at = {}, list(pieces), 0
        for name, (_, shape) in self.slices.items():
            if at == len(rest[0]):
                del rest[0]
                at = 0
            part = rest[0][at : at + math.prod(shape)]
            at += len(part)
            if name in self.channels_last:
                outputs, inputs, height, width = shape
                views[name] = part.view(outputs, height, width, inputs).permute(0, 3, 1, 2)
            else:
                views[name] = part.view(shape)
        return views

    def flatten(self, named: Mapping[str, Tensor], like: Pieces) -> Pieces:
        """The other way round: tensors by parameter name, cut where ``like`` is."""
        pieces = []
        for names in self._names(like):
            parts = [(named[n].permute(0, 2, 3, 1) if n in self.channels_last else named[n]).flatten() for n in names]
            pieces.append(parts[0] if len(parts) == 1 else torch.cat(parts))
        return tuple(pieces)

    def _names(self, pieces: Pieces) -> list[list[str]]:
        """Of the parameters in each piece."""
        sizes = {name: math.prod(shape) for name, (_, shape) in self.slices.items()}
        ends = dict(zip(sizes, itertools.accumulate(sizes.values()), strict=True))
        cuts = [0, *itertools.accumulate(piece.shape[-1] for piece in pieces)]
        return [[name for name in sizes if begin < ends[name] <= end] for begin, end in itertools.pairwise(cuts)]

    def rounded(self, pieces: Pieces) -> Pieces:
        """Copies in bfloat16 of those pieces that updates in bf16 would otherwise round anew whenever they read them."""
        return tuple(piece.bfloat16() for piece, read in zip(pieces, self._read_rounded(pieces), strict=True) if read)

    def reading(self, pieces: Pieces, rounded: Pieces) -> Pieces:
        """``pieces`` with what :meth:`rounded` gave in the place of its originals; () leaves them all."""
        rest = list(rounded)
        return tuple(
            rest.pop(0) if rest and read else piece for piece, read in zip(pieces, self._read_rounded(pieces), strict=True)
        )

    def _read_rounded(self, pieces: Pieces) -> list[bool]:
        """A noisy layer rounds its weights after the noise, and the output layers read theirs in float32."""
        module = self.module
        if module.config.precision != "bf16" or module.config.noisy:
            return [False] * len(pieces)
        hidden = {name for name in self.slices if name.endswith(".weight") and ("trunk." in name or "_hidden." in name)}
        return [len(names) == 1 and names[0] in hidden for names in self._names(pieces)]

    def pieces(self, vectors: Tensor) -> Pieces:
        """Vectors [S, P] in pieces [S, P1], [S, P2], ... on the same memory; on a GPU one piece, until more are measured there.

        To the compiler they are tensors of their own: as views of one, each would have to be a copy to be written to.
        """
        sizes = [math.prod(shape) for _, shape in self.slices.values()]
        ends = list(itertools.accumulate(sizes))
        large = [size >= LARGE_NUMEL for size in sizes]
        cuts = [end for end, here, there in zip(ends, large, large[1:], strict=False) if here or there]
        if vectors.device.type != "cpu" or not cuts:
            return (vectors,)
        memory = vectors.numpy()
        return tuple(torch.from_numpy(memory[:, begin:end]) for begin, end in itertools.pairwise([0, *cuts, self.size]))

    def features_alone(self) -> Tensor:
        """[P] bool: the parameters that turn images into features, or into those that follow."""
        flat = torch.zeros(self.size, dtype=torch.bool)
        for name, view in self.unflatten(flat).items():
            view.fill_(name.startswith(("convs.", "transition.")))
        return flat

    def decayed(self, pieces: Pieces, share: float) -> Pieces:
        """Parameters of which ``share`` is taken off every weight: all that have more than one axis."""
        named = self.unflatten(*pieces).items()
        return self.flatten({name: value * (1 - share) if value.dim() > 1 else value for name, value in named}, pieces)

    def in_order(self, vectors: Tensor) -> Tensor:
        """Vectors [S, P] with every parameter in the order of its axes, as files hold them."""
        if not self.channels_last:
            return vectors
        return torch.stack([torch.cat([view.flatten() for view in self.unflatten(vector).values()]) for vector in vectors])

    def from_order(self, vectors: Tensor) -> Tensor:
        """The other way round."""
        if not self.channels_last:
            return vectors
        plain = replace(self, channels_last=frozenset())
        return torch.stack([self.flatten(plain.unflatten(vector), (vector,))[0] for vector in vectors])

    def apply(
        self,
        params: dict[str, Tensor],
        obs: Tensor,
        noise: Tensor | None = None,
        tau: Tensor | None = None,
        bf16: bool = False,
        scaled: bool = False,
        legal: Tensor | None = None,
    ) -> Tensor:
        """What the head learns of the return, [B, A, Z], at observations [B, *obs_shape]; see :meth:`QNetwork.forward`."""
        return functional_call(self.module, params, (obs, noise, tau, bf16, scaled, legal))

    def predicting(
        self,
        params: dict[str, Tensor],
        obs: Tensor,
        action: Tensor,
        noise: Tensor | None,
        tau: Tensor | None,
        bf16: bool = False,
        legal: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """:meth:`apply` at scaled observations, and predictions [B, K, D] after each of the actions [B, K]; see
        :meth:`QNetwork.predicting`."""
        return self._call("predicting", params, obs, action, noise, tau, bf16, legal)  # type: ignore[no-any-return]

    def projected(self, params: dict[str, Tensor], obs: Tensor, bf16: bool = False) -> Tensor:
        """Scaled observations as predictions are compared with them, [B, D]; see :meth:`QNetwork.projected`."""
        return self._call("projected", params, obs, bf16)  # type: ignore[no-any-return]

    def _call(self, method: str, params: dict[str, Tensor], *args: Any) -> Any:
        return functional_call(self.methods[method], {f"module.{name}": value for name, value in params.items()}, args)

    def q_values(self, out: Tensor, legal: Tensor | None = None) -> Tensor:
        """Action values [..., A] of what ``apply`` returns."""
        return self.module.q_values(out, legal)

    def init(self, generator: torch.Generator) -> Tensor:
        """Fresh parameters [P]: weights and biases uniform within +-1/sqrt(fan_in), as in Mnih et al. 2015; noise at
        noisy_sigma / sqrt(fan_in), as in Fortunato et al. 2018, section 3.2."""
        flat = torch.empty(self.size)
        fan_in = 1
        for name, view in self.unflatten(flat).items():
            if name.endswith("weight"):  # a layer's weight comes before its bias and its noise
                fan_in = math.prod(view.shape[1:])
            bound = 1 / math.sqrt(fan_in)
            if name.endswith("sigma"):
                view.fill_(self.module.config.noisy_sigma * bound)
            else:
                view.copy_(torch.empty(view.shape).uniform_(-bound, bound, generator=generator))
        return flat


class _Method(nn.Module):
    """A method of a module as the forward of one, which is what functional_call calls."""

    def __init__(self, module: nn.Module, name: str) -> None:
        super().__init__()
        self.module, self.name = module, name

    def forward(self, *args: Any) -> Any:
        return getattr(self.module, self.name)(*args)


def widened(params: Tensor, network: FlatNetwork, wide: FlatNetwork) -> Tensor:
    """Parameters [P] of ``network`` as those of one that is the same but for more actions, whose own parameters are 0."""
    flat = torch.zeros(wide.size)
    theirs = wide.unflatten(flat)
    for name, own in network.unflatten(params).items():
        theirs[name][_part(own)] = own
    return flat


def narrowed(params: Tensor, network: FlatNetwork, wide: FlatNetwork) -> Tensor:
    """The other way round: without the actions that are none of its own."""
    flat = torch.empty(network.size)
    theirs = wide.unflatten(params)
    for name, own in network.unflatten(flat).items():
        own.copy_(theirs[name][_part(own)])
    return flat


def _part(own: Tensor) -> tuple[slice, ...]:
    """Where a parameter lies in the same one of a network with more actions: actions come last, among outputs and among inputs."""
    return tuple(slice(size) for size in own.shape)


def flat_network(build: Callable[[], QNetwork]) -> FlatNetwork:
    """Lay the parameters of ``build()`` end to end."""
    module = build().to("meta")
    slices, offset = {}, 0
    for name, parameter in module.named_parameters():
        slices[name] = (offset, parameter.shape)
        offset += parameter.numel()
    channels_last = frozenset(
        f"convs.{k}.weight" for k, conv in enumerate(module.convs) if isinstance(conv, TileConv2d | StridedConv2d)
    )
    methods = {name: _Method(module, name) for name in ("predicting", "projected")}
    return FlatNetwork(module, slices, channels_last, offset, methods)
