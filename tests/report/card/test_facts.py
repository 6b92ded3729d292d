"""A card's front matter: what is written is what is read."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import yaml

from pipeline.config import FineTune, GradientSteps
from pipeline.errors import InputError
from pipeline.report.card.facts import (
    Evaluation,
    Facts,
    Finding,
    Score,
    card_path,
    read_facts,
    read_front_matter,
    require_facts,
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "set.h5"
    path.write_bytes(b"a set")
    return path


def facts(digest: str = hashlib.sha256(b"a set").hexdigest()) -> Facts:
    scores = (Score(split="test", metric="accuracy", mean=0.1 + 0.2, std=None, n=1),)
    return Facts(
        file="set.h5",
        sha256=digest,
        content={"task": {"source": {"kind": "files"}}},
        evaluations=(
            Evaluation(protocol=GradientSteps(name="ddal", step_sizes=(0.1,)), how="a", seeds=(0, 3), scores=scores),
            Evaluation(protocol=FineTune(name="finetune", epochs=2), how="b", seeds=(0,), scores=scores),
        ),
        audit=(Finding(about="x: y", measured="1 | 2\n3", flagged=True),),
    )


def write(path: Path, facts: Facts) -> None:
    whole = yaml.safe_dump({"license": "mit", "textdd": facts.model_dump(mode="json")})
    path.write_text(f"---\n{whole}---\n\n# text\n\n---\n")


def test_what_is_written_is_read_to_the_last_bit(file: Path) -> None:
    write(file.with_suffix(".md"), facts())
    assert read_facts(file) == facts() == require_facts(file)


def test_the_hubs_readme_is_a_card_too(file: Path) -> None:
    assert card_path(file) == file.with_suffix(".md")
    readme = file.with_name("README.md")
    readme.write_text("# of the folder")
    assert card_path(file) == file.with_suffix(".md")
    assert read_facts(file) is None
    write(readme, facts())
    assert card_path(file) == readme
    file.with_name("other.h5").write_bytes(b"another set")
    assert card_path(file.with_name("other.h5")) == file.with_name("other.md"), "it is not that one's"
    write(file.with_suffix(".md"), facts())
    assert card_path(file) == file.with_suffix(".md")


def test_no_card_and_the_card_of_another_file(file: Path) -> None:
    with pytest.raises(InputError, match=r"set.h5: has no card \(set.md\); write it: python -m pipeline card .*set.h5"):
        require_facts(file)
    write(file.with_suffix(".md"), facts())
    file.write_bytes(b"another set")
    with pytest.raises(
        InputError, match=r"is the card of another file \(sha256 .*…, this one is .*\); restore the set"
    ):
        require_facts(file)
    with pytest.raises(InputError, match="no such file"):
        require_facts(file.with_name("gone.h5"))


@pytest.mark.parametrize(
    "text",
    ["# no front matter", "---\nlicense: mit\n---\n", "---\ntextdd: 3\n---\n", "---\n: [\n---\n", "---\n- a\n---\n"],
)
def test_a_card_that_is_not_ours_is_refused(file: Path, text: str) -> None:
    file.with_suffix(".md").write_text(text)
    with pytest.raises(InputError, match=r"its front matter is not that of a card .*; remove it and write it anew"):
        read_facts(file)


def test_front_matter_ends_at_its_line() -> None:
    assert read_front_matter("---\na: 1\n---\nb: 2\n---\n") == {"a": 1}
    assert read_front_matter("a: 1\n---\n") is None
    assert read_front_matter("") is None


@pytest.mark.parametrize(
    ("metric", "mean", "std", "shown", "unit"),
    [
        ("accuracy", 0.7149, 0.0251, "71.5 ± 2.5", "%"),
        ("macro_f1", 0.5, None, "50.0", "%"),
        ("mcc", -0.1234, 0.01, "-0.123 ± 0.010", ""),
    ],
)
def test_scores_in_their_unit(metric: str, mean: float, std: float | None, shown: str, unit: str) -> None:
    score = Score(split="test", metric=metric, mean=mean, std=std, n=1 if std is None else 3)
    assert (score.shown, score.unit) == (shown, unit)
