"""The Meter around a loop that is not ours: what stands in its run folder, against what the loop did by hand."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import ale_py
import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv
from gymnasium.wrappers import AtariPreprocessing

from analysis import tables
from runs import recorder, schema
from runs.anyone import RUN_VARIABLE, Meter, count_frames
from runs.config import InputError
from runs.tally import Events, Tally, counted, open_counting

gymnasium.register_envs(ale_py)
ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "nvidia_boards", list)
    monkeypatch.delenv(RUN_VARIABLE, raising=False)


def metered(out: Path, **options: Any) -> Meter:
    return Meter(out, **{"agent": "mine", "env": "CartPole-v1", **options})


def last(meter_folder: Path) -> schema.LedgerLine:
    return schema.read_ledger(meter_folder)[-1]


def play(env: Any, steps: int) -> list[tuple[float, int]]:
    """Random play, the same at every call; returns (score, steps) of each game that ended, summed here by hand."""
    env.reset(seed=0)
    env.action_space.seed(0)
    ended, score, length = [], 0.0, 0
    for _ in range(steps):
        _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        score, length = score + float(reward), length + 1
        if terminated or truncated:
            ended.append((score, length))
            score, length = 0.0, 0
            env.reset()
    return ended


def test_a_loop_is_recorded_as_it_was(tmp_path: Path) -> None:
    with metered(tmp_path, seed=3, config={"lr": 0.1}) as meter:
        ended = play(meter.wrap(gymnasium.make("CartPole-v1")), 500)
        meter.updates(7)
        meter.updates()
        folder = meter.folder
    assert folder == tmp_path / "CartPole-v1/mine/seed3"
    record, line = schema.read_run(folder), last(folder)
    assert (record.agent, record.seed, record.share, record.agent_config) == ("mine", 3, 1.0, {"lr": 0.1})
    assert (record.env.kind, record.env.protocol, record.env.frame_rate_hz, record.env.reward_threshold) == (
        "control",
        "control",
        50,
        475,
    )
    assert line.status == "finished"
    assert line.lineage == line.consumed == schema.Counts(500, 500, 8, len(ended))
    (run,), left_out = tables.read_runs([tmp_path])
    assert left_out == []
    assert [(row["r"], row["l"], row["frames"]) for row in run.episodes.to_dicts()] == [(s, n, n) for s, n in ended]
    times = run.episodes["t"].to_list()
    assert times == sorted(times)
    assert 0 <= times[0] <= times[-1] <= line.wall_s
    assert sorted(path.name for path in folder.iterdir()) == ["evals.jsonl", "ledger.jsonl", "monitor.csv", "run.json"]


def test_what_nobody_counts_is_not_known(tmp_path: Path) -> None:
    with metered(tmp_path) as meter:
        pass
    line = last(tmp_path / "CartPole-v1/mine/seed0")
    assert line.lineage == schema.Counts(None, None, None, None)
    assert (line.flops, line.flops.total) == (schema.Flops(None, None, None), None)
    assert (line.eval_frames, line.boot_frames, line.peak_cuda_bytes, line.gpu_busy_s, line.active_s) == (
        None,
        None,
        None,
        None,
        {},
    )
    with pytest.raises(InputError, match="inside `with`"):
        _ = meter.folder


def test_flops_are_the_users_numbers_times_the_counters(tmp_path: Path) -> None:
    with metered(tmp_path, flops_per_step=10, flops_per_update=1000) as meter:
        meter.steps(5)
        meter.updates(3)
        meter.evaluation([1.0, 2.0], lengths=[4, 6])
    line = last(tmp_path / "CartPole-v1/mine/seed0")
    assert line.flops == schema.Flops(50, 3000, 100)
    with metered(tmp_path, flops_per_step=10, flops_per_update=1000) as meter:
        meter.steps(5)
        meter.updates(3)
        meter.evaluation([1.0])  # how long its game was nobody knows
    assert last(tmp_path / "CartPole-v1/mine/seed0-2").flops == schema.Flops(50, 3000, None)
    with metered(tmp_path, flops_per_update=1000) as meter:
        meter.updates(3)
    line = last(tmp_path / "CartPole-v1/mine/seed0-3")
    assert (line.flops, line.flops.total) == (schema.Flops(None, 3000, None), None)


def test_reported_steps_stand_above_those_that_a_wrapper_sees(tmp_path: Path) -> None:
    with metered(tmp_path) as meter:
        play(meter.wrap(gymnasium.make("CartPole-v1")), 12)
        meter.steps(3)
    assert last(tmp_path / "CartPole-v1/mine/seed0").lineage.steps == 3
    assert last(tmp_path / "CartPole-v1/mine/seed0").lineage.frames == 12


def test_evaluations_stand_at_their_point_of_training_and_their_play_apart(tmp_path: Path) -> None:
    with metered(tmp_path) as meter:
        env, eval_env = meter.wrap(gymnasium.make("CartPole-v1")), meter.wrap(gymnasium.make("CartPole-v1"), evaluation=True)
        play(env, 100)
        played = play(eval_env, 60)
        meter.evaluation([score for score, _ in played], [length for _, length in played], epsilon=0.05)
        play(env, 50)
        folder = meter.folder
    (record,) = schema.read_evals(folder)
    line = last(folder)
    assert (record.frames, record.steps, record.updates, record.flops, record.epsilon) == (100, 100, None, None, 0.05)
    assert record.returns == [score for score, _ in played]
    assert record.lengths == [length for _, length in played]
    assert (line.lineage.frames, line.eval_frames, line.lineage.episodes) == (150, 60, len(tables._monitor(folder)))
    assert 0 < record.wall_s < line.wall_s
    assert 0 < record.joules < line.joules


def test_heartbeats_come_from_a_thread_while_the_loop_is_busy(tmp_path: Path) -> None:
    with metered(tmp_path, heartbeat_s=0.1) as meter:
        meter.updates(5)
        end = time.monotonic() + 2.0
        while time.monotonic() < end:  # never calls the meter
            pass
        lines = schema.read_ledger(meter.folder)
    assert len(lines) >= 3
    assert [line.status for line in lines] == ["running"] * len(lines)
    assert lines[-1].lineage.updates == 5
    walls = [line.wall_s for line in lines]
    assert walls == sorted(walls)
    assert lines[-1].cpu_s > 0.2, "the loop burns a core"
    assert not any(thread.name == "playmeter-heartbeat" for thread in threading.enumerate())


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("boom"), "failed"),
        (KeyboardInterrupt(), "interrupted"),
        (SystemExit(0), "finished"),
        (SystemExit(), "finished"),
        (SystemExit(3), "failed"),
        (SystemExit("a message"), "failed"),
    ],
)
def test_an_exception_is_raised_again_and_gives_the_status(error: BaseException, status: str, tmp_path: Path) -> None:
    with pytest.raises(type(error)) as caught, metered(tmp_path) as meter:  # noqa: PT012
        meter.updates(4)
        raise error
    assert caught.value is error
    assert last(tmp_path / "CartPole-v1/mine/seed0").status == status
    assert last(tmp_path / "CartPole-v1/mine/seed0").lineage.updates == 4


LOOP = """
import sys, time
from playmeter import Meter
with Meter(sys.argv[1], agent="mine", env="CartPole-v1", heartbeat_s=0.1) as meter:
    for n in range(10**9):
        meter.updates()
        print(n, flush=True)
        time.sleep(0.01)
