"""The commands of a set that is given to others: ``card``, ``verify``, ``push``. Only ``__main__`` imports this."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline import launch
from pipeline.config import AlwaysMajority, Distill, Evaluate, OnVectors
from pipeline.config.cluster_file import enter, root_of
from pipeline.errors import InputError
from pipeline.store import Store

if TYPE_CHECKING:
    from pipeline.data.prepared import Prepared
    from pipeline.distilled import DistilledSet
    from pipeline.report.card.criterion import Check
    from pipeline.report.card.facts import Evaluation, Facts

File = Annotated[Path, typer.Argument(help="a distilled set: a distilled.h5, of the store or from anywhere")]
Root = Annotated[str | None, typer.Option(help="folder of all artifacts (default: the set's own, or as of `run`)")]
Data = Annotated[
    list[Path] | None, typer.Option(help="where the task's data are now, a file or a folder; matched by content")
]
Encoder = Annotated[Path | None, typer.Option("--model", help="where the encoder is now")]


def card(
    file: File,
    license_: Annotated[str | None, typer.Option("--license", help="as the hub names it, such as cc-by-4.0")] = None,
    language: Annotated[str | None, typer.Option(help="of the texts, such as en")] = None,
    results: Annotated[
        list[Path] | None, typer.Option(help="committed results, such as analysis/results/table2, without suffix")
    ] = None,
    look: Annotated[
        bool, typer.Option("--audit/--no-audit", help="look through the set beside the task's data")
    ] = True,
    data: Data = None,
    model: Encoder = None,
    root: Root = None,
) -> None:
    """Write the data card of a set beside it: what it is, how it was selected, how it scored, an audit."""
    from pipeline import distilled
    from pipeline.progress import quiet_libraries
    from pipeline.report.card.facts import card_path, read_facts
    from pipeline.report.card.gather import gather
    from pipeline.report.card.text import card_text
    from pipeline.store.atomic import write_text

    quiet_libraries()
    found, store = distilled.load(file), _store(file, root)
    facts = gather(found, file, store, results or [], license_, language)
    if look:
        try:
            _, prepared = _prepared(found, facts.content, store, data or [], model)
            facts = _audited(found, facts, prepared)
        except InputError as error:
            print(f"note: not audited: {error}", file=sys.stderr)
    if not facts.evaluations:
        print(f"note: no evaluation of this set in {store.root}; verify needs one (--root, --results)", file=sys.stderr)
    path, before = card_path(file), read_facts(file)
    if before is not None and before.license not in ("unknown", facts.license):
        print(f"note: the licence was {before.license} and is {facts.license} now", file=sys.stderr)
    write_text(path, card_text(found, facts))
    print(path)
    for each in facts.audit:
        if each.flagged:
            print(f"flagged: {each.about}: {each.measured} (flagged if {each.flagged_if})", file=sys.stderr)


def _audited(found: DistilledSet, facts: Facts, prepared: Prepared) -> Facts:
    from pipeline.report.card.audit import audit

    seen = audit(found, prepared)
    return facts.model_copy(update={"audit": seen.findings, "looks_like": seen.looks_like})


def verify(
    file: File,
    initialisations: Annotated[int, typer.Option(min=2, help="students to train anew for each protocol")] = 10,
    seed: Annotated[int | None, typer.Option(help="of their classifiers (default: one that no score is from)")] = None,
    data: Data = None,
    model: Encoder = None,
    root: Root = None,
) -> None:
    """Train new students on a set and say whether its card's numbers hold; exit status 1 if they do not."""
    from pipeline import distilled
    from pipeline.progress import quiet_libraries
    from pipeline.report.card.criterion import LEVEL, checks
    from pipeline.report.card.facts import card_path, require_facts
    from pipeline.report.card.front import altered

    quiet_libraries()
    found, facts = distilled.load(file), require_facts(file)
    if not facts.evaluations:
        raise InputError(
            f"{card_path(file)}: claims no scores that could be verified; python -m pipeline card {file} --root STORE "
            f"takes them from the store that the set was evaluated in"
        )
    edited = altered(card_path(file).read_text(), found, facts)
    for part in edited:
        print(f"the card contradicts itself: not what its front matter (textdd) gives: {part}")
    store = _store(file, root)
    config, prepared = _prepared(found, facts.content, store, data or [], model)
    metric, sizes = config.source.task.metric, found.about["data"]["sizes"]
    held = not edited
    for claim in facts.evaluations:
        fresh = seed if seed is not None else max(claim.seeds) + 1
        print(f"{config.source.task.name}, {claim.how}, new classifiers of seed {fresh}")
        measured = _measured(found, config, prepared, claim, fresh, initialisations)
        rows = checks(claim.scores, measured, sizes, metric)
        _show(rows)
        width = max((row.high - row.low) / 2 for row in rows if row.of == "mean" and row.claim.metric == metric)
        print(f"  a mean {metric} that is off by less than {width:.4f} would pass; more --initialisations tell more")
        held &= all(row.holds for row in rows)
    print(
        f"the card's numbers {'hold' if held else 'DO NOT hold'} (they hold if every new mean and the new spread of "
        f"{metric} lie where they would in {LEVEL:.0%} of cases if the claims are true: two-sample t, F; all "
        f"comparisons of a protocol together)"
    )
    if not held:
        raise typer.Exit(1)


