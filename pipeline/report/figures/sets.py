"""What is inside a distilled set: its attention labels as heat maps, its samples as their nearest tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.colors import LinearSegmentedColormap, PowerNorm

from pipeline.report.figures.canvas import paths_of, sheet
from pipeline.report.shown_sets import Shown

SAMPLES = 4  # of each set
NAMED = 40  # positions: more are counted, not named
PER_LINE = 8  # tokens
_LIGHT = [(0.0, "white"), (1.0, "0.55")]  # black text is read on all of it


def attention(sets: Sequence[Shown], title: str, stem: Path) -> tuple[Path, Path] | None:
    """Writes the attention labels of the first samples: a line per layer and head, a column per position.

    Of labels for all query rows, the first ([CLS]) is shown. Returns None where no set has attention labels.
    """
    shown = [(each, n) for each in sets if each.found.attention_labels is not None for n in _first(each)]
    if not shown:
        return None
    maps = [heat_map(each, n) for each, n in shown]
    high, wide = -(-len(shown) // 2), min(2, len(shown))
    lines = max(len(found) for found in maps)
    with sheet(stem, (6.6 * wide, high * (0.055 * lines + 2.0) + 1.2)) as figure:
        panels = list(figure.subplots(high, wide, squeeze=False).flat)
        norm = PowerNorm(0.5, vmin=0, vmax=max(float(found.max()) for found in maps))  # most shares are small
        for panel, (each, n), found in zip(panels, shown, maps, strict=False):
            image = _heat(panel, each, n, found, norm)
        for panel in panels[len(shown) :]:
            panel.set_axis_off()
        figure.suptitle(f"{title}: attention labels of the first position")
        bar = figure.colorbar(image, ax=panels, location="bottom", aspect=60, shrink=0.6, pad=0.01)
        bar.set_label("share of a head's attention on the position (grey level by its square root)", fontsize=9)
    return paths_of(stem)


def heat_map(shown: Shown, sample: int) -> npt.NDArray[np.float64]:
    """[L · heads, S] attention labels of a sample as shares, layer by layer; each line sums to 1."""
    logits = shown.found.attention_labels
    assert logits is not None
    found: npt.NDArray[np.float64] = logits[sample, :, :, 0].double().softmax(dim=-1).flatten(0, 1).numpy()
    return found


def tokens(sets: Sequence[Shown], title: str, stem: Path) -> tuple[Path, Path] | None:
    """Writes the nearest token of every position of the first samples, its similarity as a grey level.

    Returns None where no set's encoder is here.
    """
    shown = [(each, n) for each in sets if each.words is not None for n in _first(each)]
    if not shown:
        return None
    lines = [-(-_length(each, n) // PER_LINE) for each, n in shown]
    with sheet(stem, (11.0, 0.36 * sum(lines) + 0.45 * len(shown) + 1.4)) as figure:
        panels = figure.subplots(len(shown), 1, squeeze=False, height_ratios=lines)[:, 0]
        for panel, (each, n) in zip(panels, shown, strict=True):
            image = _text(panel, each, n)
        figure.suptitle(f"{title}: nearest token of every position of the synthetic samples")
        bar = figure.colorbar(image, ax=list(panels), location="bottom", aspect=50, shrink=0.6, pad=0.01)
        bar.set_label("cosine similarity to the nearest token (1: the position is that token)", fontsize=9)
    return paths_of(stem)


def _first(shown: Shown) -> range:
    return range(min(SAMPLES, len(shown.found)))


def _heat(panel: Any, shown: Shown, sample: int, found: npt.NDArray[np.float64], norm: Any) -> Any:
    assert shown.found.attention_labels is not None
    layers, heads = shown.found.attention_labels.shape[1:3]
    image = panel.imshow(found, cmap="Greys", norm=norm, aspect="auto", interpolation="nearest")
    for layer in range(1, layers):
        panel.axhline(layer * heads - 0.5, color="0.4", linewidth=0.7, linestyle="--")
    panel.set_yticks([layer * heads + (heads - 1) / 2 for layer in range(layers)], range(1, layers + 1))
    panel.set_ylabel(f"layer ({heads} heads each)", fontsize=9)
    panel.set_title(shown.title(sample), fontsize=8.5, parse_math=False)
    positions = found.shape[1]
    if shown.words is not None and positions <= NAMED:
        names = [_visible(piece) for piece in shown.words.pieces[sample]]
        panel.set_xticks(range(positions), names, rotation=90, fontsize=6.5, parse_math=False)
        panel.set_xlabel("position, by its nearest token", fontsize=9)
    else:
        panel.set_xlabel("position", fontsize=9)
    panel.tick_params(axis="y", labelsize=8)
    return image


def _text(panel: Any, shown: Shown, sample: int) -> Any:
    assert shown.words is not None
    count = _length(shown, sample)
    grid = np.full((-(-count // PER_LINE), PER_LINE), np.nan)
    grid.flat[:count] = shown.words.similarity[sample, :count].numpy()
    image = panel.imshow(grid, cmap=LinearSegmentedColormap.from_list("light", _LIGHT), vmin=0, vmax=1, aspect="auto")
    for at in range(count):
        piece = _visible(shown.words.pieces[sample][at])[:16]
        panel.text(at % PER_LINE, at // PER_LINE, piece, ha="center", va="center", fontsize=8, parse_math=False)
    panel.set_title(shown.title(sample), fontsize=9, loc="left", parse_math=False)
    panel.set_xticks([])
    panel.set_yticks(range(len(grid)), [str(line * PER_LINE) for line in range(len(grid))], fontsize=7)
    panel.set_ylabel("position", fontsize=8)
    return image


def _length(shown: Shown, sample: int) -> int:
    """Positions that hold something."""
    ids = shown.found.token_ids
    assert shown.words is not None
    return len(shown.words.pieces[sample]) if ids is None else int((ids[sample] >= 0).sum())


def _visible(piece: str) -> str:
    """The piece, with characters that matplotlib's font does not have as their code points."""
    from matplotlib import font_manager

    known = font_manager.get_font(font_manager.findfont("DejaVu Sans")).get_charmap()
    return "".join(letter if ord(letter) in known else f"U+{ord(letter):04X}" for letter in piece)
