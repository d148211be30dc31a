"""Check that a tree's training gives the numbers in tests/goldens, bit for bit.

python scripts/compare_losses.py TREE                      # every case, with the code in TREE
python scripts/compare_losses.py TREE --cases static-constant-bert dynamic-gradnorm-rank3-llama
python scripts/compare_losses.py TREE --write              # keep what TREE gives from now on

A case is a run of a second on a tiny model and a tiny dataset that this script makes. Compared are
the lines of metrics, searches and importances, the results, and the trained weights by their
SHA-256. Numbers that a golden does not have are not looked at. The bits depend on the machine:
each folder of tests/goldens is of the one that its machine.json describes.
"""

import argparse
import hashlib
import json
import math
import os
import platform
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import torch
import transformers
from pyarrow import parquet
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

GOLDENS = Path(__file__).parents[1] / "tests" / "goldens"
MACHINE = "machine.json"
SIDE_BY_SIDE = 2

COMMON = (
    "tracking=local",
    "device=cpu",
    "training.epochs=2",
    "training.batch_size=8",
    "training.log_every=1",
    "optimizer.learning_rate=0.01",  # within two epochs allocations change
    "search_space.scaling=alpha_over_rank",
)

BATCHES = "proxy.num_batches=2"
RANK3 = ("rank_budget.lora_rank=3", "rank_budget.shortcut_rank=5")
ALL = "search_space.projections=[q,k,v,o,up,down]"


@dataclass(frozen=True)
class Case:
    """A run that is compared.

    Attributes:
        name: its golden's.
        model: one of `MODELS`.
        overrides: beside those that all cases have.
        task: the dataset; `stsb` is a regression.
        tolerance: how far, relatively, another machine's floats may be from the golden's.
    """

    name: str
    model: str
    overrides: tuple[str, ...]
    task: str = "rte"
    tolerance: float = 1e-3


