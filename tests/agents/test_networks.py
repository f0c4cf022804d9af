"""Architectures against the papers' layer tables, and the flat view of their parameters."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

from agents.config import AgentConfig, ConfigError
from agents.layers import Linear, PatchConv2d, StridedConv2d, TileConv2d
from agents.networks import LARGE_NUMEL, QNetwork, flat_network


def shapes(config: AgentConfig, obs_shape: tuple[int, ...], actions: int) -> list[tuple[int, ...]]:
    return [tuple(p.shape) for p in QNetwork(config, obs_shape, actions).parameters() if p.dim() > 1]


def test_nature_network_is_that_of_the_paper() -> None:
    expected = [(32, 4, 8, 8), (64, 32, 4, 4), (64, 64, 3, 3), (512, 3136), (18, 512)]
    assert shapes(AgentConfig(encoder="nature", hidden=(512,)), (4, 84, 84), 18) == expected


def test_minatar_network_is_that_of_the_paper() -> None:
    assert shapes(AgentConfig(encoder="minatar", hidden=(128,)), (6, 10, 10), 5) == [(16, 6, 3, 3), (128, 1024), (5, 128)]


def test_dueling_has_two_streams_and_joins_them_with_the_mean_advantage() -> None:
    config = AgentConfig(hidden=(8, 6), dueling=True)
    net = QNetwork(config, (3,), 4)
    assert shapes(config, (3,), 4) == [(8, 3), (6, 8), (1, 6), (6, 8), (4, 6)]
    obs = torch.randn(5, 3)
    trunk = torch.relu(net.trunk[0](obs, None))
    value = net.value(torch.relu(net.value_hidden(trunk, None)), None)
    advantage = net.advantage(torch.relu(net.advantage_hidden(trunk, None)), None)
    for b in range(5):
        for a in range(4):
            expected = value[b, 0] + advantage[b, a] - advantage[b].sum() / 4
            assert net(obs)[b, a, 0].item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize(
    ("layer", "kernel", "stride"),
    [
        (PatchConv2d, (3, 3), (1, 1)),
        (PatchConv2d, (2, 4), (3, 2)),
        (PatchConv2d, (5, 5), (5, 5)),
        (TileConv2d, (5, 5), (5, 5)),
        (TileConv2d, (2, 3), (2, 3)),
    ],
)
def test_a_convolution_over_patches_is_torchs_convolution(layer: Any, kernel: tuple[int, int], stride: tuple[int, int]) -> None:
    ours = layer(3, 5, kernel, stride)
    obs = torch.randn(2, 3, 11, 10, requires_grad=True)
    expected = torch.nn.functional.conv2d(obs, ours.weight, ours.bias, stride)
    torch.testing.assert_close(ours(obs), expected, rtol=1e-4, atol=1e-5)
    weights = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * weights).sum(), [obs, ours.weight, ours.bias])
    found = torch.autograd.grad((ours(obs) * weights).sum(), [obs, ours.weight, ours.bias])
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def numbers(*shape: int) -> Tensor:
    """So few and small that bfloat16 has them, their products and the sums of those exactly."""
    return torch.randint(-1, 2, shape).float()


@pytest.mark.parametrize("size", [(12, 12), (15, 14)])
@pytest.mark.parametrize(
    ("kernel", "stride", "tiled"), [((4, 4), 2, False), ((3, 3), 1, False), ((8, 4), 4, True), ((4, 4), 2, True)]
)
def test_a_strided_convolution_in_bfloat16_is_torchs_in_float32(
    size: tuple[int, int], kernel: tuple[int, int], stride: int, tiled: bool
) -> None:
    """Of a batch, with its gradients; of numbers that make rounding no excuse."""
    ours = StridedConv2d(3, 5, kernel, stride)
    ours.weight.data, ours.bias.data = numbers(5, 3, *kernel), numbers(5)
    obs = numbers(4, 3, *size).requires_grad_()
    expected = torch.nn.functional.conv2d(obs, ours.weight, ours.bias, stride)
    weights = numbers(*expected.shape)
    with torch.autocast("cpu", torch.bfloat16):
        found = ours(ours.tiles(obs.bfloat16()) if tiled else obs)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=0)
    wanted = torch.autograd.grad((expected * weights).sum(), [obs, ours.weight, ours.bias])
    seen = torch.autograd.grad((found * weights).sum(), [obs, ours.weight, ours.bias])
    torch.testing.assert_close(seen, wanted, rtol=0.01, atol=0)  # sums of some hundred terms, rounded once


def test_one_image_is_looked_at_by_products_alone() -> None:
    net = QNetwork(AgentConfig(encoder="nature", hidden=(32,)), (4, 84, 84), 3)
    pixels = torch.randint(0, 256, (1, 4, 84, 84), dtype=torch.uint8)
    expected = net(pixels)
    with torch.no_grad(), Products() as products:
        torch.testing.assert_close(net(pixels), expected, rtol=1e-4, atol=1e-5)
    assert products.shapes == [(400, 32), (81, 64), (49, 64), (1, 32), (1, 3)]


class Products(TorchDispatchMode):
    """Writes down the shape of every matrix product's result."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.bmm, torch.ops.aten.addmm, torch.ops.aten.baddbmm):
            self.shapes.append(tuple(result.shape))
        return result


