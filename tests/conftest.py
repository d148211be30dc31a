"""Fixtures: tiny checkpoints of every family, a tiny dataset, and the command line itself."""

import copy
import functools
import gc
import io
import itertools
import random
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hypothesis import settings
from omegaconf import DictConfig, OmegaConf
from pyarrow import parquet
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    Gemma2Config,
    Gemma2ForSequenceClassification,
    Gemma3TextConfig,
    Gemma3TextForSequenceClassification,
    GemmaConfig,
    GemmaForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    MistralConfig,
    MistralForSequenceClassification,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    OPTConfig,
    OPTForSequenceClassification,
    Phi3Config,
    Phi3ForSequenceClassification,
    PhiConfig,
    PhiForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForSequenceClassification,
    Qwen3Config,
    Qwen3ForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from heterolora.errors import ConfigError
from heterolora.harness.cli import train as command
from heterolora.harness.cli.run.compose import composing, is_group
from heterolora.harness.config import prepare
from heterolora.losses import Batch
from heterolora.training.engines import LocalEngine

# How long an example takes says nothing here: machines are shared.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"

WORDS = ["the", "a", "cat", "dog", "bird", "sees", "hears", "likes", "big", "small", "red", "old"]
WORDS += ["not", "no", "two", "three"]

_SHARED = {"vocab_size": 32, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
_BERT = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
}
_OPT = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "ffn_dim": 32,
    "max_position_embeddings": 40,
    "word_embed_proj_dim": 8,
}
_LLAMA = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
}
_GEMMA2 = {
    **_LLAMA,
    "query_pre_attn_scalar": 4,
    "layer_types": ["full_attention"] * 3,
    "tie_word_embeddings": True,
}
_GEMMA3 = {
    **_GEMMA2,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "sliding_window": 3,
}
_PHI = {name: size for name, size in _LLAMA.items() if name != "head_dim"}
_DEBERTA = {  # as microsoft/deberta-v3-base has it, but for the sizes
    "relative_attention": True,
    "position_buckets": 8,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": "p2c|c2p",
    "position_biased_input": False,
    "type_vocab_size": 0,
}
_MODERNBERT = {
    "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
    "local_attention": 4,
    "cls_token_id": 0,
    "sep_token_id": 2,
}


def uneven(model: PreTrainedModel) -> PreTrainedModel:
    """Norms and biases drawn as well: a fresh layer norm makes zeros of an input of ones."""
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.data += 0.1 * torch.randn(parameter.shape)
    return model


MODELS = {
    "opt-post-norm": lambda: OPTForSequenceClassification(
        OPTConfig(**_OPT, **_SHARED, do_layer_norm_before=False)
    ),
    "opt-pre-norm": lambda: OPTForSequenceClassification(
        OPTConfig(**{**_OPT, "word_embed_proj_dim": 16}, **_SHARED, do_layer_norm_before=True)
    ),
    "bert": lambda: BertForSequenceClassification(BertConfig(**_BERT, **_SHARED)),
    "roberta": lambda: RobertaForSequenceClassification(RobertaConfig(**_BERT, **_SHARED)),
    "llama": lambda: LlamaForSequenceClassification(LlamaConfig(**_LLAMA, **_SHARED)),
    "mistral": lambda: MistralForSequenceClassification(MistralConfig(**_LLAMA, **_SHARED)),
    "qwen2": lambda: Qwen2ForSequenceClassification(Qwen2Config(**_LLAMA, **_SHARED)),
    "qwen3": lambda: Qwen3ForSequenceClassification(Qwen3Config(**_LLAMA, **_SHARED)),
    "gemma": lambda: GemmaForSequenceClassification(GemmaConfig(**_LLAMA, **_SHARED)),
    "gemma2": lambda: Gemma2ForSequenceClassification(Gemma2Config(**_GEMMA2, **_SHARED)),
    "gemma3": lambda: Gemma3TextForSequenceClassification(Gemma3TextConfig(**_GEMMA3, **_SHARED)),
    "phi": lambda: uneven(PhiForSequenceClassification(PhiConfig(**_PHI, **_SHARED))),
    "deberta": lambda: uneven(
        DebertaV2ForSequenceClassification(DebertaV2Config(**_BERT, **_DEBERTA, **_SHARED))
    ),
    "phi3": lambda: Phi3ForSequenceClassification(Phi3Config(**_PHI, **_SHARED, resid_pdrop=0.1)),
    "modernbert": lambda: uneven(
        ModernBertForSequenceClassification(ModernBertConfig(**_BERT, **_MODERNBERT, **_SHARED))
    ),
}
"""For each family, a small model with random weights: three layers of width 16."""

ENCODERS = ("bert", "roberta", "deberta", "modernbert")
"""Those that are no decoders."""

