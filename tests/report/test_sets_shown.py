"""Attention labels and nearest tokens of a set: from the store, from the released files, or not at all."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import softmax
from transformers import AutoModel

from pipeline import distilled
from pipeline.errors import InputError
from pipeline.report.collect import collect
from pipeline.report.figures import sets as set_figures
from pipeline.report.shown_sets import Shown, Words, shown_sets
from pipeline.store import Store
from tests.conftest import carried_out

GRID = [{"distill.method": [{"labels": "unrestricted", "attention_labels": kind} for kind in ("none", "cls")]}]


@pytest.fixture
def run(experiment: Callable[..., Path], tmp_path: Path):
    """Collected results and the store of an experiment that was really run."""
    found, store = carried_out(experiment(grids=GRID), tmp_path / "ck")
    return collect(found, store), store


def test_the_set_of_a_row(run, tmp_path: Path, panels, encoder_folder) -> None:
    found, store = run
    (shown,) = shown_sets(found, store, tmp_path / "released", "SL + AL")
    assert shown.found.attention_labels is not None
    heat = set_figures.heat_map(shown, 1)
    assert heat.shape == (2 * 4, 8), "2 layers of 4 heads, 8 positions"
    expected = softmax(shown.found.attention_labels[1, 1, 2, 0].double().numpy())
    np.testing.assert_allclose(heat[1 * 4 + 2], expected)
    np.testing.assert_allclose(heat.sum(1), 1)
    assert shown.words is not None
    assert shown.found.inputs_embeds is not None
    matrix = AutoModel.from_pretrained(encoder_folder("bert")).get_input_embeddings().weight.detach()
    similar = torch.cosine_similarity(shown.found.inputs_embeds[0, 3], matrix, dim=1)
    assert shown.words.similarity[0, 3].item() == pytest.approx(similar.max().item(), abs=1e-5)
    names = (encoder_folder("bert") / "vocab.txt").read_text().split()
    assert shown.words.pieces[0][3] == names[int(similar.argmax())]
    png, pdf = set_figures.attention([shown], "title", tmp_path / "f" / "demo") or ()
    assert png.is_file()
    assert pdf.is_file()
    first = panels[0]
    np.testing.assert_allclose(first.images[0].get_array(), set_figures.heat_map(shown, 0))
    assert first.get_ylabel() == "layer (4 heads each)"
    assert [label.get_text() for label in first.get_xticklabels()] == shown.words.pieces[0]
    assert set_figures.tokens([shown], "title", tmp_path / "f" / "demo") is not None
    assert [text.get_text() for text in panels[0].texts] == shown.words.pieces[0]
    assert panels[0].get_title(loc="left").startswith("keywords, SL + AL: sample 0, class 0, label [")


def test_rows_that_have_none(run, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no row is called 'XL'; allowed: SL; SL \+ AL"):
        shown_sets(*run, tmp_path, "XL")
    shown = shown_sets(*run, tmp_path / "released", "SL")
    assert len(shown) == 1
    assert set_figures.attention(shown, "title", tmp_path / "demo") is None
    assert not (tmp_path / "demo.png").exists()


def test_released_files_stand_in_for_the_store(run, tmp_path: Path) -> None:
    found, store = run
    released = tmp_path / "released"
    released.mkdir()
    for number, file in enumerate(sorted(store.root.glob("distill/*/distilled.h5"))):
        shutil.copy(file, released / f"{number}.h5")
    elsewhere = Store(tmp_path / "elsewhere")
    (shown,) = shown_sets(found, elsewhere, released, "SL + AL")
    assert shown.found.attention_labels is not None
    assert shown.words is not None, "the encoder is where the config says"
    assert shown_sets(found, elsewhere, tmp_path / "none", "SL + AL") == []


def test_real_text_is_shown_as_it_is(run, tmp_path: Path, panels) -> None:
    found, store = run
    (shown,) = shown_sets(found, store, tmp_path, "SL")
    real = distilled.DistilledSet(
        labels=torch.eye(2),
        label_ids=torch.arange(2),
        recipe=shown.found.recipe,
        token_ids=torch.tensor([[2, 5, -1]] * 2),
    )
    words = Words(torch.zeros(2, 3, dtype=torch.long), [["[CLS]", "$x^", "漢"]] * 2, torch.ones(2, 3))
    assert set_figures.tokens([Shown(shown.column, "real", real, words)], "title", tmp_path / "demo") is not None
    assert [text.get_text() for text in panels[0].texts] == ["[CLS]", "$x^"], "padding is not text"
    assert set_figures._visible("漢a") == "U+6F22a", "no empty boxes"
