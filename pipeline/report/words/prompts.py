"""What tables call sets that a language model is shown, and what they say of how it is asked."""

from __future__ import annotations

from pipeline.config import DiLMPrompting, Empty, Evaluate, Prompted, Prompting

_SCORED = {"sum": "log-probability", "mean": "log-probability per token", "first": "first token's log-probability"}


def prompted_name(cell: Evaluate) -> str:
    """Such as ``prompted`` or ``prompted, calibrated``; of no examples only what is not usual."""
    assert isinstance(cell.protocol, Prompted)
    recipe = cell.recipe
    assert isinstance(recipe, Prompting)
    parts = [
        "" if isinstance(cell.source.method, Empty) else "prompted",
        "DiLM's prompt" if isinstance(cell.protocol, DiLMPrompting) else _unusual(recipe),
        "calibrated" if recipe.calibration else "",
    ]
    return ", ".join(part for part in parts if part)


def prompted_order(cell: Evaluate) -> tuple[int, ...]:
    """DiLM's prompt after our own, calibrated after plain."""
    recipe = cell.recipe
    assert isinstance(recipe, Prompting)
    published = isinstance(cell.protocol, DiLMPrompting)
    return (int(published), list(_SCORED).index(recipe.scoring), int(bool(recipe.calibration)))


def prompt_recipe(cell: Evaluate) -> str:
    """How the model is asked, in a few words."""
    recipe = cell.recipe
    assert isinstance(recipe, Prompting)
    alone = isinstance(cell.source.method, Empty)
    text = f"nothing is trained, a class scores the {_SCORED[recipe.scoring]} of its name after "
    text += "the query alone" if alone else "examples and query"
    text += f", in {recipe.precision} weights" if recipe.precision != "fp32" else ""
    if recipe.calibration:
        inputs = ", ".join(f"'{each}'" for each in recipe.calibration)
        text += f", relative to that after the inputs {inputs}"
    if recipe.examples is not None:
        text += f", {recipe.examples} rows drawn of each split"
    return text if alone else f"{text}; an initialisation is an order of the examples"


def left_out(held: float, dropped: float, cut: float) -> str:
    """What prompts lack, empty where nothing.

    Args:
        held, dropped: examples that a prompt has, and that it has not, on average.
        cut: share of queries that lost text.

    """
    short = f"{held:.1f} of {held + dropped:.0f} examples fit, on average" if dropped else ""
    lost = f"{100 * cut:.1f} % of the queries were cut" if cut else ""
    return " and ".join(part for part in (short, lost) if part)


def _unusual(recipe: Prompting) -> str:
    return "" if recipe.scoring == "sum" else {"mean": "mean over tokens", "first": "first tokens"}[recipe.scoring]
