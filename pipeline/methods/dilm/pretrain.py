"""``lm``: a causal language model learns the text of every class (DiLM, section 3.1)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.config import LM, Distill
from pipeline.data.prepared import Prepared
from pipeline.data.tokenised import TrainingOrder
from pipeline.errors import InputError
from pipeline.methods.checkpoint import Checkpoint
from pipeline.methods.dilm.generator import Generator
from pipeline.methods.dilm.optimisation import Optimisation
from pipeline.methods.dilm.sequences import Sequences
from pipeline.methods.loop import Best, loop
from pipeline.parallel import Ranks
from pipeline.randomness import seeded
from pipeline.students.device import pick_device

ADVICE = "a smaller lr, a longer warmup_ratio, or precision: fp32"
_CHUNK = 64  # sequences whose activations are in memory together


def pretrain(config: Distill, prepared: Prepared, out: Path) -> Generator:
    """Trains the generator; continues where a killed run left off, bit-equal on the same CPU and thread count.

    Args:
        config: stage 2's config with an ``lm`` method.
        prepared: stage 1's output, of a language model.
        out: the cell's folder; ``progress.pt`` and ``log.csv`` are written there.

    Raises:
        InputError: dev is empty, ``begin`` is not of as many classes or too long, or a package is missing.
        StageError: the loss is no longer finite; the last good state is saved.
        Stopped: a signal came; the state after the step of that moment is saved.

    """
    method = config.method
    assert isinstance(method, LM)
    classes, device = len(prepared.classes), pick_device(config.runtime)
    generator = Generator.fresh(prepared.model_folder, classes, config.seed, device, method.begin)
    train, positions = generator.sequences(prepared.split("train")), prepared.manifest["positions"]
    longest = int(train.lengths.max()) + generator.prompt_length
    if positions is not None and longest > positions:
        raise InputError(
            f"lm.begin: with its prompt a row has {longest} tokens, and {prepared.manifest['model']['name']} reads "
            f"{positions}; give shorter ones, or a smaller prepare.max_length"
        )
    run = Pretraining(method, generator, train, config.seed)
    validate = _DevLoss(method, prepared, generator, config.seed)
    loop(run, validate, Checkpoint(out, config.runtime.save_seconds), advice=ADVICE)
    if method.validation.keep == "best":
        run.optimisation.install(run.best.tensors)
    return run.optimisation.finished()


class Pretraining:
    """The generator, its optimiser and its best state so far: all that a resumed run needs."""

    def __init__(self, method: LM, generator: Generator, train: Sequences, seed: int) -> None:
        self.method, self.generator, self.train, self.seed = method, generator, train, seed
        self.optimisation = Optimisation(generator, method, seed)
        self.order = TrainingOrder(train.lengths.numpy(), method.batch_size, seed)
        self.step, self.steps, self.epoch_steps = 0, method.steps, self.order.batches_per_epoch
        self.best, self.ranks = Best(0, math.inf, None, None, {}), Ranks()

    @property
    def validates(self) -> bool:
        """Whether the loss on dev is measured after the step that was just taken."""
        every = self.method.validation.every
        return every is not None and (self.step % every == 0 or self.step == self.steps)

    @property
    def learning_rate(self) -> float:
        """Of the optimiser."""
        return self.optimisation.learning_rate

    def advance(self) -> tuple[float, float]:
        """One step on the next batch: the mean loss per token, the length of the gradient before clipping.

        Raises:
            FloatingPointError: one of them is not finite; nothing was changed.

        """
        with seeded(self.seed, "dropout of the generator", self.step):
            found = self.optimisation.step(
                lambda: language_modelling(self.generator, self.train, torch.from_numpy(self.order.at(self.step)))
            )
        self.step += 1
        return found

    def state(self) -> dict[str, Any]:
        """Everything that decides what comes next."""
        return {"step": self.step, "best": vars(self.best), **self.optimisation.state(), **self.conditions()}

    def conditions(self) -> dict[str, Any]:
        """What changes the rounding and nothing else."""
        return {"threads": torch.get_num_threads()}

    def restore(self, state: dict[str, Any]) -> None:
        """Puts a saved state back."""
        self.step, self.best = state["step"], Best(**state["best"])
        self.optimisation.restore(state)


def language_modelling(generator: Generator, train: Sequences, rows: Tensor, weight: float = 1.0) -> Tensor:
    """Mean over all tokens of the batch of −log p(token | those before it); leaves ``weight`` times its gradient."""
    lengths = train.lengths[rows]
    predicted = int((lengths - 1).sum())
    total = torch.zeros(())
    for part in rows[lengths.argsort(stable=True)].split(_CHUNK):
        loss = generator.losses(*train.batch(part, generator.pad, generator.device)).sum() / predicted
        (weight * loss).backward()
        total += loss.detach().cpu()
    return total


class _DevLoss:
    """The mean loss per token on dev, always of the same rows, and of how many it tells the class."""

    def __init__(self, method: LM, prepared: Prepared, generator: Generator, seed: int) -> None:
        self.method, self.generator = method, generator
        if method.validation.every is None:
            return
        split, rows = prepared.split("dev"), method.validation.examples
        if not len(split):
            raise InputError("validation.every: dev has no rows; give prepare.dev, or every: null")
        self.dev = split.stratified(rows or len(split), seed, "validation rows")

    def __call__(self, run: Pretraining) -> dict[str, float]:
        """What the log says; ``run.best`` is the better state where the best one is kept.

        The accuracy is the share of rows that are likeliest as texts of their own class: a generator that writes the
        same whatever the class stays at chance, however low its loss.
        """
        with self.generator.scoring():
            each = self.generator.losses_by_class(self.dev)
        labels = self.dev.labels
        tokens = (self.generator.sequences(self.dev).lengths - 1).float()
        loss = float((each.gather(1, labels[:, None])[:, 0] * tokens).sum() / tokens.sum())
        accuracy = float((each.argmin(dim=1) == labels).float().mean())
        if self.method.validation.keep == "best" and loss < run.best.score:
            run.best = Best(run.step, loss, loss, accuracy, run.optimisation.tensors())
        return {"validation_loss": loss, "validation_accuracy": accuracy, "validation_score": loss}