CASES = (
    Case("homogeneous-opt-post-norm", "opt-post-norm", ("strategy=homogeneous",)),
    Case(
        "homogeneous-rank3-opt-pre-norm",
        "opt-pre-norm",
        ("strategy=homogeneous", "search_space=lora_shortcuts", *RANK3, ALL, "seed=5"),
    ),
    Case(
        "homogeneous-importance-llama",
        "llama",
        (
            "strategy=homogeneous",
            "search_space=lora_shortcuts",
            "+proxy@importance.gradnorm=gradnorm",
            "importance.gradnorm.num_batches=2",
        ),
    ),
    Case(
        "static-gradnorm-opt-pre-norm",
        "opt-pre-norm",
        ("strategy=static", "proxy=gradnorm", BATCHES, "rank_budget=r8"),
    ),
    Case(
        "static-gradnorm-shortcuts-bert",
        "bert",
        (
            "strategy=static",
            "proxy=gradnorm",
            "proxy.weights=probe",
            BATCHES,
            "search_space=lora_shortcuts",
            "rank_budget=l2_s11",
            "seed=42",
        ),
    ),
    Case(
        "static-snip-probe-roberta",
        "roberta",
        ("strategy=static", "proxy=snip", BATCHES, "seed=42"),
    ),
    Case(
        "static-synflow-loss-llama",
        "llama",
        ("strategy=static", "proxy=synflow", "search_space=lora_shortcuts", "seed=13"),
    ),
    Case(
        "static-synflow-output-opt-post-norm",
        "opt-post-norm",
        ("strategy=static", "proxy=synflow", "proxy.objective=output", ALL),
    ),
    Case("static-constant-bert", "bert", ("strategy=static", "proxy=constant", "rank_budget=r8")),
    Case(
        "dynamic-gradnorm-opt-post-norm",
        "opt-post-norm",
        ("strategy=dynamic", "proxy=gradnorm", BATCHES),
    ),
    Case(
        "dynamic-gradnorm-rank3-llama",
        "llama",
        ("strategy=dynamic", "proxy=gradnorm", BATCHES, ALL, *RANK3, "seed=13"),
    ),
    Case(
        "dynamic-gradnorm-renormalize-opt-post-norm",
        "opt-post-norm",
        (
            "strategy=dynamic",
            "proxy=gradnorm",
            BATCHES,
            "search_space=shortcuts",
            "search_space.renormalize=enabled",
        ),
    ),
    Case(
        "dynamic-gradnorm-always-opt-post-norm",
        "opt-post-norm",
        ("strategy=dynamic", "proxy=gradnorm", BATCHES, "search_space=lora_shortcuts", "seed=13"),
    ),
    Case(
        "dynamic-gradnorm-separated-opt-pre-norm",
        "opt-pre-norm",
        (
            "strategy=dynamic",
            "proxy=gradnorm",
            BATCHES,
            "search_space=lora_shortcuts",
            "search_space.pool=separated",
            "rank_budget=r8",
        ),
    ),
    Case(
        "dynamic-gradnorm-regression-roberta",
        "roberta",
        ("strategy=dynamic", "proxy=gradnorm", BATCHES),
        task="stsb",
    ),
    Case(
        "dynamic-gradnorm-halves-bert",
        "bert",
        ("strategy=dynamic", "proxy=gradnorm", BATCHES, "evaluation.split=halves", "seed=7"),
    ),
    Case(
        "dynamic-gradnorm-bf16-opt-post-norm",
        "opt-post-norm",
        ("strategy=dynamic", "proxy=gradnorm", BATCHES, "precision=bf16"),
        tolerance=2e-2,  # a few times the distance of two neighboring numbers
    ),
    # Its searches after the first are known to change with the next probe.
    Case("dynamic-snip-probe", "opt-post-norm", ("strategy=dynamic", "proxy=snip", BATCHES)),
    Case(
        "dynamic-snip-current-roberta",
        "roberta",
        (
            "strategy=dynamic",
            "proxy=snip",
            "proxy.weights=current",
            BATCHES,
            "search_space=lora_shortcuts",
            "search_space.renormalize=enabled",
        ),
    ),
    Case(
        "dynamic-synflow-current-opt-pre-norm",
        "opt-pre-norm",
        ("strategy=dynamic", "proxy=synflow", "proxy.weights=current", ALL),
    ),
    Case(
        "dynamic-constant-qwen3",
        "qwen3",
        ("strategy=dynamic", "proxy=constant", "search_space=lora_shortcuts", "seed=7"),
    ),
)

# Models and data

WORDS = ["the", "a", "cat", "dog", "bird", "sees", "hears", "likes", "big", "small", "red", "old"]
WORDS += ["not", "no", "two", "three"]
SPECIALS = ["<s>", "<pad>", "</s>", "<unk>"]

_SIZES = {
    "vocab_size": 32,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "max_position_embeddings": 40,
}
_OPT = {"num_attention_heads": 2, "ffn_dim": 32, "dropout": 0.1, "attention_dropout": 0.1}
_BERT = {
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
}
_LLAMA = {
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "intermediate_size": 32,
    "attention_dropout": 0.1,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "opt-post-norm": ("OPT", _OPT | {"word_embed_proj_dim": 8, "do_layer_norm_before": False}),
    "opt-pre-norm": ("OPT", _OPT | {"word_embed_proj_dim": 16, "do_layer_norm_before": True}),
    "bert": ("Bert", _BERT),
    "roberta": ("Roberta", _BERT),
    "llama": ("Llama", _LLAMA),
    "qwen3": ("Qwen3", _LLAMA),
}
"""For each model the class names' beginning and the settings: three layers of width 16."""


