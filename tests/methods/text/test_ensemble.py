"""Text learned for students of several encoders: means by hand, equal students, resume, and what is refused."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import BertConfig, BertForSequenceClassification, BertModel, BertTokenizerFast

from pipeline.config import Text
from pipeline.config import load as load_experiment
from pipeline.data.prepared import Prepared
from pipeline.distilled import load
from pipeline.distilled.text import texts
from pipeline.launch import run_stage, stage_cells
from pipeline.launch.running import check_gradient
from pipeline.methods.text import method as text
from pipeline.methods.text.run import TextState
from pipeline.randomness import derive, seeded
from pipeline.store import Store
from pipeline.students.masked import Masked, with_mask
from tests.conftest import FILLERS, KEYWORDS, VOCABULARY
from tests.methods.disturbance import Disturbance, launch
from tests.methods.text.test_method import SMALL as PLAIN

Write = Callable[..., Path]
Begun = Callable[..., TextState]
SMALL = PLAIN | {"relaxation": {"name": "swaps", "tokens": 2, "positions": 4, "sentences": 3}}
# digits are tokens of their own: what is six tokens for the first encoder is up to ten here
PIECES = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *KEYWORDS[1],
    "word",
    *KEYWORDS[0],
    *(f"##{n}" for n in range(10)),
]


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrower BERT with another tokenizer."""
    folder = tmp_path_factory.mktemp("others") / "bert-of-pieces"
    config = BertConfig(
        vocab_size=len(PIECES),
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=40,
        initializer_range=0.15,
    )
    with seeded(5, "pieces"):
        BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=40).save_pretrained(folder)
    return folder


@pytest.fixture
def twin(encoder_folder: Callable[..., Path], tmp_path: Path) -> Path:
    """The first encoder again, in another place."""
    return Path(shutil.copytree(encoder_folder("bert", pretrained=True), tmp_path / "twin"))


@pytest.fixture
def path(experiment: Write, encoder_folder: Callable[..., Path]) -> Callable[..., Path]:
    """An experiment of one small set of text, with students of other encoders."""

    def path(*others: Path, name: str = "tiny", **method: Any) -> Path:
        return experiment(
            prepare={"model": str(encoder_folder("bert", pretrained=True))},
            distill={
                "method": SMALL | method,
                "others": [{"model": str(one)} for one in others],
                "runtime": {"threads": 1, "save_seconds": 0},
            },
            evaluate={"protocol": {"name": "finetune", "steps": 4, "lr": 1e-2}},
            name=name,
        )

    return path


@pytest.fixture
def begun(path: Callable[..., Path], tmp_path: Path) -> Begun:
    """The state before the first outer step."""

    def begun(*others: Path, **options: Any) -> TextState:
        plan, store = load_experiment(path(*others, **options)), Store(tmp_path / "ck")
        assert not run_stage(stage_cells(plan, store, "prepare"), "prepare", store).failed
        config = plan.cells[0].source.model_copy(update={"seed": 3})
        prepared, *more = (Prepared(store.cell(one).folder) for one in (config.source, *config.others))
        assert isinstance(config.method, Text)
        return text.begun(config, config.method, prepared, None, more)

    return begun


def gradients(run: TextState) -> dict[str, torch.Tensor]:
    """What one call of ``gradient`` leaves, without any exchange."""
    relaxation, run.method = run.method, run.method.model_copy(update={"relaxation": None})
    super(TextState, run).gradient()
    run.method = relaxation
    leaves = {**run.learned.tensors, "weights": run.learned.weights}
    return {name: leaf.grad.clone() for name, leaf in leaves.items() if leaf.grad is not None}


def test_an_equal_student_changes_no_exchange(begun: Begun, twin: Path) -> None:
    """Twice the same student is twice the weight, of which the mean is the same to the bit."""
    options = {"labels": "soft", "draws": 1, "outer": {"steps": 6, "batch_size": 16, "max_grad_norm": None}}
    alone, both = begun(**options), begun(twin, **options)
    moved = 0
    for _ in range(6):
        before = alone.learned.token_ids.clone()
        assert alone.advance()[0] == both.advance()[0]
        assert torch.equal(alone.learned.token_ids, both.learned.token_ids)
        assert torch.equal(alone.learned.weights.grad, both.learned.weights.grad)  # type: ignore[arg-type]
        assert alone.most == both.most
        moved += not torch.equal(before, alone.learned.token_ids)
    assert moved > 0


