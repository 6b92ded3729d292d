"""The commands about the samples of a set: ``show``, ``export``, ``import``. Only ``__main__`` imports this."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pipeline import launch
from pipeline.config import load
from pipeline.config.cluster_file import enter, root_of
from pipeline.errors import InputError
from pipeline.store import Store, locate

if TYPE_CHECKING:
    from pipeline.data.prepared import Prepared
    from pipeline.distilled import DistilledSet
    from pipeline.report.card.facts import Evaluation

File = Annotated[Path, typer.Argument(help="a distilled set: a distilled.h5, of the store or from anywhere")]
Encoder = Annotated[Path | None, typer.Option("--model", help="a folder with its encoder and tokenizer")]
Root = Annotated[str | None, typer.Option(help="folder of all artifacts (default: the set's own, or as of `run`)")]


def show(
    file: File,
    to: Annotated[
        Literal["terminal", "html", "markdown"], typer.Option(help="a page also has scores and the nearest real rows")
    ] = "terminal",
    out: Annotated[Path | None, typer.Option(help="of a page: where to (default: FILE.html, FILE.samples.md)")] = None,
    nearest: Annotated[int, typer.Option(min=0, help="of a page: real training rows per sample")] = 3,
    among: Annotated[int, typer.Option(min=1, help="of a page: training rows that are looked at for these")] = 2000,
    model: Encoder = None,
    root: Root = None,
) -> None:
    """Print the samples of a set, or write a page: class, label, and text, or the tokens that are nearest."""
    from pipeline import distilled
    from pipeline.distilled.shown import readable
    from pipeline.progress import quiet_libraries

    quiet_libraries()
    found = distilled.load(file)
    try:
        encoder = None if found.vectors is not None else _encoder(found, file, model)
    except InputError:
        if to == "terminal":  # what can be said without it
            print("\n".join(readable(found, None)), flush=True)
        raise
    if to == "terminal":
        for line in readable(found, encoder):
            print(line)
        return
    from pipeline.report.view import gathered, html, markdown
    from pipeline.store.atomic import write_text

    prepared, scores = _beside(found, file, root)
    view = gathered(found, encoder, prepared, scores, nearest, among)
    path = out or (file.with_suffix(".html") if to == "html" else file.with_suffix(".samples.md"))
    write_text(path, html(view) if to == "html" else markdown(view))
    print(path)


def export(
    file: File,
    to: Annotated[Literal["csv", "jsonl", "datasets"], typer.Option(help="a file, or a folder for load_from_disk")],
    out: Annotated[Path | None, typer.Option(help="where to (default: beside the set)")] = None,
    model: Encoder = None,
) -> None:
    """Write the samples of a set of text for other programs."""
    from pipeline import distilled
    from pipeline.distilled.shown import check_table
    from pipeline.distilled.shown import export as written
    from pipeline.progress import quiet_libraries

    quiet_libraries()
    found = distilled.load(file)
    check_table(found)
    path = out or file.with_suffix({"csv": ".csv", "jsonl": ".jsonl", "datasets": ""}[to])
    written(found, _encoder(found, file, model), to, path)
    print(path)


def import_(
    published: Annotated[
        Path, typer.Argument(help="DDAL's folder, DiLM's JSON lines, or an h5 file of RaT-BPTT or the NYU project")
    ],
    config: Annotated[str, typer.Argument(help="an experiment whose prepare section names its task and its encoder")],
    out: Annotated[Path, typer.Option(help="the file to write")] = Path("distilled.h5"),
    set_: Annotated[list[str] | None, typer.Option("--set", help="dotted.key=value, such as prepare.model=…")] = None,
    root: Root = None,
) -> None:
    """Turn a set that others published into a distilled.h5."""
    store = Store(root_of(root, enter()))
    experiment = launch.pin(load(config, set_ or []), store)
    source = experiment.cells[0].source.source
    cell = store.cell(source)
    outcome = launch.run_stage([cell], "prepare", store)
    if outcome.failed:
        raise InputError(next(iter(outcome.failed.values())))
    from pipeline import distilled
    from pipeline.data.prepared import Prepared
    from pipeline.distilled.published import published as read
    from pipeline.store.provenance import provenance

    found = read(published, Prepared(cell.folder), len(source.task.text))
    distilled.save(replace(found, about=found.about | {"provenance": provenance()}), out)
    print(f"{out}: {len(found)} samples of {', '.join(found.about['classes'])}")


def _beside(found: DistilledSet, file: Path, root: str | None) -> tuple[Prepared | None, tuple[Evaluation, ...]]:
    """The prepared task of a set, where it is still in the store, and what the set scored there or in its card."""
    from pipeline.data.prepared import Prepared
    from pipeline.report.card.gather import config_of, gather

    if "config" not in found.about:
        return None, ()
    inside = file.absolute().parent
    own = root is None and inside.parent.name == "distill"
    store = Store.of(inside) if own else Store(root_of(root, enter()))
    made = config_of(found)
    scores = tuple(
        each.model_copy(update={"scores": tuple(one for one in each.scores if one.metric == made.source.task.metric)})
        for each in gather(found, file, store, [], None, None).evaluations
    )  # the other metrics are in the card
    try:
        folder = store.cell(made.source).folder
    except InputError:  # the data or the encoder are not here
        return None, scores
    return (Prepared(folder) if (folder / "manifest.json").is_file() else None), scores


def _encoder(found: DistilledSet, file: Path, model: Path | None) -> Path:
    """Where the set's encoder is: as given, stage 1's snapshot in the set's own store, or where it was taken from.

    Raises:
        InputError: none of these is here.

    """
    if model is not None:
        return model
    name = found.about.get("model", {}).get("name", "unknown")
    inside = file.absolute().parent
    if inside.parent.name == "distill" and "config" in found.about:
        from pipeline.report.card.gather import config_of

        snapshot = Store.of(inside).cell(config_of(found).source).folder / "model"
        if snapshot.is_dir():
            return snapshot
    place = locate(name)
    if place is None:
        raise InputError(f"{file}: its encoder, {name}, is not here; give a folder with it: --model FOLDER")
    return place
