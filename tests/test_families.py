"""The contract of every family, and the parameter counts of OPT-350M's shape."""

import copy
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import MODELS, tiny_tokenizer
from safetensors.torch import load_file, save_file
from support import load, read, space, switch_on, task
from tokenizers import processors
from torch.func import functional_call
from transformers import OPTForSequenceClassification, PreTrainedModel

from heterolora import architectures
from heterolora.adapters import Adapters
from heterolora.architectures import FAMILIES, Loaded, layers_of
from heterolora.errors import ModelError

ROLES = ("q", "k", "v", "o", "up", "down")

every_family = pytest.mark.parametrize("family", MODELS)


def wired(
    path: Path, roles: tuple[str, ...] = ROLES, seed: int = 0, load: Callable[..., Loaded] = load
) -> tuple[PreTrainedModel, Adapters]:
    """The untouched model, and the same one wired."""
    loaded = load(path, seed)
    plain = copy.deepcopy(loaded.model)
    searched = space(lora=dict.fromkeys(roles, 2))
    adapters = architectures.wire(loaded.model, loaded.family, searched, loaded.head, seed)
    return plain, adapters


def batch() -> dict[str, torch.Tensor]:
    """Two rows, the second padded."""
    ids = torch.tensor([[0, 5, 6, 7, 8, 2], [0, 9, 10, 2, 1, 1]])
    return {"input_ids": ids, "attention_mask": (ids != 1).long()}


def randomize(adapters: Adapters) -> None:
    generator = torch.Generator().manual_seed(3)
    for adapter in adapters.values():
        adapter.B.data.normal_(generator=generator)


@every_family
@pytest.mark.parametrize("training", [False, True])
def test_zero_adapters_give_the_base_logits_exactly(family, training, checkpoints) -> None:
    plain, adapters = wired(checkpoints[family])
    for model in (plain, adapters.model):
        model.train(training)
    logits = []
    for model in (plain, adapters.model):
        torch.manual_seed(0)  # dropout
        logits.append(model(**batch()).logits)
    assert torch.equal(*logits)


@every_family
def test_off_equals_absent_and_on_does_not(family, checkpoints) -> None:
    plain, adapters = wired(checkpoints[family])
    randomize(adapters)
    base = plain(**batch()).logits
    assert not torch.allclose(adapters.model(**batch()).logits, base)
    adapters.apply({})
    assert torch.equal(adapters.model(**batch()).logits, base)


@every_family
def test_every_site_reaches_the_logits(family, checkpoints) -> None:
    plain, adapters = wired(checkpoints[family])
    randomize(adapters)
    base = plain(**batch()).logits
    assert len(adapters.sites) == 3 * len(ROLES)
    for site in adapters.sites:
        switch_on(adapters, [site])
        assert not torch.equal(adapters.model(**batch()).logits, base), site


@every_family
def test_a_wired_model_equals_its_merged_weights(family, checkpoints) -> None:
    """W0 + (alpha / r) B A in place of W0, put there by hand through the family's own layers."""
    plain, adapters = wired(checkpoints[family])
    randomize(adapters)
    where = FAMILIES[plain.config.model_type]
    layers = layers_of(plain, where)
    for site, adapter in adapters.items():
        linear = layers[site.layer].get_submodule(where.projections[site.role])
        rows = slice(*where.rows(plain.config).get(site.role, (None,)))
        linear.weight.data[rows] += 16 / 2 * adapter.B.data @ adapter.A.data
    torch.testing.assert_close(
        adapters.model(**batch()).logits, plain(**batch()).logits, rtol=1e-4, atol=1e-5
    )


@every_family
def test_frozen_is_all_but_adapters_and_head(family, checkpoints) -> None:
    plain, adapters = wired(checkpoints[family])
    frozen = {name for name, p in adapters.model.named_parameters() if not p.requires_grad}
    renamed = {re.sub(r"(\.base)+\.", ".", name) for name in frozen}
    head = {name for name, _ in plain.named_parameters()} - renamed
    starts = ("score.", "classifier.", "pooler.", "head.")  # BERT's pooler is in its base
    assert head == {name for name, _ in plain.named_parameters() if name.startswith(starts)}
    assert adapters.head_count == sum(dict(plain.named_parameters())[n].numel() for n in head)


@every_family
def test_stays_an_ordinary_module(family, checkpoints) -> None:
    _, adapters = wired(checkpoints[family])
    randomize(adapters)
    model = adapters.model
    logits = model(**batch()).logits
    assert torch.equal(copy.deepcopy(model)(**batch()).logits, logits)
    called = functional_call(model, dict(model.state_dict()), kwargs=batch()).logits
    assert torch.equal(called, logits)
    twin = wired(checkpoints[family])[1].model
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin(**batch()).logits, logits)


@every_family
def test_padding_changes_nothing(family, checkpoints) -> None:
    _, adapters = wired(checkpoints[family])
    randomize(adapters)
    adapters.model.eval()
    both = adapters.model(**batch()).logits[1]
    alone = adapters.model(**{k: v[1:, :4] for k, v in batch().items()}).logits[0]
    torch.testing.assert_close(both, alone)


