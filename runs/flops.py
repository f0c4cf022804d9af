"""Model FLOPs: matmul and convolution, 2 per multiply-add, counted once per shape on the meta device.

The counts are then multiplied by exact counters. They are taken from the eager update of one seed: a compiled or vmapped one would
be counted wrongly (kernels that the counter does not know, grouped convolutions).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from agents import disk_cache
from agents.config import AgentConfig
from agents.learner import noise_widths, q_network, read_by_calls, split_noise
from agents.replay import ReplayLayout
from agents.update import Ahead, Batch, OptState, UpdateNoise, make_update

CODE = Path(__file__).read_bytes()
"""How they are counted, beside what the agents' code says."""


@dataclass(frozen=True)
class FlopCosts:
    """FLOPs of one observation's forward pass when acting and when evaluating, and of one update."""

    forward: int
    update: int
    eval_forward: int


def flop_costs(config: AgentConfig, layout: ReplayLayout, num_actions: int) -> FlopCosts:
    """Those of one seed, counted or, where the same were counted before, from the disk: counting imports torch's compiler for one
    attribute of it, which takes as long as importing torch."""
    key = disk_cache.key(CODE, read_by_calls(config), layout.obs_shape, layout.pixels, num_actions)
    known = disk_cache.get(key)
    if not isinstance(known, FlopCosts):
        known = count_flops(config, layout, num_actions)
        disk_cache.put(key, known)
    return known


def count_flops(config: AgentConfig, layout: ReplayLayout, num_actions: int) -> FlopCosts:
    """Count them for one seed. Takes tens of milliseconds and no memory: nothing is computed."""
    config = replace(config, precision="fp32")  # the products are the same, and the meta device knows no other precision
    network = q_network(config, layout, num_actions)
    size = config.batch_size
    meta = torch.device("meta")
    params = torch.empty(network.size, device=meta)
    obs = torch.empty(size, *layout.obs_shape, dtype=torch.uint8 if layout.pixels else torch.float32, device=meta)
    scalar = torch.empty(size, device=meta)
    batch = Batch(obs, torch.empty(size, dtype=torch.int64, device=meta), scalar, scalar, obs, scalar)
    if config.self_predict:
        after = obs[:, None].expand(-1, config.self_predict_steps, *layout.obs_shape)
        steps = torch.empty(size, config.self_predict_steps, device=meta)
        batch = batch._replace(ahead=Ahead(after, steps.long(), steps))
    uniforms, normals = (torch.empty(1, sum(widths), device=meta) for widths in noise_widths(config, network))
    noise = UpdateNoise(*(tensor[0] for tensor in split_noise(config, network, uniforms, normals)[1]))
    state = OptState((params,), (params,), torch.empty((), device=meta))
    with FlopCounterMode(display=False) as forward:
        network.q_values(network.apply(network.unflatten(params), obs[:1]))
    with FlopCounterMode(display=False) as update:
        make_update(config, network)((params,), (params,), state, batch, noise)
    return FlopCosts(forward.get_total_flops(), update.get_total_flops(), forward.get_total_flops())
