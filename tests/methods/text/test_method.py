"""Text that is learned: always tokens, proposals as by hand, kept only where they help, bit-equal after a kill."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.bilevel import adjoint
from pipeline.config import Text
from pipeline.config import load as load_experiment
from pipeline.data.prepared import Prepared
from pipeline.distilled import DistilledSet, load
from pipeline.errors import InputError
from pipeline.launch import run_stage, stage_cells
from pipeline.methods import gradient_check
from pipeline.methods.outer import OuterState
from pipeline.methods.text import method as text
from pipeline.methods.text.run import TextState
from pipeline.methods.text.start import class_scores, telling_rows, telling_words
from pipeline.store import Store
from tests.conftest import KEYWORDS, VOCABULARY
from tests.methods.disturbance import Disturbance, launch

Write = Callable[..., Path]
Begun = Callable[..., TextState]
SMALL: dict[str, Any] = {
    "name": "text",
    "shots": 2,
    "sequence_length": 6,
    "candidates": 40,
    "initialise": "real",
    "steps": 2,
    "learning_rate": 0.01,
    "outer": {"steps": 6, "batch_size": 16},
    "validation": {"every": 2, "initialisations": 2, "training": {"steps": 4, "lr": 1e-2}},
}
RELAXATIONS: list[dict[str, Any]] = [
    {"name": "swaps", "tokens": 3, "positions": 4, "sentences": 3},
    {"name": "swaps", "tokens": 0, "sentences": 2},
    {"name": "straight_through"},
    {"name": "projected", "every": 2, "penalty": 0.1, "measure": "cosine"},
    {"name": "mixture", "candidates": 8, "share": 0.3, "gumbel": True},
    {"name": "admm", "every": 2, "rho": 0.01},
]
SPECIAL = {VOCABULARY.index(token) for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")}


@pytest.fixture
def path(experiment: Write, encoder_folder: Callable[..., Path]) -> Callable[..., Path]:
    """An experiment of one small set of text with a tiny encoder that knows its words."""

    def path(**method: Any) -> Path:
        return experiment(
            prepare={"model": str(encoder_folder("bert", pretrained=True))},
            distill={"method": SMALL | method, "runtime": {"threads": 1, "save_seconds": 0}},
            evaluate={"protocol": {"name": "finetune", "steps": 4, "lr": 1e-2}},
        )

    return path


@pytest.fixture
def begun(path: Callable[..., Path], tmp_path: Path) -> Begun:
    """The state before the first outer step."""

    def begun(**options: Any) -> TextState:
        plan, store = load_experiment(path(**options)), Store(tmp_path / "ck")
        assert not run_stage(stage_cells(plan, store, "prepare"), "prepare", store).failed
        config = plan.cells[0].source
        prepared, method = Prepared(store.cell(config.source).folder), config.method
        assert isinstance(method, Text)
        return text.begun(config.model_copy(update={"seed": 3}), method, prepared)

    return begun


def distilled(path: Path, root: Path) -> tuple[DistilledSet, Path]:
    plan, store = load_experiment(path), Store(root)
    for stage in ("prepare", "distill", "evaluate"):
        outcome = run_stage(stage_cells(plan, store, stage), stage, store)
        assert not outcome.failed, outcome.failed
    folder = store.cell(plan.cells[0].source).folder
    return load(folder / "distilled.h5"), folder


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"labels": "soft", "relaxation": {"name": "straight_through"}}, {"inputs_embeds", "labels", "weights"}),
        ({"steps": 3, "inner_optimizer": "gd", "dropout": True, "window": 2}, {"inputs_embeds", "weights"}),
    ],
)
def test_its_hypergradient_is_checked_before_it_is_used(
    path: Callable[..., Path], tmp_path: Path, options: dict[str, Any], names: set[str]
) -> None:
    """Of every tensor that steps and proposals follow; one that is a thousandth too long is found."""
    plan, store = load_experiment(path(**options)), Store(tmp_path / "ck")
    assert not run_stage(stage_cells(plan, store, "prepare"), "prepare", store).failed
    config = plan.cells[0].source
    folder = store.cell(config.source).folder
    found = gradient_check.check_gradient(config, Prepared(folder))
    assert found.holds, found.table()
    assert {row.tensor for row in found.agreements[torch.float64]} == names
    assert gradient_check.canary_of(config, folder).holds


def test_a_wrong_hypergradient_is_caught(
    path: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, store = load_experiment(path(estimator="adjoint")), Store(tmp_path / "ck")
    run_stage(stage_cells(plan, store, "prepare"), "prepare", store)
    config = plan.cells[0].source
    true = adjoint._Sums.add

    def longer(self: Any, end: Any, gradient: Any, factor: Any = None) -> None:
        true(self, end, None if gradient is None else 1.001 * gradient, factor)

    monkeypatch.setattr(adjoint._Sums, "add", longer)
    assert not gradient_check.canary_of(config, store.cell(config.source).folder).holds


@pytest.mark.parametrize("relaxation", RELAXATIONS)
def test_it_is_text_after_every_step(begun: Begun, relaxation: dict[str, Any]) -> None:
    """Of words, of one length, framed as at the start; students see the embeddings of its tokens."""
    run = begun(relaxation=relaxation, outer={"steps": 6, "batch_size": 16, "lr": 0.3, "optimizer": "adam"})
    first, matrix = run.learned.token_ids, run.learned.vocabulary.matrix
    for _ in range(4):
        run.advance()
        ids = run.learned.token_ids
        framed = torch.isin(first, torch.tensor(sorted(SPECIAL)))
        assert torch.equal(ids[framed], first[framed])
        assert not SPECIAL & set(ids[~framed].tolist())
        seen = run.learned.view().inputs_embeds
        assert seen is not None
        free = relaxation["name"] in ("mixture", "admm")
        if not free and (relaxation["name"] != "projected" or run.step % 2 == 0):
            torch.testing.assert_close(seen, matrix[ids], rtol=0, atol=1e-6)
    assert not torch.equal(ids, first)


def test_token_proposals_are_the_best_first_order_exchanges(begun: Begun) -> None:
    """Beside a search over every position and token of ⟨gradient, new − old embedding⟩."""
    run = begun(relaxation={"name": "swaps", "tokens": 3, "positions": 4})
    learned = run.learned
    matrix, points = learned.vocabulary.matrix, learned.tensors["inputs_embeds"]
    points.grad = torch.randn(points.shape, generator=torch.Generator().manual_seed(2))
    allowed = [token for token in range(len(matrix)) if token not in learned.vocabulary.barred]
    best = []
    for sample in range(4):
        for position in range(1, 5):
            gradient, old = points.grad[sample, position], points.detach()[sample, position]
            change, token = min((float(gradient @ (matrix[token] - old)), token) for token in allowed)
            best.append((change, sample, position, token))
    best.sort()
    method = run.method.relaxation
    assert method.name == "swaps"
    for size, proposal in zip((4, 2, 1), run._token_proposals(method), strict=True):
        expected = learned.token_ids.clone()
        for _, sample, position, token in best[:size]:
            expected[sample, position] = token
        assert torch.equal(proposal, expected)


def test_a_proposal_is_kept_where_it_lowers_the_loss(begun: Begun) -> None:
    run = begun(relaxation=RELAXATIONS[0], outer={"steps": 8, "batch_size": 32})
    changed = 0
    for _ in range(8):
        (real, _), before, most = run.real(), run.learned.token_ids.clone(), run.most
        loss = run.loss_of(before, real)
        found, _ = run.advance()
        assert found == pytest.approx(loss, rel=1e-4)
        run.step -= 1
        after = run.loss_of(run.learned.token_ids, real)
        run.step += 1
        moved = not torch.equal(before, run.learned.token_ids)
        assert (after < loss) == moved
        assert run.most == (most if moved else max(1, most // 2)) or run.most == min(2 * most, 4)
        changed += moved
    assert changed > 0


@pytest.mark.parametrize("of_now", [0.0, 1000.0])
def test_fluency_is_a_part_of_what_proposals_cost(begun: Begun, of_now: float) -> None:
    """A language model that likes only what there is, or everything else."""
    relaxation = {"name": "swaps", "tokens": 0, "sentences": 3}
    run = begun(relaxation=relaxation)
    before = run.learned.token_ids.clone()

    class Fluency:
        def loss(self, token_ids: torch.Tensor) -> float:
            return of_now if torch.equal(token_ids, before) else 1000.0 - of_now

    run.method = run.method.model_copy(update={"relaxation": run.method.relaxation.model_copy(update={"fluency": 1.0})})
    run._fluency = Fluency()  # type: ignore[assignment]
    run.advance()
    assert torch.equal(run.learned.token_ids, before) == (of_now == 0.0)


def test_sentences_replace_the_most_harmful_samples(begun: Begun) -> None:
    run = begun(relaxation={"name": "swaps", "tokens": 0, "sentences": 3, "among": 5})
    run.learned.weights.grad = torch.tensor([[0.1], [0.4], [-0.2], [0.3]])
    method = run.method.relaxation
    assert method.name == "swaps"
    for sample, proposal in zip((1, 3, 0), run._sentence_proposals(method), strict=True):
        others = [row for row in range(4) if row != sample]
        assert torch.equal(proposal[others], run.learned.token_ids[others])
        assert (run._pools[sample % 2][:5] == proposal[sample]).all(dim=1).any()


def test_the_weights_gradient_is_that_of_repeating_a_sample(begun: Begun) -> None:
    """d L / d weight by finite differences; labels of a sample times a factor are that sample so often."""
    run = begun(inner_optimizer="gd", learning_rate=0.5)
    OuterState.gradient(run)
    found = run.learned.weights.grad
    assert found is not None
    (real, _), ids, step = run.real(), run.learned.token_ids, 0.02
    ends = []
    for sign in (1, -1):
        run.learned._one_hot[1] *= 1 + sign * step
        ends.append(run.loss_of(ids, real))
        run.learned._one_hot[1] /= 1 + sign * step
    assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(found[1].item(), rel=0.02)


def test_sentences_to_start_from(begun: Begun) -> None:
    """Of the class, of the length, each with a word of its class; another start has others."""
    run = begun(starts=3)
    for ids in run._starts:
        assert ids.shape == (4, 6)
        for row, tokens in enumerate(ids.tolist()):
            assert tokens[0] == VOCABULARY.index("[CLS]")
            assert tokens[-1] == VOCABULARY.index("[SEP]")
            cut = {VOCABULARY[token] for token in tokens}
            assert not cut & set(KEYWORDS[1 - row % 2])
    assert not torch.equal(run._starts[0], run._starts[1])
    (real, _) = run.real()
    best = min(run._starts, key=lambda ids: run.loss_of(ids, real))
    seen: list[torch.Tensor] = []
    put = run.learned.put
    run.learned.put = lambda ids: (seen.append(ids.clone()), put(ids))[1]  # type: ignore[method-assign]
    run.advance()
    assert torch.equal(seen[0], best)


@pytest.mark.parametrize("labels", ["soft", "unrestricted"])
def test_labels_are_learned_too(begun: Begun, labels: str) -> None:
    run = begun(labels=labels)
    before = run.learned.labels.detach().clone()
    run.advance()
    after = run.learned.text().labels
    assert not torch.equal(before, after)
    assert labels == "unrestricted" or after.sum(dim=1).tolist() == pytest.approx([1.0] * 4)


@pytest.mark.parametrize("relaxation", RELAXATIONS)
def test_from_start_to_scores(path: Callable[..., Path], tmp_path: Path, relaxation: dict[str, Any]) -> None:
    """The whole pipeline; the same again; selected by training as stage 3 does."""
    found, folder = distilled(path(relaxation=relaxation), tmp_path / "a")
    assert found.token_ids is not None
    assert found.token_ids.shape == (4, 6)
    assert found.recipe.name == "finetune"
    assert found.about["selection"]["split"] == "dev"
    words = sum(token not in SPECIAL for row in found.token_ids.tolist() for token in row)
    assert found.about["text"] == {"tokens": words, "tokens_read_back": words, "samples_read_back": 4}
    assert found.about["selection"]["step"] in (0, 2, 4, 6)
    again, _ = distilled(path(relaxation=relaxation), tmp_path / "b")
    assert torch.equal(found.token_ids, again.token_ids)
    with open(folder / "log.csv", newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == [str(step) for step in range(1, 7)]


@pytest.mark.parametrize("relaxation", RELAXATIONS[:1] + RELAXATIONS[3:])
def test_killed_and_started_again_it_ends_bit_equal(
    path: Callable[..., Path], tmp_path: Path, relaxation: dict[str, Any]
) -> None:
    file = path(relaxation=relaxation, starts=2, labels="unrestricted", outer={"steps": 8, "batch_size": 16})
    undisturbed, folder = distilled(file, tmp_path / "a")
    store = Store(tmp_path / "b")
    run_stage(stage_cells(load_experiment(file), store, "prepare"), "prepare", store)
    where = "pipeline.methods.text.run:TextState.advance"
    ends, said = launch(
        "distill", file, tmp_path / "b", [Disturbance(where, 3, "SIGKILL"), Disturbance(where, 2, "SIGTERM"), None]
    )
    assert [ended.step for ended in ends] == [2, 4, 8], said
    resumed = load(tmp_path / "b" / "distill" / folder.name / "distilled.h5")
    assert undisturbed.token_ids is not None
    assert resumed.token_ids is not None
    assert torch.equal(undisturbed.token_ids, resumed.token_ids)
    assert torch.equal(undisturbed.labels, resumed.labels)
    assert undisturbed.about["selection"] == resumed.about["selection"]


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"outer": {"lr_attention": 0.1}}, "outer.lr_attention: a set of text has no such tensors"),
        ({"relaxation": {"name": "swaps", "tokens": 0, "sentences": 0}}, "propose nothing"),
        ({"starts": 2, "initialise": "centres"}, "centres are one start"),
        ({"steps": 2, "window": 3}, "window: 3 is longer than steps: 2; give at most 2"),
        ({"relaxation": {"name": "gumbel"}}, "swaps"),
    ],
)
def test_refused_configs(path: Callable[..., Path], method: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_experiment(path(**method))


def test_sentences_have_to_be_long_enough(path: Callable[..., Path], tmp_path: Path) -> None:
    plan, store = load_experiment(path(sequence_length=30)), Store(tmp_path)
    for stage in ("prepare", "distill"):
        outcome = run_stage(stage_cells(plan, store, stage), stage, store)
    (reason,) = outcome.failed.values()
    assert "rows of sequence_length: 30 tokens or more, too few for shots: 2" in reason


def test_scores_of_words_by_hand(begun: Begun, tmp_path: Path) -> None:
    """A keyword that k of its class's rows have, and none of the others, beside the formula."""
    run = begun()
    train = run.train
    token = VOCABULARY.index("good")
    has = np.asarray([token in ids for ids in train.rows["input_ids"]])
    labels = train.labels.numpy()
    n, others, k = (labels == 1).sum(), (labels == 0).sum(), has.sum()
    assert has[labels == 0].sum() == 0
    expected = math.log((k + 1) / n) - math.log(1 / others)
    (folder,) = (tmp_path / "ck" / "prepare").iterdir()
    scores = class_scores(Prepared(folder), [VOCABULARY.index("dull")], len(VOCABULARY))
    assert scores[1, token] == pytest.approx(expected)
    assert scores[0, token] == pytest.approx(math.log(1 / others) - math.log((k + 1) / n))
    best = {VOCABULARY[token] for token in np.argsort(-scores[0])[:2].tolist()}
    assert best == {"bad", "weak"}


