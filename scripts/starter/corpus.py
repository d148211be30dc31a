"""The text on which the embedded model is pretrained: talk about the meanings of the grammar."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

from starter.grammar import (
    FRAMES,
    Meaning,
    change_meaning,
    draw_meaning,
    lexicon,
    say,
)

CORPUS_SEED = 7
DOCUMENT_SENTENCES = 5


def ways_to_say(meaning: Meaning) -> list[list[str]]:
    """Every surface of a meaning, as words."""
    frame = FRAMES[meaning.frame]
    sentences = []
    for surface in frame.surfaces:
        options = []
        for token in surface.split():
            if token.startswith("{"):
                index, _, form = token[1:-1].partition(".")
                forms = lexicon()[frame.slots[int(index)]][meaning.fillers[int(index)]]
                options.append(forms[form])
            else:
                options.append((token,))
        sentences += [" ".join(words).split() for words in itertools.product(*options)]
    return sentences


def until_wrong(meaning: Meaning, sentence: str) -> str:
    """The sentence up to the first word with which it can no longer say what it should."""
    ways = ways_to_say(meaning)
    words = sentence.split()
    for i, word in enumerate(words):
        ways = [way for way in ways if len(way) > i and way[i] == word]
        if not ways:
            return " ".join(words[: i + 1])
    return sentence


def pretraining_documents(
    count: int, seed: int = CORPUS_SEED, questions: float = 0.35, slips: float = 0.35
) -> Iterator[str]:
    """Documents for the language model, none with a meaning of the validation split.

    A document states something and goes on about it: says it again in other words, perhaps with a
    slip of the tongue that is put right at the first wrong word, or asks whether it is so, and
    answers. The first statement is plain more often than not: were all pairs of constructions
    equally frequent, who did what to whom would have no first-order statistics to learn from.

    Args:
        count: how many documents.
        seed: of the documents' own generator.
        questions: the share of questions among the continuations.
        slips: the share of slips among the continuations.
    """
    rng = random.Random(f"{seed}-corpus")
    for _ in range(count):
        meaning = draw_meaning(rng, validation=False)
        parts = [f"{say(meaning, rng, plain=0.5)} ."]
        while len(parts) < DOCUMENT_SENTENCES:
            right = say(meaning, rng)
            kind = rng.random()
            if kind >= questions + slips:
                parts.append(f"in other words , {right} .")
                continue
            if kind < questions and rng.random() < 0.5:
                parts.append(f"is it so that {right} ? yes .")
                continue
            other = change_meaning(meaning, rng, validation=False)
            if other is None:
                continue
            wrong = say(other, rng)
            if kind < questions:
                parts.append(f"is it so that {wrong} ? no .")
            else:
                parts.append(f"in other words , {until_wrong(meaning, wrong)} no , {right} .")
        yield " ".join(parts)
