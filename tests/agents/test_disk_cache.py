"""What is kept on the disk for the next start: found where everything that it was made from is the same, and nowhere else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from agents import compiler, disk_cache
from agents.compiler import ENTRY, Library, compiled
from agents.config import AgentConfig
from agents.learner import UNREAD_BY_CALLS, Learner, read_by_calls
from agents.replay import ReplayLayout
from runs import flops
from runs.flops import count_flops, flop_costs

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """As in the program, with a folder of its own."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("TORCHINDUCTOR_FORCE_DISABLE_CACHES", raising=False)
    monkeypatch.setattr(disk_cache, "_folder", None)
    monkeypatch.setattr(disk_cache, "_sources", None)
    disk_cache._ground.cache_clear()  # which a process reads once
    disk_cache.begin()
    yield tmp_path / "cache" / "playmeter"
    disk_cache._ground.cache_clear()


def test_what_is_put_is_got_and_nothing_else(folder: Path) -> None:
    key = disk_cache.key("a", 1)
    assert key is not None
    assert disk_cache.get(key) is None
    disk_cache.put(key, (3, "x"))
    assert disk_cache.get(key) == (3, "x")
    assert [file.name for file in folder.iterdir()] == [key], "nothing is left of the writing"
    assert disk_cache.get(disk_cache.key("a", 2)) is None


def test_nothing_is_kept_in_a_process_that_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A notebook may have replaced what compiled calls are made of."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert disk_cache.key("a") is None
    disk_cache.put(disk_cache.key("a"), 1)
    disk_cache.put("a", 1)
    assert disk_cache.get("a") is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("call", "keeps"), [("main()", True), ("main(sys.argv[1:])", False)])
def test_the_program_keeps_and_finds_things_and_who_calls_it_from_python_does_not(call: str, keeps: bool) -> None:
    program = f"""
import sys
sys.argv = ["playmeter", "train", "nobody", "CartPole-v1"]
import playmeter
assert playmeter.{call} == 2
from agents import disk_cache
print(disk_cache.key("a") is not None)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == f"{keeps}\n"


def test_a_damaged_file_is_as_none(folder: Path) -> None:
    key = disk_cache.key("a")
    assert key is not None
    for content in (b"", b"\x80\x05", b"no pickle", b"cnosuchmodule\nnothing\n."):
        disk_cache.put(key, 1)
        (folder / key).write_bytes(content)
        assert disk_cache.get(key) is None
    disk_cache.put(key, 2)
    assert disk_cache.get(key) == 2


def test_a_disk_that_takes_nothing_stops_nobody_and_nothing_is_left(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with monkeypatch.context() as patch:
        patch.setattr(disk_cache, "_folder", tmp_path / "file" / "playmeter")
        disk_cache.put("k", 1)
        assert disk_cache.get("k") is None
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", no_space)
        disk_cache.put("k", 1)
    assert not list(folder.iterdir())


def no_space(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_without_a_folder_for_temporary_files_nothing_is_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_cache, "_folder", None)
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setattr("tempfile.gettempdir", no_space)
    disk_cache.begin()
    assert disk_cache.key("a") is None


def test_what_another_user_may_have_left_is_not_read(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder for temporary files is everybody's, and a library that is named there will be run."""
    disk_cache.put("k", 1)
    assert (folder.stat().st_mode & 0o777) == 0o700
    assert disk_cache.get("k") == 1
    for mode in (0o770, 0o707):
        folder.chmod(mode)
        assert disk_cache.get("k") is None
    folder.chmod(0o755)
    assert disk_cache.get("k") == 1
    (tmp_path / "link").symlink_to(folder)
    with monkeypatch.context() as patch:
        patch.setattr(disk_cache, "_folder", tmp_path / "link")
        assert disk_cache.get("k") is None
    monkeypatch.setattr(os, "getuid", lambda: os.stat(folder).st_uid + 1)
    assert disk_cache.get("k") is None
    disk_cache.put("l", 1)
    assert [file.name for file in folder.iterdir()] == ["k"]