def test_telling_rows_and_words() -> None:
    """By hand: words that are taken count no more, and words against the class always do."""
    scores = np.array([0.0, 5.0, 3.0, 2.0, -4.0, 1.0])
    pool = torch.tensor([[1, 4, 0], [1, 3, 0], [1, 2, 0], [3, 5, 5], [2, 5, 4]])  # sums 1, 7, 8, 3, 0
    assert telling_rows(pool, scores, 3).tolist() == [2, 3, 1]  # then 2 and 5 and 3 are left, then none: -4, 0, 0, -4
    assert telling_words(scores, 2, 2, 1).tolist() == [[1, 3], [2, 5]]


@pytest.mark.parametrize("width", [3, 5])
def test_there_have_to_be_enough_telling_words(width: int) -> None:
    """What is barred or unseen has score 0: it is no word of the class, and neither is one that speaks against it."""
    scores = np.array([0.0, 5.0, 3.0, 2.0, -4.0, 1.0])
    wanted = f"class 1 has 4 telling words, too few for shots: 2 of {width} words each, which are {2 * width}"
    with pytest.raises(InputError, match=wanted):
        telling_words(scores, 2, width, 1)


@pytest.mark.parametrize("initialise", ["centres", "telling", "words"])
def test_other_starts(begun: Begun, initialise: str) -> None:
    run = begun(initialise=initialise)
    (ids,) = run._starts
    assert ids.shape == (4, 6)
    assert torch.equal(run.learned.token_ids, ids)
    for row, tokens in enumerate(ids.tolist()):
        assert tokens[0] == VOCABULARY.index("[CLS]")
        assert tokens[-1] == VOCABULARY.index("[SEP]")
        if initialise != "centres":
            assert {VOCABULARY[token] for token in tokens} & set(KEYWORDS[row % 2])


