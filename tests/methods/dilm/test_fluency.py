"""A language model's say in a set of text: losses and next words by hand, and whole cells that ask it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from pipeline import work
from pipeline.config import Text
from pipeline.config import load as load_experiment
from pipeline.data.prepared import Prepared
from pipeline.distilled import load
from pipeline.errors import InputError
from pipeline.launch import run_stage, stage_cells
from pipeline.launch.estimate import estimate
from pipeline.methods.dilm.generator import Generator
from pipeline.methods.text.fluency import Fluency
from pipeline.methods.text.set import Vocabulary
from pipeline.probe.text import text_pieces
from pipeline.store import Store
from pipeline.students.vocabulary import nearest_tokens
from pipeline.work import language as language_work
from tests.conftest import VOCABULARY, build_tokenizer
from tests.methods.dilm.conftest import fresh

CLS, SEP = VOCABULARY.index("[CLS]"), VOCABULARY.index("[SEP]")
WORDS = range(5, len(VOCABULARY))
Made = Callable[..., Fluency]


@pytest.fixture
def made(tmp_path: Path, language_model: Path) -> Made:
    """The tiny generator beside the tiny encoder's vocabulary, with random embeddings."""
    tokenizer = build_tokenizer(tmp_path / "bert")
    matrix = torch.randn(len(VOCABULARY), 4, generator=torch.Generator().manual_seed(3))

    def made(pairs: bool = False, generator: Generator | None = None) -> Fluency:
        marks = [[CLS], [SEP], [SEP]] if pairs else [[CLS], [SEP]]
        vocabulary = Vocabulary(matrix, list(range(5)), list(range(5)))
        return Fluency(generator or fresh(language_model), tokenizer, vocabulary, marks, 2)

    return made


def ids(*words: str) -> list[int]:
    return [VOCABULARY.index(word) for word in words]


def log_probabilities(generator: Generator, sequence: list[int]) -> Tensor:
    """[length, vocabulary] of the token after each."""
    with torch.no_grad():
        found: Tensor = generator.model(input_ids=torch.tensor([sequence])).logits[0].log_softmax(dim=-1)
    return found


def test_the_loss_by_hand(made: Made) -> None:
    """−Σ log p / tokens of the words and the end, after the token of the sample's class; of pairs a separator, too."""
    fluency, pairs = made(), made(pairs=True)
    generator = fluency.generator
    word = generator.tokenizer.convert_tokens_to_ids

    def expected(sequence: list[int]) -> float:
        steps = log_probabilities(generator, sequence)[:-1]
        return -steps.gather(1, torch.tensor(sequence[1:]).unsqueeze(1)).mean().item()

    rows = torch.tensor([[CLS, *ids("good", "word1"), SEP], [CLS, *ids("bad", "bad"), SEP]])
    sequences = [
        [generator.begin[0], word("good"), word("word1"), generator.end],
        [generator.begin[1], word("bad"), word("bad"), generator.end],
    ]
    assert fluency.loss(rows) == pytest.approx(sum(map(expected, sequences)) / 2, rel=1e-5)
    row = [CLS, *ids("good"), SEP, *ids("bad", "word1"), SEP]
    separated = [word("good"), generator.separator, word("bad"), word("word1")]
    assert pairs.loss(torch.tensor([row])) == pytest.approx(
        expected([generator.begin[0], *separated, generator.end]), rel=1e-5
    )


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("count", [1, 3])
def test_the_nearest_of_the_likeliest_from_left_to_right(made: Made, pairs: bool, count: int) -> None:
    """Beside a search that reads one row and one position at a time."""
    fluency = made(pairs)
    generator, matrix = fluency.generator, fluency.vocabulary.matrix
    row = [CLS, *ids("word1", "word2"), *([SEP] if pairs else []), *ids("word3"), SEP]
    token_ids = torch.tensor([row, row])
    free = ~torch.isin(token_ids, torch.tensor([CLS, SEP]))
    points = torch.randn(2, len(row), 4, generator=torch.Generator().manual_seed(4))
    found = fluency.nearest(points, token_ids, free, "l2", count)
    for sample in range(2):
        sequence, expected = [generator.begin[sample]], list(row)
        for place, token in enumerate(row):
            if token in (CLS, SEP):
                sequence += [generator.separator] if 0 < place < len(row) - 1 else []
                continue
            last = log_probabilities(generator, sequence)[-1]
            own = {word: generator.tokenizer.convert_tokens_to_ids(VOCABULARY[word]) for word in WORDS}
            likely = sorted(WORDS, key=lambda word: -last[own[word]].item())[:count]
            expected[place] = min(likely, key=lambda word: (points[sample, place] - matrix[word]).norm().item())
            sequence.append(own[expected[place]])
        assert found[sample].tolist() == expected


@pytest.mark.parametrize("measure", ["l2", "cosine"])
def test_of_all_words_it_is_the_nearest(made: Made, measure: Any) -> None:
    fluency = made()
    points = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(4))
    token_ids = torch.tensor([[CLS, 6, 7, 8, SEP]] * 2)
    free = torch.tensor([[False, True, True, True, False]] * 2)
    found = fluency.nearest(points, token_ids, free, measure, 10_000)
    every = nearest_tokens(points, fluency.vocabulary.matrix, measure, without=range(5)).ids
    assert torch.equal(found[free], every[free])
    assert torch.equal(found[~free], token_ids[~free])


