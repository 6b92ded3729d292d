"""What stage 1 leaves for the others: splits, model snapshot, manifest."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from pipeline.config import Prepare
from pipeline.data import vectors
from pipeline.data.tokenised import Split
from pipeline.data.vectors import VectorSplit
from pipeline.errors import InputError
from pipeline.store.atomic import read_json


@dataclass(frozen=True)
class Prepared:
    """A prepared task on disk.

    Files: ``train/ dev/ test/`` tokenised Arrow, ``model/`` the encoder with its tokenizer, ``manifest.json`` (task,
    classes, sizes, class counts, hashes, usable positions, the parameters drawn anew per initialisation; ``parts``
    where tasks are joined), and, where they were asked for, ``vectors.h5``.
    """

    folder: Path

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The facts that stage 1 wrote down.

        Raises:
            InputError: stage 1 has not run.

        """
        found: dict[str, Any] | None = read_json(self.folder / "manifest.json")
        if found is None:
            raise InputError(
                f"{self.folder}: not prepared; run stage 1 first: python -m pipeline.stage1_prepare CONFIG"
            )
        return found

    @property
    def classes(self) -> list[str]:
        """The C class names in label order."""
        return list(self.manifest["classes"])

    @property
    def encoder(self) -> dict[str, Any]:
        """What a set's file says of the encoder: what it is called, its kind, and which embedding matrix it has."""
        facts = self.manifest
        return {**facts["model"], "architecture": facts["architecture"], "embedding_hash": facts["embedding_hash"]}

    @property
    def origin(self) -> dict[str, Any]:
        """What a set's file says of the task and the encoder that it is of; plain JSON values."""
        facts = self.manifest
        return {
            **{name: facts[name] for name in ("task", "classes", "max_length")},
            "model": self.encoder,
            **({"vectors": facts["vectors"]} if "vectors" in facts else {}),
            "data": {"hashes": facts["hashes"], "sizes": facts["sizes"]},
        }

    def classes_of(self, task: str) -> slice:
        """Where the classes of a task stand among the C: all of them, or those of one of the tasks that are joined."""
        first = 0
        for part in self.manifest.get("parts", ()):
            if part["name"] == task:
                return slice(first, first + part["classes"])
            first += part["classes"]
        return slice(0, len(self.classes))

    def rows_of(self, task: str, split: str) -> slice:
        """Where the rows of a task stand in a split, as its classes among the C."""
        first = 0
        for part in self.manifest.get("parts", ()):
            if part["name"] == task:
                return slice(first, first + part["sizes"][split])
            first += part["sizes"][split]
        return slice(0, self.manifest["sizes"][split])

    @property
    def model_folder(self) -> Path:
        """The encoder's snapshot."""
        return self.folder / "model"

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The encoder's own tokenizer."""
        return AutoTokenizer.from_pretrained(self.model_folder, local_files_only=True)

    def split(self, name: str) -> Split:
        """One of "train", "dev", "test"."""
        return Split.load(self.folder / name, self.tokenizer)

    def vectors(self, name: str) -> VectorSplit:
        """The frozen vectors of "train", "dev" or "test", in the order of the split's rows.

        Raises:
            InputError: the task was prepared without them.

        """
        return vectors.read(self.folder, name, self.split(name).labels)

    def vector_mean(self) -> Tensor | None:
        """[D] what was subtracted from every frozen vector; ``None`` where they are as the encoder gave them."""
        about = self.manifest.get("vectors", {})
        return vectors.read_mean(self.folder) if about.get("centred") else None


def manifest_of(
    config: Prepare, about: dict[str, Any], tokenizer: PreTrainedTokenizerBase, limit: int, student: dict[str, Any]
) -> dict[str, Any]:
    """The facts of a task before its splits are tokenised; sizes, class counts and hashes of each are filled in.

    Args:
        config: of the cell.
        about: the ``classes`` and, where tasks are joined, the ``parts``.
        tokenizer: of the encoder.
        limit: tokens per row.
        student: the encoder as :func:`~pipeline.students.snapshot.describe` has it.

    """
    return {
        "task": config.task.name,
        "metric": config.task.metric,
        "data": config.task.source.model_dump(mode="json"),
        **about,
        "model": {
            "name": config.model.name,
            "revision": config.model.revision,
            "pad_token_id": tokenizer.pad_token_id,
            "padding_side": tokenizer.padding_side,
        },
        "max_length": limit,
        "sizes": {},
        "class_counts": {},
        "hashes": {},
        "also_in_train": {},
        **student,
    }
