"""Replay memory that keeps every frame once, for L lanes in lockstep (L = S seeds x E environments each).

Row t of a lane holds the newest frame of observation t and, once the step is over, its action, reward and how it ended. Stacks and
n-step returns are put together at sampling. The observation in which a time limit cut an episode off is the successor of no row, so
it goes to one of a few extra slots behind the ring: a truncation bootstraps from it, a termination or a life loss never does.

All lanes write one row a step, hence one position serves them all and the rows that may be sampled are one contiguous range:
from the oldest whose frame stack is whole to the newest that has n successors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agents import priorities
from agents.operators import once, take_rows
from agents.priorities import Priorities
from agents.stacks import STACK, Tiles, as_tiles
from agents.update import Ahead, Batch

ACTION, REWARD, TERMINAL, FINAL, AGE = range(5)  # columns of ReplayStorage.meta


class ReplayStorage(NamedTuple):
    """What the sampler reads."""

    frames: Tensor  # [L, C + M, *frame_shape]: ring of C rows, then M slots for final observations of truncated episodes
    meta: Tensor  # [L, C, 5] float32: action, reward, terminal (0/1), 1 + slot of the final observation (0: none), age
    clock: Tensor  # [2] int64: first row that may be sampled, how many may
    priorities: Priorities  # of row t of environment e at e x C + t % C; empty where sampling is uniform


@dataclass(frozen=True)
class ReplayLayout:
    """Sizes and rules that do not change during a run."""

    seeds: int
    envs_per_seed: int
    capacity: int  # rows per lane, C
    frame_shape: tuple[int, ...]
    pixels: bool  # frames are uint8; otherwise float32
    stack: int  # frames in an observation; 1: a frame is the observation
    stack_padding: str  # what stands before an episode's first frame: "zeros", or "repeat" of that frame
    max_episode_steps: int | None  # the time limit; None: episodes are never truncated
    n_step: int  # rewards summed before bootstrapping, or the most of them where that changes
    gamma: float
    clip_rewards: bool
    prioritized: bool = False
    priority_uniform_share: float = 0.0
    predicted_steps: int = 0  # observations after its first that a transition comes with, K (self_predict)

    @property
    def lanes(self) -> int:
        return self.seeds * self.envs_per_seed

    @property
    def obs_shape(self) -> tuple[int, ...]:
        return self.frame_shape if self.stack == 1 else (self.stack, *self.frame_shape)

    @property
    def final_slots(self) -> int:
        """M: no more truncations than this can lie in one ring."""
        return 1 if self.max_episode_steps is None else self.capacity // self.max_episode_steps + 2

    @property
    def nbytes(self) -> int:
        """Memory that the replay will take."""
        frame_bytes = math.prod(self.frame_shape) * (1 if self.pixels else 4)
        row_bytes = 5 * 4 + (8 if self.prioritized else 0)
        return self.lanes * ((self.capacity + self.final_slots) * frame_bytes + self.capacity * row_bytes)


class Replay:
    """Writes rows; ``sample`` reads them. Two calls a step: ``begin`` with the observation, ``complete`` with what came of it."""

    def __init__(self, layout: ReplayLayout, device: torch.device) -> None:
        self.layout = layout
        self.storage = ReplayStorage(
            _no_frames(layout, device),
            torch.zeros(layout.lanes, layout.capacity, 5, device=device),
            torch.zeros(2, dtype=torch.int64, device=device),
            priorities.no_priorities(layout.seeds, layout.envs_per_seed * layout.capacity if layout.prioritized else 0, device),
        )
        # On a CPU the rows are written through numpy views of the same memory: a tenth of the cost of a tensor operation.
        views: Any = torch.utils._pytree.tree_map(lambda t: t.numpy() if device.type == "cpu" else t, self.storage)
        self._frames, self._meta, self._clock, self._priorities = views
        self.row = -1  # rows begun so far, minus one: the current row
        self._age = np.zeros(layout.lanes, dtype=np.int64)  # steps since the episode began, per lane
        self._truncations = np.zeros(layout.lanes, dtype=np.int64)

    def __len__(self) -> int:
        """Transitions per lane that can be sampled now."""
        return self._window()[1]

    def _window(self) -> tuple[int, int]:
        layout = self.layout
        first = max(0, self.row - layout.capacity + layout.stack)
        return first, max(0, self.row - max(layout.n_step, layout.predicted_steps) + 1 - first)

    def begin(self, obs: NDArray[Any] | Tensor) -> None:
        """Store the newest frame of the observations [L, *obs_shape] in which the agent is about to act.

        Args:
            obs: as the environments give them, or on the device already.
        """
        before = self._window()
        self.row += 1
        at, after = self.row % self.layout.capacity, self._window()
        frame = obs[:, -1] if self.layout.stack > 1 else obs
        self._frames[:, at] = self._like(self._frames, frame)
        age = np.minimum(self._age, self.layout.stack)
        # on a GPU a number is part of what is launched, while an array has to be sent
        self._meta[:, at, AGE] = int(age[0]) if (age == age[0]).all() else self._like(self._meta, age)
        for k in (0, 1):
            if after[k] != before[k]:
                self._clock[k : k + 1] = after[k]  # a slice is filled with the number; a single place would be sent it
        if self.layout.prioritized:
            self._move_priorities(before, after)

    def _move_priorities(self, before: tuple[int, int], after: tuple[int, int]) -> None:
        """Rows that may be sampled from now on start with the largest priority so far, rows that no longer may get none."""
        capacity, newly, no_longer = self.layout.capacity, range(sum(before), sum(after)), range(before[0], after[0])
        for rows, value in ((newly, self._priorities.largest), (no_longer, 0.0)):
            for row in rows:
                for env in range(self.layout.envs_per_seed):
                    priorities.write_row(self._priorities, env * capacity + row % capacity, value)

    def complete(
        self,
        action: NDArray[np.int64],
        reward: NDArray[np.floating],
        terminal: NDArray[np.bool_],
        done: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
        final_obs: NDArray[Any] | None,
    ) -> None:
        """Store what came of the current row, all arrays [L].

        Args:
            terminal: the return ends here: the game is over, or a life was lost that counts as the end.
            done: the next observation begins a new episode.
            truncated: a time limit ended the episode; ``final_obs`` [L, *obs_shape] then holds what came last.
        """
        at = self.row % self.layout.capacity
        final = np.zeros(len(action), dtype=np.int64)
        if truncated.any():
            if final_obs is None or self.layout.max_episode_steps is None:
                raise ValueError(
                    "an episode was truncated, but the environment declares no time limit or gave no final observation"
                )
            for lane in np.flatnonzero(truncated):
                slot = self._truncations[lane] % self.layout.final_slots
                frame = final_obs[lane, -1] if self.layout.stack > 1 else final_obs[lane]
                self._frames[lane, self.layout.capacity + slot] = self._like(self._frames, frame)
                self._truncations[lane] += 1
                final[lane] = slot + 1
        row = np.empty((len(action), AGE), np.float32)
        row[:, ACTION], row[:, REWARD], row[:, TERMINAL], row[:, FINAL] = action, reward, terminal, final
        self._meta[:, at, :AGE] = self._like(self._meta, row)
        self._age += 1
        self._age[done] = 0

    def _like(self, destination: Any, values: Any) -> Any:
        if isinstance(destination, np.ndarray) or isinstance(values, Tensor):
            return values
        return torch.from_numpy(values).to(destination.device, non_blocking=True)  # read before this returns: it is not pinned

    def _tensors(self) -> dict[str, Tensor]:
        named = self.storage._asdict()
        return named | {f"priorities.{name}": t for name, t in named.pop("priorities")._asdict().items()}

    def state_dict(self) -> dict[str, Any]:
        return {
            **self._tensors(),
            "row": self.row,
            "age": torch.from_numpy(self._age.copy()),
            "truncations": torch.from_numpy(self._truncations.copy()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, tensor in self._tensors().items():
            tensor.copy_(state[name])
        self.row = state["row"]
        self._age = state["age"].numpy().copy()
        self._truncations = state["truncations"].numpy().copy()


def _no_frames(layout: ReplayLayout, device: torch.device) -> Tensor:
    """Room for frames, all zero. A CPU's memory is taken as it is written, as numpy does; torch takes 7 GB at once, in 4 to 14 s."""
    shape = layout.lanes, layout.capacity + layout.final_slots, *layout.frame_shape
    if device.type == "cpu":
        return torch.from_numpy(np.zeros(shape, np.uint8 if layout.pixels else np.float32))
    return torch.zeros(shape, dtype=torch.uint8 if layout.pixels else torch.float32, device=device)


