"""Stage 1, prepare: a task and an encoder -> tokenised splits, a model snapshot, a manifest.

Needs the network for hub ids; everything after it works without.
"""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from pipeline.config import Prepare, Runtime, Vectors
from pipeline.data import vectors
from pipeline.data.joined import load_splits
from pipeline.data.prepared import Prepared, manifest_of
from pipeline.data.splits import also_in, without_text
from pipeline.data.tokenised import content_hash, tokenise, tokenise_plainly
from pipeline.errors import InputError
from pipeline.progress import bar
from pipeline.randomness import derive
from pipeline.store.atomic import write_json
from pipeline.students.device import pick_device
from pipeline.students.encoder import Student
from pipeline.students.sentences import embed, encoder_hash
from pipeline.students.snapshot import describe, load_encoder, load_language_model, save

_BESIDE_TEXT = 3  # tokens that a generator adds: its class, a separator, the end


def run(config: Prepare, out: Path) -> None:
    """Writes ``train/ dev/ test/``, ``model/``, ``vectors.h5`` where asked for, and, last, ``manifest.json``.

    Args:
        config: with hub revisions resolved (see :func:`pipeline.launch.pin`).
        out: the cell's folder.

    Raises:
        InputError: the data or the model cannot be used (see :mod:`pipeline.data.loading`,
            :mod:`pipeline.students.snapshot`).

    """
    with bar(5, "prepare", "part") as shown:
        splits, classes, parts = load_splits(config)
        shown.update()
        writes = config.model.head == "language"
        seed = derive(config.seed, "encoder")
        if writes:
            model, tokenizer = load_language_model(config.model, seed)
            fresh: list[str] = []
        else:
            model, tokenizer, fresh = load_encoder(config.model, len(classes), seed)
        student = describe(model, fresh)
        limit = _length_limit(config, student["positions"], tokenizer.model_max_length)
        shown.update()
        about = {"classes": classes, **({"parts": parts} if parts else {})}
        manifest = manifest_of(config, about, tokenizer, limit, student)
        for name, rows in splits.items():
            tokens = (tokenise_plainly if writes else tokenise)(rows, config.task.text, tokenizer, limit)
            tokens.save_to_disk(out / name)
            labels = rows["label"][:]
            manifest["sizes"][name] = len(labels)
            manifest["class_counts"][name] = [labels.count(label) for label in range(len(classes))]
            manifest["hashes"][name] = content_hash(tokens)
            if name != "train":
                manifest["also_in_train"][name] = also_in(splits["train"], rows, config.task.text)
            shown.update()
        save(model, tokenizer, out / "model")
        if config.vectors is not None:
            _write_vectors(config.vectors, out, model, manifest)
        write_json(out / "manifest.json", manifest)
    for name, rows in splits.items():
        if empty := without_text(rows, config.task.text):
            print(f"note: {empty} of {len(rows)} {name} rows have no text", file=sys.stderr)
    for name, count in manifest["also_in_train"].items():
        if count:
            print(
                f"note: {count} of {manifest['sizes'][name]} {name} rows have the same text as a train row",
                file=sys.stderr,
            )


def _write_vectors(config: Vectors, out: Path, model: PreTrainedModel, manifest: dict[str, Any]) -> None:
    """Writes ``vectors.h5``, of the snapshot and the splits under ``out``; the manifest says what they are of."""
    if config.pooling == "cls" and not manifest["reads_first_token"]:
        raise InputError(
            f"{manifest['architecture']} does not read its first token, so that token's vector says nothing of a "
            f"sentence; write vectors: mean"
        )
    student = Student.load(out / "model", manifest["fresh_parameters"], pick_device(Runtime(device=config.device)))
    width = model.config.hidden_size
    about = {"pooling": config.pooling, "dtype": config.dtype, "width": width, "encoder_hash": encoder_hash(model)}
    made_of = json.dumps({**about, "hashes": manifest["hashes"]}, sort_keys=True)
    embedded = functools.partial(embed, student, student.initial(0, 0), pooling=config.pooling)
    splits = {name: Prepared(out).split(name) for name in manifest["sizes"]}
    vectors.write(out, splits, embedded, width, config.dtype, student.device, made_of, centred=config.centred)
    manifest["vectors"] = {**about, "centred": config.centred}


def _length_limit(config: Prepare, positions: int | None, tokenizer_limit: int) -> int:
    """Tokens a row is truncated to: what was asked for, else the most that model and tokenizer take."""
    most = min(positions or tokenizer_limit, tokenizer_limit)
    if config.model.head == "language":
        most -= _BESIDE_TEXT
    if config.max_length is not None and config.max_length > most:
        raise InputError(
            f"max_length: {config.max_length} is more than the {most} usable positions of {config.model.name}; "
            f"give at most {most}"
        )
    return min(config.max_length or most, 2**20)


if __name__ == "__main__":
    from pipeline.launch import stage_command

    stage_command("prepare")
