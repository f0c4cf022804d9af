"""What compiled calls promise beyond equal numbers, which test_learner.py compares for whole agents."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch._inductor.exc import InvalidCxxCompiler
from torch._inductor.utils import run_and_get_code

from agents import compiler, disk_cache
from agents.compiler import compiled, teach_products
from agents.config import AgentConfig
from agents.networks import QNetwork, flat_network
from agents.operators import PRODUCTS_FOR_TORCH, once, own_float_products, own_products, take_rows
from agents.update import Batch, OptState, UpdateNoise, make_update

TILES_OF_STRIDE = r"\(2, 21, 21, 4, 4, 4\), \(28224, 1344, 64, 16, 4, 1\)"
NATURE_TILES = (  # as large as the stride where each tap is a product, 2 x 2 where it is a convolution
    rf"{TILES_OF_STRIDE}, torch.bfloat16"
    if own_products() is not None
    else r"\(2, 42, 42, 2, 2, 4\), \(28224, 672, 16, 8, 4, 1\), torch.bfloat16"
)
PRODUCT = r"extern_kernels\.\w*mm\(|playmeter::product\("
"""A library's, or one of our own, in compiled code."""
CPU, GPU = torch.device("cpu"), torch.device("cuda")  # nothing is computed there: the device says how to compile
pytestmark = pytest.mark.compiler


class Pair(NamedTuple):
    left: Tensor
    right: Tensor


def line(slope: float) -> Callable[[Tensor, Pair], tuple[Tensor, Pair]]:
    def move(out: Tensor, pair: Pair) -> tuple[Tensor, Pair]:
        gradient = torch.func.grad(lambda x: (slope * x * x).sum())(pair.left)
        out.copy_(gradient + pair.right)
        return out.sum(), Pair(gradient, pair.right - 1)

    return move


def no_compiler() -> list[str]:
    raise InvalidCxxCompiler


class Known(str):
    """What the C++ compiler was found to know, as torch says it."""

    _is_avx512_bf16_supported: bool


def known(amx: bool, bf16: bool) -> Callable[[], list[str]]:
    vectors = Known("avx512")
    vectors._is_avx512_bf16_supported = bf16
    return lambda: [*["avx512 avx512_vnni amx_tile"] * amx, vectors, "avx2"]


LISTED = "torch._inductor.cpu_vec_isa.valid_vec_isa_list"
WHOLE = {
    "torch.cpu._is_amx_tile_supported": lambda: True,
    "torch.cpu._is_avx512_bf16_supported": lambda: True,
    "torch.cpu._init_amx": lambda: True,
    LISTED: known(amx=True, bf16=True),
    "torch.__version__": "2.13.1+cpu",
}


