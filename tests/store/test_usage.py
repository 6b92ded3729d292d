"""What a process used: compared with what the test itself burns, allocates and waits for."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from pipeline.store import usage
from pipeline.store.usage import Beat, Meter


def burn(seconds: float) -> None:
    """Uses the processor for so long, on this thread."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def test_processor_seconds_of_threads_and_children_but_not_of_waiting() -> None:
    burn(0.1)  # before: does not count
    meter = Meter()
    threads = [threading.Thread(target=burn, args=(0.3,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    own = meter.read().cpu_seconds
    assert 0.58 <= own < 0.9
    time.sleep(0.5)
    assert meter.read().cpu_seconds < own + 0.2
    code = "import time\nwhile time.process_time() < 0.5: pass"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert own + 0.45 <= meter.read().cpu_seconds < own + 1.0


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux forgets a peak")
def test_the_peak_is_that_of_this_measurement() -> None:
    block = torch.ones(75 * 2**20)  # 300 MiB
    before = Meter().read().peak_mb
    del block
    meter = Meter()
    low = meter.read().peak_mb
    assert 280 < before - low < 320
    block = torch.ones(50 * 2**20)
    del block
    assert 180 < meter.read().peak_mb - low < 220


def test_threads_machine_and_no_gpu() -> None:
    found = Meter().read()
    assert found.threads == torch.get_num_threads() == 1
    assert found.cpu
    assert found.cpu == usage.cpu_model()
    if not torch.cuda.is_initialized():
        assert (found.gpu, found.gpu_seconds, found.gpu_peak_mb, found.gpu_allocated_mb) == (None, 0, None, None)


class Card:
    """``torch.cuda`` of a process that has computed on a GPU before, and still holds 5 MiB there."""

    def __init__(self) -> None:
        self.lost, self.peak = False, 5 * 2**20

    def is_initialized(self) -> bool:
        return True

    def reset_peak_memory_stats(self) -> None:
        pass

    def get_device_name(self) -> str:
        if self.lost:
            raise RuntimeError("CUDA error: unspecified launch failure")
        return "NVIDIA H200"

    def max_memory_allocated(self) -> int:
        return self.peak

    def max_memory_reserved(self) -> int:
        return 2 * self.peak


def test_a_gpu_that_only_earlier_cells_used_and_one_that_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card()
    monkeypatch.setattr(torch, "cuda", card)
    meter = Meter()
    assert (meter.read().gpu, meter.read().gpu_seconds) == (None, 0)
    card.peak = 40 * 2**20
    time.sleep(0.05)
    found = meter.read()
    assert (found.gpu, found.gpu_peak_mb, found.gpu_allocated_mb) == ("NVIDIA H200", 80, 40)
    assert found.gpu_seconds >= 0.05
    card.lost, card.peak = True, 90 * 2**20
    again = meter.read()
    assert dataclasses.replace(again, gpu_seconds=0, cpu_seconds=0, peak_mb=0) == dataclasses.replace(
        found, gpu_seconds=0, cpu_seconds=0, peak_mb=0
    ), "the last answer is kept"


def test_nothing_is_noted_after_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "BEAT_SECONDS", 0.01)
    begun, notes = threading.Event(), []

    def note() -> None:
        begun.set()
        time.sleep(0.2)  # a slow disk
        notes.append(time.monotonic())

    beat = Beat(note)
    assert begun.wait(5)
    beat.stop()
    stopped = time.monotonic()
    assert len(notes) == 1
    assert notes[0] <= stopped, "the one under way was waited for"
    time.sleep(0.3)
    assert len(notes) == 1