@pytest.mark.parametrize("name", disk_cache.KEEP_NOTHING)
@pytest.mark.parametrize(("value", "keeps"), [("1", False), ("true", False), ("0", True), ("", True)])
def test_nothing_is_kept_where_torch_keeps_nothing(
    name: str, value: str, keeps: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_cache, "_folder", None)
    monkeypatch.setenv(name, value)
    disk_cache.begin()
    assert (disk_cache.key("a") is not None) is keeps


def test_a_file_is_kept_as_a_copy(folder: Path, tmp_path: Path) -> None:
    original = tmp_path / "one.so"
    original.write_bytes(b"code")
    kept = disk_cache.put_file("k", str(original))
    assert kept == str(folder / "k.so")
    original.write_bytes(b"other")
    assert Path(kept).read_bytes() == b"code"
    assert disk_cache.put_file("k", str(tmp_path / "none.so")) is None
    assert disk_cache.put_file(None, str(original)) is None
    assert [file.name for file in folder.iterdir()] == ["k.so"]


def test_a_source_that_cannot_be_read_stops_nobody(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_cache, "HERE", tmp_path / "code")
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / ".#one.py").symlink_to("somebody@somewhere:1")  # of an editor: no source
    disk_cache.begin()
    disk_cache.put("k", 1)
    assert disk_cache.get("k") == 1
    (tmp_path / "code" / "two.py").symlink_to("nothing")
    disk_cache.put("l", 1)
    assert disk_cache.get("l") is None
    monkeypatch.setattr(disk_cache, "_folder", None)
    disk_cache.begin()
    assert disk_cache.key("a") is None


