"""What a card claims, as typed data: the ``textdd`` block of its front matter, which ``verify`` reads."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ValidationError

from pipeline.config import Protocol
from pipeline.config.protocols import Split
from pipeline.config.schema import Count, Frozen
from pipeline.errors import InputError

_NO_SHARES = ("mcc", "loss", "ece")


class Score(Frozen):
    """The mean of one metric on one split, with the sample standard deviation over n students (None for one)."""

    split: Split
    metric: str
    mean: float
    std: float | None
    n: Count

    @property
    def unit(self) -> str:
        """``%`` of shares; nothing of what is none."""
        return "" if self.metric in _NO_SHARES else "%"

    @property
    def shown(self) -> str:
        """Mean and deviation, in the unit."""
        scale, digits = (100, 1) if self.unit else (1, 3)
        spread = "" if self.std is None else f" ± {scale * self.std:.{digits}f}"
        return f"{scale * self.mean:.{digits}f}{spread}"


class Evaluation(Frozen):
    """Scores by one protocol. ``seeds``: those of the evaluations, none of which another student should use again.

    ``prefix``: of the first so many samples per class alone.
    """

    protocol: Protocol
    prefix: int | None = None
    how: str
    seeds: tuple[int, ...]
    scores: tuple[Score, ...]


class Reads(Frozen):
    """How often the test split of this task was scored where the card was written: evaluations, students in them."""

    evaluations: int
    students: int


class Finding(Frozen):
    """One line of the audit: what was looked at, the number, what it is compared with, from where on it is flagged."""

    about: str
    measured: str
    beside: str = ""
    flagged_if: str = ""
    flagged: bool = False


class Facts(Frozen):
    """Everything of a card that is not in the set's own file.

    Attributes:
        file, sha256: which file the card is of.
        license, language: of the set, as the hub names them; the user's to say.
        content: what data and encoder counted as: digests of local files, revisions of the hub.
        beside: what other sets and references scored, in sentences.
        transfers: what students of other encoders scored that learned from its text, likewise.
        selection: how the set came to be chosen, in sentences.
        test_reads: None where no store was at hand.
        audit: empty where the prepared data were not at hand.
        looks_like: the samples as text.

    """

    format: Literal["textdd-card/1"] = "textdd-card/1"
    file: str
    sha256: str
    license: str = "unknown"
    language: str = "und"
    content: dict[str, Any]
    evaluations: tuple[Evaluation, ...]
    beside: tuple[str, ...] = ()
    transfers: tuple[str, ...] = ()
    selection: tuple[str, ...] = ()
    test_reads: Reads | None = None
    audit: tuple[Finding, ...] = ()
    looks_like: tuple[str, ...] = ()


def sha256_of(path: Path) -> str:
    """The digest of a file's bytes.

    Raises:
        InputError: no such file.

    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a distilled.h5 that stage 2 wrote")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def card_path(file: Path) -> Path:
    """Where the card of a set is: ``x.md`` beside ``x.h5``, or ``README.md``, as the hub has it, if that is its."""
    beside, readme = file.with_suffix(".md"), file.with_name("README.md")
    if beside.is_file() or not readme.is_file():
        return beside
    with contextlib.suppress(yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError):
        if read_front_matter(readme.read_text())["textdd"]["sha256"] == sha256_of(file):
            return readme
    return beside


def read_front_matter(text: str) -> Any:
    """The YAML between the first two ``---`` lines, or None where there is none."""
    opening, _, rest = text.partition("\n")
    block, end, _ = rest.partition("\n---\n")
    return yaml.safe_load(block) if opening.strip() == "---" and end else None


def read_facts(file: Path) -> Facts | None:
    """What the card of a set claims; None where there is no card.

    Raises:
        InputError: the card is not one of ours, or its front matter is not whole.

    """
    path = card_path(file)
    if not path.is_file():
        return None
    try:
        found = read_front_matter(path.read_text())
        return Facts.model_validate((found or {})["textdd"])
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, ValidationError) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(
            f"{path}: its front matter is not that of a card ({reason}); remove it and write it anew: "
            f"python -m pipeline card {file}"
        ) from error


def require_facts(file: Path) -> Facts:
    """What the card of a set claims.

    Raises:
        InputError: there is no card, it is not whole, or it is of another file.

    """
    digest = sha256_of(file)
    facts = read_facts(file)
    write = f"write it: python -m pipeline card {file}"
    if facts is None:
        raise InputError(f"{file}: has no card ({file.with_suffix('.md').name}); {write}")
    if facts.sha256 != digest:
        raise InputError(
            f"{card_path(file)}: is the card of another file (sha256 {facts.sha256[:12]}…, this one is {digest[:12]}…);"
            f" restore the set, or {write}"
        )
    return facts