def trained_by_hand(
    module: BertForSequenceClassification, encoded: Any, labels: torch.Tensor, real: Any, run: TextState
) -> float:
    """Plain steps on word embeddings, padding not attended; the loss of real text by the library's forward pass."""
    names = [name for name, _ in module.named_parameters() if "word_embeddings" not in name]
    held = module.get_input_embeddings().weight.detach()[encoded["input_ids"]]
    for _ in range(run.method.steps):
        logits = module(inputs_embeds=held, attention_mask=encoded["attention_mask"]).logits
        loss = -(labels * logits.log_softmax(dim=-1)).sum(dim=-1).mean()
        trained = [module.get_parameter(name) for name in names]
        with torch.no_grad():
            for leaf, g in zip(trained, torch.autograd.grad(loss, trained, allow_unused=True), strict=True):
                if g is not None:
                    leaf -= run.method.learning_rate * g
    with torch.no_grad():
        found = module(**{key: value for key, value in real.items() if key != "labels"}).logits
    return F.cross_entropy(found, real["labels"]).item()


def test_the_loss_is_the_mean_over_encoders_by_hand(begun: Begun, pieces: Path) -> None:
    """Two tokenizers: each student trains on the same text in its own tokens, and is asked about the same rows."""
    run = begun(pieces, draws=1, inner_optimizer="gd", learning_rate=0.2)
    (other,) = run.others
    run.learned.put(of_several_lengths(run))
    ((rows,), _), ids = run.rows(), run.learned.token_ids
    losses = []
    for prepared, student in ((other.own, run.student), (other.prepared, other.student)):
        written = texts(run.learned.text(), other.own.tokenizer)
        encoded = prepared.tokenizer([line for (line,) in written], padding=True, return_tensors="pt")
        module = BertForSequenceClassification.from_pretrained(prepared.model_folder, attn_implementation="eager")
        theta = student.initial(derive(3, "outer step"), 0)
        module.load_state_dict({**module.state_dict(), **theta})
        real = prepared.split("train").batch(rows)
        losses.append(trained_by_hand(module.eval(), encoded, run.learned.labels, real, run))
    read = other.read(run.learned.text())
    assert read.token_ids is not None
    lengths = (read.token_ids >= 0).sum(dim=1)
    assert len(set(lengths.tolist())) > 1  # some are padded
    assert losses[0] != losses[1]
    assert run.loss_of(ids, run.real()[0]) == pytest.approx(sum(losses) / 2, rel=1e-4)
    assert run.advance()[0] == pytest.approx(sum(losses) / 2, rel=1e-4)


@pytest.mark.parametrize("estimator", ["auto", "adjoint"])
def test_the_weights_gradient_is_the_mean_over_encoders(begun: Begun, pieces: Path, estimator: str) -> None:
    """By finite differences of that mean; the embeddings' is the first encoder's share of it."""
    run = begun(pieces, inner_optimizer="gd", learning_rate=0.5, estimator=estimator)
    alone = begun(inner_optimizer="gd", learning_rate=0.5, estimator=estimator)
    found, first = gradients(run), gradients(alone)
    torch.testing.assert_close(found["inputs_embeds"], first["inputs_embeds"] / 2)
    assert not torch.allclose(found["weights"], first["weights"], rtol=0.05)
    (real, _), ids, step = run.real(), run.learned.token_ids, 0.02
    for sample in range(4):
        ends = []
        for sign in (1, -1):
            run.learned._one_hot[sample] *= 1 + sign * step
            ends.append(run.loss_of(ids, real))
            run.learned._one_hot[sample] /= 1 + sign * step
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(found["weights"][sample].item(), rel=0.03, abs=2e-5)


def test_an_exchange_is_kept_where_the_mean_falls(begun: Begun, pieces: Path) -> None:
    """Also where it rises for one of the two."""
    run = begun(pieces, outer={"steps": 8, "batch_size": 32})
    changed = 0
    for _ in range(8):
        (real, _), before = run.real(), run.learned.token_ids.clone()
        loss = run.loss_of(before, real)
        run.advance()
        run.step -= 1
        after = run.loss_of(run.learned.token_ids, real)
        run.step += 1
        moved = not torch.equal(before, run.learned.token_ids)
        assert (after < loss) == moved
        changed += moved
    assert changed > 0


def of_several_lengths(run: TextState) -> torch.Tensor:
    """The tokens with a keyword, which is one for both encoders, in place of a filler, which is two for the other."""
    found = run.learned.token_ids.clone()
    found[0, 1] = VOCABULARY.index(KEYWORDS[0][0])
    return found


def test_padding_has_no_part_in_what_is_learned(begun: Begun, pieces: Path) -> None:
    """Whatever stands there; without padding the learner is the student, and gives the same."""
    run = begun(pieces)
    (other,) = run.others
    learner, view = other.inner(run.learned, of_several_lengths(run), run.learned.labels)
    assert isinstance(learner, Masked)
    assert view.inputs_embeds is not None
    theta, padded = other.student.initial(0, 0), view.inputs_embeds
    there = padded[..., -1:].bool()
    noisy = torch.where(there, padded, torch.cat([torch.randn_like(padded[..., :-1]), padded[..., -1:]], dim=-1))
    assert not torch.equal(padded, noisy)
    torch.testing.assert_close(learner(theta, padded)[0], learner(theta, noisy)[0])
    whole = torch.randn(2, 5, other.student.width)
    torch.testing.assert_close(learner(theta, with_mask(whole, torch.ones(2, 5)))[0], other.student(theta, whole)[0])
    ids = torch.tensor([[2, *(VOCABULARY.index(word) for word in ("good", "bad", "weak", "dull")), 3]] * 4)
    alike, _ = other.inner(run.learned, ids, run.learned.labels)
    assert alike is other.student


