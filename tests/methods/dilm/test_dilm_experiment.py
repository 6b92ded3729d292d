"""A grid with language models, from its YAML to tables, cards, status and predictions."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest
import yaml

from pipeline import work
from pipeline.config import LM, DiLM, Distill, Evaluate, FineTune, Generated, load
from pipeline.data.prepared import Prepared
from pipeline.distilled import load as load_set
from pipeline.launch.estimate import class_of
from pipeline.probe.language import language_pieces
from pipeline.report.pairs import check_choices
from pipeline.report.words.rows import row_of
from pipeline.store import Store
from tests.forked import completed
from tests.methods.dilm.conftest import prepared
from tests.methods.dilm.test_dilm_cells import cells, made

Chain = Callable[..., Distill]
ROOT = Path(__file__).resolve().parents[3]


def as_yaml(config: Distill, path: Path) -> Path:
    """An experiment with sets by both generators of a chain, beside real sentences."""
    plain = {"exclude_unset": True, "mode": "json"}
    assert config.parent is not None
    lm = config.parent.parent
    assert lm is not None
    first = {
        "method": lm.method.model_dump(**plain),
        "source": {"model": lm.source.model.model_dump(**plain)},
        "seed": 3,
    }
    matched = {"method": config.parent.method.model_dump(**plain), "parent": first, "seed": 3}
    whole = {
        "base": {
            "prepare": config.source.model_dump(**plain),
            "distill": {"runtime": {"threads": 1}, "method": config.method.model_dump(**plain)},
            "evaluate": {
                "runtime": {"threads": 1},
                "protocol": {"name": "finetune", "steps": 3},
                "initialisations": 2,
                "splits": ["test"],
            },
        },
        "grids": [
            {"distill.method": [{"name": "random", "shots": 2}], "seeds": 2},
            {"distill.parent": [first, matched], "seeds": 2},
            {"distill.method.selection": ["none"], "distill.parent": [matched]},
            {"distill.method": [{"name": "rank", "shots": 2}], "distill.parent": [first]},
        ],
        "report": {"paper": False},
    }
    path.write_text(yaml.safe_dump(whole))
    return path


def test_from_yaml_to_table_and_card(chain: Chain, tmp_path: Path) -> None:
    path, places = as_yaml(chain(), tmp_path / "dilm.yaml"), ["--root", tmp_path / "root"]
    done = completed("pipeline", "run", path, *places, "--out", tmp_path / "results")
    assert done.returncode == 0, done.stderr
    for row in ("random real", "rank", "LM", "DiLM", "DiLM (no selection)"):
        assert f"| {row} |" in done.stdout
    folders = sorted(found.name.rpartition("-")[0] for found in (tmp_path / "root" / "distill").iterdir())
    assert sum(".lm.6step." in name for name in folders) == 1  # one generator, many sets
    assert sum(".dilm.5step." in name for name in folders) == 1
    assert sum(".generated-k_centres." in name for name in folders) == 4
    frame = pd.read_csv(tmp_path / "results" / "dilm.csv").query("metric == 'accuracy' and split == 'test'")
    by_row = frame.set_index("row")
    assert by_row.loc["DiLM", "n_seed"] == 2
    ledger = pd.read_csv(tmp_path / "results" / "dilm.ledger.csv")
    assert (ledger[ledger["cell"].str.contains("generated")]["flops"] > 0).all()
    sets = [line.split(": ")[1] for line in done.stdout.splitlines() if line.startswith("distilled set: ")]
    assert len(sets) == 5
    (matched,) = [found for found in sets if ".generated-none." in found]
    card = completed("pipeline", "card", matched, *places)
    assert card.returncode == 0, card.stderr
    text = Path(matched).with_suffix(".md").read_text() if Path(matched).with_suffix(".md").exists() else card.stdout
    assert "texts that a language model wrote" in text
    assert "5 steps of gradient matching" in text
    assert "samples that are a whole row of test" in text
    status = completed("pipeline", "status", path, *places)
    assert status.returncode == 0, status.stderr


def test_what_is_measured_for_an_estimate(chain: Chain, store: Store, tmp_path: Path) -> None:
    """Before any generator is trained: every piece of a slice runs, and has the kind of work that the cell has."""
    config = chain()
    for one in cells(config):
        prepared(one.source, store)
    rank = config.model_dump(mode="json") | {"method": {"name": "rank", "shots": 2}}
    for one in (*cells(config), Distill.model_validate(rank)):
        folder = store.cell(one.source).folder
        found = language_pieces(one, Prepared(folder), tmp_path / "distilled.h5")
        for _, once, flops in found:
            once()
            assert flops > 0
        needed = {kind for kind, amount in asdict(work.of_distill(one, folder)).items() if amount}
        assert needed <= {kind for kind, _, _ in found}
    assert len(load_set(tmp_path / "distilled.h5")) == 4
    evaluate = Evaluate.model_validate({"source": config, "protocol": {"name": "finetune"}})
    known = class_of(evaluate)
    assert isinstance(known, Evaluate)
    assert known.source.method.name == "random"
    assert known.source.parent is None


def test_the_work_of_a_language_model_is_six_flops_per_weight_and_token(chain: Chain, store: Store) -> None:
    config = chain({"steps": 7, "batch_size": 5}, matched=False).parent
    assert config is not None
    made(config, store)
    folder = store.cell(config.source).folder
    facts = json.loads((folder / "manifest.json").read_text())
    rows = Prepared(folder).split("train").rows
    read, per_token = 1 + sum(map(len, rows["input_ids"])) / len(rows), 6 * facts["parameters"] * 7 * 5
    assert work.of_distill(config, folder).training == pytest.approx(read * per_token)
    prompted = chain({"steps": 7, "batch_size": 5, "begin": ["word1 word2 bad", "good"]}, matched=False).parent
    assert prompted is not None
    assert work.of_distill(prompted, folder).training == pytest.approx((read + 2) * per_token)


def test_matching_costs_more_with_every_step_and_pool(chain: Chain, store: Store) -> None:
    config = chain().parent
    assert config is not None
    for one in cells(config):
        prepared(one.source, store)
    folder = store.cell(config.source).folder
    longer = chain(dilm={"steps": 10}).parent
    assert longer is not None
    one, two = work.of_distill(config, folder), work.of_distill(longer, folder)
    assert two.outer == pytest.approx(2 * one.outer)
    assert two.scoring == pytest.approx(one.scoring * 5 / 3)  # pools: 3 in 5 steps, 5 in 10
    assert one.outer > 0


def test_rows_say_what_differs_from_the_paper(chain: Chain) -> None:
    def name(config: Distill) -> str:
        return row_of(Evaluate.model_validate({"source": config, "protocol": {"name": "finetune"}})).method

    assert name(chain()) == "DiLM"
    assert name(chain(matched=False)) == "LM"
    assert name(chain(generated={"selection": "none"}, matched=False)) == "LM (no selection)"
    assert name(chain(generated={"selection": "rank"})) == "DiLM (rank)"
    assert name(chain(dilm={"teachers": {"choose": "random", "shots": 5}})) == "DiLM (random teachers)"
    assert name(chain(dilm={"pool": {"every": 1, "size": 16, "clusters": 1}})) == "DiLM (plain mini-batches)"


def test_a_prefix_keeps_its_texts(chain: Chain, store: Store) -> None:
    whole = load_set(made(chain(), store) / "distilled.h5")
    part = whole.prefix(1)
    assert part.about["texts"] == whole.about["texts"][:2]


@pytest.mark.parametrize(("name", "generators", "sets"), [("dilm", 3 * 4, 20), ("dilm_minilm", 2 * 2, 3)])
def test_shipped_grids_train_each_generator_once(name: str, generators: int, sets: int) -> None:
    experiment = load(ROOT / "configs" / f"{name}.yaml")
    check_choices(experiment)
    sources = [cell.source for cell in experiment.cells]
    parents = {one.model_dump_json() for source in sources for one in source.chain[1:]}
    assert len(parents) == generators
    seeds: dict[str, set[int]] = defaultdict(set)
    for source in sources:
        if source.method.name == "generated":
            seeds[source.model_copy(update={"seed": 0}).model_dump_json()].add(source.seed)
    assert {len(found) for found in seeds.values()} == {sets}


def test_defaults_are_the_published_ones() -> None:
    """Table of options of the public repository; the pool is as large as what is looked at until the next one."""
    lm, dilm, made = LM(name="lm"), DiLM(name="dilm"), Generated(name="generated")
    assert (lm.steps, lm.lr, lm.warmup_ratio, lm.batch_size, lm.weight_decay) == (80_000, 1e-5, 0.1, 64, 0.01)
    assert (dilm.steps, dilm.lr, dilm.warmup_ratio, dilm.weight_decay) == (20_000, 3e-7, 0.05, 0.01)
    assert (dilm.shots, dilm.teachers.shots, dilm.teachers.sets, dilm.lm_weight) == (64, 200, 10, 0.0)
    assert (dilm.updates, dilm.student_steps, dilm.pool.every, dilm.temperature) == (10, 20, 20, 1.0)
    assert {lm.scheduler, dilm.scheduler} == {"cosine"}
    assert {lm.precision, dilm.precision, made.sampling.precision} == {"bf16"}
    assert (made.sampling.top_p, made.sampling.top_k, made.sampling.batch_size) == (0.95, None, 512)
    assert (made.over_sample, made.shots, made.selection.name) == (100, 20, "k_centres")
    assert FineTune(name="finetune").model_dump(include={"lr", "steps", "batch_size", "warmup_ratio"}) == {
        "lr": 1e-4, "steps": 200, "batch_size": 64, "warmup_ratio": 0.5,
    }  # fmt: skip
