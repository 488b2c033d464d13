#!/usr/bin/env python3
"""Golden file of `keystep score`: log-probabilities that Hugging Face
transformers gives to continuations, on the demo's models.

Writes ../data/forward/score.json: for each model a list of
  context, continuation   what goes in
  ids, logprobs           of the continuation: natural logarithms
and the measurements that the asserts below looked at.

The model computes in float32, the softmax in float64. Text is tokenised once,
context and continuation together; a token belongs to the part that holds its
first byte. An empty context is the model's BOS. The contexts end inside
words, inside what one token would cover, and behind characters of several
bytes; the models know the demo's sentences well and nothing else, so the
log-probabilities run from nearly 0 to far below. Off by one position, another
theta, or the two parts tokenised apart must each move some value by more than
a hundred tolerances.

Usage: make_score.py
"""
import json
import pathlib

import torch
import transformers

HERE = pathlib.Path(__file__).resolve().parent
MODELS = HERE.parent.parent / "experiments" / "demo" / "models"
OUT = HERE.parent / "data" / "forward" / "score.json"
TOLERANCE = 1e-4  # of tests/forward/test_score.c

QUESTION = ("How many coins has Mona? Vera tops Karl by 8. Karl matches Dora "
            "and Sven together. Mona tops Iris by 8. Iris holds 5 coins. ")
PAIRS = [
    ("How many coins", " has Mona?"),
    ("How many coins has Mo", "na? Vera tops Karl by 8."),
    ("How many coins has Mona? ", "Vera tops Karl by 8."),
    ("Vera tops Karl by 8.", "\n\nKarl matches Dora\tand  Sven."),
    ("Zo\u00eb hat f\u00fcnf \u20ac", "\u20ac\u2014 und \U0001f680!"),
    ("\u6570\u5b66", "\u306f\u96e3\u3057\u3044\u3002"),
    ("a", "b"),
    (QUESTION, QUESTION),
    (QUESTION + "Iris holds", " 5. Mona tops Iris, 5 + 8 = 13, so 3."),
    (QUESTION * 2, "Iris holds 7 coins."),
    ("Mona has", ""),
]


def tokens(tokenizer, context, continuation):
    """ids, and how many of them are the context's."""
    text = context + continuation
    got = tokenizer(text, add_special_tokens=False,
                    return_offsets_mapping=True)
    first = sum(begin < len(context) for begin, _ in got["offset_mapping"])
    ids = got["input_ids"]
    if first == 0 and ids:
        assert tokenizer.bos_token_id is not None
        return [tokenizer.bos_token_id] + ids, 1
    return ids, first


def logprobs(model, ids, first):
    if first == len(ids):
        return []
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].double()
    rows = logits.log_softmax(-1)
    return [rows[i - 1, ids[i]].item() for i in range(first, len(ids))]


def furthest(a, b):
    return max(abs(x - y) for x, y in zip(a, b))


def moved(model, tokenizer, context, continuation, ids, first, values):
    """How far each mistake would move a value."""
    shifted = logprobs(model, ids[:first] + ids[first - 1:], first)
    apart = [tokenizer(part, add_special_tokens=False)["input_ids"]
             for part in (context, continuation)]
    other = logprobs(model, sum(apart, []), len(apart[0])) \
        if context else values
    return {"shifted": furthest(values, shifted),
            "apart": abs(sum(values) - sum(other))}


def open_model(folder, **changes):
    config = transformers.AutoConfig.from_pretrained(folder)
    for key, value in changes.items():
        config.rope_parameters[key] = value
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, config=config, dtype=torch.float32,
        attn_implementation="eager").eval()


def make(name):
    folder = MODELS / name
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"))
    model = open_model(folder)
    bos = model.config.bos_token_id
    pairs = list(PAIRS)
    if bos is not None:
        tokenizer.bos_token = tokenizer.convert_ids_to_tokens(bos)
        pairs.append(("", QUESTION))
    theta = model.config.rope_parameters["rope_theta"]
    turned = open_model(folder, rope_theta=theta * 1.01)
    cases, most = [], {"shifted": 0.0, "apart": 0.0, "theta": 0.0}
    for context, continuation in pairs:
        ids, first = tokens(tokenizer, context, continuation)
        values = logprobs(model, ids, first)
        cases.append({"context": context, "continuation": continuation,
                      "ids": ids[first:], "logprobs": values})
        if not values:
            continue
        far = moved(model, tokenizer, context, continuation, ids, first,
                    values)
        far["theta"] = furthest(values, logprobs(turned, ids, first))
        most = {key: max(most[key], far[key]) for key in most}
    for what, far in most.items():
        assert far > 100 * TOLERANCE, (name, what, far)
    every = [x for case in cases for x in case["logprobs"]]
    assert min(every) < -8 and max(every) > -0.5, (min(every), max(every))
    print(name, len(every), "log-probabilities", most)
    return {"moved": most, "cases": cases}


if __name__ == "__main__":
    torch.set_num_threads(1)
    golden = {"made_by": "tests/golden/make_score.py",
              "transformers": transformers.__version__,
              "torch": torch.__version__}
    golden["models"] = {name: make(name) for name in ("demo-a", "demo-b")}
    OUT.write_text(json.dumps(golden) + "\n")
