"""The command line in a process of its own, one command after the other.

``huggingface_hub`` reads its environment once, at import; a session is one such process, so that several commands
share the seconds that importing torch takes. Run as a script it is the process itself.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What a command did."""

    status: int
    out: str
    err: str


class Session:
    """Runs ``python -m MODULE ARGUMENTS`` again and again in one process with this environment."""

    def __init__(self, **environment: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={name: value for name, value in os.environ.items() if name != "HF_TOKEN"}
            | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
            | environment,
        )

    def __call__(self, module: str, *arguments: object, **environment: str) -> Answer:
        """Runs one command; ``environment`` is set for it alone."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        command = {"module": module, "arguments": [str(argument) for argument in arguments], "env": environment}
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return Answer(**json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


def _obey(command: dict[str, Any]) -> dict[str, Any]:
    import runpy

    out, err = io.StringIO(), io.StringIO()
    sys.argv = ["pipeline", *command["arguments"]]
    os.environ.update(command["env"])
    status = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_module(command["module"], run_name="__main__", alter_sys=False)
        except SystemExit as end:
            status = int(end.code or 0)
    for name in command["env"]:
        del os.environ[name]
    return {"status": status, "out": out.getvalue(), "err": err.getvalue()}


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    sys.stdout = sys.stderr
    for line in sys.stdin:
        print(json.dumps(_obey(json.loads(line))), file=answers, flush=True)
