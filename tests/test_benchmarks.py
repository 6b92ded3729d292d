"""The benchmarks: their baselines compute what the product computes, and their harness says only what it measured."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification, PreTrainedModel

from analysis.benchmarks import compiled, evaluation, hypergradient, measure, precision, window
from analysis.benchmarks.figures import draw
from analysis.benchmarks.floor import step_flop
from analysis.benchmarks.measure import Outcome, Table
from analysis.benchmarks.problem import FRESH, LearnedTensors, our_step, real_batch
from analysis.benchmarks.published import Baseline, TwiceLinear, pad
from analysis.benchmarks.targets import TARGETS, Row, rows, verdicts
from pipeline.bilevel import descend
from pipeline.students.encoder import Student
from pipeline.students.flops import Sizes, linear_and_attention

ROOT = Path(__file__).resolve().parents[1]
LEAN = pytest.mark.parametrize("lean", [False, True])


def bert(folder: Path, dtype: torch.dtype = torch.float64) -> PreTrainedModel:
    return AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=2, attn_implementation="eager", dtype=dtype
    ).eval()


def parameters(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def text(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """A real batch with padding in it."""
    batch = real_batch(model, 6, 9)
    batch["attention_mask"][2, 5:] = 0
    return batch


# The baselines -----------------------------------------------------------------------------------------------------


@LEAN
@pytest.mark.parametrize("attention", [0, 1])
@pytest.mark.parametrize("steps", [1, 3])
def test_baselines_compute_the_same_hypergradient(
    encoder_folder: Callable[[str], Path], lean: bool, attention: int, steps: int
) -> None:
    model = bert(encoder_folder("bert"))
    drawn = LearnedTensors.draw(model, (4, 7, steps), rate=0.3, rows=attention)
    theirs, ours = drawn.to(torch.float64), drawn.to(torch.float64)
    loss = Baseline(model, lean=lean).hypergradient(parameters(model), theirs.named(), text(model))
    expected = our_step("unroll", Student(model, FRESH), parameters(model), ours, text(model))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    reference = ours.gradients()
    assert reference.keys() == (
        {"inputs", "labels", "rates", "attention"} if attention else {"inputs", "labels", "rates"}
    )
    for name, gradient in theirs.gradients().items():
        error = (gradient - reference[name]).norm() / reference[name].norm()
        assert error < 1e-9, name


def test_lean_baseline_leaves_out_the_word_embeddings(encoder_folder: Callable[[str], Path]) -> None:
    model = bert(encoder_folder("bert"))
    learned = LearnedTensors.draw(model, (2, 5, 1)).to(torch.float64)
    graphs = []
    for lean in (False, True):
        baseline = Baseline(model, lean=lean)
        theta = parameters(model)
        output = baseline._call(theta, inputs_embeds=learned.inputs)
        graphs.append([tuple(layer.shape) for layer in output.attentions])
        assert ("bert.embeddings.word_embeddings.weight" in baseline._trained) == (not lean)
    assert graphs == [[(2, 4, 5, 5)] * 2, [(2, 4, 1, 5)] * 2]


def test_linear_layer_is_twice_differentiable() -> None:
    """Through oneDNN in float32: values, gradients and gradients of gradients are torch's, for both operands."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(24, 40)
    results = []
    for kind in (torch.nn.Linear, TwiceLinear):
        layer.__class__ = kind
        x = torch.randn(3, 16, 24, generator=torch.Generator().manual_seed(1)).requires_grad_()
        out = layer(x.transpose(0, 1))
        leaves = [x, layer.weight, layer.bias]
        first = torch.autograd.grad(out.square().sum(), leaves, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), leaves)
        results.append([out, *first, *second])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)


def test_lean_baseline_in_float32(encoder_folder: Callable[[str], Path]) -> None:
    model = bert(encoder_folder("bert"), torch.float32)
    drawn = LearnedTensors.draw(model, (4, 7, 2), rate=0.3)
    found = []
    for lean in (False, True):
        learned = drawn.to(torch.float32)
        Baseline(model, lean=lean).hypergradient(parameters(model), learned.named(), text(model))
        found.append(learned.gradients())
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], rtol=1e-3, atol=1e-5)


