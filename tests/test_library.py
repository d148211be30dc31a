"""What a user's own script writes: the public names, without the harness."""

import ast
import inspect
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from conftest import ROOT, WIRINGS
from safetensors import safe_open
from safetensors.torch import load_file
from support import covering, randomize
from transformers import AutoModel, AutoModelForSequenceClassification

import heterolora as hl
from heterolora.errors import ModelError

BLOCKED = ("hydra", "omegaconf", "pydantic", "wandb", "datasets", "pandas", "pyarrow", "submitit")
BLOCKED += ("scipy", "sklearn", "matplotlib", "rich", "statsmodels", "peft", "trl")

WITHOUT = f"""
import sys
sys.modules.update(dict.fromkeys({BLOCKED!r}))  # importing one of them fails
"""

SCRIPT = """
import torch
from transformers import AutoModelForSequenceClassification
import heterolora as hl

def load():
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_pretrained(sys.argv[1]).eval()

model, out = load(), sys.argv[2]
ids = torch.tensor([[0, 5, 6, 7, 8, 2], [0, 9, 10, 2, 1, 1], [0, 11, 5, 3, 2, 1]])
rows = {"input_ids": ids, "attention_mask": (ids != 1).long()}
batches = [{**rows, "labels": torch.tensor([0, 1, 1])}]
assert hl.suggest(model, batches, budget_rank=2).ranks
adapters = hl.adapt(model, lora={"q": 8, "v": 8}, shortcuts={"res1": 8}, seed=0)
scores = hl.proxies.GradNorm().scores(adapters, batches)
adapters.apply(hl.select(scores, adapters, budget=adapters.count // 3))
optimizer = hl.adamw(adapters, 0.05)
for _ in range(3):
    hl.default_loss(model(**rows), batches[0])[0].backward()
    optimizer.step()
hl.save(adapters, out)
for one in (adapters, hl.load(load(), out)):
    print([str(site) for site, rank in one.ranks.items() if rank])
    print(one.model(**rows).logits.tolist())
"""


