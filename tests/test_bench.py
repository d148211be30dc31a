"""The benchmark, on tiny models: what it writes, and that its competitors do the same work."""

import importlib.util
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "scripts"


Bench = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def _parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """`import bench` and `import benchmarks`, as the script does."""
    monkeypatch.syspath_prepend(str(SCRIPTS))


@pytest.fixture
def bench(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Bench:
    """`python scripts/bench.py COMMAND --quick`, all of it but the start of an interpreter."""

    def call(command: str, *options: str) -> dict[str, Any]:
        from bench import main

        assert main([command, "--quick", "--output", str(tmp_path), *options]) == 0
        shown = capfd.readouterr().out
        written: dict[str, Any] = json.loads((tmp_path / f"{command}.json").read_text())
        assert (tmp_path / f"{command}.png").read_bytes().startswith(b"\x89PNG")
        for ran in written["commands"].values():
            for table in ran["tables"]:
                assert table["title"] in shown
                for row in table["rows"]:
                    assert 0 < row["min"] <= row["median"] <= row["max"], row
        return written

    return call


def rows(table: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in table["rows"]}


@pytest.mark.slow
def test_training_is_compared_within_rounds(bench: Bench) -> None:
    pytest.importorskip("peft")
    written = bench("train", "--device", "cpu")
    assert written["machine"]["cores"] > 0
    assert written["machine"]["gpu"] is None
    assert written["machine"]["torch"] == torch.__version__
    first, *others = written["commands"]["train"]["tables"]
    assert len(others) == 2
    assert first["unit"] == "examples/s"
    assert first["facts"]["gemm_gflops"]["median"] > 0
    found = rows(first)
    assert len(found) == 6
    ours, loop = found["this library"], found["PEFT, bare loop"]
    ratio = ours["ratios"]["PEFT, bare loop"]
    pairs = zip(ours["rounds"], loop["rounds"], strict=True)
    assert ratio["rounds"] == pytest.approx([one / other for one, other in pairs])
    assert ratio["median"] == pytest.approx(statistics.median(ratio["rounds"]))
    assert {"PEFT + Trainer", "this library"} <= loop["ratios"].keys()
    assert all(row["facts"]["GFLOP/s"] > 0 for row in found.values())


def test_a_search_is_measured_by_the_size_of_its_micro_batches(bench: Bench) -> None:
    written = bench("search", "--device", "cpu", "--rounds", "1")
    table = written["commands"]["search"]["tables"][0]
    found = rows(table)
    assert list(found) == ["training", "search, micro-batches of 8", "search, micro-batches of 16"]
    for name, row in found.items():
        assert ("training" in row["ratios"]) == (name != "training")


@pytest.mark.slow
def test_startup_and_memory_are_measured_in_processes_of_their_own(bench: Bench) -> None:
    pytest.importorskip("peft")
    (starting,) = bench("startup", "--rounds", "1")["commands"]["startup"]["tables"]
    mistakes = ["a misspelt override", "a refused value"]
    assert list(rows(starting)) == ["train.py --help", *mistakes, "import torch"]
    adapted, head = bench("memory", "--device", "cpu")["commands"]["memory"]["tables"]
    assert list(rows(adapted)) == ["PEFT, bare loop", "this library"]
    assert len(rows(head)) == 2


def test_data_needs_a_tokenizer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from bench import main

    with pytest.raises(SystemExit, match="2"):
        main(["train", "--data", str(tmp_path)])
    assert "--data needs --model" in capsys.readouterr().err


@pytest.mark.slow
def test_the_script_says_what_it_does() -> None:
    command = [sys.executable, SCRIPTS / "bench.py", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "train,search,packed,startup,memory,all" in done.stdout


@pytest.mark.filterwarnings("ignore::FutureWarning:transformers.*")
def test_the_trainer_sees_the_same_batches_in_the_same_order() -> None:
    pytest.importorskip("peft")
    from benchmarks.loops import TrainerLoop, with_peft
    from benchmarks.setup import BATCH_SIZE, QUICK, Setup
    from benchmarks.subjects import main_subject

    setup = Setup(torch.device("cpu"), "fp32", QUICK)
    subject = main_subject(setup, 3 * BATCH_SIZE)
    loop = TrainerLoop(with_peft(subject.copy()), subject, setup)
    seen: list[dict[str, torch.Tensor]] = []
    loop.warm_up()  # in the first step of all, B is zero, and with it the gradient of A
    collate = loop.collate
    loop.collate = lambda examples: seen.append(collate(examples)) or collate(examples)
    assert loop.run() > 0
    loop.check()
    expected = list(subject.split.in_order(BATCH_SIZE))
    for batch, other in zip(seen, [expected[0], *expected], strict=True):
        assert batch.keys() == other.keys()
        assert all(torch.equal(batch[name], other[name]) for name in other)


def test_copies_share_frozen_weights_and_nothing_else() -> None:
    from benchmarks.setup import QUICK, Setup
    from benchmarks.subjects import main_subject

    subject = main_subject(Setup(torch.device("cpu"), "fp32", QUICK), 8)
    one, other = subject.copy(), subject.copy()
    mine = dict(one.named_parameters())
    shared = {name for name, parameter in other.named_parameters() if parameter is mine[name]}
    assert mine.keys() - shared == {"classifier.weight", "classifier.bias"}


def test_a_competitor_without_gradients_is_an_error() -> None:
    from benchmarks.loops import check_gradients, check_losses

    parameter = torch.nn.Parameter(torch.ones(2))
    for gradient in (None, torch.zeros(2), torch.tensor([1.0, float("nan")])):
        parameter.grad = gradient
        with pytest.raises(RuntimeError, match="one: a gradient is missing, zero or not finite"):
            check_gradients("one", [parameter])
    parameter.grad = torch.tensor([0.0, 1.0])
    check_gradients("one", [parameter])
    with pytest.raises(RuntimeError, match="one: the losses are"):
        check_losses("one", [1.0, float("inf")])


def test_lengths_are_mrpcs() -> None:
    from benchmarks.subjects import mrpc_lengths

    lengths = mrpc_lengths(2000)
    assert lengths[:64] == mrpc_lengths(64)
    assert statistics.mean(lengths) == pytest.approx(53, abs=1)
    assert statistics.stdev(lengths) == pytest.approx(15, abs=1)
    assert (min(lengths), max(lengths)) == (18, 103)


def test_competitors_take_turns_until_the_time_is_up() -> None:
    from dataclasses import replace

    from benchmarks.setup import QUICK
    from benchmarks.turns import Act, take_turns

    order: list[str] = []
    acts = [Act(name, lambda name=name: float(order.append(name) or 1)) for name in "ab"]
    assert take_turns(acts, replace(QUICK, rounds=3), 60) == {"a": [1.0] * 3, "b": [1.0] * 3}
    assert "".join(order) == "abbaab"
    assert take_turns(acts, replace(QUICK, rounds=3), 0) == {"a": [1.0], "b": [1.0]}


def test_runs_are_packed(bench: Bench) -> None:
    if importlib.util.find_spec("heterolora.training.engines.packed") is None:
        pytest.skip("the library packs no runs")
    written = bench("packed", "--device", "cpu", "--rounds", "1")
    (table,) = written["commands"]["packed"]["tables"]
    assert list(rows(table)) == ["2 runs, one after another", "2 runs, packed"]