@LEAN
def test_evaluation_equals_ours(encoder_folder: Callable[[str], Path], lean: bool) -> None:
    model = bert(encoder_folder("bert"))
    learned = LearnedTensors.draw(model, (4, 7, 3), rate=0.3).to(torch.float64)
    baseline, student = Baseline(model, lean=lean), Student(model, FRESH)
    theta = baseline.train(parameters(model), learned.named())
    for name, value in descend(student, parameters(model), learned.batches()).items():
        torch.testing.assert_close(theta[name], value, rtol=1e-10, atol=1e-12)
    everything, _ = evaluation.sentences(Path("absent"), model.config.vocab_size)
    split = [{name: ids[:30] for name, ids in row.items()} for row in everything[:300]]
    batches = baseline.batches(split, 0)
    assert {len(chunk) for chunk, _ in batches} == ({64, 44} if lean else {256, 44})
    scored = baseline.score(theta, batches)
    for at in (0, 17, 299):
        alone = student.logits(theta, pad([split[at]], 0))
        torch.testing.assert_close(scored[at : at + 1], alone, rtol=1e-10, atol=1e-12)


# The floor ---------------------------------------------------------------------------------------------------------


def test_forward_flop_is_what_torch_counts() -> None:
    """One layer more takes what a whole layer takes, products of attention among them."""

    def counted(layers: int) -> int:
        config = BertConfig(
            hidden_size=24, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=40, vocab_size=9
        )
        config._attn_implementation = "eager"
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            BertForSequenceClassification(config).eval()(inputs_embeds=torch.randn(3, 11, 24))
        return counter.get_total_flops()

    one, two = (sum(linear_and_attention(Sizes(layers, 24, 40, 2, 2, 24), [11] * 3, fused=True)) for layers in (1, 2))
    assert two - one == counted(2) - counted(1)
    assert one < counted(1)  # its only layer is the last one, of which the first token's row is all that is used


def test_step_flop_counts_the_passes() -> None:
    sizes, real = Sizes(6, 384, 1536, 12, 2, 384), (32, 64)
    outer = 3 * sum(linear_and_attention(sizes, [64] * 32, fused=True))
    linear, attention = linear_and_attention(sizes, [128] * 4, fused=True)
    for steps, passes, maps in ((1, 7, 9), (2, 18, 21), (5, 51, 57)):
        expected = outer + passes * linear + maps * attention
        assert step_flop(sizes, (4, 128, steps), real) == pytest.approx(expected, rel=1e-12)


# The harness -------------------------------------------------------------------------------------------------------

CHILD = """
import json, sys, time
request = json.loads(sys.argv[2])
print("a library's line")
print(json.dumps({"event": "ready"}), flush=True)
if request["do"] == "fail":
    raise ValueError("it does not work")
held = bytearray(request.get("bytes", 0))
held[::4096] = b"x" * len(held[::4096])
print(json.dumps({"event": "warm", "seconds": 5.0}), flush=True)
time.sleep(request.get("sleep", 0))
for seconds in (1.0, 3.0, 2.0):
    print(json.dumps({"event": "step", "seconds": seconds, "cpu": seconds}), flush=True)
print(json.dumps({"event": "done", "peak_mb": 12.5, "base_mb": 3.0, "absolute_mb": 15.5}), flush=True)
"""


@pytest.fixture
def run_child(tmp_path: Path) -> Callable[..., Outcome]:
    (tmp_path / "benchmark_child.py").write_text(CHILD)

    def run(times: int = 1, **request: Any) -> Outcome:
        outcome = Outcome()
        for _ in range(times):
            outcome.run("benchmark_child", {"do": "work"} | request, {"PYTHONPATH": str(tmp_path)})
        return outcome

    return run


def test_fresh_processes(run_child: Callable[..., Outcome]) -> None:
    outcome = run_child(times=2)
    assert (outcome.status, outcome.median(), outcome.peak()) == ("measured", 2.0, 12.5)
    assert outcome.columns()["steps"] == 6
    assert outcome.columns()["warmup_seconds"] == 5.0
    assert "CPU" not in str(outcome)


def test_disturbed_steps_count_only_where_all_are() -> None:
    outcome = Outcome(seconds=[1.0, 9.0, 1.2], cpu=[1.0, 1.1, 1.1])
    assert outcome.median() == pytest.approx(1.1)
    assert (outcome.columns()["steps"], outcome.columns()["disturbed"]) == (2, 1)
    assert Outcome(seconds=[4.0, 9.0], cpu=[1.0, 1.1]).median() == 6.5
    assert Outcome(seconds=[4.0, 9.0], cpu=[1.0, 1.1], on_cpu=False).columns()["disturbed"] == 0


