"""Build the embedded model: a small post-norm OPT, pretrained on the starter grammar's text.

    python scripts/build_starter.py

writes config.json, model.safetensors (float16), tokenizer.json and tokenizer_config.json into
heterolora/harness/data/starter/model/, and the examples of the task into pairs.json next to it.
Everything is made from scratch; no network is needed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from starter.corpus import pretraining_documents
from starter.grammar import paraphrase_pairs, vocabulary
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import OPTConfig, OPTForCausalLM, PreTrainedTokenizerFast

from heterolora.harness.config.embedded import MODELS, PAIRS, STARTER

log = logging.getLogger("build_starter")

# OPT's own: <s> 0, <pad> 1, </s> 2, <unk> 3; a sequence begins with </s>.
SPECIAL_TOKENS = ["<s>", "<pad>", "</s>", "<unk>"]
MAX_LENGTH = 128


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer; a pair becomes ``</s> sentence1 </s> sentence2 </s>``."""
    ids = {word: i for i, word in enumerate([*SPECIAL_TOKENS, *vocabulary()])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="</s> $A </s>",
        pair="</s> $A </s> $B </s>",
        special_tokens=[("</s>", ids["</s>"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="</s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=MAX_LENGTH,
        model_input_names=["input_ids", "attention_mask"],
    )


def build_model(vocab_size: int) -> OPTForCausalLM:
    """An untrained OPT in the manner of OPT-350M: post-norm, with narrow word embeddings."""
    config = OPTConfig(
        vocab_size=vocab_size,
        hidden_size=96,
        word_embed_proj_dim=64,
        num_hidden_layers=8,
        num_attention_heads=4,
        ffn_dim=384,
        max_position_embeddings=MAX_LENGTH,
        do_layer_norm_before=False,
        dropout=0.0,
        init_std=0.08,
        pad_token_id=1,
        bos_token_id=2,
        eos_token_id=2,
    )
    model = OPTForCausalLM(config)
    # A post-norm stack forgets its input with depth unless the branches begin small beside the
    # stream, and a word must not drown in its position.
    decoder = model.model.decoder
    with torch.no_grad():
        for layer in decoder.layers:
            layer.self_attn.out_proj.weight.mul_((2 * config.num_hidden_layers) ** -0.5)
            layer.fc2.weight.mul_((2 * config.num_hidden_layers) ** -0.5)
        decoder.embed_tokens.weight.mul_(2.5)
        decoder.embed_positions.weight.mul_(0.5)
    return model


def batches(
    tokenizer: PreTrainedTokenizerFast, args: argparse.Namespace
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Padded batches of fresh documents: ids, attention mask, and the weight of every token.

    The first `args.plain_steps` batches only say things again. Questions and slips come after,
    when the model knows who did what: before, their answers are noise to it. An answer is one
    token among thirty of its document and would hardly be learned without `args.answer_weight`.
    """
    answers = torch.tensor(tokenizer.convert_tokens_to_ids(["yes", "no"]))
    rest = args.steps - args.plain_steps
    documents = itertools.chain(
        pretraining_documents(args.plain_steps * args.batch_size, args.seed, 0.0, 0.0),
        pretraining_documents(rest * args.batch_size, args.seed + 1),
    )
    for _ in range(args.steps):
        texts = list(itertools.islice(documents, args.batch_size))
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        ids, mask = batch["input_ids"], batch["attention_mask"]
        weight = mask * torch.where(torch.isin(ids, answers), args.answer_weight, 1.0)
        yield ids, mask, weight


def learning_rate(step: int, steps: int, peak: float, warmup: int) -> float:
    """Linear warm-up, without which post-norm diverges, then a cosine down to zero."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def language_model_loss(
    model: OPTForCausalLM, ids: torch.Tensor, mask: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:
    """Weighted mean of the cross entropy of every token given those before it."""
    logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
    return (losses * weight[:, 1:]).sum() / weight[:, 1:].sum()


def pretrain(
    model: OPTForCausalLM, tokenizer: PreTrainedTokenizerFast, args: argparse.Namespace
) -> None:
    """Causal language modeling on the grammar's documents."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=args.lr, betas=(0.9, 0.98), weight_decay=0.01
    )
    model.train()
    start = time.monotonic()
    total = 0.0
    for step, (ids, mask, weight) in enumerate(batches(tokenizer, args)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.steps, args.lr, args.warmup)
        loss = language_model_loss(model, ids, mask, weight)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        total += loss.item()
        if (step + 1) % 100 == 0:
            seconds = time.monotonic() - start
            log.info("step %d of %d: loss %.3f, %.0f s", step + 1, args.steps, total / 100, seconds)
            total = 0.0


def pairs() -> str:
    """What `PAIRS` has: the columns of each split of the task."""
    rows = {split: paraphrase_pairs(split) for split in ("train", "validation")}
    splits = {
        split: {column: [row[column] for row in of] for column in of[0]}
        for split, of in rows.items()
    }
    return json.dumps(splits, indent=0) + "\n"


def main() -> None:
    """Write the examples; build the tokenizer and the model, pretrain, save."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=MODELS[STARTER])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--plain-steps", type=int, default=2000, help="without questions and slips")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--warmup", type=int, default=200)
    parser.add_argument("--answer-weight", type=float, default=5.0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    (args.out.parent / PAIRS.name).write_text(pairs())
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    tokenizer = build_tokenizer()
    model = build_model(len(tokenizer))
    log.info("%d words, %d parameters", len(tokenizer), model.num_parameters())
    pretrain(model, tokenizer, args)
    model.half().save_pretrained(args.out)
    (args.out / "generation_config.json").unlink()  # nothing here generates
    tokenizer.save_pretrained(args.out)


if __name__ == "__main__":
    main()