@every_family
def test_the_seed_decides_head_and_adapters(family, checkpoints) -> None:
    first, again, other = (
        wired(checkpoints[family], seed=seed, load=way)[1].named_tensors()
        for seed, way in ((0, load), (0, read), (13, load))
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    drawn = [name for name in first if len(first[name].unique()) > 1]
    assert len(drawn) > 3 * len(ROLES)
    assert not any(torch.equal(first[name], other[name]) for name in drawn)


def test_a_sites_weights_do_not_depend_on_the_others(checkpoints) -> None:
    _, few = wired(checkpoints["bert"], roles=("v",))
    _, many = wired(checkpoints["bert"], roles=("q", "v", "up"))
    for site, adapter in few.items():
        assert torch.equal(adapter.A, many[site].A)


def test_loading_leaves_the_global_generator_alone(checkpoints) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    wired(checkpoints["opt-post-norm"], load=read)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(
    ("budget_rank", "rank", "on", "parameters"),
    [(2, 2, 48, 196_608), (8, 8, 48, 786_432), (2, 8, 12, 196_608), (24, 24, 48, 2_359_296)],
)
def test_opt_350m_counts(
    budget_rank: int,
    rank: int,
    on: int,
    parameters: int,
    opt_350m: OPTForSequenceClassification,
) -> None:
    model = copy.deepcopy(opt_350m)
    with torch.device("meta"):
        searched = space(lora={"q": rank, "v": rank})
        adapters = architectures.wire(
            model, FAMILIES["opt"], searched, model.score.parameters(), seed=0
        )
    assert len(adapters.sites) == 48
    switch_on(adapters, adapters.sites[:on])
    assert adapters.count == parameters
    assert sum(adapters.unit_costs.values()) * budget_rank == parameters


def test_an_incomplete_checkpoint_is_refused(checkpoints, tmp_path) -> None:
    source = checkpoints["bert"]
    for file in source.iterdir():
        if file.name != "model.safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(source / "model.safetensors")
    del weights["encoder.layer.1.attention.self.query.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 weights .*layer\.1\.attention\.self\.query"):
        load(tmp_path)


def with_weights_in(source: Path, target: Path, content: object) -> Path:
    """A copy of a checkpoint with its weights in a pytorch_model.bin."""
    for file in source.iterdir():
        if file.name != "model.safetensors":
            (target / file.name).write_bytes(file.read_bytes())
    torch.save(content, target / "pytorch_model.bin")
    return target


def test_a_plain_state_dict_loads(checkpoints, tmp_path) -> None:
    source = checkpoints["bert"]
    with_weights_in(source, tmp_path, load_file(source / "model.safetensors"))
    expected = load(source)
    loaded = load(tmp_path)
    assert torch.equal(loaded.model(**batch()).logits, expected.model(**batch()).logits)
    assert loaded.revision != expected.revision


class Malice:
    """Runs code when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.file,))


def test_code_in_a_checkpoint_is_not_run(checkpoints, tmp_path) -> None:
    mark = tmp_path / "was-run"
    with_weights_in(checkpoints["bert"], tmp_path, {"weight": Malice(mark)})
    with pytest.raises(ModelError, match="cannot be loaded") as refused:
        load(tmp_path)
    assert "\n" not in str(refused.value)
    assert not mark.exists()


def test_a_head_of_another_size_is_refused_in_one_line(checkpoints, tmp_path) -> None:
    loaded = load(checkpoints["bert"])
    loaded.model.save_pretrained(tmp_path)
    loaded.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError) as refused:
        architectures.load_pretrained(tmp_path, task(num_labels=3).build())
    assert "\n" not in str(refused.value)
    assert "num_labels=3" in str(refused.value)


@every_family
def test_positions_are_what_the_model_can_read(family, checkpoints) -> None:
    loaded = load(checkpoints[family])
    rows = torch.full((1, loaded.positions), 5)
    loaded.model(input_ids=rows, attention_mask=torch.ones_like(rows))
    if family not in ("opt-post-norm", "opt-pre-norm", "bert", "roberta"):
        # Rotary and relative positions go on, untrained.
        assert loaded.positions == 40
        return
    longer = torch.full((1, loaded.positions + 1), 5)
    with pytest.raises((IndexError, RuntimeError)):
        loaded.model(input_ids=longer, attention_mask=torch.ones_like(longer))


@pytest.mark.parametrize(("ending", "padding"), [("</s>", "<s>"), ("", "</s>")])
def test_padding_is_never_the_token_that_is_read(ending, padding, checkpoints, tmp_path) -> None:
    """A tokenizer without padding token; the head reads the last token that is not padding."""
    source = checkpoints["llama"]
    for file in source.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"<s> $A {ending}".strip(), special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert loaded.tokenizer.pad_token == padding
    assert loaded.model.config.pad_token_id == loaded.tokenizer.pad_token_id
    rows = loaded.tokenizer(["the cat", "a dog sees a bird"], padding=True, return_tensors="pt")
    inputs = {name: rows[name] for name in ("input_ids", "attention_mask")}
    short = loaded.tokenizer("the cat", return_tensors="pt")["input_ids"]
    states = loaded.model.model(short).last_hidden_state[0, -1]
    expected = loaded.model.score(states)
    torch.testing.assert_close(loaded.model(**inputs).logits[0], expected)
