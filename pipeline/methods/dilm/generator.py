"""The generator: a causal language model with a begin token per class, and what it thinks of texts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_layers import GradientCheckpointingLayer

from pipeline.data.tokenised import Split
from pipeline.errors import InputError
from pipeline.methods.dilm.sequences import Sequences
from pipeline.randomness import seeded
from pipeline.students.linear import use_onednn

Text = tuple[str, ...]
_PAD, _SEPARATOR = "<|pad|>", "<|separator|>"
_PROMPTS = "class_prompts"  # where a saved model's config has them
_ROWS = 64  # sequences whose losses are computed together where no gradient is needed, at most, and
_POSITIONS = 10240  # their positions, padding and prompts among them: each has a logit per token of the vocabulary


def begin_token(label: int) -> str:
    """The token that a text of class ``label`` begins with."""
    return f"<|class {label}|>"


class Generator:
    """A causal language model of text given its class.

    A sequence is: the begin token of its class; the text, of a pair both with a separator in between; the end token.
    Where classes have prompts, the model reads the class's before every sequence.

    Args:
        model: whose vocabulary has the special tokens.
        tokenizer: that has them too.
        classes: C.
        device: where it computes.

    Attributes:
        begin: [C] token ids that begin the classes.
        prompts: [C] token ids that stand before these; empty without prompts.
        separator: between the texts of a pair; ``end``: of a text; ``pad``: after it.
        precision: of forward passes; ``bf16`` is autocast.
        recomputes: layers compute their activations again in the backward pass, where the model was told to.

    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, classes: int, device: torch.device | str
    ) -> None:
        self.model, self.tokenizer = model.to(device), tokenizer
        use_onednn(self.model)
        self.model.eval()
        self.device = torch.device(device)
        self.begin = [self._id(begin_token(label)) for label in range(classes)]
        self.separator, self.pad, self.end = self._id(_SEPARATOR), self._id(_PAD), int(tokenizer.eos_token_id)
        self.prompts: list[list[int]] = getattr(model.config, _PROMPTS, [[]] * classes)
        self.precision: Literal["fp32", "bf16"] = "fp32"
        self.recomputes = False

    @property
    def prompt_length(self) -> int:
        """Tokens of the longest prompt."""
        return max(map(len, self.prompts))

    def _id(self, token: str) -> int:
        return int(self.tokenizer.convert_tokens_to_ids(token))

    @classmethod
    def fresh(
        cls,
        folder: Path,
        classes: int,
        seed: int,
        device: torch.device | str,
        begin: Sequence[str] | None = None,
    ) -> Generator:
        """The language model that stage 1 keeps, with new tokens: classes begin as its token for the start of a text.

        Or, where ``begin`` has a prompt for each class, as the last token of that; the others are read before it, so
        that a text is at first as likely as the model finds it behind the prompt. The separator's and the padding's
        vectors are drawn, as the library initialises them, from ``seed``; where the model has more rows than its
        tokenizer has tokens, they are the next of these.

        Raises:
            InputError: ``begin`` is not of as many classes.

        """
        if begin is not None and len(begin) != classes:
            raise InputError(f"lm.begin: {len(begin)} entries for {classes} classes; give one for each, or null")
        model, tokenizer = _loaded(folder)
        first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        read = tokenizer([*begin], add_special_tokens=False)["input_ids"] if begin is not None else [[]] * classes
        prompts = [[first, *ids] for ids in read]
        tokens = [*map(begin_token, range(classes)), _SEPARATOR, _PAD]
        tokenizer.add_special_tokens({"additional_special_tokens": tokens[:-1], "pad_token": _PAD})
        with seeded(seed, "new tokens"), torch.no_grad():
            # never fewer rows than the model has: some have more than their tokenizer
            size = max(len(tokenizer), model.get_input_embeddings().weight.shape[0])
            model.resize_token_embeddings(size, mean_resizing=False)
            begins = [tokenizer.convert_tokens_to_ids(token) for token in tokens[:classes]]
            for table in (model.get_input_embeddings(), model.get_output_embeddings()):
                table.weight[begins] = table.weight[[prompt[-1] for prompt in prompts]]
        if begin is not None:
            setattr(model.config, _PROMPTS, [prompt[:-1] for prompt in prompts])
        model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
        return cls(model, tokenizer, classes, device)

    @classmethod
    def load(cls, folder: Path, classes: int, device: torch.device | str) -> Generator:
        """What :meth:`save` wrote.

        Raises:
            InputError: no such folder.

        """
        if not (folder / "config.json").is_file():
            raise InputError(f"{folder}: no generator; run the cell of stage 2 that makes it first")
        return cls(*_loaded(folder), classes, device)

    def save(self, folder: Path) -> None:
        """Writes config, safetensors and tokenizer."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def sequences(self, split: Split, rows: Sequence[int] | None = None) -> Sequences:
        """A split that was prepared for this language model, as it writes such rows."""
        split = split if rows is None else split.select(rows)
        labels = split.labels.tolist()
        made = (self.wrapped(fields, label) for fields, label in zip(split.fields(), labels, strict=True))
        return Sequences.of(made, labels)

    def wrapped(self, fields: Sequence[Sequence[int]], label: int) -> list[int]:
        """The sequence of a text, given as token ids."""
        separated = [*fields[0], *(token for field in fields[1:] for token in (self.separator, *field))]
        return [self.begin[label], *separated, self.end]

    def text(self, ids: Sequence[int], fields: int) -> Text | None:
        """The text of a sequence, or its ``fields`` texts; ``None`` where it has not so many, or an empty one."""
        parts: list[list[int]] = [[]]
        for token in ids[1:]:
            if token == self.end:
                break
            if token == self.separator:
                parts.append([])
            else:
                parts[-1].append(token)
        texts = tuple(self._decoded(part) for part in parts)
        return texts if len(texts) == fields and all(texts) else None

    def _decoded(self, ids: list[int]) -> str:
        found: str = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return " ".join(found.split())

    def losses(self, ids: Tensor, mask: Tensor) -> Tensor:
        """[rows] −Σ log p(token | those before it), the begin token given; differentiable.

        Args:
            ids, mask: [rows, length], padded on the right.

        """
        with self.autocast():
            logits = self.logits(ids, mask)[:, :-1]
        each = F.cross_entropy(logits.float().transpose(1, 2), ids[:, 1:], reduction="none")
        return (each * mask[:, 1:]).sum(dim=1)

    def logits(self, ids: Tensor, mask: Tensor) -> Tensor:
        """[rows, length, vocabulary] of sequences [rows, length], each read behind the prompt of its class."""
        longest = self.prompt_length
        if not longest:
            return self._read(input_ids=ids, attention_mask=mask)
        padded = [[self.pad] * (longest - len(prompt)) + prompt for prompt in self.prompts]
        classes = (ids[:, :1] == torch.tensor(self.begin, device=ids.device)).int().argmax(dim=1)
        before = torch.tensor(padded, device=ids.device)[classes]
        whole = torch.cat([(before != self.pad).to(mask), mask], dim=1)
        # counted from a prompt's first token, as where texts are written
        places = (whole.cumsum(dim=1) - 1).clamp(min=0)
        found = self._read(input_ids=torch.cat([before, ids], dim=1), attention_mask=whole, position_ids=places)
        return found[:, longest:]

    def _read(self, **inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(**inputs, use_cache=False).logits
        return logits

    @torch.no_grad()
    def mean_losses(self, sequences: Sequences, normalise: Literal["length", "padded"] = "length") -> Tensor:
        """[n] loss of every sequence per token, or per token of the longest of them."""
        order = sequences.lengths.argsort(stable=True)
        found = torch.empty(len(sequences))
        longest = self.prompt_length + int(sequences.lengths.max())
        for rows in order.split(min(_ROWS, max(1, _POSITIONS // longest))):
            ids, mask = sequences.batch(rows, self.pad, self.device)
            found[rows] = self.losses(ids, mask).cpu()
        return normalised(found, sequences.lengths, normalise)

    def losses_by_class(self, split: Split) -> Tensor:
        """[n, C] loss per token of every row of a split, prepared for this language model, as a text of each class."""
        columns = []
        for label in range(len(self.begin)):
            rows = Sequences.of((self.wrapped(fields, label) for fields in split.fields()), [label] * len(split))
            columns.append(self.mean_losses(rows))
        return torch.stack(columns, dim=1)

    def training(self, on: bool) -> None:
        """Switches the model's dropout.

        Layers recompute their activations in training mode alone. Where nothing is to be dropped they are put into it
        by themselves: what is inside them is not, and their own dropout is none.
        """
        self.model.train(on)
        if self.recomputes and not on:
            for layer in self.model.modules():
                if isinstance(layer, GradientCheckpointingLayer):
                    layer.training = True
                    rates = [
                        name for name, rate in vars(layer).items() if "dropout" in name and isinstance(rate, float)
                    ]
                    vars(layer).update(dict.fromkeys(rates, 0.0))

    @contextlib.contextmanager
    def scoring(self) -> Iterator[None]:
        """Without dropout inside, as before after it."""
        before = self.model.training
        self.model.eval()
        try:
            yield
        finally:
            self.training(before)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Of the model's forward passes."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")


def normalised(losses: Tensor, lengths: Tensor, how: Literal["length", "padded"]) -> Tensor:
    """[rows] losses per token that is predicted.

    Args:
        losses: [rows] sums over tokens.
        lengths: [rows] tokens, the begin token, which is given, among them.
        how: divide by a sequence's own length, or, as the published code, by that of the padded batch: of the longest
            sequence, rounded up to a multiple of 8.

    """
    return losses / ((lengths if how == "length" else -(-lengths.max() // 8) * 8) - 1)


def _loaded(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    # how texts are drawn, the config says alone: what it leaves out would be taken from here
    kept = {name: getattr(model.generation_config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model.generation_config = GenerationConfig(**kept)
    return model, AutoTokenizer.from_pretrained(folder, local_files_only=True)
