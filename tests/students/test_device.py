"""Where a cell runs, and what it says of GPUs that it was given and cannot use."""

from __future__ import annotations

import pytest
import torch

from pipeline.config import Runtime
from pipeline.students.device import pick_device


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("SLURM_JOB_GPUS", "0,1", True),
        ("CUDA_VISIBLE_DEVICES", "3", True),
        ("CUDA_VISIBLE_DEVICES", "NoDevFiles", False),
        ("CUDA_VISIBLE_DEVICES", "", False),
    ],
)
def test_gpus_that_torch_does_not_see_are_said_once_in_every_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str, said: bool
) -> None:
    for variable in ("SLURM_JOB_GPUS", "SLURM_STEP_GPUS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for log in ("a", "b"):
        monkeypatch.setenv("TEXTDD_LOG", f"{name}-{value}-{log}")
        for _ in range(2):
            assert pick_device(Runtime()).type == "cpu"
        words = capsys.readouterr().err
        assert words.count("warning: GPUs were given") == int(said)
        assert (f"({name}={value}), but torch {torch.__version__} sees none" in words) == said
    pick_device(Runtime(device="cpu"))
    assert capsys.readouterr().err == "", "a CPU was asked for"
