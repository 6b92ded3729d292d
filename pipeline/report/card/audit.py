"""What is in a distilled set: text of train and test, labels that give themselves away, odd attention labels.

Every number comes with what it is compared with and, where there is one, the threshold from which on it is flagged. A
flag asks for a look; without flags nothing is proved.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pipeline.data.prepared import Prepared
from pipeline.distilled import DistilledSet
from pipeline.randomness import torch_generator
from pipeline.report.card.facts import Finding
from pipeline.report.card.overlap import NGRAM, Corpus, Tokens
from pipeline.report.card.vector_audit import distances_to_rows, lengths
from pipeline.students.encoder import Student
from pipeline.students.vocabulary import nearest_tokens

SAMPLES = 64  # that are compared with the corpora run by run
RANDOM_SETS = 10
REAL_ROWS = 64
LONG_RUN = 8  # tokens: the shorter of the two lengths in use for contamination
PEAK = 0.9
ODD = 6.0  # median absolute deviations
APART = 0.25  # of the scale of entropies, 0 … 1
MORE_MASS = 0.25
SHOWN = 8


@dataclass(frozen=True)
class Audit:
    """The findings, and the first samples as text."""

    findings: tuple[Finding, ...]
    looks_like: tuple[str, ...]


@torch.no_grad()
def audit(distilled: DistilledSet, prepared: Prepared, seed: int = 0) -> Audit:
    """Looks through a set.

    Args:
        distilled: the set.
        prepared: the task and the encoder that it was made for.
        seed: of the random sequences and vectors that it is compared with.

    Raises:
        InputError: the set was made for another encoder.

    """
    if distilled.vectors is not None:
        return _of_vectors(distilled, distilled.vectors, prepared, seed)
    student = Student.load(prepared.model_folder, prepared.manifest["fresh_parameters"], "cpu")
    distilled.check_model(student.embedding_matrix)
    found: list[Finding] = []
    if distilled.inputs_embeds is not None:
        near = nearest_tokens(distilled.inputs_embeds, student.embedding_matrix)
        found += _distances(distilled.inputs_embeds, near.distances, student.embedding_matrix, seed)
        ids = list(near.ids)
    else:
        assert distilled.token_ids is not None
        ids = [row[row >= 0] for row in distilled.token_ids]
    corpora = {name: Corpus(prepared.split(name), prepared.tokenizer.all_special_ids) for name in ("train", "test")}
    texts = [corpora["train"].text(row.numpy()) for row in ids]
    found += _shared(texts, corpora, seed, _kind(distilled))
    words = [prepared.tokenizer.decode(row) for row in texts[:SAMPLES]]
    if "texts" in distilled.about:  # as they were written, which a tokenizer need not give back
        words = [" / ".join(text) for text in distilled.about["texts"][:SAMPLES]]
    found += _named(words, distilled.label_ids[:SAMPLES].tolist(), prepared.classes)
    found += _labels(distilled)
    if distilled.attention_labels is not None:
        found += _attention(distilled.attention_labels.softmax(dim=-1), student, prepared)
    return Audit(tuple(found), tuple(words[:SHOWN]))


_Kind = Literal["real", "written", "vectors"]
_WRITTEN = {"text", "generated", "project", "imported"}  # methods whose samples need not be rows of train


def _kind(distilled: DistilledSet) -> _Kind:
    """Whether samples are training rows, new text, or vectors with a nearest token."""
    if distilled.token_ids is None:
        return "vectors"
    about = distilled.about
    made = [
        about.get("config", {}).get("method", {}),
        *({"name": part["method"]} for part in about.get("composed", [])),
    ]
    learned = any(method.get("name") in _WRITTEN for method in made)
    return "written" if learned or about.keys() & {"generated", "projection", "imported"} else "real"


def _of_vectors(distilled: DistilledSet, vectors: Tensor, prepared: Prepared, seed: int) -> Audit:
    """Samples beside real rows; they look like the training rows that they are nearest to."""
    about = prepared.manifest.get("vectors", {})
    centred = prepared.vector_mean() is not None
    distilled.check_vectors(about.get("pooling", ""), about.get("encoder_hash", ""), centred=centred)
    found, rows = distances_to_rows(vectors, prepared, seed)
    ids = prepared.split("train").rows[rows[:SHOWN]]["input_ids"]
    words = [prepared.tokenizer.decode(row, skip_special_tokens=True) for row in ids]
    return Audit((*found, lengths(distilled, prepared), *_labels(distilled)), tuple(words))


def _distances(vectors: Tensor, cosine: Tensor, matrix: Tensor, seed: int) -> list[Finding]:
    """How far the set is from the vocabulary, beside random directions."""
    euclid = nearest_tokens(vectors, matrix, "l2").distances
    random = torch.randn(256, matrix.shape[1], generator=torch_generator(seed, "random directions"))
    other = nearest_tokens(random, matrix).distances
    length = matrix.norm(dim=1).mean().item()
    exact = (euclid < 1e-4 * length).double().mean().item()
    return [
        Finding(
            about="distance to the nearest token",
            measured=f"cosine distance {cosine.mean():.3f} on average, {cosine.max():.3f} at most; "
            f"Euclidean {euclid.mean():.3f} on average; {_percent(exact)} of the positions are tokens",
            beside=f"random directions: cosine distance {other.mean():.3f}; length of a token's vector: {length:.3f}",
        )
    ]


def _shared(texts: Sequence[Tokens], corpora: dict[str, Corpus], seed: int, kind: _Kind) -> list[Finding]:
    """Overlap with train and with test, beside random token sequences of the same lengths."""
    what = "nearest-token sequences" if kind == "vectors" else "samples"
    some = texts[:SAMPLES]
    found = []
    for name, corpus in corpora.items():
        mine = corpus.shared(some)
        rows = corpus.whole_rows(texts)
        lengths = [len(text) for text in some]
        draws = [corpora["train"].drawn(lengths, seed, f"random text {draw}") for draw in range(RANDOM_SETS)]
        theirs = [corpus.shared(draw) for draw in draws]
        longest = max(each.longest for each in theirs)
        of_test = name == "test"
        matters = of_test or kind != "real"  # real samples are text of train
        found += [
            Finding(
                about=f"{what} that are a whole row of {name}",
                measured=f"{rows} of {len(texts)}",
                flagged_if="any" if matters else "",
                flagged=matters and rows > 0,
            ),
            Finding(
                about=f"token {NGRAM}-grams of the {what} that occur in {name}",
                measured=_percent(mine.ngrams),
                beside=f"random tokens of train: {_percent(sum(each.ngrams for each in theirs) / len(theirs))}",
            ),
            Finding(
                about=f"longest run of tokens shared with one row of {name}",
                measured=f"{mine.longest} tokens",
                beside=f"random tokens of train: {longest} at most in {RANDOM_SETS} sets",
                flagged_if=f"{LONG_RUN} or more, and more than random" if matters else "",
                flagged=matters and mine.longest >= LONG_RUN and mine.longest > longest,
            ),
        ]
    return found


def _named(words: Sequence[str], label_ids: Sequence[int], classes: Sequence[str]) -> list[Finding]:
    """Whether a sample's text has the name of its class in it."""
    about = "samples whose text has their class's name in it"
    if all(re.fullmatch(r"[\W\d_]*", name) for name in classes):
        return [Finding(about=about, measured=f"nothing to look for: the classes are called {', '.join(classes)}")]
    patterns = [re.compile(rf"(?<!\w){re.escape(name.lower())}(?!\w)") for name in classes]
    own = sum(bool(patterns[label].search(text.lower())) for text, label in zip(words, label_ids, strict=True))
    others = sum(
        any(pattern.search(text.lower()) for at, pattern in enumerate(patterns) if at != label)
        for text, label in zip(words, label_ids, strict=True)
    )
    return [
        Finding(
            about=about,
            measured=f"{own} of {len(words)}",
            beside=f"another class's name: {others}",
            flagged_if="any",
            flagged=own > 0,
        )
    ]