def test_a_layer_of_few_inputs_is_torchs_and_its_gradient_is_a_product_with_many_columns() -> None:
    seeds, batch, inputs, outputs = 3, 7, 4, 32
    layer = Linear(inputs, outputs, None, 0)
    x, target = torch.randn(seeds, batch, inputs), torch.randn(seeds, batch, outputs)
    weight, bias = torch.randn(seeds, outputs, inputs), torch.randn(seeds, outputs)

    def loss(params: dict[str, Tensor], x: Tensor, target: Tensor) -> Tensor:
        return ((functional_call(layer, params, (x,)) - target) ** 2).sum()

    with Products() as products:
        found = torch.vmap(torch.func.grad(loss))({"weight": weight, "bias": bias}, x, target)
    for k in range(seeds):
        error = 2 * (x[k] @ weight[k].T + bias[k] - target[k])
        torch.testing.assert_close(found["weight"][k], error.T @ x[k], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found["bias"][k], error.sum(0), rtol=1e-4, atol=1e-4)
    assert sorted(products.shapes) == [(seeds, inputs, outputs), (seeds, batch, outputs)]


def test_nature_divides_pixels_by_255() -> None:
    net = QNetwork(AgentConfig(encoder="nature", hidden=(32,)), (4, 84, 84), 3)
    pixels = torch.randint(0, 256, (2, 4, 84, 84), dtype=torch.uint8)
    x = pixels.float() / 255
    for conv in net.convs:
        x = torch.relu(conv(x))
    expected = net.advantage(torch.relu(net.advantage_hidden(x.flatten(1), None)), None)
    torch.testing.assert_close(net.q_values(net(pixels)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bf16", [True, False], ids=["bfloat16", "float32"])
@pytest.mark.parametrize("encoder", ["nature", "der"])
def test_torch_compile_sees_the_whole_of_it(encoder: Any, bf16: bool) -> None:
    """As it is compiled for a GPU: what asks the processor would end it there."""
    network = flat_network(lambda: QNetwork(AgentConfig(encoder=encoder, hidden=(32,)), (4, 84, 84), 3))
    params = network.init(torch.Generator().manual_seed(0))

    def gradient(params: Tensor, obs: Tensor) -> Tensor:
        def loss(params: Tensor) -> Tensor:
            scaled = network.module.scaled(obs, bf16)
            return network.apply(network.unflatten(params), scaled, bf16=bf16, scaled=True).square().sum()

        return torch.func.grad(loss)(params)

    obs = torch.randint(256, (2, 4, 84, 84), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(torch.compile(gradient, backend="eager", fullgraph=True)(params, obs), gradient(params, obs))


def test_flat_network_computes_what_the_module_computes() -> None:
    config = AgentConfig(encoder="minatar", hidden=(32,), dueling=True)
    net = flat_network(lambda: QNetwork(config, (4, 10, 10), 3))
    flat = net.init(torch.Generator().manual_seed(0))
    module = QNetwork(config, (4, 10, 10), 3)
    module.load_state_dict(net.unflatten(flat))
    obs = torch.randint(0, 2, (7, 4, 10, 10), dtype=torch.uint8)
    torch.testing.assert_close(net.apply(net.unflatten(flat), obs), module(obs))
    assert net.size == sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("encoder", ["minatar", "nature", "der"])
def test_files_hold_every_parameter_in_the_order_of_its_axes(encoder: Any) -> None:
    config, shape = AgentConfig(encoder=encoder, hidden=(8,)), (4, 84, 84)
    net, module = flat_network(lambda: QNetwork(config, shape, 3)), QNetwork(config, shape, 3)
    vectors = torch.stack([net.init(torch.Generator().manual_seed(seed)) for seed in (0, 1)])
    module.load_state_dict(net.unflatten(vectors[1]))
    assert torch.equal(net.in_order(vectors)[1], torch.nn.utils.parameters_to_vector(module.parameters()))
    assert torch.equal(net.from_order(net.in_order(vectors)), vectors)


@pytest.mark.parametrize("encoder", ["nature", "der"])
def test_the_weights_of_strided_and_tiled_convolutions_lie_as_their_products_read_them(encoder: Any) -> None:
    net = flat_network(lambda: QNetwork(AgentConfig(encoder=encoder, hidden=(8,)), (4, 84, 84), 3))
    for name, weight in net.unflatten(torch.empty(net.size)).items():
        assert weight.dim() != 4 or weight.permute(0, 2, 3, 1).is_contiguous(), name


def test_a_large_parameter_is_a_piece_of_the_vectors_by_itself_on_the_same_memory() -> None:
    net = flat_network(lambda: QNetwork(AgentConfig(encoder="nature", hidden=(512,)), (4, 84, 84), 6))
    vectors = torch.stack([net.init(torch.Generator().manual_seed(seed)) for seed in (0, 1)])
    pieces = net.pieces(vectors)
    assert [piece.shape[1] for piece in pieces] == [net.slices["advantage_hidden.weight"][0], 512 * 3136, 512 + 6 * 513]
    assert torch.equal(torch.cat(pieces, 1), vectors)
    whole, cut = net.unflatten(vectors[1]), net.unflatten(*(piece[1] for piece in pieces))
    assert whole.keys() == cut.keys()
    for name, view in whole.items():
        assert torch.equal(cut[name], view)
        assert cut[name].data_ptr() == view.data_ptr()
    again = net.flatten(whole, tuple(piece[1] for piece in pieces))
    for piece, values in zip(pieces, again, strict=True):
        assert torch.equal(piece[1], values)
    pieces[1][1] = 7.0
    assert (whole["advantage_hidden.weight"] == 7).all()
    small = flat_network(lambda: QNetwork(AgentConfig(), (4,), 2))
    assert len(small.pieces(torch.zeros(1, small.size))) == 1


@pytest.mark.parametrize(
    ("settings", "copied"),
    [
        ({}, []),
        ({"precision": "tf32"}, []),
        ({"precision": "bf16"}, ["trunk.0.weight", "value_hidden.weight", "advantage_hidden.weight"]),
        ({"precision": "bf16", "dueling": False, "head": "iqn"}, ["trunk.0.weight", "advantage_hidden.weight"]),
        ({"precision": "bf16", "noisy": True}, []),
    ],
)
def test_large_weights_that_bf16_rounds_as_they_are_are_held_rounded(settings: dict[str, Any], copied: list[str]) -> None:
    """Not those of noisy layers, which are rounded after the noise, nor of output layers, which compute in float32."""
    config = AgentConfig(**({"encoder": "nature", "hidden": (300, 400), "dueling": True} | settings))
    net = flat_network(lambda: QNetwork(config, (4, 84, 84), 300))
    pieces = tuple(piece[0] for piece in net.pieces(net.init(torch.Generator().manual_seed(0))[None]))
    assert math.prod(net.slices["advantage.weight"][1]) >= LARGE_NUMEL, "a piece, too"
    rounded = net.rounded(pieces)
    exact, read = net.unflatten(*pieces), net.unflatten(*net.reading(pieces, rounded))
    assert [name for name in read if read[name].dtype != torch.float32] == copied
    for name, values in read.items():
        assert torch.equal(values, exact[name].bfloat16() if name in copied else exact[name])
    assert net.reading(pieces, ()) == pieces
    assert net.rounded((torch.cat(pieces),)) == (), "in one piece, as on a GPU"


def test_initial_weights_and_biases_are_uniform_within_one_over_root_fan_in() -> None:
    net = flat_network(lambda: QNetwork(AgentConfig(encoder="nature", hidden=(512,)), (4, 84, 84), 6))
    named = net.unflatten(net.init(torch.Generator().manual_seed(0)))
    fan_in = {"convs.0": 256, "convs.1": 512, "convs.2": 576, "advantage_hidden": 3136, "advantage": 512}
    for name, tensor in named.items():
        bound = 1 / math.sqrt(fan_in[name.rsplit(".", 1)[0]])
        assert tensor.abs().max() <= bound
        if tensor.numel() > 1000:
            assert tensor.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
            assert tensor.abs().max().item() == pytest.approx(bound, rel=0.01)


@pytest.mark.parametrize(
    ("encoder", "shape", "fault"), [("nature", (4,), "image"), ("nature", (4, 10, 10), "36 x 36"), ("minatar", (4,), "mlp")]
)
def test_an_encoder_that_cannot_read_the_observations_is_refused(encoder: str, shape: tuple[int, ...], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        QNetwork(AgentConfig(encoder=encoder), shape, 2)  # type: ignore[arg-type]


def dense(module: torch.nn.Linear, x: NDArray[np.float64]) -> NDArray[np.float64]:
    return module.weight.detach().double().numpy() @ x + module.bias.detach().double().numpy()


def relu(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(x, 0)


@pytest.mark.parametrize("dueling", [False, True])
def test_iqn_equals_the_papers_equations_one_quantile_at_a_time(dueling: bool) -> None:
    """Dabney et al. 2018a, section 3.1 and eq. 4: f(psi(x) * phi(tau)), phi_j = ReLU(sum_{i=0}^{n-1} cos(pi i tau) w_ij + b_j)."""
    config = AgentConfig(hidden=(7, 6), head="iqn", tau_cosines=9, dueling=dueling)
    torch.manual_seed(0)
    net = QNetwork(config, (3,), 4)
    obs, tau = torch.randn(5, 3), torch.rand(5, 8)
    actual = net(obs, None, tau)
    assert actual.shape == (5, 4, 8)
    for b in range(5):
        psi = relu(dense(net.trunk[0], obs[b].double().numpy()))
        for k in range(8):
            cosines = np.array([math.cos(math.pi * i * tau[b, k].item()) for i in range(9)])
            x = psi * relu(dense(net.tau_embedding, cosines))
            expected = dense(net.advantage, relu(dense(net.advantage_hidden, x)))
            if dueling:
                expected = dense(net.value, relu(dense(net.value_hidden, x))) + expected - expected.mean()
            np.testing.assert_allclose(actual[b, :, k].detach(), expected, rtol=1e-4, atol=1e-5)


def test_the_value_of_an_iqn_action_is_the_mean_of_its_quantiles_at_the_midpoints() -> None:
    net = QNetwork(AgentConfig(hidden=(6,), head="iqn", num_tau_act=4), (3,), 2)
    obs = torch.randn(5, 3)
    alone = [net(obs, None, torch.full((5, 1), tau))[..., 0] for tau in (0.125, 0.375, 0.625, 0.875)]
    torch.testing.assert_close(net.q_values(net(obs)), sum(alone) / 4)


def test_the_value_of_a_c51_action_is_the_mean_of_its_histogram() -> None:
    net = QNetwork(AgentConfig(head="c51", num_atoms=4, v_min=-1.0, v_max=2.0), (3,), 2)
    logits = 3 * torch.randn(5, 2, 4)
    powers = np.exp(logits.double().numpy())
    expected = (powers * [-1, 0, 1, 2]).sum(-1) / powers.sum(-1)
    np.testing.assert_allclose(net.q_values(logits), expected, rtol=1e-4, atol=1e-5)


def test_dueling_joins_each_atom_with_the_mean_over_actions_of_that_atom() -> None:
    """Hessel et al. 2018, section 4: logits of atom i are v^i + a^i(action) - mean over actions of a^i."""
    net = QNetwork(AgentConfig(hidden=(6,), head="c51", num_atoms=5, dueling=True), (3,), 4)
    obs = torch.randn(2, 3)
    out = net(obs)
    for b in range(2):
        x = obs[b].double().numpy()
        value = dense(net.value, relu(dense(net.value_hidden, x)))
        advantage = dense(net.advantage, relu(dense(net.advantage_hidden, x))).reshape(4, 5)
        for atom in range(5):
            for a in range(4):
                expected = value[atom] + advantage[a, atom] - sum(advantage[k, atom] for k in range(4)) / 4
                assert out[b, a, atom].item() == pytest.approx(expected, abs=1e-5)


def test_der_network_is_that_of_the_paper() -> None:
    """van Hasselt et al. 2019: 32 channels of 5x5 stride 5, 64 channels of 5x5 stride 5; 84 pixels become 16, then 3."""
    expected = [(32, 4, 5, 5), (64, 32, 5, 5), (256, 576), (6, 256)]
    assert shapes(AgentConfig(encoder="der", hidden=(256,)), (4, 84, 84), 6) == expected


def test_the_residual_encoder_is_three_stages_of_five_convolutions() -> None:
    """Espeholt et al. 2018, figure 3, layer by layer, on one image whose sides are halved three times, rounded up."""
    config = AgentConfig(encoder="impala", encoder_width=2, hidden=(8,))
    module = QNetwork(config, (4, 45, 36), 3)
    image = torch.randint(256, (1, 4, 45, 36), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    named = dict(module.named_parameters())

    def conv(x: torch.Tensor, name: str) -> torch.Tensor:
        return torch.nn.functional.conv2d(x, named[f"{name}.weight"], named[f"{name}.bias"], padding="same")

    x = image / 255
    for stage, channels in enumerate((32, 64, 64)):
        at = f"convs.0.stages.{stage}"
        x = conv(x, f"{at}.first")
        padded = torch.nn.functional.pad(x, (1, 1, 1, 1), value=-torch.inf)
        x = padded.unfold(2, 3, 2).unfold(3, 3, 2).amax((-1, -2))
        for block in range(2):
            x = x + conv(conv(x.relu(), f"{at}.blocks.{block}.0").relu(), f"{at}.blocks.{block}.1")
        assert x.shape[1] == channels
    assert x.shape[2:] == (6, 5)
    hidden = (named["advantage_hidden.weight"] @ x.relu().flatten() + named["advantage_hidden.bias"]).relu()
    expected = named["advantage.weight"] @ hidden + named["advantage.bias"]
    torch.testing.assert_close(module(image)[0, :, 0], expected, rtol=1e-4, atol=1e-5)
    assert sum("convs" in name and name.endswith("weight") for name in named) == 15