@pytest.mark.parametrize("family", ["bert", pytest.param("llama", marks=pytest.mark.slow)])
def test_adapt_score_select_save_and_load_in_another_process(
    family: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """It is saved without what a script does not need, and loaded there and here."""
    command = [sys.executable, "-c", WITHOUT + SCRIPT, checkpoints[family], tmp_path / "out"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    enabled, logits, *loaded = done.stdout.splitlines()
    assert loaded == [enabled, logits]
    again = hl.load(classifier(checkpoints[family]), tmp_path / "out")
    assert str([str(site) for site, rank in again.ranks.items() if rank]) == enabled
    ids = torch.tensor([[0, 5, 6, 7, 8, 2], [0, 9, 10, 2, 1, 1], [0, 11, 5, 3, 2, 1]])
    here = again.model(input_ids=ids, attention_mask=(ids != 1).long()).logits
    torch.testing.assert_close(here, torch.tensor(json.loads(logits)))
    assert 0 < len(json.loads(enabled.replace("'", '"'))) < 9
    assert len(json.loads(logits)) == 3
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["adapters.safetensors"]


def test_importing_it_imports_nothing_but_itself() -> None:
    """Its parts come when they are first used."""
    code = "import sys, heterolora; print(sorted(n for n in sys.modules if n.startswith('torch')))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    assert done.stdout.strip() == b"[]"


def test_public_names_are_there_documented_and_typed() -> None:
    """Those for type checkers are those that there are."""
    (types,) = (
        node
        for node in ast.parse((ROOT / "heterolora" / "__init__.py").read_text()).body
        if isinstance(node, ast.If)
    )
    named = {
        alias.name
        for node in types.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert named == set(hl.__all__)
    assert dir(hl) == hl.__all__ == sorted(hl.__all__)
    for name in hl.__all__:
        value = getattr(hl, name)
        assert inspect.getdoc(value), name
    with pytest.raises(AttributeError, match="no attribute 'adept'"):
        hl.adept  # noqa: B018


@pytest.mark.parametrize("family", WIRINGS)
def test_a_model_without_a_head(family: str, checkpoints: dict[str, Path]) -> None:
    """Its loss is the user's to say."""
    model = AutoModel.from_pretrained(checkpoints[family]).eval()
    ids = torch.tensor([[0, 5, 6, 7, 8, 2], [0, 9, 10, 4, 3, 2]])
    batches = [{"input_ids": ids, "attention_mask": torch.ones_like(ids)}]
    plain = model(**batches[0]).last_hidden_state
    adapters = hl.adapt(model, {"q": 4, "v": 4}, {"res1": 2})
    assert torch.equal(model(**batches[0]).last_hidden_state, plain)
    assert adapters.head == {}
    with pytest.raises(ValueError, match=r"no default loss .*; give a function"):
        hl.proxies.GradNorm().scores(adapters, batches)

    def loss(output, batch):
        return output.last_hidden_state.square().sum(), len(batch["input_ids"])

    scores = hl.proxies.Snip().scores(adapters, batches, loss)
    assert min(scores.values()) > 0
    ranks = hl.selection.Proportional(floor=1)
    allocation = hl.select(scores, adapters, adapters.count // 2, ranks)
    adapters.apply(allocation)
    assert adapters.ranks == allocation.ranks
    assert abs(adapters.count - sum(adapters.unit_costs[s] * 4 for s in adapters) // 2) < 10_000
    assert hl.select(scores, adapters, adapters.count, ranks) == hl.select(
        scores, adapters, adapters.count, ranks
    )


@pytest.mark.parametrize(("family", "dtype"), covering(WIRINGS, [torch.bfloat16, torch.float16]))
def test_a_model_of_half_precision(
    family: str, dtype: torch.dtype, checkpoints: dict[str, Path]
) -> None:
    """It keeps its precision; what is trained is in float32."""
    model = AutoModelForSequenceClassification.from_pretrained(checkpoints[family], dtype=dtype)
    ids = torch.tensor([[0, 5, 6, 7, 8, 2], [0, 9, 10, 4, 3, 2]])
    rows = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    plain = model.eval()(**rows).logits
    adapters = hl.adapt(model, {"q": 4, "v": 4}, {"res1": 2})
    assert torch.equal(model(**rows).logits, plain)
    assert {adapter.A.dtype for adapter in adapters.values()} == {torch.float32}
    scores = hl.proxies.GradNorm().scores(adapters, [{**rows, "labels": torch.tensor([0, 1])}])
    assert max(scores.values()) > 0
    for adapter in adapters.values():
        adapter.B.data.fill_(1)
    logits = model(**rows).logits
    assert logits.dtype == dtype
    assert not torch.equal(logits, plain)


def test_a_loss_that_is_no_pair_is_told_so(checkpoints: dict[str, Path]) -> None:
    adapters = hl.adapt(classifier(checkpoints["bert"]), {"q": 2})
    batches = [{"input_ids": torch.tensor([[0, 5, 2]]), "labels": torch.tensor([0])}]
    for proxy in (hl.proxies.GradNorm(), hl.proxies.SynFlow()):
        with pytest.raises(TypeError, match=r"a Tensor; it must return a pair: the sum of"):
            proxy.scores(adapters, batches, lambda output, _: output.logits.mean())


def test_seed_and_ranks_are_saved(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    adapters = hl.adapt(classifier(checkpoints["bert"]), {"q": 2}, seed=7)
    adapters.apply({site: site.layer for site in adapters})
    hl.save(adapters, tmp_path)
    again = hl.load(classifier(checkpoints["bert"]), tmp_path)
    assert again.seed == 7
    assert again.ranks == adapters.ranks


def test_a_saved_file_explains_itself(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """What it has is what to add to the weights, and nothing of what is off."""
    adapters = hl.adapt(classifier(checkpoints["bert"]), {"q": 4, "v": 4}, lora_alpha=5, seed=7)
    randomize(adapters)
    adapters.apply({site: (0, 1, 3, 4)[index % 4] for index, site in enumerate(adapters)})
    hl.save(adapters, tmp_path)
    words = {"input_ids": torch.tensor([[5, 6, 7, 8]])}
    with torch.no_grad():
        expected = adapters.model.eval()(**words).logits

    plain = classifier(checkpoints["bert"])
    file = tmp_path / "adapters.safetensors"
    with safe_open(file, "pt") as stream:
        scaling = json.loads(stream.metadata()["scaling"])
    saved = load_file(file)
    assert {*scaling} == {str(site) for site, rank in adapters.ranks.items() if rank}
    assert {name.rpartition(".")[0] for name in saved if name.startswith("layers")} == {*scaling}
    projections = {"q": "query", "v": "value"}
    with torch.no_grad():
        for site, factor in scaling.items():
            _, layer, role = site.split(".")
            attention = plain.bert.encoder.layer[int(layer)].attention.self
            weight = getattr(attention, projections[role]).weight
            weight += factor * saved[f"{site}.B"] @ saved[f"{site}.A"]
        for name, parameter in plain.named_parameters():
            if f"head.{name}" in saved:
                parameter.copy_(saved[f"head.{name}"])
        assert torch.allclose(plain(**words).logits, expected, atol=1e-6)
        again = hl.load(classifier(checkpoints["bert"]), tmp_path)
        assert torch.equal(again.model(**words).logits, expected)
    assert all(again[site].B[:, rank:].eq(0).all() for site, rank in again.ranks.items())


def classifier(path: Path) -> torch.nn.Module:
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_pretrained(path).eval()


def test_what_does_not_fit_is_one_line(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    model = classifier(checkpoints["bert"])
    with pytest.raises(ModelError, match=r"^lora: bert models have no 'gate'; choose from q, "):
        hl.adapt(model, {"gate": 2})
    with pytest.raises(ModelError, match=r"^shortcuts: bert models have no 'res3'; choose from "):
        hl.adapt(model, {"q": 2}, {"res3": 2})
    with pytest.raises(ModelError, match=r"^lora: q=0: the rank must be at least 1"):
        hl.adapt(model, {"q": 0})
    with pytest.raises(ValueError, match=r"scaling='half': must be one of "):
        hl.adapt(model, {"q": 2}, scaling="half")
    adapters = hl.adapt(model, {"q": 2})
    with pytest.raises(ModelError, match=r"already has adapters; load it again"):
        hl.adapt(model, {"q": 2})
    with pytest.raises(ValueError, match=r"have different sites: layers\.0\.v"):
        hl.select({**dict.fromkeys(adapters, 1.0), hl.Site(0, "v"): 1.0}, adapters, 100)
    hl.save(adapters, tmp_path)
    with pytest.raises(
        ModelError, match=r"holds adapters of a 'bert' model, but this is a 'roberta'"
    ):
        hl.load(classifier(checkpoints["roberta"]), tmp_path)
    with pytest.raises(ModelError, match=r"has a head \(.*that this model lacks"):
        hl.load(AutoModel.from_pretrained(checkpoints["bert"]), tmp_path)
    with pytest.raises(ModelError, match=r"nowhere: cannot be read .*; give a folder"):
        hl.load(classifier(checkpoints["bert"]), tmp_path / "nowhere")
    (tmp_path / "other.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelError, match=r"other\.safetensors: cannot be read"):
        hl.load(classifier(checkpoints["bert"]), tmp_path / "other.safetensors")


def test_settings_are_checked_by_their_classes() -> None:
    with pytest.raises(ValueError, match=r"num_batches=0: must be greater than 0"):
        hl.proxies.GradNorm(num_batches=0)
    with pytest.raises(ValueError, match=r"weights='old': must be one of 'current', 'probe'"):
        hl.proxies.Snip(weights="old")
    assert hl.proxies.SynFlow().to_dict() == {
        "name": "synflow",
        "weights": "probe",
        "num_batches": 1,
        "batch_size": 8,
        "objective": "loss",
    }


def test_the_readmes_example_is_the_scripts() -> None:
    """The README shows what is run here, line by line."""
    shown = (ROOT / "README.md").read_text()
    lines = [line.strip() for line in textwrap.dedent(SCRIPT).splitlines()]
    for line in lines:
        if line.startswith(("adapters = hl.", "scores = hl.", "adapters.apply(", "hl.save(")):
            assert line.partition("(")[0] in shown, line