@pytest.mark.parametrize(
    ("lacking", "left"),
    [
        (None, "AMX"),
        (("torch.cpu._is_amx_tile_supported", lambda: False), "AVX512-BF16"),
        (("torch.cpu._init_amx", lambda: False), "AVX512-BF16"),  # the system does not let it
        ((LISTED, known(amx=False, bf16=True)), "AVX512-BF16"),  # an old g++
        (("torch.cpu._is_avx512_bf16_supported", lambda: False), None),
        ((LISTED, known(amx=False, bf16=False)), None),  # an older one
        ((LISTED, no_compiler), None),
        (("torch.__version__", "2.14.0"), None),
        (("torch.__version__", "2.11.0"), None),
    ],
)
def test_products_are_our_own_only_where_cpu_system_compiler_and_torch_can(
    lacking: tuple[str, object] | None, left: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(disk_cache, "_folder", tmp_path / "kept")  # not what is known of this machine's compiler
    monkeypatch.setattr(disk_cache, "_sources", disk_cache._hash_of_sources())
    for name, value in (WHOLE | dict([lacking] if lacking else [])).items():
        monkeypatch.setattr(name, value)
    assert own_products.__wrapped__() == left
    kept = len(list(tmp_path.rglob("*")))
    assert kept == (0 if left is None else 2), "a yes is kept, in its folder; a no is asked again"


@pytest.mark.parametrize(
    ("cpu", "changed", "own"),
    [
        ("AMD EPYC 9655", {}, True),
        ("AMD EPYC 7763", {LISTED: lambda: ["avx2"]}, True),
        ("AMD Opteron 6180", {"torch.cpu._is_avx2_supported": lambda: False, LISTED: lambda: []}, False),
        ("AMD EPYC 9655", {LISTED: lambda: []}, False),
        ("AMD EPYC 9655", {LISTED: no_compiler}, False),
        ("AMD EPYC 9655", {"torch.__version__": "2.14.0"}, False),
        ("Intel(R) Xeon(R) 6980P", {}, False),  # its maker's library is made for it
    ],
)
def test_float32_is_multiplied_by_us_only_where_that_was_seen_to_be_faster(
    cpu: str, changed: dict[str, object], own: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(disk_cache, "_folder", tmp_path)  # not what is known of this machine's compiler
    monkeypatch.setattr(disk_cache, "_sources", disk_cache._hash_of_sources())
    whole = WHOLE | {"torch.cpu._is_avx2_supported": lambda: True, "torch.cpu.get_capabilities": lambda: {"cpu_name": cpu}}
    for name, value in (whole | changed).items():
        monkeypatch.setattr(name, value)
    assert own_float_products.__wrapped__() == own


def test_products_are_written_for_the_torch_that_is_pinned() -> None:
    """Another one takes its library's products until somebody has looked: agents/operators.py."""
    pins = Path(__file__).parents[2].joinpath("constraints.txt").read_text().splitlines()
    assert [pin for pin in pins if pin.startswith(f"torch=={PRODUCTS_FOR_TORCH}")]


@pytest.mark.parametrize(
    "name",
    [
        *(
            "compiler.py",
            "operators.py",
            "native.py",
            "stacks.py",
            "taps.py",
            "image_calls.py",
            "products.py",
            "float_products.py",
        ),
        *("products.h", "float_products.h", "winograd.h", "vectors.h", "stacks.h"),
    ],
)
def test_what_the_compiler_was_taught_is_in_the_key_of_what_it_keeps(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    teach_products()
    before = compiler._taught()
    for source in Path(compiler.__file__).parent.glob("*.*"):
        shutil.copy(source, tmp_path)
    with (tmp_path / name).open("a") as changed:
        changed.write("\n")
    monkeypatch.setattr(compiler, "__file__", str(tmp_path / "compiler.py"))
    assert compiler._taught() != before
    assert before in torch.compiler.config.cache_key_tag
    assert compiler._multiplying() in torch.compiler.config.cache_key_tag


@pytest.mark.parametrize("device", [CPU, GPU], ids=str)
def test_results_are_nested_as_the_function_nests_them_and_writing_is_in_place(device: torch.device) -> None:
    call = compiled(line(3), device)
    for left in (torch.arange(4.0), torch.tensor([5.0, -1, 0, 2])):
        out = torch.zeros(4)
        total, pair = call(out, Pair(left, torch.ones(4)))
        assert isinstance(pair, Pair)
        assert (total.item(), pair.left.tolist(), pair.right.tolist()) == (
            6 * left.sum().item() + 4,
            (6 * left).tolist(),
            [0] * 4,
        )
        assert out.tolist() == (6 * left + 1).tolist()


def test_arguments_of_another_shape_or_order_in_memory_are_refused() -> None:
    call, square = compiled(lambda x: x.cumsum(0), CPU), torch.arange(4.0).view(2, 2)
    assert call(square).tolist() == [[0, 1], [2, 4]]
    for other in (torch.ones(3, 2), square.T):
        with pytest.raises(RuntimeError, match="expected size"):
            call(other)


@pytest.mark.parametrize("device", [CPU, GPU], ids=str)
def test_each_function_of_a_process_is_compiled(device: torch.device) -> None:
    """torch.compile runs uncompiled what it has compiled too often before: here more than once, by default more than eight times."""
    with torch._dynamo.config.patch(recompile_limit=1):
        before = counters["inductor"]["fxgraph_cache_hit"] + counters["inductor"]["fxgraph_cache_miss"]
        for slope in (4, 5, 6):
            compiled(line(slope), device)(torch.zeros(2), Pair(torch.ones(2), torch.ones(2)))
        assert counters["inductor"]["fxgraph_cache_hit"] + counters["inductor"]["fxgraph_cache_miss"] == before + 3


@pytest.mark.parametrize("device", [CPU, GPU], ids=str)
def test_compiled_code_is_read_back_from_the_disk(device: torch.device) -> None:
    """Else every start of a training would write its C++ anew: 7 seconds for `der`."""
    for _ in range(2):
        hits = counters["aot_autograd"]["autograd_cache_hit"]
        compiled(line(7), device)(torch.zeros(5), Pair(torch.ones(5), torch.ones(5)))
        torch.compiler.reset()
    assert counters["aot_autograd"]["autograd_cache_hit"] == hits + 1


def test_what_a_compiled_call_makes_of_our_operators_is_not_called_in_python() -> None:
    def rows(table: Tensor, index: Tensor) -> Tensor:
        return take_rows(table, once(index + 1)) * 2

    table, index = torch.randint(100, (9, 6, 6), dtype=torch.uint8), torch.tensor([3, 0, 3])
    with torch._inductor.config.patch(fx_graph_cache=False):
        values, (code,) = run_and_get_code(compiled(rows, CPU), table, index)
    assert torch.equal(values, table[index + 1] * 2)
    calls = re.findall(r'aoti_torch_call_dispatcher\("(\w+::\w+)"', code)
    assert calls == ["aten::index_select"], "a copy a row, and by name"
    body = code[code.index("void inductor_entry_impl(") :]
    assert "PyObject_Call" not in body


@pytest.mark.usefixtures("readable")
def test_acting_for_several_seeds_looks_for_a_feature_once_and_not_in_every_product() -> None:
    """With one row a seed the product is a loop of the compiler's, fused with what gives its input: convolution, relu, transposition."""
    network = flat_network(lambda: QNetwork(AgentConfig(encoder="minatar", hidden=(32,)), (4, 10, 10), 3))
    act = torch.func.vmap(lambda params, obs: network.apply(network.unflatten(params), obs))
    arguments = torch.randn(2, network.size), torch.rand(2, 1, 4, 10, 10)
    with torch._inductor.config.patch(fx_graph_cache=False), torch.no_grad():
        values, (code,) = run_and_get_code(compiled(act, CPU), *arguments)
        torch.testing.assert_close(values, act(*arguments), rtol=1e-4, atol=1e-4)
    assert len(re.findall(PRODUCT, code)) == 1, "the convolution"
    assert "transpose_mxn" not in code, "of weights, tile by tile"


@pytest.mark.usefixtures("readable")
@pytest.mark.parametrize(
    ("encoder", "precision", "floats", "convolutions"),
    [
        (
            *("nature", "fp32"),
            *((rf"{TILES_OF_STRIDE}, torch.float32", 0) if own_float_products() else (r"\(2, 4, 84, 84\), .*torch.float32", 3)),
        ),
        ("nature", "bf16", NATURE_TILES, 0 if own_products() is not None else 1),
        ("der", "fp32", r"\(2, 16, 16, 5, 5, 4\), \(25600, 1600, 100, 20, 4, 1\), torch.float32", 0),
    ],
)
def test_frames_become_floats_once_for_all_networks_that_look_at_them(
    encoder: Any, precision: Any, floats: str, convolutions: int
) -> None:
    """Nature's as they are, or as tiles where convolutions are ours, der's as tiles whose pixels are moved side by side, without a division for each of them."""
    config = AgentConfig(encoder=encoder, hidden=(32,), double=True, batch_size=2, precision=precision, optimiser_eps=1e-5)
    network = flat_network(lambda: QNetwork(config, (4, 84, 84), 3))
    torch.manual_seed(0)
    frames = torch.randint(256, (2, 2, 84, 84, 4), dtype=torch.uint8).movedim(-1, 2)  # channels last, as they are put together
    ones, nothing = torch.ones(2), torch.zeros(2, 0)
    batch = Batch(frames[0], ones.long(), ones, ones, frames[1], ones, torch.ones(0, dtype=torch.bool))
    state = OptState((torch.zeros(network.size),), (torch.zeros(network.size),), torch.zeros(()))
    arguments = (
        (torch.randn(network.size),),
        (torch.randn(network.size),),
        state,
        batch,
        UpdateNoise(torch.zeros(3, 0), *[nothing] * 3),
    )
    update = make_update(config, network)
    with torch._inductor.config.patch(fx_graph_cache=False), torch.no_grad():
        result, (code,) = run_and_get_code(compiled(update, CPU), *arguments)
        expected = update(*arguments)[2]
        torch.testing.assert_close(
            result[2], expected, rtol=0, atol=(0.02 if precision == "bf16" else 1e-3) * expected.max().item()
        )
    networks = 3  # online and target at next_obs, online at obs
    assert code.count("= extern_kernels.convolution(") == convolutions * networks
    assert len(re.findall(rf"empty_strided_cpu\({floats}", code)) == 2
    conversions = re.findall(r"static_cast<float>\(0.00392156862745098\)", code)
    assert len(conversions) == len(re.findall(r"at::vec::Vectorized<uint8_t>::loadu", code)) > 0, "sixteen pixels at a time"


@pytest.mark.usefixtures("readable")
def test_acting_writes_no_noisy_weights_to_memory() -> None:
    network = flat_network(lambda: QNetwork(AgentConfig(hidden=(48,), noisy=True), (40,), 3))

    def act(params: Tensor, obs: Tensor, noise: Tensor) -> Tensor:
        return network.apply(network.unflatten(params), obs, noise)

    code = {}
    for rows in (1, 2):
        arguments = torch.randn(network.size), torch.rand(rows, 40), torch.randn(network.noise_width)
        with torch._inductor.config.patch(fx_graph_cache=False), torch.no_grad():
            values, (code[rows],) = run_and_get_code(compiled(act, CPU), *arguments)
            torch.testing.assert_close(values, act(*arguments), rtol=1e-4, atol=1e-4)
    assert "empty_strided_cpu((48, 40)" in code[2], "what an update writes"
    assert "empty_strided_cpu((48, 40)" not in code[1]


@pytest.mark.usefixtures("readable")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_acting_calls_products_for_convolutions_alone(dtype: torch.dtype) -> None:
    """Behind them it reads each weight once, in the loop that needs it, and where weights are held rounded as such."""
    network = flat_network(lambda: QNetwork(AgentConfig(encoder="nature", hidden=(48,), precision="bf16"), (4, 84, 84), 3))

    def act(hidden: Tensor, params: Tensor, obs: Tensor) -> Tensor:
        return network.apply(network.unflatten(params) | {"advantage_hidden.weight": hidden}, obs)

    params, obs = torch.randn(network.size) / 50, torch.randint(256, (1, 4, 84, 84), dtype=torch.uint8)
    arguments = network.unflatten(params)["advantage_hidden.weight"].to(dtype), params, obs
    with torch._inductor.config.patch(fx_graph_cache=False), torch.no_grad():
        values, (code,) = run_and_get_code(compiled(act, CPU), *arguments)
        torch.testing.assert_close(values, act(*arguments), rtol=1e-4, atol=1e-4)
    assert len(re.findall(PRODUCT, code)) == 3
    assert "empty_strided_cpu((48, 3136)" not in code, "nor are they written anew"
    assert "empty_strided_cpu((1, 84, 84, 4), (28224, 336, 4, 1)" in code, "channels side by side, so that patches are runs"


def test_a_batch_of_one_is_differentiated() -> None:
    network = flat_network(lambda: QNetwork(AgentConfig(hidden=(8,)), (3,), 2))

    def gradient(params: Tensor, obs: Tensor) -> Tensor:
        return torch.func.grad(lambda p: network.apply(network.unflatten(p), obs).square().sum())(params)

    arguments = torch.randn(2, network.size), torch.rand(2, 1, 3)
    with torch.no_grad():
        slopes = torch.func.vmap(gradient)
        torch.testing.assert_close(compiled(slopes, CPU)(*arguments), slopes(*arguments), rtol=1e-4, atol=1e-4)


def test_beside_a_gpu_nobody_asks_what_this_cpu_multiplies_with() -> None:
    """It takes a second, and no kernel of a GPU needs to know. On a CPU the same call asks."""
    watch = """
import sys
import torch
torch.cuda.is_available = lambda: sys.argv[1] == "cuda"
import agents.learner
from agents import compiler
import torch._inductor.cpu_vec_isa
asked = []
compiler.own_products = lambda: asked.append("own products")
compiler.own_float_products = lambda: asked.append("own float products")
torch._inductor.cpu_vec_isa.valid_vec_isa_list = lambda: asked.append("vector instructions")
if sys.argv[1] == "cuda":
    compiler.compiled(lambda x: x * 2, torch.device("cuda"))
else:
    compiler.teach_products()
print(sorted(set(asked)))
"""

    def asked(device: str) -> str:
        return subprocess.run([sys.executable, "-c", watch, device], capture_output=True, text=True, check=True).stdout.strip()

    assert asked("cuda") == "[]"
    assert asked("cpu") == "['own float products', 'own products', 'vector instructions']"


def test_importing_the_compiler_takes_no_hook_off_beside_another_import() -> None:
    """A hook that is taken off the list while an import walks along it makes the import skip the next one: modules "are not there"."""
    watch = """
import sys, threading

class Hooks(list):
    def remove(self, hook):
        beside.append(threading.current_thread() is not threading.main_thread())
        super().remove(hook)

beside, sys.meta_path = [], Hooks(sys.meta_path)
import agents.learner
from agents.compiler import teach_compiler
teach_compiler()
print(any(beside))
"""
    told = subprocess.run([sys.executable, "-c", watch], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"
