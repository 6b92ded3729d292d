"""How a set came to be the one that is released: what selected its checkpoint, its settings, its seed."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from pipeline.config import Composed, Distill, Evaluate, Generated, Imported, Learned, Project, RandomReal, SmallSet
from pipeline.report.alternatives import hyper_parameters, searched
from pipeline.report.card.scores import Scored, percent, same, values_of
from pipeline.report.words.cells import recipe
from pipeline.report.words.language import kept_state
from pipeline.report.words.rows import row_of


def history(distill: Distill, about: dict[str, Any], known: Sequence[Scored]) -> tuple[str, ...]:
    """How the set came to be the one that is released, in sentences: checkpoint, settings, seeds."""
    return (*_checkpoint(distill, about), *_settings(distill, known), *_seeds(distill, known))


def _checkpoint(distill: Distill, about: dict[str, Any]) -> list[str]:
    """What selected the set, or each of its parts, by what stage 2 wrote of it."""
    method = distill.method
    if isinstance(method, Generated):
        return [f"The generator's state: {kept_state(distill)}. No score of a student selected anything."]
    if isinstance(method, Imported):
        return ["What selected it, and whether that was the test split, is not known: it was published by others."]
    if isinstance(method, Composed):
        if "composed" not in about:  # a part that is itself composed, as files had it before they told of its own parts
            return ["What selected its parts is not recorded with the set."]
        return [
            f"Part {number}, by `{facts['method']}` of {facts['task']} (seed {facts['seed']}): {sentence}"
            for number, (part, facts) in enumerate(zip(method.parts, about["composed"], strict=True), 1)
            for sentence in _checkpoint(part.of, facts)
        ]
    if isinstance(method, Learned | Project):
        return [_selected(about.get("selection", {}))]
    return ["No score on dev or test selected anything: the rows follow from the method, train and the seed."]


def _selected(found: dict[str, Any]) -> str:
    """How the outer loop's checkpoint was selected."""
    if found.get("split", "none") == "none":
        return "Checkpoint: the last outer step, selected by nothing."
    students, rows = found["initialisations"], found["examples"] or "all"
    words = (
        f"Checkpoint: outer step {found['step']}, by {found['split']} {found['by']} (loss {found['loss']:.4f}, "
        f"accuracy {100 * found['accuracy']:.1f} %) of {students} fresh students on {rows} {found['split']} rows."
    )
    if found["split"] == "test":
        words += " THE TEST SPLIT SELECTED, as in the published protocol: its scores are optimistic."
    return words


def _settings(distill: Distill, known: Sequence[Scored]) -> list[str]:
    """Other settings of the same method and budget that were tried where the card was written."""
    if isinstance(distill.method, Imported | RandomReal) or not isinstance(distill.method, SmallSet):
        return []
    mine = [each.config for each in known if same(each.config.source, distill) and each.config.data is None]
    if not mine:
        return ["Hyper-parameters: how they were chosen is not recorded with the set."]
    own = _of_set(mine[0])
    row = row_of(mine[0])
    alike = [
        each.config for each in known if same(each.config.source.source, distill.source) and row_of(each.config) == row
    ]
    tried = {repr(_of_set(config)): config for config in alike}
    others = [config for name, config in tried.items() if name != repr(own)]
    if not others:
        return [
            "Hyper-parameters: no other setting of this method and budget was evaluated where the card was written; "
            "whether others were tried elsewhere is not recorded with the set."
        ]
    axes = [key for key in searched([mine[0], *others]) if not key.startswith("evaluate.")]
    on_dev = {repr(_of_set(config)) for config in alike if "dev" in config.splits}
    found = [
        f"Hyper-parameters: one of {len(tried)} settings that were evaluated where the card was written, which differ "
        f"in {', '.join(axes)}; {len(on_dev)} of them have dev scores to choose by."
    ]
    if any("dev" in config.splits and same(config.source, distill) for config in alike):
        found.append(
            "THIS VERY SET is one of those whose dev scores were compared: where its settings were chosen by them, it "
            "was chosen, too, and luck is part of its score; what these settings give is what other seeds' sets score."
        )
    return found


def _seeds(distill: Distill, known: Sequence[Scored]) -> list[str]:
    """What sets of other seeds scored, by the same settings and protocols: a released seed may be a chosen one."""
    if not distill.is_drawn:
        return ["The set does not depend on a seed."]
    metric = distill.source.task.metric
    members: dict[str, dict[tuple[int, ...], list[Scored]]] = {}
    for each in known:
        source = each.config.source
        of_whole = each.config.data is None and each.config.prefix is None
        if of_whole and same(_unseeded(source), _unseeded(distill)):
            members.setdefault(recipe(each.config), {}).setdefault(source.seeds, []).append(each)
    means: dict[str, dict[tuple[int, ...], float]] = {}
    for how, of_sets in members.items():
        for seeds, evaluations in of_sets.items():
            if values := values_of(evaluations, "test", metric):
                means.setdefault(how, {})[seeds] = statistics.fmean(values)
    found = []
    for how, by_seed in means.items():
        if len(by_seed) > 1 and distill.seeds in by_seed:
            rank = 1 + sum(mean > by_seed[distill.seeds] for mean in by_seed.values())
            found.append(
                f"Seeds: {len(by_seed)} sets by the same settings have a mean test {metric} of "
                f"{percent(statistics.fmean(by_seed.values()))} ± {percent(statistics.stdev(by_seed.values()))} "
                f"(sample standard deviation between sets; {how}); this one, seed {distill.seed}, is number {rank}."
            )
    if not means:
        return ["Seeds: no set by these settings, of this seed or another, had test scores where the card was written."]
    return found or [
        f"Seeds: the only set by these settings that was evaluated where the card was written is this one, "
        f"seed {distill.seed}: what another distillation would give is not known."
    ]


def _of_set(config: Evaluate) -> dict[str, Any]:
    """The hyper-parameters that the set depends on."""
    return {key: value for key, value in hyper_parameters(config).items() if not key.startswith("evaluate.")}


def _unseeded(config: Distill) -> Distill:
    """The config with every seed of its chain at 0."""
    made = [_unseeded(one) for one in config.made_of]
    if isinstance(config.method, Composed):
        return config.model_copy(update={"seed": 0, "method": config.method.of(made)})
    return config.model_copy(update={"seed": 0, "parent": made[0] if made else None})
