"""``vectors.h5``: every row's vector in its place, whatever interrupted the run that wrote it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from datasets import Dataset

from pipeline import stopping
from pipeline.data import vectors
from pipeline.data.tokenised import Split, tokenise
from pipeline.errors import InputError
from tests.conftest import build_tokenizer, corpus

WIDTH = 3


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Split]:
    tokenizer = build_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    made = {}
    for name, rows in (("train", 300), ("dev", 70)):
        made[name] = Split(tokenise(Dataset.from_list(corpus(rows, seed=rows)), ("text",), tokenizer, 20), tokenizer)
    return made


class Embedder:
    """A vector of every row that says which it is, and a record of the rows that were asked for; may be killed."""

    def __init__(self, killed_after: int | None = None) -> None:
        self.rows: list[int] = []
        self.killed_after = killed_after

    def __call__(self, batches: Iterator) -> Iterator:
        for number, (positions, batch) in enumerate(batches):
            if number == self.killed_after:
                raise KeyboardInterrupt
            self.rows += positions.tolist()
            ids, mask = batch["input_ids"].double(), batch["attention_mask"]
            tokens = (ids * mask).sum(dim=1)
            yield positions, torch.stack([tokens, mask.sum(dim=1).double(), ids[:, 1]], dim=1).float() / 7


def expected(split: Split) -> np.ndarray:
    """Row by row, from the tokens themselves."""
    rows = [(sum(ids), len(ids), ids[1]) for ids in split.rows["input_ids"]]
    return (np.asarray(rows, dtype=np.float64).astype(np.float32) / np.float32(7)).astype(np.float32)


def write(
    folder: Path,
    splits: dict[str, Split],
    embedder: Embedder,
    dtype: str = "float32",
    of: str = "x",
    *,
    centred: bool = False,
) -> None:
    vectors.write(folder, splits, embedder, WIDTH, dtype, torch.device("cpu"), of, centred=centred)


def test_every_vector_is_in_its_rows_place(splits: dict[str, Split], tmp_path: Path) -> None:
    write(tmp_path, splits, Embedder())
    for name, split in splits.items():
        found = vectors.read(tmp_path, name, split.labels)
        assert np.array_equal(found.vectors.numpy(), expected(split))
        assert torch.equal(found.labels, split.labels)
        assert found.vectors.dtype == torch.float32
    with h5py.File(tmp_path / "vectors.h5") as file:
        assert file.attrs["format"] == "textdd-vectors/1"
        assert file["train"].chunks == (300, WIDTH)
    assert not (tmp_path / vectors.PARTIAL).exists()


def test_float16_is_rounded_in_the_file_and_read_as_float32(splits: dict[str, Split], tmp_path: Path) -> None:
    write(tmp_path, splits, Embedder(), "float16")
    found = vectors.read(tmp_path, "dev", splits["dev"].labels).vectors
    assert found.dtype == torch.float32
    assert np.array_equal(found.numpy(), expected(splits["dev"]).astype(np.float16).astype(np.float32))
    with h5py.File(tmp_path / "vectors.h5") as file:
        assert file["dev"].dtype == np.float16


def test_a_killed_run_goes_on_and_ends_the_same(
    splits: dict[str, Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "_SAVED", 2)
    write(tmp_path / "whole", splits, Embedder())
    killed = Embedder(killed_after=3)
    (tmp_path / "killed").mkdir()
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "killed", splits, killed)
    assert not (tmp_path / "killed" / vectors.FILE).exists()
    again = Embedder()
    write(tmp_path / "killed", splits, again)
    # two batches of 64 were saved, the third was not: 300 - 128 rows of train, and dev
    assert len(again.rows) == 300 - 128 + 70
    for name, split in splits.items():
        one, other = (vectors.read(tmp_path / each, name, split.labels).vectors for each in ("whole", "killed"))
        assert torch.equal(one, other)


def test_a_signal_saves_the_batch_of_that_moment(
    splits: dict[str, Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "requested", lambda: "SIGTERM")

    def check() -> None:
        raise stopping.Stopped("SIGTERM")

    monkeypatch.setattr(stopping, "check", check)
    with pytest.raises(stopping.Stopped):
        write(tmp_path, splits, Embedder())
    monkeypatch.undo()
    again = Embedder()
    write(tmp_path, splits, again)
    assert len(again.rows) == 300 - 64 + 70


def test_parts_of_another_encoder_are_not_used(splits: dict[str, Split], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, {"dev": splits["dev"], "train": splits["train"]}, Embedder(killed_after=2), of="one")
    again = Embedder()
    write(tmp_path, splits, again, of="another")
    assert len(again.rows) == 370


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_centred_rows_lack_the_mean_over_train_in_every_split(
    splits: dict[str, Split], tmp_path: Path, dtype: str
) -> None:
    write(tmp_path, splits, Embedder(), dtype, centred=True)
    in_file = {name: expected(split).astype(dtype).astype(np.float64) for name, split in splits.items()}
    mean = in_file["train"].sum(axis=0) / len(splits["train"])
    np.testing.assert_allclose(vectors.read_mean(tmp_path).numpy(), mean, rtol=1e-6)
    for name, split in splits.items():
        found = vectors.read(tmp_path, name, split.labels).vectors.numpy()
        np.testing.assert_allclose(found, in_file[name] - mean, rtol=1e-3 if dtype == "float16" else 1e-5, atol=1e-4)
    assert abs(vectors.read(tmp_path, "dev", splits["dev"].labels).vectors.mean(dim=0)).max() > 1e-3


def test_a_task_without_vectors_says_what_to_type(splits: dict[str, Split], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="prepared without vectors; add vectors: cls"):
        vectors.read(tmp_path, "train", splits["train"].labels)
    (tmp_path / vectors.FILE).write_bytes(b"half a file")
    with pytest.raises(InputError, match="not whole"):
        vectors.read(tmp_path, "train", splits["train"].labels)