def _measured(
    found: DistilledSet, config: Distill, prepared: Prepared, claim: Evaluation, seed: int, initialisations: int
) -> Mapping[tuple[str, str], Sequence[float]]:
    """Values of new students by (split, metric)."""
    from pipeline.evaluation.on_vectors import evaluate_on_vectors
    from pipeline.evaluation.protocols import evaluate
    from pipeline.report.card.scores import read_runs

    now = type(claim.protocol).model_fields["revision"].default
    if claim.protocol.revision != now:
        raise InputError(
            f"scored by revision {claim.protocol.revision} of protocol '{claim.protocol.name}', this version has "
            f"{now}: evaluate the set anew and write its card again, or verify with the version that scored it"
        )
    cell = Evaluate(
        source=config,
        protocol=claim.protocol,
        prefix=claim.prefix,
        initialisations=1 if isinstance(claim.protocol, AlwaysMajority) else initialisations,
        splits=tuple(dict.fromkeys(score.split for score in claim.scores)),
        seed=seed,
    )
    values: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        protocol = evaluate_on_vectors if isinstance(cell.recipe, OnVectors) else evaluate
        protocol(cell, prepared, found.prefix(claim.prefix), Path(folder))
        for run in read_runs(Path(folder) / "results.csv"):
            values.setdefault((run.split, run.metric), []).append(run.value)
    return values


def _show(rows: Sequence[Check]) -> None:
    print(f"  {'split':<6}{'metric':<19}{'':<6}{'claimed':>16}{'measured':>16}  {'holds if within':<18}")
    for row in rows:
        claimed, measured = f"{row.claimed:.4f} (n {row.claim.n})", f"{row.measured:.4f} (n {row.n})"
        within = f"{row.low:.4f} to {row.high:.4f}"
        mark = "holds" if row.holds else "DOES NOT HOLD"
        print(
            f"  {row.claim.split:<6}{row.claim.metric:<19}{row.of:<6}{claimed:>16}{measured:>16}  {within:<18}  {mark}"
        )


def push(
    file: File,
    repo: Annotated[str, typer.Argument(help="OWNER/NAME of a dataset repository; made where it is not there")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would go, and stop")] = False,
    private: Annotated[bool, typer.Option("--private", help="where the repository is made")] = False,
) -> None:
    """Upload a set and its card to the Hugging Face hub."""
    from pipeline import distilled
    from pipeline.report.card.facts import card_path, require_facts
    from pipeline.report.card.front import altered
    from pipeline.report.card.push import files_of, problems, upload

    found, facts = distilled.load(file), require_facts(file)
    wrong = problems(repo, card_path(file))
    edited = altered(card_path(file).read_text(), found, facts)
    wrong += [f"not what its front matter (textdd) gives: {part}" for part in edited]
    files = files_of(file, facts)
    if dry_run:
        print(f"would go to https://huggingface.co/datasets/{repo}:")
        for name, path in files.items():
            print(f"  {name:<24}{path.stat().st_size:>12,} bytes   from {path}")
        print("\n".join(f"  card: {problem}" for problem in wrong) if wrong else "  card: its front matter is valid")
        return
    if wrong:
        raise InputError("\n".join(f"{card_path(file)}: {problem}" for problem in wrong))
    print(upload(repo, files, private=private))


def _store(file: Path, root: str | None) -> Store:
    """The store that was asked for, or the one that the set lies in, or the default."""
    inside = file.absolute().parent
    own = root is None and inside.parent.name == "distill"
    return Store.of(inside) if own else Store(root_of(root, enter()))


def _prepared(
    found: DistilledSet, content: Mapping[str, Any], store: Store, data: Sequence[Path], model: Path | None
) -> tuple[Distill, Prepared]:
    """The set's task, prepared here: its config with today's paths, and what stage 1 made of it.

    Raises:
        InputError: data or encoder are not here, or are others than the set was made from.

    """
    from pipeline.data.prepared import Prepared
    from pipeline.data.relocate import relocated
    from pipeline.report.card.gather import config_of

    config = config_of(found)
    source = relocated(config.source, content, data, model, store.places.digest)
    cell = store.cell(source)
    outcome = launch.run_stage([cell], "prepare", store)
    if outcome.failed:
        raise InputError(next(iter(outcome.failed.values())))
    prepared = Prepared(cell.folder)
    now, then = prepared.manifest, found.about
    others = [name for name, digest in then["data"]["hashes"].items() if now["hashes"][name] != digest]
    if others:
        raise InputError(
            f"the set was made from other data: {', '.join(others)} of {config.source.task.name} differ from it after "
            f"tokenisation; give the data it names (--data), and the encoder's own tokenizer (--model)"
        )
    if now["embedding_hash"] != then["model"]["embedding_hash"]:
        raise InputError(
            f"the set was made with {then['model']['name']}, whose embedding matrix is another one than that of "
            f"{source.model.name}; say where it is: --model FOLDER"
        )
    vectors, made_for = now.get("vectors", {}), then.get("vectors", {})
    if vectors.get("encoder_hash") != made_for.get("encoder_hash"):
        raise InputError(
            f"the set was made with vectors of {then['model']['name']}, whose weights are others than those of "
            f"{source.model.name}; say where it is: --model FOLDER"
        )
    return config.model_copy(update={"source": source}), prepared
