import json
import os
from dataclasses import replace

import pytest

from analysis import summary, tables
from runs import schema
from runs.schema import ABSENT, ESTIMATED, MEASURED, Energy
from tests.analysis.run_folders import CPU, GPU, MOUNTAINCAR, write_run


def edit(folder, **changes):
    path = folder / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def energy(**methods):
    return {source: Energy(100.0, 90.0, 110.0, method) for source, method in methods.items()}


def read_one(folder):
    return tables.read_runs([folder])[0][0]


def test_runs_are_found_below_a_parent_and_each_counts_once(five_seeds):
    runs, left_out = tables.read_runs([five_seeds, five_seeds / "CartPole-v1", five_seeds / "CartPole-v1" / "dqn" / "seed3"])
    assert [run.id for run in runs] == [f"CartPole-v1/dqn/seed{seed}" for seed in range(5)]
    assert left_out == []


def test_two_result_folders_with_the_same_layout_get_different_ids(tmp_path):
    for name in ("a", "b"):
        write_run(tmp_path / name / "CartPole-v1" / "dqn" / "seed0")
    runs, _ = tables.read_runs([tmp_path])
    assert [run.id for run in runs] == ["a/CartPole-v1/dqn/seed0", "b/CartPole-v1/dqn/seed0"]


def test_runs_behind_links_are_found_once_and_a_link_that_leads_back_ends(results, tmp_path):
    for agent in ("a", "b"):
        write_run(tmp_path / "disk" / agent / "seed0", agent)
    (results / "CartPole-v1").mkdir(parents=True)
    for name in ("a", "b", "again"):
        (results / "CartPole-v1" / name).symlink_to(tmp_path / "disk" / name.replace("again", "b"))
    (tmp_path / "disk" / "a" / "back").symlink_to(results)
    runs, left_out = tables.read_runs([results])
    assert sorted(run.record.agent for run in runs) == ["a", "b"]
    assert left_out == []


def test_a_torn_last_ledger_line_costs_only_itself(results):
    folder = write_run(results / "e" / "a" / "seed0")
    ledger = folder / "ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes()[:-40])
    run = read_one(results)
    assert run.total.lineage.steps == 25_000  # the line before
    assert run.total.status == "killed", "its last whole line is of January"


def test_a_damaged_run_is_left_out_and_named_and_the_others_stay(five_seeds):
    ledger = five_seeds / "CartPole-v1" / "dqn" / "seed2" / "ledger.jsonl"
    ledger.write_text(ledger.read_text().replace('"eval_frames":8000', '"eval_frames":8001', 1))
    runs, left_out = tables.read_runs([five_seeds])
    assert [run.record.seed for run in runs] == [0, 1, 3, 4]
    assert left_out == [tables.LeftOut("CartPole-v1/dqn/seed2", "ledger.jsonl line 1 is damaged: its checksum does not match")]


@pytest.mark.parametrize("content", [None, b"", b'{"status": "runn'])
def test_a_run_without_a_ledger_line_is_left_out(five_seeds, content):
    ledger = five_seeds / "CartPole-v1" / "dqn" / "seed2" / "ledger.jsonl"
    ledger.unlink() if content is None else ledger.write_bytes(content)
    assert tables.read_runs([five_seeds])[1] == [tables.LeftOut("CartPole-v1/dqn/seed2", "has no ledger line yet")]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"schema": 99}, "schema 99"),
        ({"share": 0}, "share is 0"),
        ({"share": "all"}, "share is 'all'"),
        ({"agent_config": [1]}, "agent_config is [1], it should be a mapping"),
        ({"started_utc": 4}, "started_utc is 4, it should be text"),
        ({"git_commit": 4}, "git_commit is 4, it should be text or null"),
        ({"run_config": None}, "run_config is None, it should be a mapping"),
        ({"run_config": {"heartbeat_s": "2"}}, "heartbeat_s is '2'"),
        ({"group_seeds": 3}, "group_seeds is 3, it should be a list of whole numbers"),
        ({"group_seeds": [0, "1"]}, "group_seeds is [0, '1']"),
        ({"group_envs": [1]}, "group_envs is [1], it should be a list of texts"),
        ({"command": "playmeter train"}, "command is 'playmeter train', it should be a list of texts"),
        ({"env": 3}, "run.json"),
        ({"colour": "red"}, "unknown fields: colour"),
        ({"seed": "x"}, "seed is 'x'"),
        ({"seed": 2**63}, "seed is 9223372036854775808"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": True}, "seed is True"),
    ],
)
def test_a_run_file_that_cannot_be_trusted_is_left_out_with_its_fault(five_seeds, changes, reason):
    edit(five_seeds / "CartPole-v1" / "dqn" / "seed2", **changes)
    (entry,) = tables.read_runs([five_seeds])[1]
    assert entry.id.endswith("seed2")
    assert reason in entry.reason
    assert "\n" not in entry.reason