def build(folder: Path) -> Path:
    """Make every model and dataset of the cases in `folder`; returns it."""
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for name in MODELS:
        _build_model(name, folder / name)
    transformers.logging.set_verbosity(verbosity)
    for task, labeled in (("rte", _classes), ("stsb", _scores)):
        (folder / task).mkdir()
        for split, count, seed in (("train", 60, 1), ("validation", 40, 2)):
            columns = labeled(count, random.Random(seed))
            parquet.write_table(pa.table(columns), folder / task / f"{split}.parquet")
    return folder


def _build_model(name: str, folder: Path) -> None:
    """A checkpoint without a head, its weights the same with every version of the libraries."""
    kind, settings = MODELS[name]
    config = getattr(transformers, f"{kind}Config")(**_SIZES, **settings)
    with torch.random.fork_rng():
        base = getattr(transformers, f"{kind}ForSequenceClassification")(config).base_model
    for key, parameter in base.named_parameters():
        draw = random.Random(f"{name}/{key}").uniform
        values = torch.tensor([draw(-0.2, 0.2) for _ in range(parameter.numel())])
        offset = 1.0 if parameter.ndim == 1 and key.endswith("weight") else 0.0  # of a norm
        parameter.data.copy_(values.view_as(parameter) + offset)
    base.save_pretrained(folder)
    _tokenizer().save_pretrained(folder)


