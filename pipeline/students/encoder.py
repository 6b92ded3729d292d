"""A Hugging Face sequence classifier as pure functions of its parameters.

Nothing is ever written into the module: every forward pass takes the parameters to use, so there is no state to reset
between two initialisations (the public DDAL code keeps a live reference there and never resets on a CPU).
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from pipeline.bilevel.fused import Fused, Packed
from pipeline.errors import StageError
from pipeline.randomness import seeded
from pipeline.students import packing
from pipeline.students.linear import use_onednn
from pipeline.students.postnorm import proof, structure_of, words_name

Parameters = dict[str, Tensor]
Rows = Literal["none", "cls", "all"]
_AUTOCAST = {"fp32": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Student:
    """An encoder with a classifier whose fresh parameters are drawn anew for every initialisation.

    Args:
        model: a loaded ``…ForSequenceClassification`` with ``eager`` attention, the one implementation that has
            second derivatives and returns attention maps.
        fresh: names of the parameters drawn anew (the classifier, and whatever the checkpoint did not have).
        dropout: keep the encoder's dropouts on while training on the distilled set.
        precision: where the student learns: ``fp32``, ``tf32`` (float32 whose products CUDA rounds to 10 bits,
            everywhere; the same as fp32 on a CPU), or autocast to ``bf16`` or ``fp16``. Whether CUDA rounds is a flag
            of the process, and stays as the student that was made last needs it: backward passes run when no method
            of it does. Whoever lives on after the student puts it back.
        outer_precision: autocast of the outer loss and of scoring: ``fp32`` (none), ``bf16`` or ``fp16``.

    Attributes:
        device: where the parameters are.
        words: name of the table of word embeddings.

    Raises:
        StageError: the library loaded another attention than was asked for.

    """

    def __init__(
        self,
        model: PreTrainedModel,
        fresh: Sequence[str],
        *,
        dropout: bool = False,
        precision: str = "fp32",
        outer_precision: str = "fp32",
    ) -> None:
        if model.config._attn_implementation != "eager":
            raise StageError(
                f"{type(model).__name__} came with '{model.config._attn_implementation}' attention, which has no "
                f"second derivatives; load it with attn_implementation='eager'"
            )
        self._module = model.train(dropout)
        self._scorer = _with_fused_attention(model)
        use_onednn(self._scorer)
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        self._pretrained = {name: parameter.detach() for name, parameter in model.named_parameters()}
        self._heads = _owners(model, fresh)
        self._dropout = dropout
        self._precision, self._outer_precision = precision, outer_precision
        self._passes: Fused | str | None = None
        self.words = words_name(model)
        self.device = next(model.parameters()).device

    @classmethod
    def load(
        cls,
        folder: Path,
        fresh: Sequence[str],
        device: torch.device | str,
        *,
        dropout: bool = False,
        precision: str = "fp32",
        outer_precision: str = "fp32",
        dtype: torch.dtype = torch.float32,
    ) -> Student:
        """Loads the snapshot that stage 1 made, offline; the other arguments are those of the class."""
        model = AutoModelForSequenceClassification.from_pretrained(
            folder, local_files_only=True, attn_implementation="eager", dtype=dtype
        )
        return cls(model.to(device), fresh, dropout=dropout, precision=precision, outer_precision=outer_precision)

    @property
    def body(self) -> str:
        """The prefix of the names of the encoder's own parameters; the head's have another."""
        return str(self._module.base_model_prefix)

    @property
    def width(self) -> int:
        """E, the width of the embedding table (not always the hidden size)."""
        return int(self.embedding_matrix.shape[1])

    @property
    def embedding_matrix(self) -> Tensor:
        """[vocabulary, E] word embeddings."""
        matrix: Tensor = self._module.get_input_embeddings().weight
        return matrix.detach()

    def initial(self, seed: int, index: int) -> Parameters:
        """θ_0: the pretrained parameters with the fresh ones drawn by (seed, index) as the library initialises them.

        The draw is made on the CPU, so that every device gets the same. Tensors are shared with the module except the
        fresh ones: update out of place.
        """
        parameters = dict(self._pretrained)
        with seeded(seed, "classifier", index):
            for prefix, (owner, names) in self._heads.items():
                self._module._init_weights(owner)
                drawn = dict(owner.named_parameters(recurse=False))
                parameters |= {f"{prefix}{name}": drawn[name].detach().clone().to(self.device) for name in names}
        return parameters

    def __call__(
        self, parameters: Parameters, inputs_embeds: Tensor, rows: Rows = "none", *, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The differentiable forward pass on synthetic samples, every position attended but where a mask says no.

        Args:
            parameters: θ by name.
            inputs_embeds: [m, S, E]; the encoder still adds positions and normalises.
            rows: which query rows of the attention maps are returned.
            mask: [m, S] 1 at positions that are attended; all by default.

        Returns:
            logits [m, C], and attention probabilities [m, L, heads, Q, S] (Q = 1 for ``cls``, S for ``all``) or
            ``None``.

        """
        inputs: dict[str, Any] = {"inputs_embeds": inputs_embeds, "output_attentions": rows != "none"}
        inputs |= {} if mask is None else {"attention_mask": mask}
        with self._autocast(self._precision):
            output = functional_call(self._module, parameters, kwargs=inputs)
        if rows == "none":
            return _full(output.logits), None
        if not output.attentions or any(layer is None for layer in output.attentions):
            raise StageError(
                f"{type(self._module).__name__} returned no attention maps; attention labels cannot be used with it"
            )
        layers = [layer[..., :1, :] if rows == "cls" else layer for layer in output.attentions]
        return _full(output.logits), _full(torch.stack(layers, dim=1))

    def logits(self, parameters: Parameters, batch: dict[str, Tensor], *, learning: bool = False) -> Tensor:
        """[rows, C] for real text (token ids and mask) or real vectors; fused attention, first derivatives only.

        In the outer precision, or, where the student is ``learning`` from the batch, in that of the inner loop.
        """
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        with self._autocast(self._precision if learning else self._outer_precision):
            return _full(functional_call(self._scorer, parameters, kwargs=inputs).logits)

    @torch.no_grad()
    def slope(self, parameters: Parameters, direction: Mapping[str, Tensor], batch: dict[str, Tensor]) -> Tensor:
        """[rows, C] derivative of the logits of real text along a direction in some of the parameters, by forward mode.

        Exact, and without a graph: what is kept does not grow with the layers.
        """
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        with forward_ad.dual_level():
            dual = {name: forward_ad.make_dual(parameters[name], step) for name, step in direction.items()}
            logits = functional_call(self._module, parameters | dual, kwargs=inputs).logits
            slope = forward_ad.unpack_dual(logits).tangent
        return torch.zeros_like(logits) if slope is None else slope

    @torch.no_grad()
    def vectors(self, parameters: Parameters, batch: Mapping[str, Tensor], pooling: Literal["first", "mean"]) -> Tensor:
        """[rows, hidden] vectors of real text: the last hidden state of the first token, or the mean over tokens.

        Args:
            parameters: θ by name; the classifier's are not read.
            batch: token ids and mask, padded on the right for ``first``.
            pooling: which of both.

        """
        prefix = f"{self._scorer.base_model_prefix}."
        of_body = {n.removeprefix(prefix): tensor for n, tensor in parameters.items() if n.startswith(prefix)}
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        with self._autocast(self._outer_precision):
            hidden = _full(functional_call(self._scorer.base_model, of_body, kwargs=inputs).last_hidden_state)
        if pooling == "first":
            return hidden[:, 0]
        mask = batch["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        return (hidden * mask).sum(dim=1) / mask.sum(dim=1)

    def dropping(self, seed: int, *steps: int) -> contextlib.AbstractContextManager[None]:
        """Dropout masks drawn by (seed, steps) inside the block; nothing to draw where dropout is off."""
        return seeded(seed, "dropout", *steps) if self._dropout else contextlib.nullcontext()

    def training(self, on: bool) -> None:
        """Switches dropout of :meth:`logits` (the ``finetune`` recipe trains with it)."""
        self._scorer.train(on)

    def install(self, parameters: Parameters) -> PreTrainedModel:
        """Writes θ into the module, for a user who wants a model rather than functions."""
        with torch.no_grad():
            for name, parameter in self._module.named_parameters():
                parameter.copy_(parameters[name])
        return self._module.eval()

    def fused(self) -> Fused | str:
        """The derivatives of the inner and outer loss by hand-derived passes, or why they cannot be had."""
        if self._dropout:
            return "dropout is on"
        if self._precision not in ("fp32", "tf32"):
            return f"the inner loop's precision is {self._precision}"
        return self.passes()

    def passes(self) -> Fused | str:
        """The hand-derived passes of this encoder, compared with it once, or why there are none.

        For scoring, which has no dropout, whatever the inner loop does.
        """
        if self._passes is None:
            self._passes = self._compared()
        return self._passes

    def packed(self, batch: Mapping[str, Tensor], parameters: Parameters | None = None) -> list[Packed]:
        """A real batch as the fused passes read it, in the word embeddings of ``parameters`` or the pretrained ones."""
        passes = self.passes()
        counted = not isinstance(passes, str) and passes.structure.first_position > 0
        return packing.packed(batch, (parameters or self._pretrained)[self.words], counted=counted)

    def _compared(self) -> Fused | str:
        if self._outer_precision == "fp16":
            return "the precision on real text is fp16"
        structure = structure_of(self._module)
        if isinstance(structure, str):
            return structure
        passes = Fused(structure, self.packed)
        if not proof(self._module, passes):
            return "its passes do not give what the model gives"
        return Fused(structure, self.packed, torch.bfloat16) if self._outer_precision == "bf16" else passes

    def _autocast(self, precision: str) -> contextlib.AbstractContextManager[Any]:
        dtype = _AUTOCAST[precision]
        return contextlib.nullcontext() if dtype is None else torch.autocast(self.device.type, dtype)


def embedding_hash(matrix: Tensor) -> str:
    """SHA-256 of a word-embedding matrix in float32: what a set of input embeddings is bound to."""
    return hashlib.sha256(matrix.detach().to("cpu", torch.float32).contiguous().numpy().tobytes()).hexdigest()


def _full(tensor: Tensor) -> Tensor:
    """Half precision back to float32: losses and attention logarithms are taken there."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def _with_fused_attention(model: PreTrainedModel) -> PreTrainedModel:
    """A second view of the same parameters whose attention is fused where the architecture has it."""
    config = copy.deepcopy(model.config)
    try:
        scorer = type(model)._from_config(config, attn_implementation="sdpa")
    except (ValueError, ImportError):
        scorer = type(model)._from_config(config, attn_implementation="eager")
    scorer.load_state_dict(model.state_dict(), assign=True)
    return scorer.to(next(model.parameters()).device).eval()


def _owners(model: PreTrainedModel, fresh: Sequence[str]) -> dict[str, tuple[nn.Module, list[str]]]:
    """Private copies of the modules that own the fresh parameters, to draw into: prefix -> (module, names)."""
    owners: dict[str, tuple[nn.Module, list[str]]] = {}
    for name in fresh:
        path, _, last = name.rpartition(".")
        prefix = f"{path}." if path else ""
        if prefix not in owners:
            # a copy also loses the mark by which transformers passes by parameters that it has loaded
            owners[prefix] = (copy.deepcopy(model.get_submodule(path)).cpu(), [])
        owners[prefix][1].append(last)
    return owners