def _labels(distilled: DistilledSet) -> list[Finding]:
    """Margins, signs and sums of the labels."""
    labels, own = distilled.labels, distilled.label_ids[:, None]
    weight = labels.gather(1, own)[:, 0]
    margins = weight - labels.scatter(1, own, -torch.inf).max(dim=1).values
    wrong = int((margins <= 0).sum())
    sums = labels.sum(dim=1)
    return [
        Finding(
            about="margin of a sample's own class in its label",
            measured=f"{margins.min():.3f} at least, {margins.mean():.3f} on average; "
            f"{int((labels < 0).any(dim=1).sum())} of {len(labels)} labels have negative entries; "
            f"sums {sums.min():.3f} to {sums.max():.3f}",
            beside="one-hot: margin 1, sum 1; entries of unrestricted labels may be negative",
            flagged_if="any margin of 0 or less",
            flagged=wrong > 0,
        )
    ]


def _attention(labels: Tensor, student: Student, prepared: Prepared) -> list[Finding]:
    """Attention labels [N, L, heads, Q, S] as probabilities, beside the encoder's own attention on real rows."""
    rows = prepared.split("train").stratified(REAL_ROWS, 0, "rows of the audit").rows["input_ids"]
    theta, matrix = student.initial(0, 0), student.embedding_matrix
    kind: Literal["cls", "all"] = "cls" if labels.shape[3] == 1 else "all"
    real = [student(theta, matrix[torch.tensor([ids])], kind)[1] for ids in rows]
    own = [attention for attention in real if attention is not None]
    entropies = _entropy(labels)
    theirs = torch.cat([_entropy(attention) for attention in own])
    head = entropies.flatten(1)
    middle = head.median()
    spread = (head - middle).abs().median().clamp_min(0.01)
    odd = int(((head - middle).abs() > (ODD * spread).clamp_min(APART)).sum())
    peaked = _share_of_peaks(labels)
    peaked_real = sum(_share_of_peaks(attention) for attention in own) / len(own)
    beside = f"the encoder on {len(own)} train rows"
    found = [
        Finding(
            about="entropy of the attention labels of a head (1 = uniform)",
            measured=f"{head.mean():.3f} on average, {head.min():.3f} to {head.max():.3f}",
            beside=f"{beside}: {theirs.mean():.3f}, {theirs.min():.3f} to {theirs.max():.3f}",
        ),
        Finding(
            about="heads (of every sample) whose entropy is unlike the others'",
            measured=f"{odd} of {head.numel()}",
            flagged_if=f"any is more than {ODD:g} median absolute deviations, and {APART:g}, from the median",
            flagged=odd > 0,
        ),
        Finding(
            about=f"attention labels with more than {PEAK:.0%} of their mass on one position",
            measured=_percent(peaked),
            beside=f"{beside}: {_percent(peaked_real)}",
            flagged_if="more than twice the encoder's, and more than 1 %",
            flagged=peaked > max(2 * peaked_real, 0.01),
        ),
    ]
    for place, name, token in ((0, "first", "[CLS]"), (-1, "last", "[SEP]")):
        mass = labels[..., place].mean().item()
        usual = sum(attention[..., place].mean().item() for attention in own) / len(own)
        found.append(
            Finding(
                about=f"mass of the attention labels on the {name} position",
                measured=_percent(mass),
                beside=f"{beside}, on {token}: {_percent(usual)}; uniform: {_percent(1 / labels.shape[-1])}",
                flagged_if=f"{100 * MORE_MASS:.0f} points or more above the encoder's",
                flagged=mass - usual >= MORE_MASS,
            )
        )
    return found


def _entropy(attention: Tensor) -> Tensor:
    """[N, L, heads] mean over query rows of the entropy of [N, L, heads, Q, S], as a share of ln S."""
    mass = attention.double()
    nats = -torch.xlogy(mass, mass).sum(dim=-1)
    return nats.mean(dim=-1) / torch.log(torch.tensor(float(max(2, attention.shape[-1]))))


def _share_of_peaks(attention: Tensor) -> float:
    return (attention.max(dim=-1).values > PEAK).double().mean().item()


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