def sample(
    layout: ReplayLayout,
    storage: ReplayStorage,
    uniform: Tensor,
    importance_exponent: Tensor,
    tiles: Tiles | None = None,
    returns: Tensor | None = None,
) -> tuple[Batch, Tensor]:
    """Transitions [S, B, ...] of each seed, and where their priorities are, [S, B].

    They are drawn uniformly over rows and environments, or in proportion to their priorities, which importance weights make up for.

    Args:
        uniform: [S, B] float64 in [0, 1). Single precision could not reach every row of a million evenly.
        importance_exponent: [] of the weights.
        tiles: as which stacks of four images are wanted, [S, B, H', W', height, width, 4] bfloat16; None: as they are.
        returns: [2] n, at most the layout's, and discount of the returns; None or [0]: the layout's.
    """
    first, count = storage.clock[0], storage.clock[1]
    seed = torch.arange(layout.seeds, device=uniform.device)[:, None]
    if not layout.prioritized:
        env, row = _uniform_row(layout, first, count, uniform)
        at = env * layout.capacity + row % layout.capacity
        return gather(layout, storage, seed * layout.envs_per_seed + env, row, tiles, returns), at
    share = layout.priority_uniform_share
    at, probability = priorities.draw(storage.priorities, ((uniform - share) / (1 - share)).clamp(min=0))
    rows = count * layout.envs_per_seed
    if share > 0:  # one number decides whether the draw is uniform, and its remainder where it goes
        env, row = _uniform_row(layout, first, count, (uniform / share).clamp(max=1 - 1e-12))
        at = torch.where(uniform < share, env * layout.capacity + row % layout.capacity, at)
        value = storage.priorities.value.flatten(1).gather(1, at) / storage.priorities.block_sum.sum(-1, keepdim=True)
        probability = (1 - share) * value + share / rows
    env, slot = at // layout.capacity, at % layout.capacity
    row = first + (slot - first) % layout.capacity
    weight = priorities.importance_weights(probability, rows, importance_exponent)
    batch = gather(layout, storage, seed * layout.envs_per_seed + env, row, tiles, returns)
    return batch._replace(weight=weight.float()), at