def test_a_file_nested_without_end_and_a_pipe_are_left_out(five_seeds):
    """The reader of the one would run out of stack, that of the other would wait for ever."""
    runs = five_seeds / "CartPole-v1" / "dqn"
    (runs / "seed0" / "run.json").write_text("[" * 100_000)
    (runs / "seed1" / "ledger.jsonl").write_text("[" * 100_000 + "\n" + "{}\n")
    for seed, name in (("seed2", "monitor.csv"), ("seed3", "evals.jsonl")):
        (runs / seed / name).unlink()
        os.mkfifo(runs / seed / name)
    kept, left_out = tables.read_runs([five_seeds])
    assert [run.record.seed for run in kept] == [4]
    assert len(left_out) == 4
    assert [("is no file" in entry.reason) for entry in left_out] == [False, False, True, True]


@pytest.mark.parametrize(
    ("name", "value"),
    [("kind", 3), ("frames_per_step", "4"), ("frames_per_step", 0), ("max_episode_steps", [1]), ("max_episode_steps", True)],
)
def test_what_an_environment_cannot_be_is_left_out(five_seeds, name, value):
    folder = five_seeds / "CartPole-v1" / "dqn" / "seed2"
    edit(folder, env=json.loads((folder / "run.json").read_text())["env"] | {name: value})
    assert f"env.{name} is {value!r}, it should be" in tables.read_runs([five_seeds])[1][0].reason


@pytest.mark.parametrize("rate", [0, -50.0, "50", True])
def test_a_frame_rate_that_is_no_rate_is_left_out(five_seeds, rate):
    folder = five_seeds / "CartPole-v1" / "dqn" / "seed2"
    edit(folder, env=json.loads((folder / "run.json").read_text())["env"] | {"frame_rate_hz": rate})
    assert "frame_rate_hz" in tables.read_runs([five_seeds])[1][0].reason


def test_nothing_to_report_is_one_line_with_the_fault(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "run.json").write_text('{"name": "of another program"}')
    for name, fault in [("nowhere", "does not exist"), ("empty", "holds no run"), ("foreign", "no schema number")]:
        with pytest.raises(tables.NoRunsError, match=fault) as error:
            tables.read_runs([tmp_path / name])
        assert "\n" not in str(error.value)


def test_ledger_totals_stand_in_the_runs_table(results):
    write_run(results / "e" / "a" / "seed0", steps=50_000, wall_s=100.0, scores=[1.0], share=0.5, group_seeds=[0, 1])
    (row,) = tables.runs_table(tables.read_runs([results])[0]).to_dicts()
    assert row["frames"] == 50_000
    assert row["consumed_frames"] == 50_400
    assert row["lost_frames"] == 400
    assert row["human_play_h"] == pytest.approx(1000 / 3600)
    assert row["process_wall_s"] == pytest.approx(50)
    assert row["flops"] == 2e12


@pytest.mark.parametrize(("wall_s", "short"), [(59.9, True), (60.0, False)])
def test_runs_below_a_minute_are_a_short_window(results, wall_s, short):
    write_run(results / "e" / "a" / "seed0", wall_s=wall_s, scores=[1.0])
    assert tables.runs_table(tables.read_runs([results])[0])["short_window"].to_list() == [short]


def test_evaluations_carry_every_currency_and_no_playtime_without_physical_time(results):
    write_run(results / "e" / "a" / "seed0", scores=[10.0, 20.0], wall_s=100.0)
    write_run(results / "m" / "a" / "seed0", env=MOUNTAINCAR, scores=[10.0, 20.0], energy=energy(cpu_package=ABSENT))
    first, _, third, _ = tables.evals_table(tables.read_runs([results])[0]).to_dicts()
    assert (first["score"], first["steps"], first["wall_s"], first["joules"]) == (10.0, 25_000, 50.0, 450.0)
    assert first["human_play_h"] == pytest.approx(500 / 3600)
    assert third["human_play_h"] is None
    assert third["joules"] is None


def test_episodes_are_read_without_the_comment_and_without_a_torn_line(results):
    folder = write_run(results / "e" / "a" / "seed0")
    with (folder / "monitor.csv").open("a") as file:
        file.write("999,2")
    episodes = tables.episodes_table(tables.read_runs([results])[0])
    assert episodes.columns == ["run", "r", "l", "t", "frames"]
    assert episodes["r"].to_list() == [float(k) for k in range(120)]


def test_a_monitor_that_is_no_table_of_numbers_is_damage(five_seeds):
    with (five_seeds / "CartPole-v1" / "dqn" / "seed2" / "monitor.csv").open("a") as file:
        file.write("not,a,number,row\n")
    (entry,) = tables.read_runs([five_seeds])[1]
    assert entry.reason.startswith("monitor.csv is damaged")