"""


def looping(out: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", LOOP, str(out)], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    while process.stdout.readline() != "60\n":
        pass
    return process


def test_sigterm_ends_the_script_as_it_would_have_and_the_folder_says_interrupted(tmp_path: Path) -> None:
    process = looping(tmp_path)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == -signal.SIGTERM
    line = last(tmp_path / "CartPole-v1/mine/seed0")
    assert line.status == "interrupted"
    assert (line.lineage.updates or 0) >= 60


def test_a_killed_script_leaves_the_truth_up_to_its_last_heartbeat(tmp_path: Path) -> None:
    process = looping(tmp_path)
    time.sleep(0.3)
    process.kill()
    said = process.communicate(timeout=20)[0].splitlines()
    (run,), left_out = tables.read_runs([tmp_path])
    assert left_out == []
    assert run.total.status == "running", "nobody could say how it ended"
    assert 0 < (run.total.lineage.updates or 0) <= int(said[-1]) + 2


def test_a_users_own_sigterm_handler_is_left_alone(tmp_path: Path) -> None:
    def own(*_: Any) -> None:
        pass

    before = signal.signal(signal.SIGTERM, own)
    try:
        with metered(tmp_path):
            assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)
    with metered(tmp_path):
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is before


def counted_cartpole(meter: Meter) -> gymnasium.Env:
    return meter.wrap(gymnasium.make("CartPole-v1"))


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_environments_in_worker_processes_count_into_the_run(context: str, tmp_path: Path) -> None:
    with metered(tmp_path) as meter:
        env = AsyncVectorEnv([partial(counted_cartpole, meter)] * 2, context=context)
        env.reset(seed=0)
        over, truth, ends = np.zeros(2, bool), 0, 0
        for _ in range(60):
            *_, terminated, truncated, _ = env.step(env.action_space.sample())
            truth += int((~over).sum())
            over = terminated | truncated
            ends += int(over.sum())
        env.close()
    line = last(tmp_path / "CartPole-v1/mine/seed0")
    assert line.lineage == schema.Counts(truth, truth, None, ends)
    assert len(tables._monitor(tmp_path / "CartPole-v1/mine/seed0")) == ends


def test_frames_of_atari_reach_the_ledger(tmp_path: Path) -> None:
    with metered(tmp_path, env="ALE/Pong-v5") as meter:
        env = meter.wrap(AtariPreprocessing(gymnasium.make("ALE/Pong-v5", frameskip=1, repeat_action_probability=0.0)))
        env.reset(seed=1)
        for _ in range(20):
            *_, info = env.step(0)
    folder = tmp_path / "ALE/Pong-v5/mine/seed0"
    line, record = last(folder), schema.read_run(folder)
    assert (line.lineage.frames, line.lineage.steps) == (info["frame_number"], 20)
    assert info["frame_number"] > 80, "its no-op start is among them"
    assert (record.env.protocol, record.env.frame_rate_hz) == ("own", 60)


@pytest.mark.parametrize(
    ("env", "kind", "rate", "protocol"),
    [
        ("PongNoFrameskip-v4", "atari", 60, "own"),
        ("MinAtar/Breakout-v1", "minatar", None, "minatar"),
        ("Hopper-v5", "other", None, "own"),
    ],
)
def test_what_is_known_of_an_environment(env: str, kind: str, rate: float | None, protocol: str) -> None:
    record = recorder.env_record(env, None, None)
    assert (record.id, record.kind, record.frame_rate_hz, record.protocol) == (env, kind, rate, protocol)
    assert recorder.env_record("Hopper-v5", None, 125.0).frame_rate_hz == 125.0
    assert recorder.env_record("ALE/Pong-v5", "sticky", None).protocol == "sticky"


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no agent": ({"agent": " "}, "agent must be a name"),
    "a path": ({"env": "/etc/x"}, "env must be a name"),
    "a way out": ({"agent": "../../x"}, "agent must be a name"),
    "a negative seed": ({"seed": -1}, "seed must be"),
    "a slow heart": ({"heartbeat_s": 6.0}, "heartbeat_s must lie between 0 and 5 s"),
    "no heart": ({"heartbeat_s": 0.0}, "heartbeat_s"),
    "a rate of nonsense": ({"frame_rate_hz": float("nan")}, "frame_rate_hz must be a positive number"),
    "FLOPs below 0": ({"flops_per_update": -5}, "flops_per_update"),
    "settings that are no data": ({"config": {"net": object()}}, "config must be plain data"),
    "nonsense watts": ({"cpu_watts": "lots"}, "--cpu-watts lots: give watts"),
    "no wall meter": ({"wall_meter": "none.csv"}, "--wall-meter none.csv cannot be read"),
    "more than the whole GPU": ({"gpu_share": 2.0}, "--gpu-share must be above 0 and at most 1"),
    "no such device": ({"device": "tpu"}, "'tpu' cannot be metered"),
}


@pytest.mark.parametrize(("options", "says"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line_and_nothing_is_written(options: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says) as caught, metered(tmp_path, **options):
        pass
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot be used"), metered(tmp_path / "file"):
        pass


def test_nonsense_counts_are_refused_and_change_nothing(tmp_path: Path) -> None:
    with metered(tmp_path) as meter:
        meter.steps(5)
        for nonsense in (lambda: meter.steps(-1), lambda: meter.evaluation([]), lambda: meter.evaluation([float("nan")])):
            with pytest.raises(InputError):
                nonsense()
    assert last(tmp_path / "CartPole-v1/mine/seed0").lineage.steps == 5
    assert schema.read_evals(tmp_path / "CartPole-v1/mine/seed0") == []


def test_several_gpus_need_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = {"type": "cuda", "index": 0, "name": "a board", "uuid": None}
    monkeypatch.setattr(recorder, "nvidia_boards", lambda: [board, board])
    with pytest.raises(InputError, match="2 GPUs: say which"), metered(tmp_path):
        pass
    with metered(tmp_path, device="cpu"):
        pass


def test_a_gpu_is_allocated_for_the_whole_run_and_without_its_counter_its_energy_is_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "nvidia_boards", lambda: [{"type": "cuda", "index": 0, "name": "a board", "uuid": None}])
    with metered(tmp_path):
        pass
    line = last(tmp_path / "CartPole-v1/mine/seed0")
    assert line.gpu_allocated_s == line.wall_s > 0
    assert line.energy["gpu_board"].method == "absent"
    (run,), _ = tables.read_runs([tmp_path])
    assert tables.absent_energy(run) == ["gpu_board"]


def test_stated_watts_a_share_of_the_board_and_a_wall_meter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(recorder, "nvidia_boards", lambda: [{"type": "cuda", "index": 0, "name": "a board", "uuid": None}])
    csv = tmp_path / "meter.csv"
    csv.write_text("\n".join(["time,watts", *(f"{time.time() + k},300" for k in range(-60, 600))]))
    with metered(tmp_path / "out", cpu_watts="50:60", gpu_share=0.25, wall_meter=csv) as meter:
        time.sleep(0.3)
        meter.evaluation([1.0])
        folder = meter.folder
    line = last(folder)
    assert line.gpu_allocated_s == 0.25 * line.wall_s
    cpu = line.energy["cpu_package"]
    assert (cpu.low_j, cpu.high_j) == (pytest.approx(50 * line.wall_s, rel=0.05), pytest.approx(60 * line.wall_s, rel=0.05))
    assert line.joules == line.energy["wall_meter"].joules == pytest.approx(300 * line.wall_s, rel=0.1)
    (evaluation,) = schema.read_evals(folder)
    assert 0 < evaluation.joules <= cpu.high_j, "the meter's file is read when the run is over"
    (note,) = [note for note in line.notes if "UUID" in note]
    assert [record.message for record in caplog.records].count(f"playmeter: {note}") == 1, (
        "said once, and not by each heartbeat"
    )
    assert schema.read_run(folder).run_config["wall_meter"] == "meter.csv"


def test_tensorboard_is_written_where_it_is_asked_for(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with metered(tmp_path, tensorboard=True, heartbeat_s=0.1) as meter:
        env = meter.wrap(gymnasium.make("CartPole-v1"))
        play(env, 100)
        time.sleep(0.25)
        play(env, 100)
        meter.evaluation([7.0])
        folder = meter.folder
    events = EventAccumulator(str(folder)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("2 over frames/evaluation score")] == [(200, 7.0)]
    assert [e.step for e in events.Scalars("3 over human play, s/evaluation score")] == [4]
    assert events.Scalars("1 over steps/training score")
    assert events.Scalars("meter/energy, Wh")[-1].value == pytest.approx(last(folder).joules / 3600, rel=1e-5)
    assert events.Scalars("meter/power, W")
    assert sum(p.value > 0 for p in events.Scalars("speed/frames per s")) > 0


def test_several_counters_are_summed_and_a_torn_event_waits(tmp_path: Path) -> None:
    open_counting(tmp_path)
    one, two = Tally(tmp_path), Tally(tmp_path)
    one.add("frames", 4)
    assert counted(tmp_path).updates is None
    two.add("frames", 6)
    two.add("updates", 0)
    assert (counted(tmp_path).frames, counted(tmp_path).updates) == (10, 0)
    one.add("untold_frames", 1)
    assert counted(tmp_path).frames is None, "a sum without an unknown part would pass as the whole"
    events = Events(tmp_path)
    one.event("episode", score=1.0)
    two._events.write(b'{"kind": "epi')
    assert [event["score"] for event in events.new()] == [1.0]
    two._events.write(b'sode", "ns": 0, "score": 2.0}\n')
    assert [event["score"] for event in events.new()] == [2.0]
    assert list(events.new()) == []


def test_a_meter_in_a_worker_is_a_counter_only(tmp_path: Path) -> None:
    with metered(tmp_path) as meter:
        worker = pickle.loads(pickle.dumps(meter))
        worker.updates(3)
        meter.updates(4)
    assert last(tmp_path / "CartPole-v1/mine/seed0").lineage.updates == 7


def test_a_run_that_has_ended_is_not_counted_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with metered(tmp_path / "first") as meter:
        folder = meter.folder
    monkeypatch.setenv(RUN_VARIABLE, str(folder))  # left over in somebody's shell
    env = count_frames(gymnasium.make("CartPole-v1"))
    play(env, 5)
    assert env.frames == 5
    with metered(tmp_path / "second") as meter:
        meter.updates(1)
    assert last(folder).lineage.updates is None
    assert last(tmp_path / "second/CartPole-v1/mine/seed0").lineage.updates == 1


def test_an_environment_goes_on_after_its_meter(tmp_path: Path) -> None:
    with metered(tmp_path) as meter:
        env = meter.wrap(gymnasium.make("CartPole-v1"))
        play(env, 5)
    play(env, 50)
    assert last(tmp_path / "CartPole-v1/mine/seed0").lineage.frames == 5


def test_a_full_disk_warns_and_does_not_end_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with pytest.warns(RuntimeWarning, match="No space left"), metered(tmp_path, heartbeat_s=0.05) as meter:  # noqa: PT031
        assert meter._recorder is not None
        monkeypatch.setattr(meter._recorder._folder, "ledger", full)
        time.sleep(0.2)
        meter.updates()


def test_the_record_holds_no_path(tmp_path: Path) -> None:
    with metered(tmp_path) as meter:
        text = (meter.folder / schema.RUN_FILE).read_text()
    assert str(tmp_path) not in text
    assert json.loads(text)["run_config"]["metered"] == "Meter"
    assert os.sep not in json.loads(text)["command"][0]
