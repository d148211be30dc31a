"""A seeded grammar of small English: the embedded paraphrase task and its pretraining text.

A sentence is a *surface* of a `Meaning`: a frame ("transfer", "order", ...) with its fillers. A
meaning has many surfaces (passive, dative alternation, converse verb, cleft, synonyms), and a
small change of the meaning (roles swapped, a number or filler changed, polarity flipped) has
surfaces with the same words. Whether two sentences mean the same can therefore not be told from
the words they share; `paraphrase_pairs` enforces it by drawing every pair as one of two twins.

A meaning is the unit of the splits: `held_out` sends each one to validation or to everything
else, by a checksum. So no meaning of a validation sentence occurs in the training pairs or in the
pretraining text, whatever its surface.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

TRAIN_SIZE = 4000
VALIDATION_SIZE = 1000
TASK_SEED = 2024

# What pretraining documents say beside the sentences.
PHRASES = ("in other words , .", "is it so that ? yes . no .")

# One meaning in HELD_OUT_MODULUS belongs to the validation split.
HELD_OUT_MODULUS = 6

# Words of a kind. "/" parts synonyms, the first of which names the concept; "_" is a space.
NOUNS = {
    "person": "anna boris clara david emma felix greta hugo irene jonas klara leon maria nils "
    "olga peter",
    "thing": "car/automobile bike/bicycle picture/image sofa/couch stone/rock coat/jacket "
    "boat/ship cup/mug phone/telephone bag/sack rug/carpet lamp/lantern jewel/gem axe/hatchet",
    "goods": "books/volumes coins/pennies ropes/cords bottles/flasks shirts/blouses "
    "knives/blades pigs/hogs rabbits/bunnies candies/sweets pills/tablets",
    "number": "two/2 three/3 four/4 five/5 six/6 seven/7 eight/8 nine/9",
    "event": "departed/exited arrived/came slept/dozed spoke/talked laughed/chuckled wept/cried "
    "screamed/yelled smiled/grinned tumbled/fell danced jumped/leapt sneezed",
}
# Words with several forms, one column a form.
FORMS = {
    "act": (
        ("past", "base"),
        "helped/assisted help/assist; hired/employed hire/employ; noticed/spotted notice/spot; "
        "scolded/rebuked scold/rebuke; praised/complimented praise/compliment; "
        "tricked/fooled trick/fool; rescued/saved rescue/save; attacked/assaulted attack/assault; "
        "cured/healed cure/heal; chased/pursued chase/pursue",
    ),
    "deal": (
        ("gave", "got"),
        "handed/passed received/obtained; sold bought/purchased; lent/loaned borrowed",
    ),
    "trait": (
        ("more", "less", "high", "low"),
        "taller shorter tall short; older younger old young; faster/quicker slower fast/quick "
        "slow; richer/wealthier poorer rich/wealthy poor; stronger weaker strong weak; "
        "happier sadder happy sad; louder quieter loud quiet; smarter/brighter dumber "
        "smart/bright dumb",
    ),
    "haul": (
        ("past",),
        "carried/lugged; discovered/found; lost/misplaced; collected/gathered; "
        "repaired/fixed; stole/swiped",
    ),
}


class Meaning(NamedTuple):
    """What a sentence says: a frame and its fillers, each a concept named by its first word."""

    frame: str
    fillers: tuple[str, ...]


@dataclass(frozen=True)
class Frame:
    """A kind of proposition.

    Attributes:
        slots: the kind of each filler.
        surfaces: templates; ``{i}`` is a word for filler i, ``{i.form}`` its given form.
        swaps: changes of meaning that exchange fillers, each a permutation of the slots.
        opposite: the frame that says the contrary of the same fillers.
        halves_from: where the slots fall into two halves from here on that may change places
            without a change of meaning ("two cups and three pigs"), the first of them.
    """

    slots: tuple[str, ...]
    surfaces: tuple[str, ...]
    swaps: tuple[tuple[int, ...], ...] = ()
    opposite: str | None = None
    halves_from: int | None = None


FRAMES = {
    "transfer": Frame(
        ("deal", "person", "thing", "person"),
        (
            "{1} {0.gave} the {2} to {3}",
            "{1} {0.gave} {3} the {2}",
            "the {2} was {0.gave} to {3} by {1}",
            "{3} was {0.gave} the {2} by {1}",
            "{3} {0.got} the {2} from {1}",
            "the {2} was {0.got} by {3} from {1}",
            "it was {1} who {0.gave} the {2} to {3}",
        ),
        swaps=((0, 3, 2, 1),),
    ),
    "did": Frame(
        ("act", "person", "person"),
        (
            "{1} {0.past} {2}",
            "{2} was {0.past} by {1}",
            "it was {1} who {0.past} {2}",
            "{1} managed to {0.base} {2}",
        ),
        swaps=((0, 2, 1),),
        opposite="did not",
    ),
    "did not": Frame(
        ("act", "person", "person"),
        (
            "{1} did not {0.base} {2}",
            "{2} was not {0.past} by {1}",
            "{1} never {0.past} {2}",
            "{1} failed to {0.base} {2}",
        ),
        swaps=((0, 2, 1),),
        opposite="did",
    ),
    "more": Frame(
        ("trait", "person", "person"),
        (
            "{1} is {0.more} than {2}",
            "{2} is {0.less} than {1}",
            "{2} is not as {0.high} as {1}",
            "{1} is not as {0.low} as {2}",
        ),
        swaps=((0, 2, 1),),
    ),
    "order": Frame(
        ("person", "event", "person", "event"),
        (
            "{0} {1} before {2} {3}",
            "{2} {3} after {0} {1}",
            "before {2} {3} , {0} {1}",
            "after {0} {1} , {2} {3}",
        ),
        swaps=((2, 1, 0, 3), (2, 3, 0, 1)),
    ),
    "count": Frame(
        ("haul", "person", "number", "goods", "number", "goods"),
        (
            "{1} {0.past} {2} {3} and {4} {5}",
            "{1} {0.past} {4} {5} and {2} {3}",
            "it was {1} who {0.past} {2} {3} and {4} {5}",
            "besides {2} {3} , {1} {0.past} {4} {5}",
        ),
        swaps=((0, 1, 4, 3, 2, 5),),
        halves_from=2,
    ),
}


@cache
def lexicon() -> dict[str, dict[str, dict[str, tuple[str, ...]]]]:
    """All words, as ``{kind: {concept: {form: synonyms}}}``; the form of a noun is ``""``."""
    words: dict[str, dict[str, dict[str, tuple[str, ...]]]] = {}
    for kind, text in NOUNS.items():
        words[kind] = {entry.split("/")[0]: {"": _synonyms(entry)} for entry in text.split()}
    for kind, (forms, text) in FORMS.items():
        words[kind] = {}
        for row in text.split(";"):
            columns = [_synonyms(column) for column in row.split()]
            words[kind][columns[0][0]] = dict(zip(forms, columns, strict=True))
    return words


def _synonyms(entry: str) -> tuple[str, ...]:
    return tuple(word.replace("_", " ") for word in entry.split("/"))


def vocabulary() -> list[str]:
    """Every word and mark that the grammar can produce, sorted."""
    words = {word for words in PHRASES for word in words.split()}
    for frame in FRAMES.values():
        for surface in frame.surfaces:
            words.update(token for token in surface.split() if not token.startswith("{"))
    for concepts in lexicon().values():
        for forms in concepts.values():
            for synonyms in forms.values():
                words.update(word for synonym in synonyms for word in synonym.split())
    return sorted(words)


def held_out(meaning: Meaning) -> bool:
    """Whether a meaning belongs to the validation split (and so to no other text)."""
    key = "|".join((meaning.frame, *meaning.fillers))
    return zlib.crc32(key.encode()) % HELD_OUT_MODULUS == 0


def canonical(meaning: Meaning) -> Meaning:
    """The one of several ways to write down the same meaning that stands for all of them."""
    start = FRAMES[meaning.frame].halves_from
    if start is None:
        return meaning
    half = (len(meaning.fillers) - start) // 2
    first = meaning.fillers[start : start + half]
    second = meaning.fillers[start + half :]
    return Meaning(meaning.frame, meaning.fillers[:start] + min(first, second) + max(first, second))


def draw_meaning(rng: random.Random, validation: bool) -> Meaning:
    """A random meaning of one side of the split; fillers of one kind are distinct."""
    names = list(FRAMES)
    while True:
        name = rng.choice(names)
        fillers: list[str] = []
        for kind in FRAMES[name].slots:
            options = [concept for concept in lexicon()[kind] if concept not in fillers]
            fillers.append(rng.choice(options))
        meaning = canonical(Meaning(name, tuple(fillers)))
        if held_out(meaning) == validation:
            return meaning


def change_meaning(meaning: Meaning, rng: random.Random, validation: bool) -> Meaning | None:
    """A nearby, different meaning on the same side of the split; None if the draw found none.

    Half of the changes exchange fillers (roles, numbers, order), the others flip the polarity or
    put another filler of the same kind into one slot.
    """
    frame = FRAMES[meaning.frame]
    name, fillers = meaning.frame, list(meaning.fillers)
    if rng.random() < 0.5:
        fillers = [meaning.fillers[i] for i in rng.choice(frame.swaps)]
    elif frame.opposite is not None and rng.random() < 0.5:
        name = frame.opposite
    else:
        slot = rng.randrange(len(fillers))
        options = [other for other in lexicon()[frame.slots[slot]] if other not in fillers]
        fillers[slot] = rng.choice(options)
    changed = canonical(Meaning(name, tuple(fillers)))
    if changed == meaning or held_out(changed) != validation:
        return None
    return changed


def say(meaning: Meaning, rng: random.Random, plain: float = 0.0) -> str:
    """A random surface of a meaning, words parted by single spaces, without a full stop.

    Args:
        meaning: what to say.
        rng: the generator drawn from.
        plain: the probability of the frame's first, plain construction, on top of its fair share.
    """
    frame = FRAMES[meaning.frame]
    words = []
    surfaces = frame.surfaces[:1] if rng.random() < plain else frame.surfaces
    for token in rng.choice(surfaces).split():
        if token.startswith("{"):
            index, _, form = token[1:-1].partition(".")
            slot = int(index)
            forms = lexicon()[frame.slots[slot]][meaning.fillers[slot]]
            token = rng.choice(forms[form])
        words.append(token)
    return " ".join(words)


class Twins(NamedTuple):
    """A sentence, another with the same meaning, and one with another meaning but as alike."""

    meaning: Meaning
    other_meaning: Meaning
    sentence: str
    same: str
    different: str


def draw_twins(rng: random.Random, validation: bool) -> Twins:
    """Draw twins: `same` and `different` share as many words with `sentence` and are as long."""
    while True:
        meaning = draw_meaning(rng, validation)
        other = change_meaning(meaning, rng, validation)
        if other is None:
            continue
        sentence, different = say(meaning, rng), say(other, rng)
        if different == sentence:
            continue
        profile = _profile(sentence, different)
        for _ in range(40):
            same = say(meaning, rng)
            if same not in (sentence, different) and _profile(sentence, same) == profile:
                return Twins(meaning, other, sentence, same, different)


def _profile(first: str, second: str) -> tuple[int, int]:
    """How alike two sentences look: the words they share, counted, and the second's length."""
    rest = first.split()
    words = second.split()
    shared = 0
    for word in words:
        if word in rest:
            rest.remove(word)
            shared += 1
    return shared, len(words)


def paraphrase_pairs(split: str) -> list[dict[str, Any]]:
    """The paraphrase task: does the second sentence mean the same as the first?

    Of every drawn twins a fair coin keeps one, so nothing that both twins have in common (the
    frame, the words shared with the first sentence, the length) tells the label.

    Returns:
        Examples with `sentence1`, `sentence2`, `label` (1: same meaning) and `idx`, in a fixed
        order, no pair of sentences twice.

    Raises:
        ValueError: if there is no such split.
    """
    sizes = {"train": TRAIN_SIZE, "validation": VALIDATION_SIZE}
    if split not in sizes:
        raise ValueError(f"split must be one of {', '.join(sizes)}, not {split!r}")
    rng = random.Random(f"{TASK_SEED}-{split}")
    pairs: list[dict[str, Any]] = []
    seen: set[tuple[str, str]] = set()
    while len(pairs) < sizes[split]:
        twins = draw_twins(rng, split == "validation")
        label = rng.randrange(2)
        second = twins.same if label else twins.different
        if (twins.sentence, second) in seen:
            continue
        seen.add((twins.sentence, second))
        pairs.append(
            {"sentence1": twins.sentence, "sentence2": second, "label": label, "idx": len(pairs)}
        )
    return pairs
