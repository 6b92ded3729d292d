"""What a page says of a set: every sample with its label, its text or nearest tokens, and the real rows beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.data.prepared import Prepared
from pipeline.distilled import DistilledSet
from pipeline.distilled.selection import IN_WORDS, selected_on
from pipeline.distilled.shown import samples
from pipeline.report.card.facts import Evaluation
from pipeline.report.card.overlap import Corpus
from pipeline.report.shown_sets import Words, words
from pipeline.report.view.near import Neighbour, neighbours

SAMPLES = 200  # of larger sets the first ones are shown
TOKENS = 512  # of a sample


@dataclass(frozen=True)
class Weight:
    """The weight of a class in a label; ``share``: its size beside the largest one of the set, 0 … 1."""

    name: str
    value: float
    share: float
    is_own: bool


@dataclass(frozen=True)
class Piece:
    """A token that a position is, or is nearest to, and the cosine of both."""

    text: str
    similarity: float


@dataclass(frozen=True)
class Shown:
    """One sample.

    Attributes:
        number: in the set.
        name: of the class that it was made for.
        label: of every class.
        pieces: nearest tokens of input embeddings, position by position; none otherwise.
        texts: of token ids one, or two of a pair.
        use: in which inner steps it is, how much it counts there, and in which phase, where the set says so.
        origin: the training row that it is, where it was chosen.
        longest: tokens of the longest run that it shares with a training row; ``None`` where that is not known.
        near: the nearest real rows.

    """

    number: int
    name: str
    label: tuple[Weight, ...]
    pieces: tuple[Piece, ...]
    texts: tuple[str, ...]
    use: str
    origin: str
    longest: int | None
    near: tuple[Neighbour, ...]


@dataclass(frozen=True)
class View:
    """A set.

    Attributes:
        title: what it is.
        facts: name and value of what is to be said of the whole set.
        scores: of every protocol that it was evaluated by.
        samples: those that are shown.
        notes: how to read them, and what is missing and why.

    """

    title: str
    facts: tuple[tuple[str, str], ...]
    scores: tuple[Evaluation, ...]
    samples: tuple[Shown, ...]
    notes: tuple[str, ...]


def gathered(
    found: DistilledSet,
    encoder: Path | None,
    prepared: Prepared | None,
    scores: Sequence[Evaluation],
    nearest: int,
    among: int,
) -> View:
    """All that a page shows.

    Args:
        found: any set.
        encoder: the folder of its encoder and tokenizer; ``None`` will do for sentence vectors.
        prepared: the task that it was made from; without it no real rows are looked at.
        scores: what students of it scored.
        nearest: real training rows per sample.
        among: training rows that are looked at, a draw with the classes' shares.

    Raises:
        InputError: ``encoder`` has another embedding matrix.

    """
    rows = list(range(min(len(found), SAMPLES)))
    seen = None if found.inputs_embeds is None or encoder is None else words(found, encoder)
    notes = _reading(found, rows, seen, nearest if prepared is not None else 0, among)
    near: list[tuple[Neighbour, ...]] = [()] * len(found)
    runs: list[int | None] = [None] * len(found)
    if prepared is None:
        notes.append(
            "No real training rows are shown: the prepared data of stage 1 are not here. Say where: --root STORE, or "
            "make them: python -m pipeline.stage1_prepare CONFIG"
        )
    else:
        near = neighbours(found, prepared, rows, nearest, among)
        runs = _runs(found, prepared, seen, rows)
    shown = _samples(found, encoder, rows, seen, runs, near)
    return View(_title(found), tuple(_facts(found)), tuple(scores), shown, tuple(notes))


def _samples(
    found: DistilledSet,
    encoder: Path | None,
    rows: Sequence[int],
    seen: Words | None,
    runs: Sequence[int | None],
    near: Sequence[tuple[Neighbour, ...]],
) -> tuple[Shown, ...]:
    """The samples of ``rows``; ``runs`` and ``near`` are of all."""
    written: list[tuple[str, ...]] = [()] * len(found)
    if found.token_ids is not None:
        written = [sample.texts for sample in samples(found.of_rows(rows), encoder)]
    names, largest = found.class_names, max(found.labels.abs().max().item(), 1e-12)
    shown = []
    for row in rows:
        own = int(found.label_ids[row])
        label = zip(names, found.labels[row].tolist(), strict=True)
        shown.append(
            Shown(
                number=row,
                name=names[own],
                label=tuple(Weight(n, v, abs(v) / largest, at == own) for at, (n, v) in enumerate(label)),
                pieces=_pieces(seen, row),
                texts=written[row],
                use=_use(found, row),
                origin=f"training row {found.about['chosen']['rows'][row]}" if "chosen" in found.about else "",
                longest=runs[row],
                near=near[row],
            )
        )
    return tuple(shown)


def _title(found: DistilledSet) -> str:
    kind = "texts" if found.token_ids is not None else "samples of input embeddings"
    kind = kind if found.vectors is None else "sentence vectors"
    return f"{found.about.get('task', 'a task')}: {len(found)} {kind} of {found.labels.shape[1]} classes"


def _facts(found: DistilledSet) -> list[tuple[str, str]]:
    about, chosen, split = found.about, found.about.get("selection", {}), selected_on(found.about)
    model, made = about.get("model", {}), about.get("provenance", {})
    method = about.get("config", {}).get("method", {}).get("name")
    facts = [("encoder", str(model.get("name", "not recorded")))]
    facts += [("method", f"{method}, seed {about.get('seed')}")] if method else []
    for part in about.get("composed", ()):
        of = f"{part['samples']} samples by {part['method']} of {part['task']}, seed {part['seed']}"
        facts.append((f"part of phase {part['phase']}", of))
    if "data" in about:
        sizes = ", ".join(f"{name} {size:,}" for name, size in about["data"]["sizes"].items())
        facts.append(("rows of the task", sizes))
    facts.append(("recipe", found.recipe.name))
    if found.learning_rates is not None:
        facts.append(("step sizes", ", ".join(f"{rate:.4g}" for rate in found.learning_rates.tolist())))
    if split != "none":
        step = f", at outer step {chosen['step']}" if "step" in chosen else ""
        facts.append(("selected on", f"{IN_WORDS[split]}{step}"))
    if made:
        dirty = " with uncommitted changes" if made.get("git_dirty") else ""
        git = f", git {made['git_revision'][:12]}{dirty}" if made.get("git_revision") else ""
        facts.append(("made", f"{made['time']}{git}"))
    return facts


def _reading(found: DistilledSet, rows: Sequence[int], seen: Words | None, nearest: int, among: int) -> list[str]:
    notes = []
    if found.inputs_embeds is not None:
        notes.append("The samples are vectors. Shown are the tokens nearest to them, which are not the set.")
    if seen is not None:
        notes.append(
            f"The fainter a token, the farther its position is from it; the cosine is {seen.similarity.mean():.2f} on "
            f"average."
        )
    if bool((found.labels < 0).any()):
        notes.append("Hatched bars are negative: labels were learned without restriction.")
    if len(rows) < len(found):
        notes.append(f"The first {len(rows)} of {len(found):,} samples are shown.")
    if nearest:
        what = "stored vectors" if found.vectors is not None else "mean last hidden states of the frozen encoder"
        notes.append(
            f"Nearest real rows: by cosine distance of {what}, among at most {among:,} training rows (a draw with the "
            f"classes' shares). 0 is the same direction."
        )
    return notes


def _pieces(seen: Words | None, row: int) -> tuple[Piece, ...]:
    if seen is None:
        return ()
    pairs = zip(seen.pieces[row][:TOKENS], seen.similarity[row].tolist(), strict=False)
    return tuple(Piece(text, similarity) for text, similarity in pairs)


def _use(found: DistilledSet, row: int) -> str:
    """When students learn from a sample."""
    parts = [] if found.phases is None else [f"phase {int(found.phases[row])}"]
    if found.batch_order is not None and found.recipe.order == "fixed":
        at = (found.batch_order == row).nonzero().tolist()
        steps = sorted({step for step, _ in at})
        noun = "step" if len(steps) == 1 else "steps"
        parts.append(f"{noun} {', '.join(str(step + 1) for step in steps)} of {found.steps}")
        if found.batch_weights is not None:
            weights = sorted({round(float(found.batch_weights[step, place]), 3) for step, place in at})
            parts.append(f"weight {' or '.join(f'{weight:g}' for weight in weights)}")
    return "; ".join(parts)


def _runs(found: DistilledSet, prepared: Prepared, seen: Words | None, rows: Sequence[int]) -> list[int | None]:
    """The longest run of tokens that each sample shares with one training row."""
    runs: list[int | None] = [None] * len(found)
    ids = found.token_ids if seen is None else seen.ids
    if ids is None:
        return runs
    corpus = Corpus(prepared.split("train"), prepared.tokenizer.all_special_ids)
    for row in rows:
        runs[row] = corpus.shared([corpus.text(ids[row].numpy())]).longest
    return runs
