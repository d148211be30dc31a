"""The embedded task and model: the labels are right, and nothing but the meaning gives them away.

The labels are checked by a small parser that is written here by hand, from English and not from
the grammar's templates: it takes a sentence back to what it says. It shares the word lists with
the grammar, not the constructions.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import subprocess
import sys
from functools import cache
from typing import Any

import pytest
import torch
from conftest import ROOT
from starter.corpus import pretraining_documents, until_wrong, ways_to_say
from starter.grammar import (
    FRAMES,
    Meaning,
    canonical,
    change_meaning,
    draw_meaning,
    draw_twins,
    held_out,
    lexicon,
    paraphrase_pairs,
    say,
    vocabulary,
)
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from heterolora.harness.config.embedded import MODELS, PAIRS, STARTER

MODEL_DIR = MODELS[STARTER]

# To renew after an intended change of the grammar (then rebuild the model, too):
#  PYTHONPATH=tests:scripts python -c "from test_starter import *; \
#  print(*map(digest, map(paraphrase_pairs, DIGESTS)))"
DIGESTS = {
    "train": "00b6eb1e79b0c7c68d66a06a16d0daf62aa5229b27f4c8c2fc4cec7ce4ac09f9",
    "validation": "5ad273d7b1d9fd5cea3a92a62ab1eadd5487f00af10f856207556bee80e936d2",
}

# What may stand in a construction: name -> (kind of word, its form, with "the" before it).
PARTS = {
    **dict.fromkeys("AB", ("person", "", False)),
    **dict.fromkeys("XY", ("thing", "", True)),
    **dict.fromkeys("EF", ("event", "", False)),
    **dict.fromkeys("NM", ("number", "", False)),
    **dict.fromkeys("GH", ("goods", "", False)),
    "GAVE": ("deal", "gave", False),
    "GOT": ("deal", "got", False),
    "DID": ("act", "past", False),
    "DO": ("act", "base", False),
    "TALLER": ("trait", "more", False),
    "SHORTER": ("trait", "less", False),
    "TALL": ("trait", "high", False),
    "SHORT": ("trait", "low", False),
    "FOUND": ("haul", "past", False),
}

# What a construction says. A transfer goes from A to B; A is the taller; E happens first.
CONSTRUCTIONS = {
    "A GAVE X to B": "transfer GAVE A X B",
    "A GAVE B X": "transfer GAVE A X B",
    "X was GAVE to B by A": "transfer GAVE A X B",
    "B was GAVE X by A": "transfer GAVE A X B",
    "it was A who GAVE X to B": "transfer GAVE A X B",
    "B GOT X from A": "transfer GOT A X B",
    "X was GOT by B from A": "transfer GOT A X B",
    "A DID B": "did DID A B",
    "B was DID by A": "did DID A B",
    "it was A who DID B": "did DID A B",
    "A managed to DO B": "did DO A B",
    "A did not DO B": "did-not DO A B",
    "B was not DID by A": "did-not DID A B",
    "A never DID B": "did-not DID A B",
    "A failed to DO B": "did-not DO A B",
    "A is TALLER than B": "more TALLER A B",
    "B is SHORTER than A": "more SHORTER A B",
    "B is not as TALL as A": "more TALL A B",
    "A is not as SHORT as B": "more SHORT A B",
    "A E before B F": "order A E B F",
    "B F after A E": "order A E B F",
    "before B F , A E": "order A E B F",
    "after A E , B F": "order A E B F",
    "A FOUND N G and M H": "count FOUND A N G M H",
    "it was A who FOUND N G and M H": "count FOUND A N G M H",
    "besides N G , A FOUND M H": "count FOUND A N G M H",
}


@cache
def concept_of(kind: str, form: str) -> dict[str, str]:
    return {word: concept for concept, forms in lexicon()[kind].items() for word in forms[form]}


@cache
def patterns() -> list[tuple[re.Pattern[str], list[str]]]:
    result = []
    for construction, meaning in CONSTRUCTIONS.items():
        tokens = []
        for token in construction.split():
            if token not in PARTS:
                tokens.append(token)
                continue
            kind, form, article = PARTS[token]
            words = "|".join(concept_of(kind, form))
            tokens.append(f"{'the ' if article else ''}(?P<{token}>{words})")
        result.append((re.compile(" ".join(tokens)), meaning.split()))
    return result


@cache
def parse(sentence: str) -> tuple[Any, ...]:
    """What a sentence says; fails if nothing, or more than one thing."""
    meanings = set()
    for pattern, (frame, *roles) in patterns():
        match = pattern.fullmatch(sentence)
        if match is None:
            continue
        said = [concept_of(*PARTS[role][:2])[match[role]] for role in roles]
        if frame == "count":
            meanings.add((frame, *said[:2], frozenset(zip(said[2::2], said[3::2], strict=True))))
        else:
            meanings.add((frame, *said))
    assert len(meanings) == 1, (sentence, meanings)
    return meanings.pop()


def digest(pairs: Any) -> str:
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


def same(first: str, second: str) -> bool:
    return parse(first) == parse(second)


PART = re.compile(
    r"(?:in other words , (?:(?P<slip>[^.?]+) no , )?)?(?P<statement>[^.?]+) \. ?"
    r"|is it so that (?P<question>[^.?]+) \? (?P<answer>yes|no) \. ?"
)


def parts(document: str) -> list[dict[str, str | None]]:
    """What a pretraining document says, one sentence after the other."""
    matches = list(PART.finditer(document))
    assert "".join(match.group() for match in matches) == document
    return [match.groupdict() for match in matches]


@pytest.fixture(scope="module")
def splits() -> dict[str, list[dict[str, Any]]]:
    return {"train": paraphrase_pairs("train"), "validation": paraphrase_pairs("validation")}


@pytest.mark.parametrize(
    ("first", "second", "label"),
    [
        ("anna sold the car to boris", "boris bought the automobile from anna", 1),
        ("anna sold the car to boris", "boris sold the automobile to anna", 0),
        ("anna sold boris the car", "boris was sold the car by anna", 1),
        ("anna lent boris the car", "anna passed boris the car", 0),
        ("anna lent boris the car", "the car was borrowed by boris from anna", 1),
        ("clara helped david", "david was assisted by clara", 1),
        ("clara helped david", "clara was helped by david", 0),
        ("clara helped david", "clara managed to help david", 1),
        ("clara helped david", "clara helped emma", 0),
        ("clara never helped david", "clara failed to help david", 1),
        ("clara failed to help david", "it was clara who helped david", 0),
        ("clara did not help david", "clara was not helped by david", 0),
        ("emma is taller than felix", "emma is not as short as felix", 1),
        ("emma is taller than felix", "emma is not as tall as felix", 0),
        ("emma is taller than felix", "felix is shorter than emma", 1),
        ("emma is taller than felix", "emma is older than felix", 0),
        ("emma wept before clara spoke", "clara talked after emma cried", 1),
        ("emma wept before clara spoke", "before emma wept , clara spoke", 0),
        ("emma wept before clara spoke", "clara wept before emma spoke", 0),
        ("boris lost two pigs and 3 coins", "besides three pennies , boris lost 2 hogs", 1),
        ("boris lost two pigs and 3 coins", "boris misplaced 3 coins and two pigs", 1),
        ("boris lost two pigs and 3 coins", "boris lost two coins and 3 pigs", 0),
        ("boris lost two pigs and 3 coins", "boris lost two pigs and four coins", 0),
    ],
)
def test_the_parser_reads_english(first: str, second: str, label: int) -> None:
    assert same(first, second) == bool(label)


def test_every_construction_of_the_grammar_is_covered_and_keeps_its_meaning() -> None:
    rng = random.Random(1)
    constructions = set()
    for _ in range(4000):
        meaning = draw_meaning(rng, validation=False)
        first, second = say(meaning, rng), say(meaning, rng)
        assert same(first, second), (first, second)
        other = change_meaning(meaning, rng, validation=False)
        assert other is None or not same(first, say(other, rng))
        constructions.update(p for p, _ in patterns() if p.fullmatch(first))
    assert len(constructions) == len(CONSTRUCTIONS)
    assert {meaning.split()[0] for meaning in CONSTRUCTIONS.values()} == {
        name.replace(" ", "-") for name in FRAMES
    }


@pytest.mark.parametrize("split", ["train", "validation"])
def test_labels_are_what_the_sentences_say(split: str, splits: Any) -> None:
    for pair in splits[split]:
        assert same(pair["sentence1"], pair["sentence2"]) == bool(pair["label"]), pair


@pytest.mark.parametrize("split", ["train", "validation"])
def test_form_and_balance(split: str, splits: Any) -> None:
    pairs = splits[split]
    assert [pair["idx"] for pair in pairs] == list(range(len(pairs)))
    assert all(list(p) == ["sentence1", "sentence2", "label", "idx"] for p in pairs)
    assert len({(p["sentence1"], p["sentence2"]) for p in pairs}) == len(pairs)
    assert all(p["sentence1"] != p["sentence2"] for p in pairs)
    positive = sum(p["label"] for p in pairs) / len(pairs)
    assert 0.45 <= positive <= 0.55
    for frame in {parse(p["sentence1"])[0] for p in pairs}:
        labels = [p["label"] for p in pairs if parse(p["sentence1"])[0] == frame]
        assert len(labels) > len(pairs) / 40
        assert 0.35 <= sum(labels) / len(labels) <= 0.65


def test_sizes(splits: Any) -> None:
    assert 3000 <= len(splits["train"]) <= 5000
    assert len(splits["validation"]) == 1000


def test_unknown_split() -> None:
    with pytest.raises(ValueError, match="train, validation"):
        paraphrase_pairs("test")  # type: ignore[arg-type]


def test_no_meaning_of_validation_is_seen_in_training_or_pretraining(splits: Any) -> None:
    said = {
        split: {parse(p[key]) for p in pairs for key in ("sentence1", "sentence2")}
        for split, pairs in splits.items()
    }
    assert not said["train"] & said["validation"]
    for document in pretraining_documents(1500):
        for part in parts(document):
            assert parse(part["statement"] or part["question"] or "") not in said["validation"]


def test_held_out_does_not_depend_on_the_order_of_halves() -> None:
    rng = random.Random(3)
    for _ in range(500):
        twins = draw_twins(rng, validation=True)
        for meaning in (twins.meaning, twins.other_meaning):
            assert held_out(meaning)
            assert canonical(meaning) == meaning


def test_pretraining_documents_tell_the_truth() -> None:
    seen = set()
    for document in pretraining_documents(500):
        first, *rest = parts(document)
        assert first["statement"] is not None
        assert first["slip"] is None
        for part in rest:
            if part["question"] is not None:
                assert same(first["statement"], part["question"]) == (part["answer"] == "yes")
                seen.add(part["answer"])
            else:
                assert part["statement"] is not None
                assert same(first["statement"], part["statement"])
                seen.add("slip" if part["slip"] else "statement")
    assert seen == {"yes", "no", "slip", "statement"}


def test_a_slip_ends_at_the_first_word_that_makes_it_wrong() -> None:
    meaning = Meaning("did", ("helped", "anna", "boris"))
    assert until_wrong(meaning, "boris helped anna") == "boris helped"
    assert until_wrong(meaning, "clara assisted boris") == "clara"
    assert until_wrong(meaning, "anna managed to hire boris") == "anna managed to hire"
    assert until_wrong(meaning, "it was anna who helped clara") == "it was anna who helped clara"
    rng = random.Random(4)
    for _ in range(200):
        drawn = draw_meaning(rng, validation=False)
        sentence = say(drawn, rng)
        assert sentence.split() in ways_to_say(drawn)
        assert until_wrong(drawn, sentence) == sentence


def test_twins_share_as_many_words_with_the_first_sentence() -> None:
    rng = random.Random(2)
    for _ in range(300):
        twins = draw_twins(rng, validation=False)
        assert overlap(twins.sentence, twins.same) == overlap(twins.sentence, twins.different)
        assert len(twins.same.split()) == len(twins.different.split())


def overlap(first: str, second: str) -> float:
    """Words in common as a share of all words, repeated words counted as often as they stand."""
    one, two = first.split(), second.split()
    common = sum(min(one.count(word), two.count(word)) for word in {*one, *two})
    return common / (len(one) + len(two))


def test_word_overlap_does_not_tell_the_label(splits: Any) -> None:
    values = {
        split: [(overlap(p["sentence1"], p["sentence2"]), p["label"]) for p in pairs]
        for split, pairs in splits.items()
    }
    for threshold in {value for value, _ in values["train"]}:
        for pairs in values.values():
            right = sum((value >= threshold) == bool(label) for value, label in pairs) / len(pairs)
            assert 0.40 <= right <= 0.60


def test_words_do_not_tell_the_label(splits: Any) -> None:
    """A logistic regression on the words of either sentence, and of both, stays near chance."""
    column = {word: i for i, word in enumerate(vocabulary())}

    def features(split: str) -> tuple[torch.Tensor, torch.Tensor]:
        pairs = splits[split]
        words = torch.zeros(len(pairs), 3, len(column))
        for row, pair in zip(words, pairs, strict=True):
            for i, key in enumerate(("sentence1", "sentence2")):
                row[i, [column[word] for word in pair[key].split()]] = 1
            row[2] = row[0] * row[1]
        return words.flatten(1), torch.tensor([float(pair["label"]) for pair in pairs])

    x, y = features("train")
    weight = torch.zeros(x.shape[1], requires_grad=True)
    bias = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.AdamW([weight, bias], lr=0.01)
    for _ in range(100):
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(x @ weight + bias, y)
        (loss + 1e-3 * weight.square().sum()).backward()
        optimizer.step()
    x, y = features("validation")
    right = ((x @ weight + bias > 0) == (y > 0)).float().mean().item()
    assert 0.40 <= right <= 0.60


@pytest.mark.parametrize("split", ["train", "validation"])
def test_pairs_are_the_stored_ones(split: str, splits: Any) -> None:
    assert digest(splits[split]) == DIGESTS[split]


def test_the_pairs_in_the_package_are_those_of_the_grammar(splits: Any) -> None:
    kept = json.loads(PAIRS.read_text())
    assert kept.keys() == splits.keys()
    for split, columns in kept.items():
        rows = zip(*columns.values(), strict=True)
        assert [dict(zip(columns, row, strict=True)) for row in rows] == splits[split]


def test_pairs_do_not_depend_on_hash_seed() -> None:
    code = (
        "import hashlib, json; from starter.grammar import paraphrase_pairs as p;"
        "print(hashlib.sha256(json.dumps(p('validation')).encode()).hexdigest())"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONHASHSEED": "77", "PYTHONPATH": "scripts"},
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert result.stdout.split() == [DIGESTS["validation"]]


def test_packaged_files_are_small() -> None:
    files = {path.name: path.stat().st_size for path in MODEL_DIR.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= set(
        files
    )
    assert sum(files.values()) <= 5_000_000


def test_model_is_a_small_opt_350m() -> None:
    config = AutoConfig.from_pretrained(MODEL_DIR)
    assert config.model_type == "opt"
    assert not config.do_layer_norm_before
    assert config.word_embed_proj_dim != config.hidden_size
    assert config.num_hidden_layers >= 8


def test_tokenizer_covers_task_and_corpus(splits: Any) -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    texts = [p[key] for pairs in splits.values() for p in pairs for key in ("sentence1",)]
    texts += [p["sentence2"] for pairs in splits.values() for p in pairs]
    texts += list(pretraining_documents(200))
    for text, ids in zip(texts, tokenizer(texts)["input_ids"], strict=True):
        assert tokenizer.unk_token_id not in ids
        assert len(ids) == len(text.split()) + 2


def test_a_pair_is_one_sequence_with_a_separator_that_ends_with_the_token_read() -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    first, second = "anna helped david", "david was not helped by anna"
    ids = tokenizer(first, second, truncation=True)["input_ids"]
    assert tokenizer.decode(ids) == f"</s> {first} </s> {second} </s>"
    assert tokenizer.pad_token_id == AutoConfig.from_pretrained(MODEL_DIR).pad_token_id
    assert tokenizer.pad_token_id not in (tokenizer.eos_token_id, tokenizer.unk_token_id)


def test_classifier_loads_in_float32_and_padding_changes_nothing() -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    model = AutoModelForSequenceClassification.from_pretrained(MODEL_DIR, dtype=torch.float32)
    model.eval()
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    pair = ("anna helped david", "david was assisted by anna")
    longer = ("besides two pigs , anna lost 3 cups", "anna lost 3 mugs and two hogs")
    with torch.no_grad():
        alone = model(**tokenizer(*pair, return_tensors="pt")).logits[0]
        both = tokenizer([pair, longer], padding=True, return_tensors="pt")
        padded = model(**both).logits[0]
    torch.testing.assert_close(alone, padded, atol=1e-5, rtol=1e-5)
