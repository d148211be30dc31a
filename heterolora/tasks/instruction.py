"""Instruction tuning: predict the answer from a prompt, made from the instruction by a template."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from string import Formatter
from typing import TYPE_CHECKING

from heterolora.errors import DataError, ModelError, Problem, shown
from heterolora.settings import Situation, setting, torch
from heterolora.tasks.base import Columns, Examples
from heterolora.tasks.encoded import Encoded
from heterolora.tasks.packing import Packable
from heterolora.tasks.tokens import check_columns, check_texts, labeled

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class Instruction(Packable):
    """Predict every token of an answer, and the end of the text, from a prompt.

    A template makes the prompt from the instruction and, if that is not empty, its input. Prompt
    and answer are tokenized separately, as they are when a model answers. An example that is too
    long loses the end of its answer; one whose prompt leaves no room for an answer is left out.
    """

    instruction: str = setting(help="the column of the instructions", example="instruction")
    input: str | None = setting(
        None, help="the column of an instruction's input, if there is one", example="input"
    )
    output: str = setting(help="the column of the answers", example="output")
    prompt: str = setting(
        help="prompt template without an input, with {instruction}",
        example="'{instruction} Answer:'",
    )
    prompt_with_input: str | None = setting(
        None,
        help="prompt template with an input, with {instruction} and {input}",
        example="'{instruction} {input} Answer:'",
    )

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the instruction, the input if there is one, and the answer."""
        return (self.instruction, *([self.input] if self.input else []), self.output)

    def problems(self, situation: Situation) -> Iterator[Problem]:
        """Check that columns differ and that each template has exactly the right placeholders."""
        yield from super().problems(situation)
        if len(set(self.columns)) != len(self.columns):
            rule = f"the columns {shown(self.columns)} must differ"
            remedy = "name each with `instruction=...`, `input=...` and `output=...`"
            yield Problem("output", self.output, rule, remedy)
        wanted = {"prompt": {"instruction"}}
        if self.input is not None and self.prompt_with_input is None:
            rule = f"`input={self.input}` needs a template"
            remedy = "give one with {instruction} and {input} in it, or set `input=null`"
            yield Problem("prompt_with_input", None, rule, remedy)
        elif self.prompt_with_input is not None:
            wanted["prompt_with_input"] = {"instruction", "input"}
        for name, places in wanted.items():
            if _places(getattr(self, name)) != places:
                asked = " and ".join(f"{{{place}}}" for place in sorted(places, reverse=True))
                rule = f"must contain exactly the placeholders {asked}"
                remedy = "write a literal brace twice"
                yield Problem(name, repr(getattr(self, name)), rule, remedy)

    def check(self, columns: Columns, where: str) -> Examples:
        """Check that every value is a string; inputs and answers may be empty."""
        keys = {self.instruction: "task.instruction", self.output: "task.output"}
        if self.input is not None:
            keys[self.input] = "task.input"
        check_columns(columns, keys, where)
        for column in self.columns:
            check_texts(columns, column, where)
        return Examples({column: list(columns[column]) for column in self.columns})

    def prompts(self, examples: Examples) -> list[str]:
        """Return the prompt of each example."""
        columns = [examples.columns[name] for name in self.columns[:-1]]
        return [self._prompt(*row) for row in zip(*columns, strict=True)]

    def _prompt(self, instruction: str, given: str = "") -> str:
        if given and self.prompt_with_input is not None:
            return self.prompt_with_input.format(instruction=instruction, input=given)
        return self.prompt.format(instruction=instruction)

    def encode_alone(
        self,
        examples: Examples,
        tokenizer: PreTrainedTokenizerBase,
        positions: int,
        device: torch.device,
    ) -> Encoded:
        """Tokenize prompt, answer and end of text; only the last two have labels.

        Raises:
            ModelError: if the tokenizer has no end-of-text token.
            DataError: if no prompt leaves room for an answer.
        """
        if tokenizer.eos_token_id is None:
            raise ModelError(
                f"task.kind={self.name}: an answer ends with the end-of-text token, but the "
                "tokenizer has none; set eos_token in its tokenizer_config.json"
            )
        limit = min(self.max_length, positions)
        prompts = _begun(self.prompts(examples), tokenizer)
        answers = tokenizer(examples.columns[self.output], add_special_tokens=False)["input_ids"]
        rows = list(zip(prompts, answers, strict=True))
        fitting = [(prompt, answer) for prompt, answer in rows if len(prompt) < limit]
        if not fitting:
            raise DataError(
                f"task.max_length={limit}: leaves no room for any answer, since the shortest "
                f"prompt has {min(map(len, prompts))} tokens; raise task.max_length"
            )
        ids, labels = [], []
        for prompt, answer in fitting:
            ends = torch.tensor([*answer, tokenizer.eos_token_id])
            ids.append(torch.cat([torch.tensor(prompt), ends])[:limit])
            labels.append(torch.cat([torch.full((len(prompt),), -100), ends])[:limit])
        return replace(
            labeled(ids, labels, tokenizer, limit, device),
            truncated=sum(len(prompt) + len(answer) + 1 > limit for prompt, answer in fitting),
            dropped=len(rows) - len(fitting),
        )


def _places(template: str) -> set[str]:
    """Return the placeholders of a template; none if it is not a valid template."""
    try:
        return {name for _, name, _, _ in Formatter().parse(template) if name is not None}
    except ValueError:
        return set()


def _begun(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Tokenize texts to be continued: with the special tokens before them, but not those after."""
    found = tokenizer(list(texts), return_special_tokens_mask=True)
    begun = []
    for ids, special in zip(found["input_ids"], found["special_tokens_mask"], strict=True):
        ends = len(ids)
        while ends > 1 and special[ends - 1]:
            ends -= 1
        begun.append(ids[:ends])
    return begun
