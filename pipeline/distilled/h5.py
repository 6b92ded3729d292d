"""``distilled.h5``, format ``textdd/1``: readable with h5py alone, no pickle.

Datasets (N samples, C classes, S positions, E embedding width, T inner steps):

==================  =========================  ==========================================================
``labels``          float32 [N, C]             as the loss uses them
``label_ids``       int64 [N]                  the class each sample was made for
``inputs_embeds``   float32 [N, S, E]          input embeddings, before positions and layer norm; or instead
``token_ids``       int32 [N, length]          token ids, padded with -1
``token_type_ids``  int32 [N, length]          segment ids, where the tokenizer makes them
``vectors``         float32 [N, D]             sentence vectors, instead of both
``vector_mean``     float32 [D]                what was subtracted from the encoder's vectors, where it was
``attention_labels``  float32 [N, L, heads, Q, S]  logits; softmax over the last axis gives the labels
``learning_rates``  float32 [T]                step sizes
``batch_order``     int64 [T, batch]           rows of each inner step, -1 where one has fewer
``batch_weights``   float32 [T, batch]         factors of the rows' losses in a step's mean, where they are not all 1
``phases``          int64 [N]                  when students learn from each sample, where that is not all at once
==================  =========================  ==========================================================

Root attributes: ``format``; ``recipe`` and ``about``, both JSON texts. ``recipe`` is the student's recipe (name,
attention_weight, order, dropout, precision, inner_optimizer; ``gd`` where the last is absent); ``about`` holds the full
config, the model (name, revision, hash of its embedding matrix), data hashes and split sizes, what data and encoder
counted as (``content``: digests of local files, revisions of the hub), class names, selection and dev scores, seed,
git revision, versions and time.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError

from pipeline.distilled.recipe import Recipe
from pipeline.distilled.set import DistilledSet
from pipeline.errors import InputError
from pipeline.store.atomic import replacing

FORMAT = "textdd/1"
_RECIPE = TypeAdapter(Recipe)
_TYPES = {
    "labels": "<f4",
    "label_ids": "<i8",
    "inputs_embeds": "<f4",
    "token_ids": "<i4",
    "token_type_ids": "<i4",
    "vectors": "<f4",
    "vector_mean": "<f4",
    "attention_labels": "<f4",
    "learning_rates": "<f4",
    "batch_order": "<i8",
    "batch_weights": "<f4",
    "phases": "<i8",
}


def save(distilled: DistilledSet, path: str | Path) -> None:
    """Writes the set; an older file at ``path`` stays whole until the new one is.

    Raises:
        StageError: the disk is full.

    """
    with replacing(Path(path)) as aside, h5py.File(aside, "w") as file:
        file.attrs["format"] = FORMAT
        file.attrs["recipe"] = _RECIPE.dump_json(distilled.recipe).decode()
        file.attrs["about"] = json.dumps(distilled.about, ensure_ascii=False)
        for name, kind in _TYPES.items():
            tensor = getattr(distilled, name)
            if tensor is not None:
                values = tensor.detach().cpu().numpy().astype(kind)
                large, kept = values.size > 2**16, values.size > 0
                # with checksums: a damaged file is refused when it is read
                options = {"compression": "gzip" if large else None, "shuffle": large, "fletcher32": kept}
                file.create_dataset(name, data=values, **options)


def load(path: str | Path) -> DistilledSet:
    """Reads a set onto the CPU.

    Raises:
        InputError: no such file, not a whole HDF5 file, a damaged one, not a distilled set, or one of another format or
            version.

    """
    path = Path(path)
    if not path.is_file():
        wrong = "a folder" if path.is_dir() else "no such file"
        raise InputError(f"{path}: {wrong}; give the file of a distilled set, such as a distilled.h5 of stage 2")
    try:
        with h5py.File(path, "r") as file:
            kind = file.attrs.get("format")
            if kind != FORMAT:
                raise InputError(
                    f"{path}: its format is {kind!r}, not '{FORMAT}'; give a distilled.h5 that stage 2 wrote"
                )
            recipe, about = file.attrs["recipe"], json.loads(file.attrs["about"])
            tensors = {name: _tensor(file[name]) for name in _TYPES if name in file}
    except (OSError, KeyError, RuntimeError) as error:
        raise InputError(
            f"{path}: not a whole distilled set ({str(error).splitlines()[0]}); copy or make it again"
        ) from error
    absent = {"labels", "label_ids"} - tensors.keys()
    inputs = {"inputs_embeds", "token_ids", "vectors"} & tensors.keys()
    if absent or len(inputs) != 1:
        raise InputError(f"{path}: not a whole distilled set (it has: {', '.join(tensors)}); copy or make it again")
    broken = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if broken:
        raise InputError(f"{path}: damaged, not all of {', '.join(broken)} is finite; copy or make it again")
    try:
        known = _RECIPE.validate_json(recipe)
    except ValidationError as error:
        raise InputError(
            f"{path}: its recipe {recipe} is of another version; read it with the one that made it"
        ) from error
    return DistilledSet(recipe=known, about=about, **tensors)


def _tensor(dataset: Any) -> torch.Tensor:
    values = np.asarray(dataset)
    return torch.from_numpy(values.astype(np.int64) if values.dtype.kind == "i" else values)
