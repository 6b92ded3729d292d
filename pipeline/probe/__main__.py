"""``python -m pipeline.probe REQUEST ANSWER``: measures what one JSON file asks for, and answers with another."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

from pipeline.config import Distill, Evaluate
from pipeline.probe import probe_distill, probe_evaluate
from pipeline.progress import quiet_libraries
from pipeline.store.atomic import read_json, write_json
from pipeline.store.usage import Meter


def main(request: str, answer: str) -> None:
    """Measures what the request asks for; what came before, the imports, is a part of every cell's beginning."""
    asked = read_json(Path(request))
    imports = time.time() - asked["time"], time.process_time()
    quiet_libraries()
    meter = Meter()
    places = Path(asked["prepared"]), Path(asked["set"])
    if asked["stage"] == "distill":
        found = probe_distill(Distill.model_validate(asked["config"]), *places, list(map(Path, asked["parts"])))
    else:
        found = probe_evaluate(Evaluate.model_validate(asked["config"]), *places, Path(asked["own"]))
    used = asdict(replace(meter.read(), cpu_seconds=0.0))
    startup = [before + own for before, own in zip(imports, found.startup, strict=True)]
    write_json(Path(answer), {"startup": startup, "rates": found.rates, "usage": used})


if __name__ == "__main__":
    main(*sys.argv[1:])