FUSED = ("phi3", "modernbert")
"""Those whose queries, keys and values are parts of one layer."""

LORA_ONLY = ("gemma3", "phi", "deberta", "modernbert")
"""Those that cannot have shortcuts: Gemma 3 here, for its layers differ in what they attend to."""

WITH_SHORTCUTS = [name for name in MODELS if name not in LORA_ONLY]
"""Those that can."""

LLAMAS = ("mistral", "qwen2", "qwen3", "gemma")
"""Those that have Llama's wiring, and are not it."""

WIRINGS = [name for name in WITH_SHORTCUTS if name not in LLAMAS]
"""One model for each wiring of a block with shortcuts."""

LAYOUTS = [name for name in MODELS if name not in LLAMAS]
"""One model for each layout of projections and attention."""


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    vocabulary = {word: index for index, word in enumerate([*specials, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
    )


def case_name(value: object) -> str:
    """A name that a shell takes as it is: a failing case is run alone by what pytest prints."""
    return re.sub(r"[^\w.,:=+/@%-]+", "_", str(value), flags=re.ASCII).strip("_")[:80]


def pytest_make_parametrize_id(val: object) -> str | None:
    """Name cases by `case_name`."""
    if isinstance(val, str):
        return case_name(val)
    return type(val).__name__ if isinstance(val, bytes) or callable(val) else None


def pytest_itemcollected(item: pytest.Item) -> None:
    """Refuse names of cases that a shell does not take as they are."""
    assert re.fullmatch(r"[\w\[\].,:=+/@%-]+", item.nodeid), f"{item.nodeid}: use case_name"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The file that waits for minutes comes first, so that the others run beside it.

    Then those whose runs are forked from one server, which a worker then starts for all of them.
    """
    first = ["test_slurm.py", "test_faults.py", "test_resume.py", "test_packed_sweeps.py"]
    first += ["test_trackers.py", "test_language_runs.py"]
    places = {name: place for place, name in enumerate(first)}
    items.sort(key=lambda item: places.get(item.path.name, len(first)))


def pytest_collection_finish() -> None:
    """Exempt what the imports made from garbage collection: a million objects, each time."""
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Tiny matrices are slower on many threads."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A directory in Hugging Face format for each entry of MODELS, without a head."""
    directories = {}
    for name, build in MODELS.items():
        torch.manual_seed(0)
        model = build()
        directory = tmp_path_factory.mktemp(name)
        model.base_model.save_pretrained(directory)
        tiny_tokenizer().save_pretrained(directory)
        directories[name] = directory
    return directories


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A post-norm OPT of two layers, wide enough for every rank under conf/rank_budget."""
    sizes = _OPT | {"hidden_size": 96, "ffn_dim": 96, "num_hidden_layers": 2}
    torch.manual_seed(0)
    model = OPTForSequenceClassification(OPTConfig(**sizes, **_SHARED, do_layer_norm_before=False))
    directory = tmp_path_factory.mktemp("wide")
    model.base_model.save_pretrained(directory)
    tiny_tokenizer().save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def opt_350m() -> OPTForSequenceClassification:
    """A model of OPT-350M's shape without weights, to be copied."""
    config = OPTConfig(
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        ffn_dim=4096,
        word_embed_proj_dim=512,
        do_layer_norm_before=False,
    )
    with torch.device("meta"):
        return OPTForSequenceClassification(config)


def write_parquet(directory: Path, **splits: dict[str, list[object]]) -> Path:
    """One parquet file for each split."""
    directory.mkdir(parents=True, exist_ok=True)
    for split, columns in splits.items():
        parquet.write_table(pa.table(columns), directory / f"{split}.parquet")
    return directory


def sentence_pairs(count: int, seed: int) -> dict[str, list[object]]:
    """Random pairs of short sentences, labeled by whether they end in the same word."""
    rng = random.Random(seed)
    first = [" ".join(rng.choices(WORDS, k=rng.randint(2, 9))) for _ in range(count)]
    second = [" ".join(rng.choices(WORDS, k=rng.randint(2, 9))) for _ in range(count)]
    label = [int(rng.random() < 0.5) for _ in range(count)]
    second = [
        f"{b} {a.split()[-1]}" if y else b for a, b, y in zip(first, second, label, strict=True)
    ]
    return {"sentence1": first, "sentence2": second, "label": label}


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A parquet directory with 60 training and 40 validation pairs."""
    return write_parquet(
        tmp_path_factory.mktemp("pairs"),
        train=sentence_pairs(60, seed=1),
        validation=sentence_pairs(40, seed=2),
    )


@functools.cache
def _composed(overrides: tuple[str, ...]) -> DictConfig:
    with composing():
        return compose("config", list(overrides))


def composed(*overrides: str) -> DictConfig:
    """The configuration that the command line would compose, composed once for all tests."""
    return copy.deepcopy(_composed(overrides))


def edited(cfg: DictConfig, *changes: str) -> DictConfig:
    """`cfg` with `key=value` changes, as after overrides, but ten times as fast as composing."""
    other = cfg.copy()
    OmegaConf.set_struct(other, False)
    merged = OmegaConf.merge(other, OmegaConf.from_dotlist(list(changes)))
    assert isinstance(merged, DictConfig)
    return merged


def problems(cfg: DictConfig) -> tuple[str, ...]:
    """What is wrong with a configuration, line by line."""
    with pytest.raises(ConfigError) as raised:
        prepare(cfg)
    return raised.value.problems


@dataclass
class Finished:
    """What a command left on the screen."""

    code: int
    out: str
    err: str

    @property
    def record(self) -> Path:
        """The directory of the run, which went well and whose summary names it."""
        assert self.code == 0, self.err
        (line,) = (line for line in self.out.splitlines() if line.startswith("record  "))
        return Path(line.removeprefix("record").strip())


CommandLine = Callable[..., Finished]


def _main(*arguments: str) -> int:
    """The exit code of `python train.py ...`, all of it but the start of an interpreter."""
    GlobalHydra.instance().clear()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [str(ROOT / "train.py"), *arguments])
            return command.main()
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 1
    finally:
        GlobalHydra.instance().clear()


@pytest.fixture
def command_line(capfd: pytest.CaptureFixture[str]) -> CommandLine:
    """`python train.py ...`, and all that it prints."""

    def call(*arguments: str) -> Finished:
        capfd.readouterr()
        code = _main(*arguments)
        out, err = capfd.readouterr()
        return Finished(code, out, err)

    return call


def run_command(*arguments: str) -> Finished:
    """As `command_line`, for fixtures that serve several tests, which cannot use `capfd`.

    What is written past `sys.stdout` and `sys.stderr` is not in the result.
    """
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        code = _main(*arguments)
    return Finished(code, out.getvalue(), err.getvalue())


def tiny_run(checkpoint: Path, pairs: Path, output: Path) -> list[str]:
    """Overrides for a run of a second on the tiny pairs."""
    return [
        f"model.path={checkpoint}",
        "task=rte",
        f"task.path={pairs}",
        f"output={output}",
        "tracking=local",
        "device=cpu",
        "training.epochs=2",
        "training.batch_size=8",
        "proxy.num_batches=2",
    ]


@pytest.fixture
def tiny(checkpoints: dict[str, Path], pairs: Path, tmp_path: Path) -> list[str]:
    """Overrides for a run of the tiny post-norm OPT, with an output folder of the test's own."""
    return tiny_run(checkpoints["opt-post-norm"], pairs, tmp_path / "outputs")


def tiny_config(checkpoint: Path, pairs: Path, output: Path, *overrides: str) -> DictConfig:
    """What `tiny_run` and further overrides compose; each choice of options is composed once."""
    given = [*tiny_run(checkpoint, pairs, output), *overrides]
    values = [one for one in given if one[0] not in "+~" and not is_group(one.partition("=")[0])]
    return edited(composed(*(one for one in given if one not in values)), *values)


def run_config(cfg: DictConfig) -> Finished:
    """As `run_command`, all of it but Hydra's composing, which takes longer than a tiny run."""
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        code = command.report_errors(lambda: command.single(cfg))
    return Finished(code, out.getvalue(), err.getvalue())


@pytest.fixture
def train(checkpoints: dict[str, Path], pairs: Path, tmp_path: Path) -> CommandLine:
    """`command_line(*tiny, ...)` for what a run does and leaves: Hydra is not asked each time."""

    def call(*overrides: str) -> Finished:
        output = tmp_path / "outputs"
        return run_config(tiny_config(checkpoints["opt-post-norm"], pairs, output, *overrides))

    return call


@pytest.fixture(scope="session")
def finished_run(
    checkpoints: dict[str, Path], pairs: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The directory of a finished run with a dynamic search. Tests read it, and change copies."""
    cfg = tiny_config(
        *(checkpoints["opt-post-norm"], pairs, tmp_path_factory.mktemp("finished")),
        *("optimizer.learning_rate=0.02", "training.log_every=3"),
    )
    return run_config(cfg).record


@pytest.fixture
def own_run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of `finished_run` for a test that adds to it or changes it."""
    return shutil.copytree(finished_run, tmp_path / "run")


@contextmanager
def stopped_at(step: int) -> Iterator[None]:
    """Ctrl-C in the place of a run's step after `step` of them."""
    make, steps = LocalEngine.step, itertools.count()

    def stopping(self: LocalEngine, batch: Batch) -> torch.Tensor:
        if next(steps) == step:
            raise KeyboardInterrupt
        return make(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalEngine, "step", stopping)
        yield