def test_a_failure_says_why_and_has_no_numbers(run_child: Callable[..., Outcome]) -> None:
    outcome = run_child(times=2, do="fail")
    assert (outcome.status, outcome.reason) == ("failed", "ValueError: it does not work")
    assert outcome.median() is None
    assert outcome.peak() is None


def test_too_much_memory_is_skipped(run_child: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "RSS_LIMIT", measure.GIB // 8)
    outcome = run_child(bytes=200_000_000, sleep=60)
    assert (outcome.status, outcome.reason) == ("skipped", "over 0 GiB")
    assert outcome.columns()["peak_mb"] is None


def test_too_long_a_step_is_skipped(run_child: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "STEP_LIMIT", 0.5)
    outcome = run_child(sleep=60)
    assert (outcome.status, outcome.reason) == ("skipped", "over 0 s per step")


def test_no_memory_left_is_nobodys_fault(run_child: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "LEAST_FREE", 2**62)
    assert run_child(sleep=60).status == "disturbed"


PEAK = """
import torch
from analysis.benchmarks import measure

released = bytearray(150_000_000)
released[::4096] = b"x" * len(released[::4096])
del released
peak = measure.Peak(torch.device("cpu"))
held = bytearray(60_000_000)
held[::4096] = b"x" * len(held[::4096])
found = peak.found()
assert abs(found["absolute_mb"] - found["base_mb"] - found["peak_mb"]) < 0.2, found
assert 50 < found["peak_mb"] < 110, found
"""


def test_peak_is_from_now_on() -> None:
    """In a process of its own: this one may have been told to keep what is freed."""
    done = subprocess.run([sys.executable, "-c", PEAK], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_table_replaces_lines_of_one_key(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "table.csv"
    table = Table(path, ["a", "b", "value"], ["a"])
    table.put({"a": 1}, [{"b": "x", "value": 0.123456}, {"b": "y", "value": None}])
    table.put({"a": 2}, [{"b": "x", "value": 1}])
    table.put({"a": 1}, [{"b": "z", "value": 2}])
    again = Table(path, ["a", "b", "value"], ["a"])
    assert [tuple(line.values()) for line in again.lines] == [("2", "x", "1"), ("1", "z", "2")]
    assert path.read_text().startswith("a,b,value\n")


@pytest.fixture
def invented(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Children that report invented numbers: published 8 s and 900 MB, lean half, fused 2 s and 100 MB."""
    calls: dict[str, int] = {}

    def run(outcome: Outcome, module: str, request: dict[str, Any], environment: dict[str, str]) -> None:
        name = request["contender"]
        calls[name] = calls.get(name, 0) + 1
        outcome.facts["rate"] = 2e11
        if outcome.status != "measured" or name == "gemm":
            return
        factor = {"published": 4.0, "published-lean": 2.0}.get(name, 1.0)
        outcome.seconds += [2.0 * factor]
        outcome.cpu += [2.0 * factor]
        outcome.peaks += [100.0 if factor == 1 else 225 * factor]

    monkeypatch.setattr(Outcome, "run", run)
    return calls


def test_rows_are_measured_once(invented: dict[str, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--rows", "minilm:4:512:1,minilm:20:512:50", "--estimators", "fused", "--out", str(tmp_path)]
    hypergradient.main(arguments)
    table = Table(tmp_path / "hypergradient.csv", hypergradient.COLUMNS, hypergradient.KEY)
    assert len(table.lines) == 2 * 3 * 2
    lines = {(line["T"], line["estimator"], line["baseline"]): line for line in table.lines}
    fused = lines["1", "fused", "published"]
    assert (fused["time_ratio"], fused["memory_ratio"], fused["status"]) == ("4", "9", "measured")
    assert lines["1", "fused", "published-lean"]["time_ratio"] == "2"
    assert float(fused["above_floor"]) == pytest.approx(2.0 / float(fused["floor_seconds"]), rel=1e-3)
    skipped = lines["50", "published", "published"]
    assert skipped["status"] == "skipped"
    assert "GiB" in skipped["reason"]
    assert lines["50", "fused", "published"]["time_ratio"] == ""
    assert lines["50", "fused", "published"]["status"] == "measured"
    printed = capsys.readouterr().out
    assert "met            4.00 of  3.5 x  minilm M=4 S=512 T=1 fp32: time against published, threads 1" in printed
    assert "met            9.00 of  4.5 x  minilm M=4 S=512 T=1 fp32: memory against published, threads 1" in printed
    assert (tmp_path / "hypergradient.time.png").stat().st_size > 10_000
    before = dict(invented)
    hypergradient.main(arguments)
    assert invented == before
    hypergradient.main([*arguments, "--again"])
    assert invented["fused"] == 2 * before["fused"]


def test_verdicts_never_from_what_is_not_there() -> None:
    assert all(
        "not measured" in verdict for verdict in verdicts([{"threads": "1"} | _line(Row("minilm", 2, 64, 1))], "cpu")
    )
    slow = [_line(target.row) | {"time_ratio": "1.2", "baseline": target.baseline} for target in TARGETS]
    found = [verdict for verdict in verdicts(slow, "cpu") if ": time" in verdict]
    assert len(found) == 7
    assert all(verdict.startswith("NOT MET") for verdict in found)


def test_growth_is_measured_with_the_lowest_peak() -> None:
    lines = [
        _line(Row("minilm", 4, 512, 5)) | {"peak_mb": "1000"},
        _line(Row("minilm", 4, 512, 50)) | {"peak_mb": "3000"},
        _line(Row("minilm", 4, 512, 50)) | {"peak_mb": "1100", "estimator": "fused-disk"},
    ]
    assert verdicts(lines, "cpu")[-1].startswith("met            1.10")


def _line(row: Row) -> dict[str, str]:
    sizes = {"model": row.model, "M": str(row.M), "S": str(row.S), "T": str(row.T)}
    rest = {"threads": "1", "precision": "fp32", "estimator": "fused", "baseline": "published", "status": "measured"}
    return sizes | rest | {"time_ratio": "", "memory_ratio": "", "peak_mb": ""}


@pytest.mark.parametrize(
    ("row", "threads", "contender", "reason"),
    [
        (Row("minilm", 4, 512, 10), 2, "published", "over 18 GiB at M = 4, S = 512, T = 5 already"),
        (Row("minilm", 20, 512, 5), 1, "published", "GiB by the formula"),
        (Row("minilm", 4, 128, 10), 1, "published", ""),
        (Row("minilm", 4, 512, 10), 1, "fused", ""),
        (Row("minilm", 4, 512, 50), 1, "fused", "100 s per step at M = 4, S = 512, T = 5: over 300 s here"),
        (Row("minilm", 4, 512, 50), 2, "fused", ""),
    ],
)
def test_hopeless_rows_are_not_tried(row: Row, threads: int, contender: str, reason: str) -> None:
    at_five = _line(Row("minilm", 4, 512, 5)) | {"hardware": "here"}
    lines = [
        at_five | {"estimator": "published", "status": "skipped", "reason": "over 18 GiB", "seconds": ""},
        at_five | {"seconds": "100", "reason": ""},
    ]
    key = {"model": row.model, "M": row.M, "S": row.S, "T": row.T, "threads": threads}
    found = hypergradient.hopeless(contender, key | {"precision": "fp32", "hardware": "here"}, lines)
    assert reason in found if reason else not found


def test_rows_with_a_target_come_first() -> None:
    every = rows("cpu")
    assert len(every) == len(set(every)) == 2 * 3 * 3 * 6
    assert set(every[:6]) == {target.row for target in TARGETS if target.device == "cpu"} | {Row("minilm", 4, 512, 50)}
    assert Row.parse("bert-base:2:512:1") == Row("bert-base", 2, 512, 1)
    with pytest.raises(ValueError, match="model:M:S:T"):
        Row.parse("gpt2:1:1:1")


def test_figure_of_nothing(tmp_path: Path) -> None:
    assert draw([], tmp_path) == []


def test_sentences_without_the_data() -> None:
    split, labels = evaluation.sentences(Path("absent"), 30522)
    lengths = torch.tensor([len(row["input_ids"]) for row in split], dtype=torch.float)
    assert len(split) == len(labels) == evaluation.ROWS
    assert lengths.mean().item() == pytest.approx(25.2, abs=1.5)


def test_a_window_costs_what_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that differentiate the window have its gradient, which is not that of all steps; ``before`` ends where it."""
    monkeypatch.setattr(window, "W", 3)
    found = {name: window.outer_step(name, "mlp", 5)() for name in window.CONTENDERS}
    theta_N, gradients = found.pop("before"), {name: each for name, each in found.items() if each is not None}
    assert gradients.keys() == set(window.CONTENDERS) - {"before"}
    for name, reference in (("adjoint", "unroll"), ("published", "unroll"), ("full-adjoint", "full-unroll")):
        error = (gradients[name] - gradients[reference]).norm() / gradients[reference].norm()
        assert error < 1e-3, name
    apart = (gradients["unroll"] - gradients["full-unroll"]).norm() / gradients["full-unroll"].norm()
    assert apart > 0.05
    assert set(theta_N) == {"hidden.0.weight", "hidden.0.bias", "head.weight", "head.bias"}


def test_growth_of_a_window_is_told_without_the_steps_before_it() -> None:
    costs = {"adjoint": ("0.3", "0.6"), "published": ("0.5", "2"), "before": ("0.1", "0.4")}
    lines = [
        {"T": T, "contender": name, "seconds": "1", "cpu_seconds": cpu[at], "peak_mb": str(10 * (1 + at))}
        for name, cpu in costs.items()
        for at, T in enumerate(("100", "400"))
    ]
    ours, public = window.verdicts(lines)
    assert ours == (
        "adjoint: T = 100 -> 400: 0.20 -> 0.20 s of CPU per step beyond the steps before the window (1.00 x), "
        "10 -> 20 MB (2.00 x)"
    )
    assert "0.50 -> 2.00 s of CPU per step (4.00 x)" in public


# Compiled parts and lower precision --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(measure.RESULTS.glob("*.csv")), ids=lambda path: path.stem)
def test_a_committed_table_says_where_it_was_measured(path: Path) -> None:
    """Or that nobody wrote it down: an empty cell."""
    assert path.read_text().partition("\n")[0].split(",")[-2:] == ["hardware", "versions"]


def test_lines_of_another_machine_stay(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And what compiling saves is a share of the step that was measured beside it."""
    given = (torch.ones(2),)
    monkeypatch.setattr(compiled, "parts", lambda: {"twice": (lambda x: x * 2, given, 1000)})
    monkeypatch.setattr(compiled, "step_seconds", lambda: 4.0)
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)
    times = iter([300.0, 100.0] * 2)
    monkeypatch.setattr(compiled, "microseconds", lambda run: next(times))
    there = Table(tmp_path / "compiled.csv", compiled.COLUMNS, compiled.KEY)
    there.put({"threads": 1, "part": "twice", "hardware": "another"}, [{"eager_us": 7}])
    threads = torch.get_num_threads()
    try:
        for _ in range(2):
            compiled.main(["1", "--out", str(tmp_path)])
    finally:
        torch.set_num_threads(threads)
    other, own = Table(tmp_path / "compiled.csv", compiled.COLUMNS, compiled.KEY).lines
    assert (other["hardware"], other["eager_us"]) == ("another", "7")
    assert own["hardware"] == measure.hardware("cpu")
    assert own["versions"] == measure.versions()
    assert (own["eager_us"], own["compiled_us"], own["step_seconds"]) == ("300", "100", "4.00")
    assert own["saved_percent_of_step"] == "5.0", "1,000 calls of 200 us in 4 s"


def test_the_step_is_measured(monkeypatch: pytest.MonkeyPatch, encoder_folder: Callable[[str], Path]) -> None:
    monkeypatch.setattr(compiled, "load", lambda name, device: bert(encoder_folder("bert"), torch.float32))
    monkeypatch.setattr(compiled, "real_batch", lambda model: real_batch(model, 2, 8))
    monkeypatch.setattr(compiled, "STEP", (2, 8, 1))
    assert 0 < compiled.step_seconds(repeats=2) < 60


def test_lower_precision_is_beside_float32(
    monkeypatch: pytest.MonkeyPatch, encoder_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    monkeypatch.setattr(precision, "load", lambda name, device: bert(encoder_folder("bert"), torch.float32))
    monkeypatch.setattr(precision, "real_batch", lambda model: real_batch(model, 2, 8))
    monkeypatch.setattr(precision, "S", 8)
    monkeypatch.setattr(precision, "DRAWS", 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for _ in range(2):
        precision.main(["--out", str(tmp_path)])
    lines = Table(tmp_path / "precision.csv", precision.COLUMNS, precision.KEY).lines
    assert len(lines) == 2 * 4
    assert {(line["hardware"], line["versions"]) for line in lines} == {(measure.hardware("cpu"), measure.versions())}
    errors = {(line["T"], line["option"]): float(line["relative_error"]) for line in lines}
    for T in ("1", "3"):
        exact = errors[T, "float32 by unroll instead of fused"]
        assert exact < 1e-4
        assert all(error > 10 * exact for (at, name), error in errors.items() if at == T and "float32" not in name)
