"""``rank``: real rows by the loss of a language model, against the library's own loss row by row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.config import Distill, Evaluate
from pipeline.data.prepared import Prepared
from pipeline.distilled import load
from pipeline.report.words.cells import rule
from pipeline.report.words.rows import row_of
from pipeline.store import Store
from tests.methods.dilm.test_dilm_cells import made

Chain = Callable[..., Distill]


def ranked(config: Distill, **method: object) -> Distill:
    """The same data and language model, with real rows by its loss in place of texts that it writes."""
    raw = config.model_dump(mode="json") | {"method": {"name": "rank", "shots": 3, **method}}
    return Distill.model_validate(raw)


def losses_by_the_library(folder: Path, source: Prepared) -> list[float]:
    """Mean cross-entropy of every training row after the begin token of its class."""
    model = AutoModelForCausalLM.from_pretrained(folder / "generator").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "generator")
    found = []
    for row in source.split("train").rows:
        begin = tokenizer.convert_tokens_to_ids(f"<|class {row['label']}|>")
        text = [token for token in row["input_ids"] if token != tokenizer.eos_token_id]
        ids = torch.tensor([[begin, *text, tokenizer.eos_token_id]])
        with torch.no_grad():
            found.append(float(model(input_ids=ids, labels=ids).loss))
    return found


def test_rows_with_the_lowest_loss_of_their_class(chain: Chain, store: Store) -> None:
    config = ranked(chain(matched=False))
    folder = made(config, store)
    assert config.parent is not None
    written = Prepared(store.cell(config.parent.source).folder)
    losses = losses_by_the_library(store.cell(config.parent).folder, written)
    rows = load(folder / "distilled.h5").about["chosen"]["rows"]
    labels = written.split("train").labels.tolist()
    for label in (0, 1):
        chosen = [row for row in rows if labels[row] == label]
        of_class = sorted(losses[row] for row in range(len(labels)) if labels[row] == label)
        assert len(chosen) == 3
        assert [losses[row] for row in chosen] == pytest.approx(of_class[:3], abs=1e-5)


def test_a_row_of_the_table_among_the_coresets(chain: Chain) -> None:
    config = ranked(chain(), candidates=40)
    cell = Evaluate.model_validate({"source": config, "protocol": {"name": "finetune"}})
    row = row_of(cell)
    assert (row.kind, row.method) == ("coreset", "rank")
    assert rule(cell.source) == "the loss of the language model by dilm, among 40 rows"


def test_without_a_language_model_it_says_which_to_name(chain: Chain) -> None:
    raw = ranked(chain(matched=False)).model_dump(mode="json") | {"parent": None}
    with pytest.raises(ValueError, match=r"method 'rank' needs another cell .* \(by lm or dilm\); name it: parent:"):
        Distill.model_validate(raw)
