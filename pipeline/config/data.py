"""Stage 1: which dataset, which encoder, how it is split."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, model_validator

from pipeline.config.schema import Frozen, by_key, runtime

OTHER_SPLITS = (
    "not that of prepare, so that rows which one of the two learns from may be the other's dev or test rows; "
    "remove it, which takes the value of prepare"
)
Metric = Literal["accuracy", "balanced_accuracy", "macro_f1", "f1", "mcc", "accuracy_f1"]


class SplitNames(Frozen):
    """The source's own names of its splits. Without ``dev`` (``test``) one is carved from train."""

    train: str = "train"
    dev: str | None = None
    test: str | None = None


class HubSource(Frozen):
    """A dataset of the Hugging Face hub. ``revision`` pins a commit; otherwise it is resolved and recorded once."""

    kind: Literal["hub"]
    id: str
    subset: str | None = None
    revision: str | None = None
    splits: SplitNames = SplitNames()


class FileSource(Frozen):
    """CSV, TSV, JSON-lines or Parquet files; ``package:NAME/path`` reads one that an installed package ships."""

    kind: Literal["files"]
    train: str
    dev: str | None = None
    test: str | None = None


class SavedSource(Frozen):
    """A folder written by ``datasets.DatasetDict.save_to_disk``."""

    kind: Literal["saved"]
    folder: str
    splits: SplitNames = SplitNames()


@cache
def known_tasks() -> dict[str, Any]:
    """The tasks that can be named instead of described (``config/tasks.yaml``)."""
    tasks = yaml.safe_load((Path(__file__).parent / "tasks.yaml").read_text())
    return {name: {"name": name, **task} for name, task in tasks.items()}