def test_nothing_is_kept_where_torch_does_not_say_what_the_processor_can(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Older ones do not. Compiled code of another processor would end the process."""
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert disk_cache.key("a") is None


def test_nothing_is_kept_that_may_be_made_of_sources_edited_since(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_cache, "_hash_of_sources", lambda: "another")
    disk_cache.put("k", 1)
    assert not folder.exists()


def own_compiler(tmp_path: Path) -> Path:
    path = tmp_path / "c++"
    path.write_text("#!/bin/sh")
    path.chmod(0o755)
    return path


GROUNDS: dict[str, Callable[[pytest.MonkeyPatch, Path], object]] = {
    "a source": lambda patch, tmp: (tmp / "one.py").write_text("a = 2"),
    "a header": lambda patch, tmp: (tmp / "two.h").write_text(""),
    "torch": lambda patch, tmp: patch.setattr(torch, "__version__", "2.99.0"),
    "autocast": lambda patch, tmp: patch.setattr(torch, "is_autocast_enabled", lambda device: True),
    "its build": lambda patch, tmp: patch.setattr(torch.version, "git_version", "0000"),
    "Python": lambda patch, tmp: patch.setattr(sys, "version", "4.0"),
    "the processor": lambda patch, tmp: patch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": "perhaps"}),
    "a setting of torch": lambda patch, tmp: patch.setenv("TORCHINDUCTOR_FREEZING", "1"),
    "another setting of torch": lambda patch, tmp: patch.setenv("AOT_INDUCTOR_DEBUG_COMPILE", "1"),
    "the compiler that is named": lambda patch, tmp: patch.setenv("CXX", str(own_compiler(tmp))),
    "the compiler that is found": lambda patch, tmp: patch.setenv("PATH", str(own_compiler(tmp).parent)),
    "threads": lambda patch, tmp: patch.setattr(torch, "get_num_threads", lambda: 77),
    "the type of numbers": lambda patch, tmp: patch.setattr(torch, "get_default_dtype", lambda: torch.float64),
    "the library for products": lambda patch, tmp: patch.setattr(torch.backends.mkldnn, "enabled", False),
    "determinism": lambda patch, tmp: patch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True),
}


@pytest.mark.parametrize("what", GROUNDS)
def test_a_key_changes_with_what_the_thing_rests_on(
    what: str, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "one.py").write_text("a = 1")
    monkeypatch.setattr(disk_cache, "HERE", tmp_path)

    def key() -> str | None:
        disk_cache._ground.cache_clear()
        disk_cache.begin()
        return disk_cache.key("a")

    before = key()
    assert key() == before is not None
    GROUNDS[what](monkeypatch, tmp_path)
    assert key() not in (before, None)


def test_where_things_are_kept_is_no_part_of_a_key(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """torch sets it as soon as its compiler is imported."""
    before = disk_cache.key("a")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "other"))
    disk_cache._ground.cache_clear()
    disk_cache.begin()
    assert disk_cache.key("a") == before


IDEAS = {"prioritized": True, "noisy": True, "n_step": 3, "target_ema_rate": 0.01, "head": "iqn", "munchausen": True}


@pytest.mark.parametrize("ideas", [{}, IDEAS])
def test_calls_read_none_of_the_settings_that_no_key_has(ideas: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Or one agent would be given what was compiled for another. They are all there when calls are set up, and watched when they run."""
    config = AgentConfig(hidden=(8,), batch_size=4, learning_starts_steps=2, **ideas)
    layout = ReplayLayout(2, 1, 50, (4,), False, 1, "zeros", 20, config.n_step, 0.99, False, config.prioritized)
    learner = Learner(config, layout, [2, 3], (0, 1), "cpu")
    values, read = {name: getattr(config, name) for name in UNREAD_BY_CALLS}, list[str]()

    def watched(name: str) -> property:
        return property(lambda self: (read.append(name), values[name])[1])

    for name in UNREAD_BY_CALLS:
        object.__delattr__(config, name)  # what is left is the default, of the class
        monkeypatch.setattr(AgentConfig, name, watched(name))
    learner.call_names = ("act", "update", "act_update")
    learner.warm_up(torch.zeros(2, 4).numpy())
    assert not read


def test_settings_that_calls_read_are_all_in_a_key() -> None:
    names = {field.name for field in fields(AgentConfig)}
    assert set(UNREAD_BY_CALLS) < names
    assert set(read_by_calls(AgentConfig())) == names - set(UNREAD_BY_CALLS)


START = """
import json, sys
from agents import disk_cache
disk_cache.begin()
import numpy as np
from agents.config import AgentConfig
from agents.learner import Learner
from agents.replay import ReplayLayout

config = AgentConfig(hidden=(8,), batch_size=4, replay_ratio=1.0, learning_starts_steps=10, n_step=2, prioritized=True)
layout = ReplayLayout(2, 1, 50, (4,), False, 1, "zeros", 20, 2, 0.99, False, True)
learner = Learner(config, layout, [2, 3], (0, 1), "cpu", compile=True, together=True)
rng = np.random.default_rng(0)
chosen = []
for step in range(40):
    obs = rng.normal(size=(2, 4)).astype(np.float32)
    action = learner.act_and_update(obs)[0] if learner.updates_due() else learner.act(obs)
    chosen.append(action.tolist())
    done = rng.random(2) < 0.2
    learner.record(action, rng.normal(size=2), done, done, np.zeros(2, bool), None)
compilers = [name for name in ("torch._dynamo", "torch._inductor") if name in sys.modules]
print(json.dumps({"updates": learner.updates, "params": learner.params_sha256(), "chosen": chosen, "compilers": compilers}))
"""


def start(folder: Path) -> dict[str, Any]:
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(folder.parent)}
    done = subprocess.run([sys.executable, "-c", START], capture_output=True, text=True, check=True, env=environment)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.compiler
def test_the_second_start_does_without_the_compiler_and_computes_the_same_bits(folder: Path) -> None:
    """And one whose library was damaged compiles it anew."""
    first, second = start(folder), start(folder)
    assert first["updates"] == second["updates"] == 29
    assert first["compilers"] == ["torch._dynamo", "torch._inductor"]
    assert second["compilers"] == []
    assert {**second, "compilers": first["compilers"]} == first
    (library,) = folder.glob("*.so")  # acting and updating are one call
    library.write_bytes(library.read_bytes()[:20_000])  # loading this ends a process
    assert start(folder) == first
    for file in folder.parent.rglob("*"):  # somebody tidied up what is torch's
        if file.is_file() and file.parent != folder:
            file.unlink()
    assert start(folder) == second


