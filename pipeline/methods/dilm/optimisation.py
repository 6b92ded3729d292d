"""AdamW on a generator: which of its weights are trained, a step, and all that a resumed one needs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import get_scheduler

from pipeline.config import GeneratorTraining, LoRA
from pipeline.errors import InputError
from pipeline.methods.dilm.generator import Generator
from pipeline.randomness import seeded


class Optimisation:
    """A generator with its optimiser and schedule.

    Args:
        generator: is put into training mode as the config says.
        config: of the optimiser.
        seed: of new adapters.

    Raises:
        InputError: adapters are asked for, and ``peft`` is not installed.

    """

    def __init__(self, generator: Generator, config: GeneratorTraining, seed: int) -> None:
        self.generator, self.config = generator, config
        generator.precision = config.precision
        if config.lora is not None:
            add_adapters(generator, config.lora, seed)
        if config.gradient_checkpointing:
            generator.model.gradient_checkpointing_enable({"use_reentrant": False})
            generator.recomputes = True
        generator.training(config.dropout)
        self.trained = {name: each for name, each in generator.model.named_parameters() if each.requires_grad}
        self.optimizer = torch.optim.AdamW(
            self.trained.values(), lr=config.lr, weight_decay=config.weight_decay, fused=True
        )
        self.scheduler = get_scheduler(
            config.scheduler, self.optimizer, int(config.warmup_ratio * config.steps), config.steps
        )

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def step(self, backward: Callable[[], Tensor]) -> tuple[float, float]:
        """One step by the gradient that ``backward`` leaves in the parameters: the loss it returns, and its length.

        Raises:
            FloatingPointError: one of them is not finite; nothing was changed.

        """
        self.optimizer.zero_grad(set_to_none=True)
        loss = float(backward())
        norm = float(torch.nn.utils.clip_grad_norm_(self.trained.values(), self.config.max_grad_norm))
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise FloatingPointError(f"loss {loss}, gradient norm {norm}")
        self.optimizer.step()
        self.scheduler.step()
        return loss, norm

    def tensors(self) -> dict[str, Tensor]:
        """Copies of what is trained."""
        return {name: tensor.detach().cpu().clone() for name, tensor in self.trained.items()}

    def install(self, tensors: dict[str, Tensor]) -> None:
        """Puts such copies back."""
        with torch.no_grad():
            for name, tensor in self.trained.items():
                tensor.copy_(tensors[name])

    def state(self) -> dict[str, Any]:
        """Everything that decides what the next step does."""
        return {
            "generator": {name: tensor.detach() for name, tensor in self.trained.items()},
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Puts a saved state back."""
        self.install(state["generator"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])

    def finished(self) -> Generator:
        """The generator as a plain model: adapters merged, in eval mode."""
        generator = self.generator
        if self.config.lora is not None:
            generator.model = generator.model.merge_and_unload()
        if self.config.gradient_checkpointing:
            generator.model.gradient_checkpointing_disable()
            generator.recomputes = False
        generator.training(False)
        return generator


def add_adapters(generator: Generator, config: LoRA, seed: int) -> None:
    """Wraps the model: low-rank adapters, and the vectors of the tokens that were added, are trained; nothing else is.

    Raises:
        InputError: ``peft`` is not installed, or the model has no layers of these names.

    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise InputError(
            "lora: package 'peft' is not installed; type: pip install peft, or remove lora to train every weight"
        ) from error
    model = generator.model
    tables = [model.get_input_embeddings()]
    if not model.config.tie_word_embeddings:  # how likely a separator is has weights of its own
        tables.append(model.get_output_embeddings())
    names = [name.rpartition(".")[2] for name, module in model.named_modules() if module in tables]
    settings = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules="all-linear" if config.modules is None else list(config.modules),
        trainable_token_indices={name: [*generator.begin, generator.separator] for name in names},
    )
    with seeded(seed, "adapters"):
        try:
            generator.model = get_peft_model(model, settings)
        except ValueError as error:
            raise InputError(f"lora: {str(error).splitlines()[0]}; give other modules, or null for all") from error