def _task_by_name(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value not in known_tasks():
        from pipeline.config.problems import nearest

        raise ValueError(
            f"no task is called '{value}'{nearest(value, known_tasks())}; "
            f"allowed: {', '.join(known_tasks())}, or a mapping with name, source, text and label"
        )
    return known_tasks()[value]


class JoinedSource(Frozen):
    """Several tasks as one, their classes side by side: what one student of all of them learns and is asked.

    Each task is loaded, split and counted as it is alone, so that its train, dev and test rows are the same rows.
    """

    kind: Literal["joined"]
    tasks: Annotated[tuple[Annotated[Task, BeforeValidator(_task_by_name)], ...], Field(min_length=2)]


def _columns(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class Task(Frozen):
    """A labelled text dataset: where it is, which columns are read, how it is scored.

    Attributes:
        name: short name used in addresses and tables.
        text: one column, or two for sentence pairs; of joined tasks names for their columns, equally many.
        label: the label column, integers or strings.
        labels: label values in class order; by default the source's own class names, or the sorted values of train.
        where: keep only the rows whose column has this value.
        metric: the headline metric of tables; ``accuracy_f1`` is the mean of accuracy and F1, as for MRPC and QQP.

    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
    source: Annotated[HubSource | FileSource | SavedSource | JoinedSource, Field(discriminator="kind")]
    text: Annotated[tuple[str, ...], Field(min_length=1, max_length=2), BeforeValidator(_columns)]
    label: str = "label"
    labels: Annotated[tuple[int | str, ...], Field(min_length=2)] | None = None
    where: dict[str, int | str] = Field(default_factory=dict)
    metric: Metric = "accuracy"

    @model_validator(mode="after")
    def _check(self) -> Task:
        twice = [value for value in self.labels or () if (self.labels or ()).count(value) > 1]
        if twice:
            raise ValueError(f"labels: {twice[0]!r} is given twice; give every class once")
        if isinstance(self.source, JoinedSource):
            self._check_joined(self.source.tasks)
        return self

    def _check_joined(self, tasks: tuple[Task, ...]) -> None:
        names = [task.name for task in tasks]
        if len(set(names)) < len(names):
            raise ValueError(f"source.tasks: two are called the same ({', '.join(names)}); give them different names")
        for task in tasks:
            if isinstance(task.source, JoinedSource):
                raise ValueError(f"source.tasks: '{task.name}' is joined itself; name its tasks here instead")
            if len(task.text) != len(self.text):
                raise ValueError(
                    f"source.tasks: '{task.name}' reads {len(task.text)} columns, and text names {len(self.text)}; "
                    f"join tasks of single texts, or tasks of pairs"
                )
        if self.name in names:
            raise ValueError(
                f"name: '{self.name}' is that of one of the tasks that it joins ({', '.join(names)}); give the whole "
                f"another name"
            )
        if self.labels is not None or self.where or self.metric in ("f1", "accuracy_f1"):
            raise ValueError(
                "joined tasks have labels and where of their own, and more than two classes; "
                "remove labels and where, and write metric: accuracy, balanced_accuracy, macro_f1 or mcc"
            )

    @property
    def parts(self) -> tuple[Task, ...]:
        """The tasks that are joined; none in a task of its own."""
        return self.source.tasks if isinstance(self.source, JoinedSource) else ()


class Model(Frozen):
    """An encoder: a hub id, a local folder, or ``package:NAME/path`` for one that an installed package ships.

    ``pretrained: false`` keeps the architecture and the tokenizer but draws every weight anew. ``head: language`` loads
    a causal language model, which writes text, instead of a classifier.
    """

    name: str
    revision: str | None = None
    pretrained: bool = True
    head: Literal["classifier", "language"] = "classifier"


class Vectors(Frozen):
    """One vector per row: the encoder's last hidden states, frozen.

    Attributes:
        pooling: the first token's state (``cls``), or the mean over tokens.
        dtype: in the file; ``float16`` halves it and rounds to 3 digits.
        centred: the mean over train is subtracted from every row. Most of a first token's state is the same for all
            rows, and what is common to them slows a student down and says nothing.
        device: where they are computed; ``auto`` takes CUDA where there is one. No part of the identity.

    """

    pooling: Literal["cls", "mean"] = "cls"
    dtype: Literal["float32", "float16"] = "float32"
    centred: bool = False
    device: str = runtime("auto")


class Prepare(Frozen):
    """Stage 1. Input: a task and an encoder. Output: tokenised train / dev / test splits and a model snapshot.

    ``dev`` and ``test`` are what is carved from train where the source has none: a share of it (below 1) or a number
    of rows, stratified by label and drawn from ``seed``. ``test: null`` refuses a source without a test split.
    ``vectors``, such as ``cls`` or ``{pooling: mean, dtype: float16}``, also writes a vector per row, for students that
    take nothing else.
    """

    revision: int = 1
    task: Annotated[Task, BeforeValidator(_task_by_name)]
    model: Annotated[Model, by_key("name")]
    max_length: Annotated[int | None, Field(ge=3)] = None
    dev: Annotated[float, Field(gt=0)] = 0.1
    test: Annotated[float | None, Field(gt=0)] = None
    seed: int = 42
    vectors: Annotated[Vectors | None, by_key("pooling")] = None

    @model_validator(mode="after")
    def _check(self) -> Prepare:
        for name, size in (("dev", self.dev), ("test", self.test)):
            if size is not None and size >= 1 and size != int(size):
                raise ValueError(f"{name}: {size} is neither a share (below 1) nor a whole number of rows")
        if self.model.head == "language" and self.vectors is not None:
            raise ValueError("vectors: a language model has none to write; set vectors: null beside its name")
        return self

    def split_otherwise(self, other: Prepare) -> str | None:
        """The first key by which the rows of these splits may not be those of ``other``'s; ``None`` if all agree."""
        keys = ("task", "dev", "test", "seed")
        return next((key for key in keys if getattr(self, key) != getattr(other, key)), None)

    def is_part_of(self, other: Prepare) -> bool:
        """Whether these are the rows of one of the tasks that ``other`` joins, with the same encoder."""
        joined = other.model_copy(update={"task": self.task})
        return self.task in other.task.parts and self.split_otherwise(joined) is None and self.model == other.model

    @property
    def model_slug(self) -> str:
        """The encoder's readable name, in lower case."""
        where, _, rest = self.model.name.partition(":")
        return (rest.split("/")[0] if where == "package" else Path(self.model.name).name).lower()

    @property
    def slug(self) -> str:
        """Readable part of the address."""
        slug = f"{self.task.name}.{self.model_slug}".lower()
        if self.vectors is None:
            return slug
        return f"{slug}.{self.vectors.pooling}{'-centred' if self.vectors.centred else ''}"
