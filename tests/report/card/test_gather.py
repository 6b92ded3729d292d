"""What a card refuses to be about."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.distilled import DistilledSet, Recipe, save
from pipeline.errors import InputError
from pipeline.report.card.gather import gather
from pipeline.store import Store


def test_sets_of_sentence_vectors_have_no_card(tmp_path: Path) -> None:
    found = DistilledSet(torch.eye(2), torch.arange(2), Recipe("vectors"), vectors=torch.zeros(2, 4))
    save(found, tmp_path / "distilled.h5")
    with pytest.raises(InputError, match="holds sentence vectors; cards are of sets that encoders are fine-tuned on"):
        gather(found, tmp_path / "distilled.h5", Store(tmp_path), [], None, None)