def test_selection_is_by_the_mean_on_dev(path: Callable[..., Path], tmp_path: Path, pieces: Path) -> None:
    """The log has every encoder's score; the file says which encoders there were."""
    plan, store = load_experiment(path(pieces)), Store(tmp_path / "ck")
    for stage in ("prepare", "distill", "evaluate"):
        outcome = run_stage(stage_cells(plan, store, stage), stage, store)
        assert not outcome.failed, outcome.failed
    folder = store.cell(plan.cells[0].source).folder
    assert ".with-bert-of-pieces" in folder.name
    with open(folder / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows if row["validation_loss"]] == ["2", "4", "6"]
    for row in rows[1::2]:
        for score in ("loss", "accuracy", "score"):
            each = [float(row[f"validation_{score}@{name}"]) for name in ("bert-pretrained", "bert-of-pieces")]
            assert float(row[f"validation_{score}"]) == pytest.approx(sum(each) / 2)
            assert score == "accuracy" or each[0] != each[1]
    about = load(folder / "distilled.h5").about
    assert about["selection"]["encoders"] == ["bert-pretrained", "bert-of-pieces"]
    assert [one["name"] for one in about["others"]] == [str(pieces)]
    selected = {int(row["step"]): float(row["validation_loss"]) for row in rows[1::2]}
    step = about["selection"]["step"]
    assert step == 0 or about["selection"]["loss"] == pytest.approx(min(selected.values()))


def test_the_hypergradient_of_every_student_is_checked(path: Callable[..., Path], tmp_path: Path, pieces: Path) -> None:
    """Before anything is distilled, once for each prepared encoder."""
    plan, store = load_experiment(path(pieces)), Store(tmp_path / "ck")
    prepared = stage_cells(plan, store, "prepare")
    assert not run_stage(prepared, "prepare", store).failed
    check_gradient(store.cell(plan.cells[0].source), store)
    assert [(cell.folder / "gradient_check.text.json").exists() for cell in prepared] == [True, True]


def test_killed_and_started_again_it_ends_bit_equal(path: Callable[..., Path], tmp_path: Path, pieces: Path) -> None:
    file = path(pieces, starts=2, labels="unrestricted", outer={"steps": 8, "batch_size": 16})
    plan = load_experiment(file)
    for root, stages in (("a", ("prepare", "distill")), ("b", ("prepare",))):
        store = Store(tmp_path / root)
        for stage in stages:
            assert not run_stage(stage_cells(plan, store, stage), stage, store).failed  # type: ignore[arg-type]
    where = "pipeline.methods.text.run:TextState.advance"
    ends, said = launch(
        "distill", file, tmp_path / "b", [Disturbance(where, 3, "SIGKILL"), Disturbance(where, 2, "SIGTERM"), None]
    )
    assert [ended.step for ended in ends] == [2, 4, 8], said
    first, second = (Store(tmp_path / root).cell(plan.cells[0].source).folder for root in ("a", "b"))
    undisturbed, resumed = load(first / "distilled.h5"), load(second / "distilled.h5")
    assert undisturbed.token_ids is not None
    assert resumed.token_ids is not None
    assert torch.equal(undisturbed.token_ids, resumed.token_ids)
    assert torch.equal(undisturbed.labels, resumed.labels)
    assert undisturbed.about["selection"] == resumed.about["selection"]
    for one, other in zip(*(csv.DictReader((at / "log.csv").open()) for at in (first, second)), strict=True):
        assert one | {"seconds": ""} == other | {"seconds": ""}


def test_what_another_encoder_cannot_do_is_said_with_its_name(
    path: Callable[..., Path], tmp_path: Path, encoder_folder: Callable[..., Path]
) -> None:
    plan, store = load_experiment(path(encoder_folder("gpt2"))), Store(tmp_path / "ck")
    for stage in ("prepare", "distill"):
        outcome = run_stage(stage_cells(plan, store, stage), stage, store)
    (reason,) = outcome.failed.values()
    assert reason.startswith("distill.others, gpt2: ")
    assert "does not classify by its first token" in reason


def test_the_corpus_has_words_that_tokenizers_part(pieces: Path) -> None:
    tokenizer = BertTokenizerFast(vocab=str(pieces / "vocab.txt"))
    assert tokenizer.tokenize(f"{FILLERS[12]} good") == ["word", "##1", "##2", "good"]
