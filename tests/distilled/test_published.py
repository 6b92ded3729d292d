"""Sets in the layouts that others publish: read as they mean it, refused where they are not what they say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from datasets import Dataset

from pipeline.config import load as load_experiment
from pipeline.data.prepared import Prepared
from pipeline.distilled import load, save
from pipeline.distilled.published import ddal_set, dilm_set, published, vector_set
from pipeline.distilled.text import texts
from pipeline.errors import InputError
from pipeline.launch import run_stage, stage_cells
from pipeline.store import Store
from pipeline.students.encoder import Student

Write = Callable[..., Path]


def ddal_folder(folder: Path, label_type: str = "unrestricted", width: int = 32, **options: Any) -> dict[str, Any]:
    """Two samples for each of two classes, three steps of one sample per class, as save_pretrained lays them out."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(5)
    data: dict[str, Any] = {
        "inputs_embeds": torch.randn(4, 6, width, generator=generator),
        "labels": torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, -0.25], [0.0, 2.0]]),
        "lr": torch.tensor([0.0, 1.0, -1.0]),
        "attention_labels": torch.randn(4, 2, 4, 1, 6, generator=generator),
    } | options.pop("data", {})
    config = {
        "config": {
            **{"pretrained_data_path": None, "data_per_label": 2, "attention_label_type": "cls", "seq_length": 6},
            **{"label_type": label_type, "lr_for_step": True, "lr_init": 0.01, "lr_linear_decay": False},
            **{"fix_order": True, "attention_loss_lambda": 0.5},
        }
        | options,
        "train_config": {"train_step": 3, "batch_size_per_label": 1},
        **{"num_labels": 2, "hidden_size": width, "num_layers": 2, "num_heads": 4},
    }
    (folder / "config.json").write_text(json.dumps(config, indent=4))
    torch.save({name: value for name, value in data.items() if value is not None}, folder / "data_dict")
    return data


def test_ddal(tmp_path: Path) -> None:
    data = ddal_folder(tmp_path / "best-ckpt")
    found = ddal_set(tmp_path / "best-ckpt")
    assert found.inputs_embeds is not None
    assert found.learning_rates is not None
    assert found.batch_order is not None
    assert torch.equal(found.inputs_embeds, data["inputs_embeds"])
    assert torch.equal(found.labels, data["labels"])
    assert found.label_ids.tolist() == [0, 1, 0, 1]
    # log(1 + e^x)
    assert found.learning_rates.tolist() == pytest.approx([0.693147, 1.313262, 0.313262], abs=1e-6)
    assert found.batch_order.tolist() == [[0, 1], [2, 3], [0, 1]]
    assert (found.recipe.name, found.recipe.attention_weight, found.recipe.order) == ("ddal", 0.5, "fixed")
    assert found.attention_labels is not None
    assert torch.equal(found.attention_labels, data["attention_labels"])


def test_one_step_size_may_decay_and_labels_may_be_logits(tmp_path: Path) -> None:
    data = {"lr": torch.tensor(0.0), "attention_labels": None}
    ddal_folder(tmp_path, "soft", data=data, lr_for_step=False, lr_linear_decay=True, fix_order=False)
    found = ddal_set(tmp_path)
    assert found.learning_rates is not None
    assert found.learning_rates.tolist() == pytest.approx([0.693147, 0.693147 * 2 / 3, 0.693147 / 3], abs=1e-6)
    assert found.labels[0].tolist() == pytest.approx([0.731059, 0.268941], abs=1e-6)
    assert found.recipe.order == "random"
    assert found.attention_labels is None


def test_drawn_batches_need_not_divide_the_samples(tmp_path: Path) -> None:
    """DDAL permutes the rows and takes the first ones; in a fixed order it asserts that blocks fill the set."""
    data = {"inputs_embeds": torch.zeros(6, 6, 32), "labels": torch.eye(2).repeat(3, 1), "attention_labels": None}
    config = {"train_step": 3, "batch_size_per_label": 2}
    ddal_folder(tmp_path, data=data, fix_order=False)
    written = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(written | {"train_config": config}))
    steps = [batch.inputs.shape[0] for batch in ddal_set(tmp_path).inner_batches(seed=1)]
    assert steps == [4, 4, 4]
    (tmp_path / "config.json").write_text(
        json.dumps(written | {"train_config": config, "config": written["config"] | {"fix_order": True}})
    )
    with pytest.raises(InputError, match="do not fit 2 classes, 3 steps and batches of 4"):
        ddal_set(tmp_path)