@pytest.mark.parametrize("inner", [{"precision": "bf16"}, {"dropout": True}], ids=str)
def test_a_checkpoint_is_scored_as_stage_3_trains_whatever_the_inner_loop_is(
    begun: Begun, tmp_path: Path, inner: dict[str, Any]
) -> None:
    """The inner loop's precision and dropout are not the recipe's."""
    options = {"outer": {"steps": 6, "batch_size": 16, "precision": "fp32"}}
    scores = []
    for more in ({}, inner):
        run = begun(**options, **more)
        (folder,) = (tmp_path / "ck" / "prepare").iterdir()
        run.learned.put(run.start["token_ids"])
        scores.append(text._TextValidator(run.method, Prepared(folder), run.student, 3, run.ranks)(run))
    assert scores[0] == scores[1]


def test_what_it_started_from_may_be_the_best(begun: Begun, tmp_path: Path) -> None:
    """Sentences of the other class in every sample's place are worse, and the run goes on with them."""
    run = begun(validation={"initialisations": 2, "training": {"steps": 30, "lr": 1e-2}})
    (folder,) = (tmp_path / "ck" / "prepare").iterdir()
    validate = text._TextValidator(run.method, Prepared(folder), run.student, 3, run.ranks)
    first = run.learned.token_ids
    turned = first.roll(1, dims=0)
    run.learned.put(turned)
    run.step = 2
    found = validate(run)
    assert run.step == 2
    assert torch.equal(run.learned.token_ids, turned)
    assert run.best.step == 0
    assert torch.equal(run.best.tensors["token_ids"], first)
    assert run.best.loss is not None
    assert run.best.loss < found["validation_loss"]
    run.learned.put(first)
    assert validate(run)["validation_loss"] == pytest.approx(run.best.loss)
