"""The meter on a real GPU: its joules against the board's power, read apart, and against codecarbon and zeus, over the same seconds.

    python -m tests.slow.gpu_meter [--seconds 60]

Four loads: idle, one large matrix product after another, bursts (10 ms of products, 20 ms of nothing, as an agent and its emulator take turns)
and `playmeter train dqn` on Pong. Each is read in turn by our meter, by a loop of 20 readings a second of NVML's instant power
(trapezoids), by zeus and by codecarbon; the latter two where they are installed. To hold: the meter within 5 % of the power integral on the long
loads, the libraries within 0.5 % of the meter and a tenth of a second of the mean power.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import pynvml
import torch

from runs.energy import NvmlBoard
from runs.prepare import resolve_device

Readers = dict[str, float]  # joules by reader


class PowerIntegral:
    """Trapezoids over NVML's instant power, 20 times a second."""

    def __init__(self, handle: Any) -> None:
        self.handle, self.samples, self._stop = handle, [self.now(handle)], threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()

    @staticmethod
    def now(handle: Any) -> tuple[float, float]:
        (field,) = pynvml.nvmlDeviceGetFieldValues(handle, [pynvml.NVML_FI_DEV_POWER_INSTANT])
        if field.nvmlReturn != pynvml.NVML_SUCCESS:
            raise SystemExit("this board does not tell its instant power")
        return time.monotonic(), field.value.uiVal / 1e3

    def _loop(self) -> None:
        while not self._stop.wait(0.05):
            self.samples.append(self.now(self.handle))

    def joules(self) -> float:
        self._stop.set()
        self._thread.join()
        self.samples.append(self.now(self.handle))
        pairs = zip(self.samples, self.samples[1:], strict=False)
        return sum((t1 - t0) * (w0 + w1) / 2 for (t0, w0), (t1, w1) in pairs)


@contextlib.contextmanager
def read(device: torch.device, into: Readers) -> Iterator[None]:
    """Everybody reads what is drawn inside."""
    uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
    zeus = codecarbon = None
    if find_spec("zeus"):
        from zeus.monitor import ZeusMonitor

        zeus = ZeusMonitor(gpu_indices=[device.index], cpu_indices=[])
    if find_spec("codecarbon"):
        from codecarbon import OfflineEmissionsTracker

        codecarbon = OfflineEmissionsTracker(
            output_methods=[], country_iso_code="USA", log_level="critical", allow_multiple_runs=True, gpu_ids=[device.index]
        )
    board = NvmlBoard(uuid)
    if codecarbon is not None:
        codecarbon.start()
    integral = PowerIntegral(handle)
    board.start()
    if zeus is not None:
        zeus.begin_window("load", sync_execution=False)
    began = time.monotonic()
    yield
    if zeus is not None:
        into["zeus"] = zeus.end_window("load", sync_execution=False).gpu_energy[0]
    board.sample()
    ours = board.read()
    into |= {
        "seconds": time.monotonic() - began,
        "ours": ours.joules or 0.0,
        "low": ours.low_j or 0.0,
        "high": ours.high_j or 0.0,
    }
    into["integral"] = integral.joules()
    if codecarbon is not None:
        codecarbon.stop()
        into["codecarbon"] = codecarbon.final_emissions_data.gpu_energy * 3.6e6
    board.close()


def products(device: torch.device, seconds: float, burst_s: float | None = None) -> None:
    a, b = torch.randn(2, 4096, 4096, device=device, dtype=torch.bfloat16)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        burst = time.monotonic() + (burst_s or 0.05)
        while time.monotonic() < burst:
            torch.mm(a, b)
            torch.cuda.synchronize(device)
        if burst_s is not None:
            time.sleep(2 * burst_s)


def training(device: torch.device, seconds: float) -> None:
    with tempfile.TemporaryDirectory() as out:
        words = ["train", "dqn", "ALE/Pong-v5", "--budget", f"{max(10, int(seconds))}s", "--device", str(device), "--out", out]
        subprocess.run(
            [sys.executable, "-m", "playmeter", *words, "--eval-episodes", "1", "--agent.learning-starts-steps", "1000"],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="of each load")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--only", help="part of a load's name")
    asked = parser.parse_args()
    pynvml.nvmlInit()
    device, s = resolve_device(asked.device), asked.seconds
    loads: dict[str, Callable[[], None]] = {
        "idle": lambda: time.sleep(s),
        "products": lambda: products(device, s),
        "bursts": lambda: products(device, s, 0.01),
        "training": lambda: training(device, s),
    }
    print(f"{torch.cuda.get_device_name(device)}; joules, and each reader over ours")
    for name, load in loads.items():
        if asked.only and asked.only not in name:
            continue
        found: Readers = {}
        with read(device, found):
            load()
        ours = found["ours"]
        others = [f"{reader} {found[reader] / ours:.4f}" for reader in ("integral", "zeus", "codecarbon") if reader in found]
        print(
            f"{name:9} {found['seconds']:6.1f} s  {ours:9.1f} J ({found['low']:.1f} to {found['high']:.1f}), "
            f"{ours / found['seconds']:6.1f} W   {'   '.join(others)}", flush=True,
        )  # fmt: skip


if __name__ == "__main__":
    main()