def doubled(x: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    kept.add_(x)
    return x * 2, kept.sum()


def tries(made_from: object, *values: float) -> list[float]:
    kept, call = torch.zeros(3), compiled(doubled, CPU, made_from)
    found = [part for value in values for part in call(torch.full((3,), value), kept)]
    return [float(part.sum()) for part in found]


@pytest.mark.compiler
def test_calls_of_the_same_name_that_were_made_from_other_things_are_kept_apart(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read back, it writes in place and gives what it gave."""
    expected = [6.0, 3.0, 12.0, 9.0]
    assert tries("doubled", 1.0, 2.0) == expected
    monkeypatch.setattr(compiler, "_trace", None)  # whatever is compiled from now on fails
    assert tries("doubled", 1.0, 2.0) == expected
    with pytest.raises(TypeError, match="not callable"):
        tries("tripled", 1.0)
    for name in ("own_products", "own_float_products"):  # what it multiplies with
        with monkeypatch.context() as other_products:
            other_products.setattr(compiler, name, lambda: "others")
            with pytest.raises(TypeError, match="not callable"):
                tries("doubled", 1.0)
    for other in (torch.zeros(4), torch.zeros(3, dtype=torch.float64), torch.zeros(6)[::2]):
        with pytest.raises(TypeError, match="not callable"):
            compiled(doubled, CPU, "doubled")(other, other.clone())
    with pytest.raises(TypeError, match="not callable"):
        compiled(lambda pair: doubled(*pair), CPU, "doubled")((torch.zeros(3), torch.zeros(3)))


@pytest.mark.compiler
def test_a_call_of_fewer_tensors_than_it_was_compiled_for_is_refused(folder: Path) -> None:
    """It would read what lies in memory behind them."""
    call = compiled(lambda x, y: x * 5 - y, CPU, "five")
    call(torch.zeros(3), torch.zeros(3))
    with pytest.raises(IndexError, match="1 tensors for a call of 2"):
        call(torch.zeros(3))


def test_only_a_library_that_takes_and_gives_all_tensors_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, nested = tmp_path / "one.so", pytree.tree_flatten((0, 1))[1]
    path.write_bytes(b"code")
    path.with_suffix(".cpp").write_text("steal(input_handles, 3); std::array<AtenTensorHandle, 2> output_handles{};")
    one, two = f"one.{ENTRY}", f"two.{ENTRY}"
    for name in (one, two):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(__file__=str(path)))
    assert compiler._library(["os", one], 3, nested) == Library(str(path), 4, 3, (0, 1))
    for modules, takes, gives in (
        ([one], 4, nested),
        ([one], 3, pytree.tree_flatten(0)[1]),
        ([], 3, nested),
        ([one, two], 3, nested),
    ):
        assert compiler._library(modules, takes, gives) is None


def test_flops_counted_once_are_found_for_the_same_work_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, layout = (
        AgentConfig(hidden=(8,), batch_size=4),
        ReplayLayout(1, 1, 50, (4,), False, 1, "zeros", None, 1, 0.99, False),
    )
    first = flop_costs(config, layout, 2)
    assert first == count_flops(config, layout, 2)
    others: list[tuple[AgentConfig, ReplayLayout, int]] = [
        (replace(config, batch_size=8), layout, 2),
        (config, replace(layout, frame_shape=(5,)), 2),
        (config, layout, 3),
    ]
    counted = [count_flops(*other) for other in others]
    assert [flop_costs(*other) for other in others] == counted
    assert len({first, *counted}) == 4
    monkeypatch.setattr(flops, "count_flops", None)
    assert flop_costs(replace(config, epsilon_end=0.5), replace(layout, capacity=70), 2) == first
    monkeypatch.setattr(flops, "CODE", b"another way of counting")
    with pytest.raises(TypeError, match="not callable"):
        flop_costs(config, layout, 2)
