"""The run folder's records: what is written is read back, and damage is never read as a number."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runs import schema
from runs.schema import Counts, Energy, EvalRecord, Flops, LedgerLine, SchemaError

LINE = LedgerLine(
    status="running",
    time_utc="2026-01-01T00:00:00+00:00",
    lineage=Counts(400, 100, 25, 3),
    consumed=Counts(480, 120, 30, 4),
    eval_frames=1000,
    boot_frames=72,
    wall_s=1.25,
    active_s={"env": 0.5, "learn": 0.7},
    cpu_s=1.1,
    gpu_allocated_s=0.0,
    gpu_busy_s=None,
    energy={"cpu_package": Energy(5.0, 2.0, 20.0, "estimated")},
    flops=Flops(1, 20, 300),
    peak_rss_bytes=10**9,
    peak_cuda_bytes=None,
)


def ledger(folder: Path, *lines: str) -> Path:
    (folder / schema.LEDGER_FILE).write_text("".join(lines), encoding="utf-8")
    return folder


def later(frames: int) -> LedgerLine:
    return replace(LINE, lineage=replace(LINE.lineage, frames=frames))


def test_a_ledger_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    lines = [LINE, later(800), replace(later(1200), status="finished", params_sha256="ab")]
    assert schema.read_ledger(ledger(tmp_path, *map(schema.seal, lines))) == lines


def test_a_torn_last_line_costs_one_heartbeat_at_any_byte(tmp_path: Path) -> None:
    last = schema.seal(later(800))
    for cut in range(len(last) - 1):  # without its newline alone the line is whole
        assert schema.read_ledger(ledger(tmp_path, schema.seal(LINE), last[:cut])) == [LINE], cut


def test_a_last_line_of_zeros_is_left_out(tmp_path: Path) -> None:
    """What a power cut can leave: the file has its length, the data never came."""
    assert schema.read_ledger(ledger(tmp_path, schema.seal(LINE), "\0" * 200, "\n")) == [LINE]


def test_damage_before_the_last_line_is_an_error_that_names_the_line(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="line 1 is damaged"):
        schema.read_ledger(ledger(tmp_path, schema.seal(LINE)[:-20] + "\n", schema.seal(later(800))))


@given(at=st.integers(0, 10**6), bit=st.integers(0, 6))
def test_a_flipped_bit_is_never_read_as_a_number(at: int, bit: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("run")
    content = bytearray((schema.seal(LINE) + schema.seal(later(800))).encode())
    content[at % len(content)] ^= 1 << bit
    (folder / schema.LEDGER_FILE).write_bytes(content)
    try:
        read = schema.read_ledger(folder)
    except SchemaError:
        return
    assert read in ([LINE, later(800)], [LINE], [later(800)], [])


def test_json_that_is_no_number_is_refused_at_writing() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        schema.seal(replace(LINE, wall_s=float("nan")))


def test_a_ledger_of_schema_1_is_read_and_what_it_did_not_know_is_not_known(tmp_path: Path) -> None:
    body = {**asdict(LINE), "schema": 1}
    del body["notes"], body["peak_cuda_allocated_bytes"]
    del body["energy"]["cpu_package"]["samples"]
    (line,) = schema.read_ledger(ledger(tmp_path, json.dumps({**body, "sha": schema._checksum(body)}) + "\n"))
    assert line == replace(LINE, schema=1)
    assert (line.notes, line.peak_cuda_allocated_bytes, line.energy["cpu_package"].samples) == ([], None, None)


def test_a_newer_schema_and_unknown_fields_are_named(tmp_path: Path) -> None:
    def sealed(**changes: object) -> str:
        body = {**asdict(LINE), **changes}
        return json.dumps({**body, "sha": schema._checksum(body)}) + "\n"

    with pytest.raises(SchemaError, match="has schema 99, this playmeter reads up to 3"):
        schema.read_ledger(ledger(tmp_path, sealed(schema=99)))
    with pytest.raises(SchemaError, match="unknown fields: colour"):
        schema.read_ledger(ledger(tmp_path, sealed(colour="red")))


def test_a_foreign_run_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / schema.RUN_FILE).write_text('{"name": "somebody else\'s"}')
    with pytest.raises(SchemaError, match="not a playmeter file"):
        schema.read_run(tmp_path)
    (tmp_path / schema.RUN_FILE).write_text('{"schema": 1}')
    with pytest.raises(SchemaError, match="lacks"):
        schema.read_run(tmp_path)


def test_evaluations_are_read_back_and_absent_ones_are_none(tmp_path: Path) -> None:
    assert schema.read_evals(tmp_path) == []
    record = EvalRecord(100, 400, 25, 1.0, 5.0, 2.0, 20.0, 321, 0.05, [1.0, 2.0], [10, 20])
    (tmp_path / schema.EVALS_FILE).write_text(schema.seal(record))
    assert schema.read_evals(tmp_path) == [record]
    assert record.mean_return == 1.5


def evals(folder: Path, *lines: str) -> Path:
    (folder / schema.EVALS_FILE).write_text("".join(lines), encoding="utf-8")
    return folder


def in_columns(records: list[EvalRecord]) -> dict[str, list[object]]:
    return {name: [getattr(record, name) for record in records] for name in EvalRecord.__dataclass_fields__}


numbers = st.floats(allow_nan=False, allow_infinity=False)
counts = st.none() | st.integers(0, 10**18)
eval_records = st.builds(
    EvalRecord, steps=counts, frames=counts, updates=counts, wall_s=st.none() | numbers, joules=numbers, low_j=numbers, high_j=numbers,
    flops=counts, epsilon=st.none() | numbers, returns=st.lists(numbers, max_size=4), lengths=st.lists(st.integers(0, 9), max_size=4),
    kind=st.sampled_from(["evaluation", "training", 'odd ,"kind":[1],"']), games=counts,
)  # fmt: skip


@given(st.lists(eval_records, max_size=6))
def test_evaluations_by_columns_are_those_by_lines(tmp_path_factory: pytest.TempPathFactory, records: list[EvalRecord]) -> None:
    folder = evals(tmp_path_factory.mktemp("run"), *map(schema.seal, records))
    assert schema.read_eval_columns(folder) == in_columns(records) == in_columns(schema.read_evals(folder))


def test_columns_of_lines_that_are_not_alike_are_those_of_the_lines(tmp_path: Path) -> None:
    """Of two writers: other fields, another order of the same ones, an older schema; and a line that was cut off."""
    first = EvalRecord(1, 4, 1, 0.5, 1.0, 0.5, 2.0, 7, 0.1, [1.0], [3])
    body = {name: value for name, value in asdict(first).items() if name != "games"} | {"steps": 2, "schema": 1}
    turned = dict(reversed(asdict(replace(first, steps=3)).items()))
    older, other = (json.dumps(b | {"sha": schema._checksum(b)}, separators=(",", ":")) + "\n" for b in (body, turned))
    folder = evals(tmp_path, schema.seal(first), older, other, schema.seal(replace(first, steps=4))[:-9])
    read = schema.read_eval_columns(folder)
    assert (read["steps"], read["games"], read["schema"]) == (
        [1, 2, 3],
        [None] * 3,
        [schema.SCHEMA_VERSION, 1, schema.SCHEMA_VERSION],
    )
    assert read == in_columns(schema.read_evals(folder))


@pytest.mark.parametrize(
    ("old", "new"), [('"steps":5', '"steps":6'), ("[3.0]", "[3.5]"), ('"kind"', '"kond"'), ("evaluation", "evaluatiom")]
)
def test_a_changed_evaluation_is_damage_by_columns_too(tmp_path: Path, old: str, new: str) -> None:
    lines = [schema.seal(EvalRecord(steps, 4, 1, 0.5, 1.0, 0.5, 2.0, 7, 0.1, [float(steps - 2)])) for steps in (4, 5, 6)]
    assert old in lines[1]
    folder = evals(tmp_path, lines[0], lines[1].replace(old, new), lines[2])
    with pytest.raises(SchemaError, match="line 2 is damaged: its checksum does not match"):
        schema.read_eval_columns(folder)


def test_a_sealed_line_of_a_newer_playmeter_is_refused_by_columns_too(tmp_path: Path) -> None:
    record = EvalRecord(1, 4, 1, 0.5, 1.0, 0.5, 2.0, 7, 0.1, [1.0])
    folder = evals(tmp_path, schema.seal(replace(record, schema=99)))
    with pytest.raises(SchemaError, match="schema 99"):
        schema.read_eval_columns(folder)
