"""Sets that others published, as distilled sets: DDAL's folders, DiLM's JSON lines, the h5 files of RaT-BPTT and NYU.

None of these files says which encoder it belongs to (DDAL's do not name it, the others never do): who imports one says.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.data.prepared import Prepared
from pipeline.distilled.recipe import Recipe
from pipeline.distilled.selection import UNKNOWN
from pipeline.distilled.set import DistilledSet
from pipeline.distilled.text import token_tensors
from pipeline.errors import InputError

Format = Literal["ddal", "dilm", "vectors"]


def format_of(path: Path) -> Format:
    """Which kind of published set it is, by its name.

    Raises:
        InputError: none of them.

    """
    if (path / "data_dict").is_file():
        return "ddal"
    if path.is_file() and path.suffix in (".json", ".jsonl"):
        return "dilm"
    if path.is_file() and path.suffix in (".h5", ".hdf5"):
        return "vectors"
    raise InputError(
        f"{path}: no published set; allowed: a folder with config.json and data_dict (DDAL), a JSON-lines file (DiLM), "
        f"an h5 file with data and maybe label (RaT-BPTT, NYU)"
    )


def published(path: Path, prepared: Prepared, texts: int) -> DistilledSet:
    """A published set, as one of this task and encoder; ``about`` says what it is of and where it came from.

    Args:
        path: a folder of DDAL's, or a file of DiLM's, RaT-BPTT's or NYU's.
        prepared: the task and the encoder that it is for, which the file cannot be asked.
        texts: how many the task's rows have, 1 or 2.

    Raises:
        InputError: not such a set, or not one of this task or encoder.

    """
    kind, facts = format_of(path), prepared.manifest
    C = len(prepared.classes)
    if kind == "ddal":
        found = ddal_set(path)
        _check_encoder(path, found, facts)
    elif kind == "dilm":
        found = dilm_set(path, prepared)
        given = len(found.about["texts"][0])
        if given != texts:
            raise InputError(f"{path}: its samples have {given} texts each, rows of the task {texts}; name its task")
    else:
        found = vector_set(path, C)
        if "vectors" not in facts:
            raise InputError(f"{path}: holds sentence vectors; add vectors: cls, or mean, to prepare, as they are of")
        if found.vectors is not None and found.vectors.shape[1] != facts["vectors"]["width"]:
            raise InputError(
                f"{path}: its vectors have {found.vectors.shape[1]} numbers, those of {facts['model']['name']} "
                f"{facts['vectors']['width']}; name the encoder that they are of"
            )
    if found.labels.shape[1] != C:
        raise InputError(f"{path}: its labels are of {found.labels.shape[1]} classes, the task has {C}")
    found.about.update(prepared.origin | {"selection": UNKNOWN, "imported": {"format": kind, "path": str(path)}})
    return found


def ddal_set(folder: Path) -> DistilledSet:
    """``config.json`` and ``data_dict`` as DDAL's ``save_pretrained`` writes them; sample i is of class i mod C.

    Soft labels and step sizes are stored before their softmax and softplus.

    Raises:
        InputError: one of them is missing, not what DDAL writes, or holds more than tensors.

    """
    try:
        config = json.loads((folder / "config.json").read_text())
        data = torch.load(folder / "data_dict", map_location="cpu", weights_only=True)
        options, training, C = config["config"], config["train_config"], int(config["num_labels"])
        inputs, labels, rates = data["inputs_embeds"].float(), data["labels"].float(), F.softplus(data["lr"].float())
        steps, size = int(training["train_step"]), C * int(training["batch_size_per_label"])
        decays, in_order = options["lr_linear_decay"] and rates.ndim == 0, options["fix_order"]
        weight, kind = float(options["attention_loss_lambda"]), options["label_type"]
    except pickle.UnpicklingError as error:
        raise InputError(f"{folder}/data_dict: holds more than tensors, which could run code; not read") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise InputError(f"{folder}: not a set as DDAL saves it ({type(error).__name__}: {error})") from error
    attention = data.get("attention_labels")
    N, sized = len(inputs), rates.ndim == 0 or rates.shape == (steps,)
    uneven = bool(N % size) and in_order  # drawn batches need not divide the samples
    if inputs.ndim != 3 or labels.shape != (N, C) or uneven or not sized:
        raise InputError(
            f"{folder}: inputs_embeds {list(inputs.shape)}, labels {list(labels.shape)} and lr {list(rates.shape)} do "
            f"not fit {C} classes, {steps} steps and batches of {size}; copy the whole folder again"
        )
    rates = rates.expand(steps) * (1 - torch.arange(steps) / steps if decays else torch.ones(steps))
    return DistilledSet(
        labels=labels.softmax(dim=-1) if kind == "soft" else labels,
        label_ids=torch.arange(N) % C,
        recipe=Recipe("ddal", attention_weight=weight, order="fixed" if in_order else "random"),
        inputs_embeds=inputs,
        attention_labels=None if attention is None else attention.float(),
        learning_rates=rates,
        batch_order=_blocks(N, min(size, N), steps),
    )


def _blocks(samples: int, size: int, steps: int) -> Tensor:
    """[steps, size] blocks of consecutive rows, cycled; whole ones."""
    whole = samples // size
    return torch.arange(whole * size).view(whole, size)[torch.arange(steps) % whole]


def dilm_set(file: Path, prepared: Prepared) -> DistilledSet:
    """JSON lines with one or two texts, of whatever names, and ``labels`` (0 … C-1), as token ids of this encoder.

    As ``datasets.Dataset.to_json`` writes them. What is no text is left out: coresets come with GLUE's ``idx``.
    ``about["texts"]`` has them as they are, which other encoders and language models are given.

    Raises:
        InputError: a line is no such row, or a label is none of the task's.

    """
    C = len(prepared.classes)
    try:
        lines = file.read_text(encoding="utf-8").split("\n")  # texts may hold other ends of lines
        rows: list[dict[str, Any]] = [json.loads(line) for line in lines if line.strip()]
        labels = torch.tensor([int(row["labels"]) for row in rows])
        columns = [name for name, value in rows[0].items() if isinstance(value, str)]
        texts = [[row[name].strip() for row in rows] for name in columns]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise InputError(f"{file}: not JSON lines with labels ({type(error).__name__}: {error})") from error
    if len({tuple(row) for row in rows}) > 1 or not 1 <= len(columns) <= 2:
        raise InputError(f"{file}: its rows have {', '.join(rows[0])}; allowed: labels and one or two texts")
    if labels.min() < 0 or labels.max() >= C:
        raise InputError(f"{file}: labels {int(labels.min())} … {int(labels.max())}, the task has 0 … {C - 1}")
    encoded = prepared.tokenizer(*texts, truncation=True, max_length=prepared.manifest["max_length"])
    about = {"texts": [list(row) for row in zip(*texts, strict=True)]}
    return DistilledSet(F.one_hot(labels, C).float(), labels, Recipe("finetune"), about=about, **token_tensors(encoded))


def vector_set(file: Path, classes: int) -> DistilledSet:
    """``data`` [N, D] and maybe ``label`` ([N] classes or [N, C]); without, samples stand in blocks of one class.

    Raises:
        InputError: there is no ``data`` of such a shape, or the labels do not fit it.

    """
    try:
        with h5py.File(file, "r") as opened:
            vectors = torch.from_numpy(np.asarray(opened["data"], dtype=np.float32))
            given = torch.from_numpy(np.asarray(opened["label"])) if "label" in opened else None
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{file}: not an h5 file with data ({error})") from error
    N = len(vectors) if vectors.ndim else 0
    if vectors.ndim != 2 or (given is None and (N == 0 or N % classes)) or (given is not None and len(given) != N):
        raise InputError(
            f"{file}: data {list(vectors.shape)}"
            + ("" if given is None else f" and label {list(given.shape)}")
            + f"; allowed: [N, D], N a multiple of {classes} where there are no labels, and a label for each row"
        )
    return DistilledSet(*_labels(given, N, classes), Recipe("vectors"), vectors=vectors)


def _labels(given: Tensor | None, samples: int, classes: int) -> tuple[Tensor, Tensor]:
    """[N, C] and [N]."""
    if given is None:
        given = torch.arange(samples) // (samples // classes)
    if given.ndim == 2:
        return given.float(), given.argmax(dim=1)
    if given.min() < 0 or given.max() >= classes:
        raise InputError(f"labels {int(given.min())} … {int(given.max())}, the task has 0 … {classes - 1}")
    ids = given.long()
    return F.one_hot(ids, classes).float(), ids


def _check_encoder(path: Path, found: DistilledSet, facts: dict[str, Any]) -> None:
    """Refuses a set whose tensors have other sizes than this encoder's."""
    assert found.inputs_embeds is not None
    ours: Sequence[int] = (facts["embedding_width"],)
    theirs: Sequence[int] = (found.inputs_embeds.shape[2],)
    if found.attention_labels is not None:
        ours = (*ours, facts["attention_layers"], facts["attention_heads"])
        theirs = (*theirs, *found.attention_labels.shape[1:3])
    if list(ours) != list(theirs):
        raise InputError(
            f"{path}: its width (layers, heads) {list(theirs)} are not those of {facts['model']['name']}, "
            f"{list(ours)}; name the encoder that it was made with"
        )