def test_a_file_that_could_run_code_is_not_read(tmp_path: Path) -> None:
    ddal_folder(tmp_path, data={"labels": Path("anything")})
    with pytest.raises(InputError, match="more than tensors, which could run code"):
        ddal_set(tmp_path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"labels": torch.eye(2)}, "do not fit 2 classes, 3 steps and batches of 2"),
        ({"lr": torch.zeros(2)}, "lr"),
        ({"inputs_embeds": None}, "not a set as DDAL saves it"),
    ],
)
def test_ddal_of_other_shapes(tmp_path: Path, data: dict[str, Any], message: str) -> None:
    ddal_folder(tmp_path, data=data)
    with pytest.raises(InputError, match=message):
        ddal_set(tmp_path)


@pytest.fixture
def prepared(experiment: Write, tmp_path: Path) -> Callable[..., Prepared]:
    """The keyword task and its tiny BERT, after stage 1."""

    def prepared(**prepare: Any) -> Prepared:
        path = experiment(prepare=prepare, method={"name": "ddal"})
        plan, store = load_experiment(path), Store(tmp_path / "ck")
        outcome = run_stage(stage_cells(plan, store, "prepare"), "prepare", store)
        assert not outcome.failed, outcome.failed
        return Prepared(store.cell(plan.cells[0].source.source).folder)

    return prepared


def test_dilm(tmp_path: Path, prepared: Callable[..., Prepared]) -> None:
    file = tmp_path / "dataset_0.json"
    file.write_text('{"sentence": "word1 good word2", "labels": 1}\n{"sentence": "weak", "labels": 0}\n')
    here = prepared()
    found = dilm_set(file, here)
    assert found.label_ids.tolist() == [1, 0]
    assert found.labels.tolist() == [[0.0, 1.0], [1.0, 0.0]]
    assert found.token_ids is not None
    expected = here.tokenizer("word1 good word2")["input_ids"]
    assert found.token_ids[0].tolist() == [*expected, *[-1] * (8 - len(expected))]


def test_dilms_text_is_kept_as_it_was_written(tmp_path: Path, prepared: Callable[..., Prepared]) -> None:
    """Of unknown words and capitals the encoder's tokens keep nothing."""
    file, here = tmp_path / "dataset_0.json", prepared()
    file.write_text('{"sentence": "Good Word1, truly", "labels": 1}\n{"sentence": "weak", "labels": 0}\n')
    found = published(file, here, 1)
    assert texts(found, here.tokenizer) == [("Good Word1, truly",), ("weak",)]
    assert texts(found.prefix(1), here.tokenizer) == [("Good Word1, truly",), ("weak",)]
    with pytest.raises(InputError, match=r"dataset_0.json: its samples have 1 texts each, rows of the task 2"):
        published(file, here, 2)


@pytest.mark.parametrize("pairs", [False, True])
def test_dilm_as_the_library_writes_it(tmp_path: Path, prepared: Callable[..., Prepared], pairs: bool) -> None:
    """``Dataset.to_json`` of GLUE's columns: a coreset keeps ``idx``, and texts any character."""
    here, file = prepared(), tmp_path / "coreset_dcp_1_version_0.json"
    names = ["premise", "hypothesis"] if pairs else ["sentence"]
    texts = {name: ["weak word1\u2028word2 ", 'good \x85 é "word2"'] for name in names}
    Dataset.from_dict(texts | {"labels": [0, 1], "idx": [71, 4]}).to_json(file)
    found = dilm_set(file, here)
    assert found.label_ids.tolist() == [0, 1]
    expected = here.tokenizer(*([text.strip() for text in texts[name]] for name in names))
    assert found.token_ids is not None
    assert [[token for token in row if token >= 0] for row in found.token_ids.tolist()] == expected["input_ids"]


