"""codecarbon and zeus read the same stand-in of NVML as we do, through their public interfaces, and say the same.

In a process of its own: both look for hardware when they are imported. Offline: codecarbon's online class would look up a location,
and it wants an ``nvidia-smi`` on PATH before it believes in NVML.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

MISSING = [name for name in ("codecarbon", "zeus") if find_spec(name) is None]
pytestmark = [
    pytest.mark.crosscheck,
    pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} not installed: make crosscheck"),
]

SCRIPT = """
import json, random, sys, time
import pynvml
from tests.runs.fake_nvml import UUID, Clock, FakeNvml, Load

def stand_in(pieces, clock):
    pynvml.nvmlLib, pynvml._nvmlGetFunctionPointer_cache = FakeNvml(clock, Load(clock.s, pieces, 60.0)), {}

clock = Clock()
stand_in([], clock)  # before the imports, which look for a GPU
from codecarbon import OfflineEmissionsTracker
from zeus.monitor import ZeusMonitor
from runs.energy import NvmlBoard

rng, found = random.Random(1), []
for _ in range(5):
    pieces = [(rng.uniform(1, 30), rng.uniform(60, 700)) for _ in range(8)]
    stand_in(pieces, clock)
    begin_s, load = clock.s, pynvml.nvmlLib.load
    board = NvmlBoard(UUID, clock=clock, threaded=False)
    zeus = ZeusMonitor(gpu_indices=[0], cpu_indices=[])
    codecarbon = OfflineEmissionsTracker(output_methods=[], country_iso_code="USA", log_level="critical", allow_multiple_runs=True)
    board.start(); zeus.begin_window("run", sync_execution=False); codecarbon.start()
    for _ in range(20):
        clock.advance(rng.uniform(0.5, 10.0))
        board.sample()
    ours = board.read()
    theirs = zeus.end_window("run", sync_execution=False).gpu_energy[0]
    time.sleep(0.1)  # it takes no last measurement within 50 ms of the one before
    codecarbon.stop()
    found.append({"truth": load.joules(begin_s, clock.s), "ours": ours.joules, "low": ours.low_j, "high": ours.high_j,
                  "zeus": theirs, "codecarbon": codecarbon.final_emissions_data.gpu_energy * 3.6e6})
    board.close()
print("FOUND", json.dumps(found))
"""


def test_codecarbon_and_zeus_agree_with_us_on_the_same_counter(tmp_path):
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\nexit 0\n")
    smi.chmod(0o755)
    clean = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=clean | {"PATH": f"{tmp_path}:{clean['PATH']}", "PYTHONPATH": os.getcwd(), "HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.rpartition("FOUND ")[2].splitlines()[0])
    assert len(found) == 5
    for reader in found:
        assert reader["low"] <= reader["truth"] <= reader["high"]
        for other in ("zeus", "codecarbon", "truth"):
            assert reader["ours"] == pytest.approx(reader[other], rel=0.005), reader