def _tokenizer() -> Any:
    """A word is a token, and so is nothing else."""
    vocabulary = {word: index for index, word in enumerate([*SPECIALS, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment, unused-ignore]
    tokenizer.post_processor = processors.TemplateProcessing(  # type: ignore[assignment, unused-ignore]
        single="<s> $A </s>",
        pair="<s> $A </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
    )


def _sentence(rng: random.Random) -> list[str]:
    return rng.choices(WORDS, k=rng.randint(2, 9))


def _classes(count: int, rng: random.Random) -> dict[str, list[Any]]:
    """Pairs of sentences, labeled by whether the second ends like the first."""
    columns: dict[str, list[Any]] = {"sentence1": [], "sentence2": [], "label": []}
    for _ in range(count):
        first, second, label = _sentence(rng), _sentence(rng), rng.randrange(2)
        second += first[-1:] * label
        for key, value in zip(columns, (" ".join(first), " ".join(second), label), strict=True):
            columns[key].append(value)
    return columns


def _scores(count: int, rng: random.Random) -> dict[str, list[Any]]:
    """Pairs of sentences, scored from 0 to 5 by how many words of the first the second has."""
    columns: dict[str, list[Any]] = {"sentence1": [], "sentence2": [], "label": []}
    for _ in range(count):
        first, second = _sentence(rng), _sentence(rng)
        score = 5.0 * sum(word in second for word in first) / len(first)
        for key, value in zip(columns, (" ".join(first), " ".join(second), score), strict=True):
            columns[key].append(value)
    return columns


# Runs

Row = dict[str, Any]
Numbers = dict[str, list[Row]]
"""What is compared of a run: by file, its rows."""

LINES = ("metrics.jsonl", "allocations.jsonl", "importance.jsonl")
LEFT_OUT = {"allocations.jsonl": ("seconds", "proxy")}
RESULTS = ("best", "last", "parameters")
WEIGHTS = ("checkpoint/best.safetensors", "checkpoint/last.safetensors")


def overrides(case: Case, inputs: Path, output: Path) -> list[str]:
    """What the command line of a case has; `inputs` is what `build` has made."""
    return [
        f"model.path={inputs / case.model}",
        f"task={case.task}",
        f"task.path={inputs / case.task}",
        f"output={output}",
        *COMMON,
        *case.overrides,
    ]


def run(case: Case, tree: Path, inputs: Path) -> Numbers:
    """Run a case with the code in `tree`, by its command line.

    Raises:
        RuntimeError: if the command fails.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": str(tree),
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    with TemporaryDirectory() as output:
        command = [sys.executable, str(tree / "train.py")]
        done = subprocess.run(
            [*command, *overrides(case, inputs, Path(output))],
            cwd=tree,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"exit code {done.returncode}: {done.stderr.strip()[-2000:]}")
        return numbers(Path(output))


def numbers(output: Path) -> Numbers:
    """What is compared of the one run whose record lies somewhere below `output`."""
    (record,) = output.rglob("run.json")
    directory = record.parent
    found: Numbers = {}
    for name in LINES:
        file = directory / name
        if file.exists():
            rows = map(json.loads, file.read_text().splitlines())
            found[name] = [_without(row, LEFT_OUT.get(name, ())) for row in rows]
    row = json.loads(record.read_text())
    results = {f"{part}.{key}": value for part in RESULTS for key, value in row[part].items()}
    found["run.json"] = [{"steps": row["steps"], **results}]
    for name in WEIGHTS:
        found[name] = [{"sha256": digest(directory / name)}]
    return found


def _without(row: Row, keys: Iterable[str]) -> Row:
    return {key: value for key, value in row.items() if key not in keys}


def digest(weights: Path) -> str:
    """The SHA-256 of adapters and head: name, shape, type and bytes of each tensor, by name."""
    total = hashlib.sha256()
    for name, tensor in sorted(load_file(weights).items()):
        if name.startswith("head.") or (name.startswith("layers.") and name.endswith((".A", ".B"))):
            total.update(f"{name} {list(tensor.shape)} {tensor.dtype}\n".encode())
            total.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def machine() -> Row:
    """What the bits of a run depend on beside the code."""
    told: dict[str, str] = {}
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        pairs = (line.partition(":") for line in cpuinfo.read_text().splitlines())
        told = {key.strip(): value.strip() for key, _, value in pairs}
    flags = told.get("flags", told.get("Features", "")).split()
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "processor": told.get("model name") or platform.processor() or platform.machine(),
        "vector_flags": sorted({f for f in flags if f.startswith(("avx", "amx", "fma", "asimd"))}),
    }


# The comparison


@dataclass(frozen=True)
class Difference:
    """The first thing in which a run is not its golden."""

    file: str
    step: object
    key: str
    golden: object
    now: object

    def __str__(self) -> str:
        step = "" if self.step is None else f" step {self.step}"
        return f"{self.file}{step} {self.key}: golden {self.golden}, now {self.now}"


Same = Callable[[Any, Any], bool]
"""Whether two plain values, the golden one first, count as equal."""

ABSENT = "absent"
"""Stands in a `Difference` for what is not there."""


def same_bits(golden: Any, now: Any) -> bool:
    """Equal in type and to the last bit: JSON has every digit that a float needs."""
    return json.dumps(golden) == json.dumps(now)


def nearly_same(golden: Any, now: Any, tolerance: float) -> bool:
    """What another machine must give: floats to a relative tolerance, all else exactly."""
    if isinstance(golden, float) and isinstance(now, float):
        return math.isclose(golden, now, rel_tol=tolerance, abs_tol=1e-5)
    return same_bits(golden, now)


def first_difference(
    golden: Numbers, now: Numbers, tolerance: float | None = None
) -> Difference | None:
    """Where a run first differs from its golden; files, rows and keys in the golden's order.

    Args:
        golden: what the run has to give. A row may have more keys than its golden.
        now: what it gave.
        tolerance: None compares bit for bit; a number is that of `nearly_same`, for another
            machine, whose weights are not compared.
    """
    same = same_bits if tolerance is None else partial(nearly_same, tolerance=tolerance)
    for file, rows in golden.items():
        if file not in now:
            return Difference(file, None, "file", f"{len(rows)} rows", ABSENT)
        if file in WEIGHTS and tolerance is not None:
            continue
        for row, other in zip(rows, now[file], strict=False):
            for key, one, two in _differences(row, other, same):
                return Difference(file, row.get("step", row.get("site")), key, one, two)
        if len(rows) != len(now[file]):
            return Difference(file, None, "rows", len(rows), len(now[file]))
    return None


def _differences(golden: Row, now: Row, same: Same) -> Iterator[tuple[str, Any, Any]]:
    """Key and values of what differs. Inside a value, such as all sites' ranks, keys must agree."""
    for key, value in golden.items():
        other = now.get(key, ABSENT)
        if isinstance(value, dict) and isinstance(other, dict):
            deeper = {part: other.get(part, ABSENT) for part in value}
            for part, one, two in _differences(value, deeper, same):
                yield f"{key}.{part}", one, two
            for part in other.keys() - value.keys():
                yield f"{key}.{part}", ABSENT, other[part]
        elif not same(value, other):
            yield key, value, other


def goldens() -> tuple[Path, bool]:
    """A folder of goldens, and whether this machine must give their bits: its own, or any."""
    here = machine()
    folders = sorted(file.parent for file in GOLDENS.glob(f"*/{MACHINE}"))
    own = [folder for folder in folders if json.loads((folder / MACHINE).read_text()) == here]
    return [*own, *folders][0], bool(own)


def new_goldens() -> Path:
    """A folder for the goldens of this machine."""
    here = machine()
    folder = GOLDENS / re.sub(r"\W+", "-", f"{here['processor']} {here['cpu_capability']}".lower())
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MACHINE).write_text(json.dumps(here, indent=2) + "\n")
    return folder


def read_golden(folder: Path, name: str) -> Numbers:
    """The numbers that the case `name` has to give."""
    kept: Numbers = json.loads((folder / f"{name}.json").read_text())
    return kept


def write_golden(folder: Path, name: str, found: Numbers) -> None:
    """Keep the numbers of the case `name`: compact, with a line for each row."""
    files = []
    for file, rows in found.items():
        lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
        files.append(f"{json.dumps(file)}:[\n{lines}]")
    (folder / f"{name}.json").write_text("{" + ",\n".join(files) + "}\n")


# The command line


def _outcome(case: Case, tree: Path, inputs: Path, folder: Path, write: bool) -> tuple[str, float]:
    """Compare or keep one case; what there is to say of it, and the seconds that it took."""
    begun = time.monotonic()
    try:
        found = run(case, tree, inputs)
        if write:
            write_golden(folder, case.name, found)
            said = "written"
        else:
            said = str(first_difference(read_golden(folder, case.name), found) or "equal")
    except (RuntimeError, OSError) as error:
        said = f"failed: {error}"
    return said, time.monotonic() - begun


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    assert __doc__ is not None
    summary, rest = __doc__.split("\n\n", 1)
    parser = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawTextHelpFormatter
    )
    names = [case.name for case in CASES]
    parser.add_argument("tree", type=Path, help="a checkout: the folder with train.py")
    parser.add_argument("--cases", nargs="+", metavar="NAME", choices=names, default=names)
    parser.add_argument("--write", action="store_true", help="keep the goldens, do not compare")
    chosen = parser.parse_args(arguments)
    if not (chosen.tree / "train.py").is_file():
        parser.error(f"{chosen.tree} has no train.py")
    return chosen


def main(arguments: Sequence[str]) -> int:
    """Exit code 1 if any case differs, or fails."""
    chosen = parsed(arguments)
    cases = [case for case in CASES if case.name in chosen.cases]
    folder, exact = (new_goldens(), True) if chosen.write else goldens()
    if not exact:
        print("no goldens of this machine and these versions: bits may differ", flush=True)
    good = 0
    with TemporaryDirectory() as inputs, ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        one = partial(
            _outcome,
            tree=chosen.tree.resolve(),
            inputs=build(Path(inputs)),
            folder=folder,
            write=chosen.write,
        )
        width = max(len(case.name) for case in cases)
        for case, (said, seconds) in zip(cases, pool.map(one, cases), strict=True):
            good += said in ("equal", "written")
            print(f"{case.name:{width}}  {seconds:5.1f} s  {said}", flush=True)
    print(f"{good} of {len(cases)} {'written' if chosen.write else 'equal'}")
    return int(good < len(cases))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
