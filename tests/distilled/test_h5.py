"""``distilled.h5``: round trip, plain h5py reading, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.bilevel import GradientDescent
from pipeline.config import AdamSteps, MomentumSteps, PlainSteps
from pipeline.distilled import DistilledSet, Recipe, load, save
from pipeline.errors import InputError

OPTIMIZERS = [
    PlainSteps(name="gd"),
    MomentumSteps(name="momentum", momentum=0.3, nesterov=True),
    AdamSteps(name="adam", betas=(0.1, 0.25), eps=1e-7),
]
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


def small(**changes: object) -> DistilledSet:
    parts: dict[str, object] = {
        "labels": torch.eye(2),
        "label_ids": torch.arange(2),
        "recipe": Recipe("ddal"),
        "inputs_embeds": torch.randn(2, 3, 4),
        "learning_rates": torch.tensor([0.1]),
        "batch_order": torch.tensor([[0, 1]]),
    }
    return DistilledSet(**(parts | changes))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), rows=st.integers(1, 4), steps=st.integers(1, 3), attention=st.booleans(), ids=st.booleans())
def test_round_trip(tmp_path: Path, data: st.DataObject, rows: int, steps: int, attention: bool, ids: bool) -> None:
    def drawn(*shape: int) -> torch.Tensor:
        return torch.from_numpy(data.draw(arrays(np.float32, shape, elements=FINITE)))

    made = small(
        labels=drawn(rows, 2),
        label_ids=torch.arange(rows) % 2,
        recipe=Recipe(
            "ddal",
            data.draw(st.floats(0, 10)),
            data.draw(st.sampled_from(["fixed", "random"])),
            precision=data.draw(st.sampled_from(["fp32", "tf32", "bf16", "fp16"])),
            inner_optimizer=data.draw(st.sampled_from(OPTIMIZERS)),
        ),
        inputs_embeds=None if ids else drawn(rows, 3, 4),
        token_ids=torch.from_numpy(data.draw(arrays(np.int32, (rows, 5), elements=st.integers(-1, 999)))).long()
        if ids
        else None,
        attention_labels=drawn(rows, 2, 2, 1, 3) if attention else None,
        learning_rates=drawn(steps),
        batch_order=torch.from_numpy(data.draw(arrays(np.int64, (steps, rows), elements=st.integers(0, rows - 1)))),
        about=data.draw(
            st.dictionaries(st.text(max_size=5), st.one_of(st.integers(), st.text(max_size=5), st.none()), max_size=3)
        ),
    )
    save(made, tmp_path / "d.h5")
    found = load(tmp_path / "d.h5")
    assert found.recipe == made.recipe
    assert found.about == made.about
    for name, value in vars(made).items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(getattr(found, name), value), name
        elif value is None:
            assert getattr(found, name) is None, name


def test_a_file_from_before_there_was_a_choice_means_plain_gradient_descent(tmp_path: Path) -> None:
    save(small(), tmp_path / "d.h5")
    with h5py.File(tmp_path / "d.h5", "a") as file:
        recipe = json.loads(file.attrs["recipe"])
        assert recipe.pop("inner_optimizer") == {"name": "gd"}
        file.attrs["recipe"] = json.dumps(recipe)
    assert load(tmp_path / "d.h5").recipe == Recipe("ddal")
    assert load(tmp_path / "d.h5").recipe.optimiser == GradientDescent()


@pytest.mark.parametrize("change", [{"inner_optimizer": {"name": "lion"}}, {"weight_decay": 0.1}, {"order": "sorted"}])
def test_a_recipe_of_a_later_version_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    save(small(), tmp_path / "d.h5")
    with h5py.File(tmp_path / "d.h5", "a") as file:
        file.attrs["recipe"] = json.dumps(json.loads(file.attrs["recipe"]) | change)
    with pytest.raises(InputError, match=r"d\.h5: its recipe .* is of another version; read it with the one"):
        load(tmp_path / "d.h5")


def test_readable_with_h5py_alone(tmp_path: Path) -> None:
    made = small(about={"seed": 3})
    save(made, tmp_path / "d.h5")
    with h5py.File(tmp_path / "d.h5") as file:
        assert file.attrs["format"] == "textdd/1"
        assert json.loads(file.attrs["about"]) == {"seed": 3}
        assert json.loads(file.attrs["recipe"])["name"] == "ddal"
        assert file["inputs_embeds"].dtype == np.float32
        assert set(file) == {"labels", "label_ids", "inputs_embeds", "learning_rates", "batch_order"}
        np.testing.assert_array_equal(file["inputs_embeds"], made.inputs_embeds)


def test_no_pickle_inside(tmp_path: Path) -> None:
    save(small(), tmp_path / "d.h5")
    with h5py.File(tmp_path / "d.h5") as file:
        assert all(dataset.dtype.kind in "fi" for dataset in file.values())


@pytest.mark.parametrize("kept", [0, 10, 1000])
def test_truncated(tmp_path: Path, kept: int) -> None:
    save(small(), tmp_path / "d.h5")
    (tmp_path / "d.h5").write_bytes((tmp_path / "d.h5").read_bytes()[:kept])
    with pytest.raises(InputError, match=r"d\.h5: not a whole distilled set .*copy or make it again"):
        load(tmp_path / "d.h5")


@pytest.mark.parametrize("rows", [2, 3000])
def test_damaged(tmp_path: Path, rows: int) -> None:
    """One byte of the numbers is another one; the file is as long as it was."""
    embeddings = torch.randn(rows, 3, 8)
    save(small(inputs_embeds=embeddings, labels=torch.eye(rows, 2), label_ids=torch.zeros(rows)), tmp_path / "d.h5")
    with h5py.File(tmp_path / "d.h5") as file:
        at = file["inputs_embeds"].id.get_chunk_info(0).byte_offset
    whole = bytearray((tmp_path / "d.h5").read_bytes())
    whole[at + 5] ^= 1
    (tmp_path / "d.h5").write_bytes(whole)
    with pytest.raises(InputError, match=r"d\.h5: not a whole distilled set .*copy or make it again"):
        load(tmp_path / "d.h5")


def test_numbers_that_are_none(tmp_path: Path) -> None:
    save(small(inputs_embeds=torch.tensor([[[1.0]], [[torch.nan]]])), tmp_path / "d.h5")
    with pytest.raises(InputError, match=r"d\.h5: damaged, not all of inputs_embeds is finite"):
        load(tmp_path / "d.h5")


def test_foreign(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = [1]
    with pytest.raises(InputError, match=r"other\.h5: its format is None, not 'textdd/1'"):
        load(tmp_path / "other.h5")


def test_newer_format(tmp_path: Path) -> None:
    save(small(), tmp_path / "d.h5")
    with h5py.File(tmp_path / "d.h5", "a") as file:
        file.attrs["format"] = "textdd/2"
    with pytest.raises(InputError, match="its format is 'textdd/2'"):
        load(tmp_path / "d.h5")


def test_incomplete(tmp_path: Path) -> None:
    save(small(), tmp_path / "d.h5")
    with h5py.File(tmp_path / "d.h5", "a") as file:
        del file["labels"]
    with pytest.raises(InputError, match="not a whole distilled set"):
        load(tmp_path / "d.h5")


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no\.h5: no such file; give the file of a distilled set"):
        load(tmp_path / "no.h5")
    with pytest.raises(InputError, match="a folder; give the file of a distilled set"):
        load(tmp_path)