def test_a_word_after_another_is_written_with_its_space(made: Made) -> None:
    """By a tokenizer that knows words with and without; one that it cannot write is as likely as nothing."""
    entries = ["<unk>", "<end>", *VOCABULARY[5:], *("▁" + word for word in VOCABULARY[5:])]
    words = Tokenizer(models.WordLevel({word: at for at, word in enumerate(entries)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<end>", eos_token="<end>")
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<|class 0|>", "<|class 1|>", "<|separator|>", "<|pad|>"]}
    )
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=8, n_layer=1, n_head=1, n_positions=20))
    fluency = made(generator=Generator(model, tokenizer, 2, "cpu"))
    assert fluency._first[True].tolist() == [entries.index(VOCABULARY[token]) for token in WORDS]
    assert fluency._first[False].tolist() == [entries.index("▁" + VOCABULARY[token]) for token in WORDS]


@pytest.fixture
def path(
    experiment: Callable[..., Path], encoder_folder: Callable[..., Path], language_model: Path
) -> Callable[..., Path]:
    """An experiment of one set of text whose parent is a language model of the task."""

    def path(relaxation: dict[str, Any], parent: bool = True) -> Path:
        training = {"name": "lm", "steps": 3, "lr": 1e-2, "batch_size": 16, "precision": "fp32"}
        source = {"model": {"name": str(language_model), "head": "language"}}
        small = {
            "name": "text",
            "shots": 2,
            "sequence_length": 6,
            "candidates": 40,
            "initialise": "real",
            "relaxation": relaxation,
            "steps": 2,
            "learning_rate": 0.01,
            "outer": {"steps": 4, "batch_size": 16, "lr": 0.3},
            "validation": {"every": 2, "initialisations": 1, "training": {"steps": 4, "lr": 1e-2}},
        }
        return experiment(
            prepare={"model": str(encoder_folder("bert", pretrained=True))},
            distill={"method": small, "runtime": {"threads": 1, "save_seconds": 0}}
            | ({"parent": {"method": training, "source": source}} if parent else {}),
            evaluate={"protocol": {"name": "finetune", "steps": 4, "lr": 1e-2}},
        )

    return path


@pytest.mark.parametrize(
    "relaxation",
    [{"name": "admm", "every": 2, "top_k": 4}, {"name": "swaps", "tokens": 2, "sentences": 2, "fluency": 0.5}],
)
def test_from_the_language_model_to_scores(
    path: Callable[..., Path], tmp_path: Path, relaxation: dict[str, Any]
) -> None:
    plan, store = load_experiment(path(relaxation)), Store(tmp_path / "ck")
    for stage in ("prepare", "distill", "evaluate"):
        outcome = run_stage(stage_cells(plan, store, stage), stage, store)
        assert not outcome.failed, outcome.failed
    made = load(store.cell(plan.cells[0].source).folder / "distilled.h5")
    assert made.token_ids is not None
    assert made.token_ids.shape == (4, 6)


def test_what_it_reads_is_a_part_of_the_cost(path: Callable[..., Path], tmp_path: Path) -> None:
    """4 steps of 3 proposals and what there is, 4 samples of 6 tokens; and a slice of the cell can be measured."""
    plan, store = load_experiment(path({"name": "swaps", "sentences": 3, "fluency": 0.5})), Store(tmp_path / "ck")
    assert not run_stage(stage_cells(plan, store, "prepare"), "prepare", store).failed
    config = plan.cells[0].source
    folder, method = store.cell(config.source).folder, config.method
    assert isinstance(method, Text)
    silent = method.model_copy(update={"relaxation": method.relaxation.model_copy(update={"fluency": 0.0})})
    asked, not_asked = (
        work.of_distill(config.model_copy(update={"method": each}), folder).scoring for each in (method, silent)
    )
    per_token = language_work.products_per_token(language_work.written_for(config, folder))
    assert asked - not_asked == pytest.approx(4 * (3 + 1) * 4 * 6 * per_token)
    pieces = text_pieces(config, method, Prepared(folder), tmp_path / "set.h5")
    assert [name for name, _, _ in pieces] == ["outer", "training", "scoring"]
    pieces[0][1]()


@pytest.mark.usefixtures("forks")
@pytest.mark.parametrize("relaxation", [{"name": "admm", "every": 2, "top_k": 4}, {"name": "swaps", "fluency": 0.5}])
def test_without_a_validation_it_is_predicted_too(
    path: Callable[..., Path], tmp_path: Path, relaxation: dict[str, Any]
) -> None:
    plan = load_experiment(path(relaxation), ["distill.method.validation={split: none}"])
    lines = estimate(plan, Store(tmp_path / "ck"), lambda text: None)
    (line,) = [line for line in lines if line.stage == "distill" and line.what.startswith("keywords text-")]
    assert line.predicted is not None, line.trouble
    assert line.predicted[0].seconds > 0


def test_who_asks_a_language_model_names_it(path: Callable[..., Path]) -> None:
    fluent = {"name": "admm", "top_k": 4}
    with pytest.raises(InputError, match=r"method 'text' needs another cell of stage 2 that says what is fluent"):
        load_experiment(path(fluent, parent=False))
    with pytest.raises(InputError, match="parent: method 'text' starts from no other cell; remove it"):
        load_experiment(path({"name": "admm"}))


def test_who_is_asked_by_default() -> None:
    asked = Text.model_validate({"name": "text", "relaxation": {"name": "swaps", "fluency": 0.5}})
    assert asked.asks_language_model
    assert not Text.model_validate({"name": "text"}).asks_language_model
    assert not Text.model_validate({"name": "text", "relaxation": {"name": "admm"}}).asks_language_model