def test_dilm_pairs_and_refusals(tmp_path: Path, prepared: Callable[..., Prepared]) -> None:
    here, file = prepared(), tmp_path / "pairs.json"
    file.write_text('{"premise": "good", "hypothesis": "bad", "labels": 0}\n')
    found = dilm_set(file, here)
    assert found.token_type_ids is not None
    assert found.token_type_ids[0, :5].tolist() == [0, 0, 0, 1, 1]
    file.write_text('{"sentence": "good", "labels": 2}\n')
    with pytest.raises(InputError, match=r"labels 2 … 2, the task has 0 … 1"):
        dilm_set(file, here)
    file.write_text('{"sentence": "good"}\n')
    with pytest.raises(InputError, match="not JSON lines with labels"):
        dilm_set(file, here)


@pytest.mark.parametrize(
    ("label", "ids", "labels"),
    [
        (None, [0, 0, 1, 1], [[1, 0], [1, 0], [0, 1], [0, 1]]),  # blocks, as RaT-BPTT's and NYU's
        (np.array([1, 0, 1, 0]), [1, 0, 1, 0], [[0, 1], [1, 0], [0, 1], [1, 0]]),
        (np.array([[0.0, 2.0], [1.0, 0.5], [0.0, 1.0], [3.0, 0.0]], np.float32), [1, 0, 1, 0], None),
    ],
)
def test_vectors(tmp_path: Path, label: Any, ids: list[int], labels: list[list[int]] | None) -> None:
    data = np.random.default_rng(0).normal(size=(4, 32)).astype(np.float32)
    with h5py.File(tmp_path / "set.h5", "w") as file:
        file["data"], file["epoch"] = data, 3
        if label is not None:
            file["label"] = label
    found = vector_set(tmp_path / "set.h5", 2)
    assert found.vectors is not None
    np.testing.assert_array_equal(found.vectors, data)
    assert found.label_ids.tolist() == ids
    assert found.labels.tolist() == (label.tolist() if labels is None else labels)
    assert found.recipe.name == "vectors"


def test_the_last_file_of_a_run_has_gradients_and_no_labels(tmp_path: Path) -> None:
    """RaT-BPTT and NYU write their file anew at the end: ``grad`` of every step, and the samples in class blocks."""
    data = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)
    with h5py.File(tmp_path / "IPC_3_2_curr_unroll_20.h5", "w") as file:
        file.create_dataset("grad", data=np.zeros(50))
        file.create_dataset("data", data=data)
    found = vector_set(tmp_path / "IPC_3_2_curr_unroll_20.h5", 2)
    assert found.vectors is not None
    np.testing.assert_array_equal(found.vectors, data)
    assert found.label_ids.tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("data", [np.zeros((3, 32)), np.zeros((4, 3, 8, 8)), np.zeros(4)])
def test_vectors_of_other_shapes(tmp_path: Path, data: Any) -> None:
    with h5py.File(tmp_path / "set.h5", "w") as file:
        file["data"] = data
    with pytest.raises(InputError, match=r"allowed: \[N, D\], N a multiple of 2"):
        vector_set(tmp_path / "set.h5", 2)


def test_an_imported_set_trains_a_student(tmp_path: Path, prepared: Callable[..., Prepared]) -> None:
    """As a file of this project, too: the same student to the bit."""
    ddal_folder(tmp_path / "published")
    here = prepared()
    found = published(tmp_path / "published", here, 1)
    assert found.about["imported"]["format"] == "ddal"
    assert found.about["selection"] == {"split": "unknown"}, "its file does not say"
    save(found, tmp_path / "distilled.h5")
    again = load(tmp_path / "distilled.h5")
    student = Student.load(here.model_folder, here.manifest["fresh_parameters"], "cpu")
    again.check_model(student.embedding_matrix)
    assert [step.learning_rate.item() for step in again.inner_batches()] == found.learning_rates.tolist()  # type: ignore[union-attr]
    assert again.about["classes"] == ["0", "1"]


def test_it_has_to_be_of_this_task_and_encoder(tmp_path: Path, prepared: Callable[..., Prepared]) -> None:
    here = prepared()
    ddal_folder(tmp_path / "wide", width=48)
    with pytest.raises(InputError, match=r"\[48, 2, 4\] are not those of .*\[32, 2, 4\]"):
        published(tmp_path / "wide", here, 1)
    with h5py.File(tmp_path / "set.h5", "w") as file:
        file["data"] = np.zeros((4, 32))
    with pytest.raises(InputError, match="add vectors: cls"):
        published(tmp_path / "set.h5", here, 1)
    with pytest.raises(InputError, match=r"no published set; allowed: a folder with config.json"):
        published(tmp_path, here, 1)