def _uniform_row(layout: ReplayLayout, first: Tensor, count: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Environment and row, [S, B] each."""
    draw = (uniform * (count * layout.envs_per_seed)).long()
    return draw // count, first + draw % count


def gather(
    layout: ReplayLayout,
    storage: ReplayStorage,
    lane: Tensor,
    row: Tensor,
    tiles: Tiles | None = None,
    returns: Tensor | None = None,
) -> Batch:
    """The n-step transitions that start at ``row`` of ``lane``, both [S, B] int64; all weights are 1. See :func:`sample`."""
    lane, row = once(lane), once(row)
    capacity, n = layout.capacity, layout.n_step
    meta = storage.meta.view(-1, 5)
    offsets = torch.arange(n, device=row.device)
    window = meta[(lane * capacity)[..., None] + (row[..., None] + offsets) % capacity]  # [S, B, n, 5]
    reward, terminal, final = window[..., REWARD], window[..., TERMINAL], window[..., FINAL]
    if layout.clip_rewards:
        reward = reward.clamp(-1, 1)
    ended = ((terminal > 0) | (final > 0)).float()
    # alive[k]: no end before step k of the window, so its reward still belongs to the return (Sutton and Barto 2018, eq. 7.1)
    alive = torch.cat([torch.ones_like(ended[..., :1]), (1 - ended).cumprod(-1)[..., :-1]], dim=-1)
    gamma = torch.full((), layout.gamma, device=row.device)
    if returns is not None and len(returns):
        gamma = returns[1]
        alive = alive * (offsets < returns[0])
    powers = torch.pow(gamma, offsets)
    length = alive.sum(-1)  # rewards in the return
    terminated = (alive * terminal).sum(-1)
    discount = (1 - terminated) * torch.pow(gamma, length)
    last = row + length.long() - 1
    slot = (alive * final).sum(-1).long()  # 1 + slot where the window ends in a truncation
    age = meta[lane * capacity + last % capacity][..., AGE].long()
    next_age = meta[lane * capacity + (last + 1) % capacity][..., AGE].long()
    return Batch(
        obs=_stack(layout, storage, lane, row, window[..., 0, AGE].long(), torch.zeros_like(slot), tiles),
        action=once(window[..., 0, ACTION].long()),
        reward=once((alive * powers * reward).sum(-1)),
        discount=once(discount),
        next_obs=_stack(layout, storage, lane, last + 1, torch.where(slot > 0, age + 1, next_age), slot, tiles),
        weight=torch.ones_like(discount),
        ahead=_ahead(layout, storage, lane, row, tiles) if layout.predicted_steps else (),
    )


def _ahead(layout: ReplayLayout, storage: ReplayStorage, lane: Tensor, row: Tensor, tiles: Tiles | None) -> Ahead:
    """The K steps after ``row`` of ``lane``, both [S, B]."""
    capacity, meta = layout.capacity, storage.meta.view(-1, 5)
    rows = row[..., None] + torch.arange(layout.predicted_steps + 1, device=row.device)
    steps = meta[(lane * capacity)[..., None] + rows % capacity]  # [S, B, K + 1, 5]
    taken, came = steps[..., :-1, :], steps[..., 1:, :]
    ended = (taken[..., TERMINAL] > 0) | (taken[..., FINAL] > 0)
    count = taken.shape[1:3]  # B, K
    lanes = lane[..., None].expand(taken.shape[:3]).flatten(1)
    age = came[..., AGE].long().flatten(1)
    obs = _stack(layout, storage, lanes, once(rows[..., 1:].flatten(1)), once(age), torch.zeros_like(age), tiles)
    return Ahead(obs.unflatten(1, count), once(taken[..., ACTION].long()), once((1 - ended.float()).cumprod(-1)))


def _stack(
    layout: ReplayLayout, storage: ReplayStorage, lane: Tensor, row: Tensor, age: Tensor, slot: Tensor, tiles: Tiles | None
) -> Tensor:
    """Observations [S, B, *obs_shape] whose newest frame is ``row``, or final slot ``slot - 1`` where that is not negative."""
    rows = layout.capacity + layout.final_slots
    frames = storage.frames.view(layout.lanes * rows, *layout.frame_shape)
    newest = torch.where(slot > 0, layout.capacity + slot - 1, row % layout.capacity)
    if layout.stack == 1:
        return frames[once(lane * rows + newest)]
    back = torch.arange(layout.stack - 1, -1, -1, device=row.device)  # oldest first, as the environments stack
    reach = torch.minimum(back, age[..., None])  # how far back the episode goes
    index = torch.where(reach == 0, newest[..., None], (row[..., None] - reach) % layout.capacity)
    inside = back <= age[..., None]
    index = (lane * rows)[..., None] + index
    if tiles is not None and layout.stack == STACK and layout.pixels:
        if layout.stack_padding == "zeros":
            index = torch.where(inside, index, -1)
        return as_tiles(frames, index.flatten(0, 1), tiles).unflatten(0, index.shape[:2])
    obs = take_rows(frames, index.flatten()).unflatten(0, index.shape)
    if layout.stack_padding == "zeros":
        obs = obs * once(inside.to(frames.dtype)).view(*inside.shape, *(1 for _ in layout.frame_shape))
    return interleaved(obs) if layout.stack == STACK and layout.pixels and obs.device.type == "cpu" else obs


def interleaved(obs: Tensor) -> Tensor:
    """The same stacks [S, B, 4, H, W], uint8, laid out pixel by pixel (channels last), as convolutions on a CPU read them.

    Put together as 32-bit words, which the compiler does with vector instructions; four bytes moved one by one take five times as long.
    """
    planes = obs.int()
    words = planes[:, :, 0] | planes[:, :, 1] << 8 | planes[:, :, 2] << 16 | planes[:, :, 3] << 24  # [S, B, H, W]
    return words.view(torch.uint8).unflatten(-1, (-1, 4)).movedim(-1, 2)