@pytest.mark.parametrize(
    ("device", "sources", "grade", "method", "absent"),
    [
        (CPU, energy(cpu_package=ESTIMATED, gpu_board=ABSENT), "D", ESTIMATED, []),
        (CPU, energy(cpu_package=MEASURED, dram=MEASURED), "B", MEASURED, []),
        (CPU, energy(cpu_package=MEASURED, host_rest=ESTIMATED), "B", ESTIMATED, []),
        (GPU, energy(gpu_board=MEASURED, cpu_package=MEASURED), "B", MEASURED, []),
        (GPU, energy(gpu_board=MEASURED, cpu_package=ESTIMATED), "C", ESTIMATED, []),
        (GPU, energy(cpu_package=MEASURED), "D", MEASURED, ["gpu_board"]),
        (GPU, energy(gpu_board=MEASURED, cpu_package=ABSENT), "D", MEASURED, ["cpu_package"]),
        (GPU, energy(gpu_board=ESTIMATED, cpu_package=MEASURED), "C", ESTIMATED, []),
        (GPU, energy(gpu_board=ESTIMATED, cpu_package=ESTIMATED, dram=ABSENT), "D", ESTIMATED, ["dram"]),
        (GPU, energy(wall_meter=MEASURED), "A", MEASURED, []),
        (GPU, energy(wall_meter=MEASURED, gpu_board=ESTIMATED, cpu_package=ESTIMATED), "A", MEASURED, []),
        (CPU, energy(wall_meter=ESTIMATED, cpu_package=ESTIMATED), "D", ESTIMATED, []),
        (CPU, energy(wall_meter=ABSENT, cpu_package=ESTIMATED), "D", ESTIMATED, ["wall_meter"]),
        (CPU, energy(cpu_package=ABSENT), None, ABSENT, ["cpu_package"]),
    ],
)
def test_the_grade_says_how_the_energy_was_found(results, device, sources, grade, method, absent):
    run = read_one(write_run(results / "e" / "a" / "seed0", device=device, energy=sources))
    assert tables.energy_grade(run) == grade
    assert tables.energy_method(run) == method
    assert tables.absent_energy(run) == absent


def test_an_absent_source_adds_nothing_and_none_at_all_is_unknown(results):
    write_run(results / "e" / "a" / "seed0", energy=energy(cpu_package=ESTIMATED, gpu_board=ABSENT))
    write_run(results / "e" / "a" / "seed1", seed=1, energy=energy(cpu_package=ABSENT))
    assert tables.runs_table(tables.read_runs([results])[0])["joules"].to_list() == [100.0, None]


def with_parts(folder, joules_by_eval):
    """What the evaluations hold while a wall meter's file is not read yet: the other sources' energy."""
    path = folder / schema.EVALS_FILE
    evals = [
        replace(e, joules=j, low_j=j / 2, high_j=j * 2) for e, j in zip(schema.read_evals(folder), joules_by_eval, strict=True)
    ]
    path.write_text("".join(map(schema.seal, evals)))


def test_a_wall_meters_total_is_shared_out_over_the_evaluations_by_time_and_by_the_other_sources(results):
    """400 J of a wall meter; the processor's 100 J are estimated, 10, 60 and 100 of them by thirds of the time."""
    total = {"cpu_package": Energy(100.0, 50.0, 200.0, ESTIMATED), "wall_meter": Energy(400.0, 390.0, 410.0, MEASURED)}
    folder = write_run(results / "a", scores=[1.0, 2.0, 3.0], wall_s=90.0, energy=total)
    with_parts(folder, [10.0, 60.0, 100.0])
    rows = tables.evals_table([read_one(folder)]).select("joules", "low_j", "high_j").rows()
    third = pytest.approx(400 * (1 / 3 + 0.1) / 2), pytest.approx(390 * 0.1), pytest.approx(410 / 3)
    two = pytest.approx(400 * (2 / 3 + 0.6) / 2), pytest.approx(390 * 0.6), pytest.approx(410 * 2 / 3)
    assert rows == [third, two, (400, 390, 410)]
    (comparison,) = summary.summarise([read_one(folder)], [])["comparisons"]
    assert any("shared out by time" in note for note in comparison["notes"])


def test_a_wall_meter_alone_is_shared_out_by_time(results):
    folder = write_run(results / "a", scores=[1.0, 2.0], energy=energy(wall_meter=MEASURED))
    with_parts(folder, [0.0, 0.0])
    assert tables.evals_table([read_one(folder)])["joules"].to_list() == [50, 100]


@pytest.mark.parametrize("method", [ABSENT, None])
def test_without_a_wall_meter_evaluations_keep_what_they_hold(results, method):
    wall = {} if method is None else energy(wall_meter=method)
    folder = write_run(results / "a", scores=[1.0, 2.0], energy=energy(cpu_package=ESTIMATED) | wall)
    with_parts(folder, [10.0, 100.0])
    run = read_one(folder)
    assert tables.evals_table([run])["joules"].to_list() == [10, 100]
    assert not any("shared out" in note for note in summary.summarise([run], [])["comparisons"][0]["notes"])
