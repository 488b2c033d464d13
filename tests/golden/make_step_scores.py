#!/usr/bin/env python3
"""Golden file of `keystep score --chains`: what Hugging Face transformers gives
to the steps of chains.

Writes ../data/forward/step_scores.json: chains, and for each of their steps, by
each of the demo's models with a context of 4096 tokens,
  logprob, entropy     means over the step's tokens
  judge, judge-step    log P(" important") - log P(" removable")
The model computes in float32, the softmax in float64. The judge's text is
written out again here, the chat template is the model's own.

Usage: make_step_scores.py
       make_step_scores.py compare MODEL CHAINS SCORES   (a live peer: prints the
                           largest differences to SCORES of keystep)
"""
import json
import pathlib
import sys

import torch
import transformers

HERE = pathlib.Path(__file__).resolve().parent
MODELS = HERE.parent.parent / "experiments" / "demo" / "models"
OUT = HERE.parent / "data" / "forward" / "step_scores.json"
LABELS = (
    "important: later steps or the answer build on it; without it they would "
    "lose their support, or the answer would be out of reach.\n"
    "removable: without it the reasoning would still hold and come to the same "
    "answer.\n\n"
    "Signs of an important step: it introduces a quantity, derives a value, "
    "sets up an equation or draws a conclusion that is used later. Signs of a "
    "removable step: it repeats what is known, hedges, announces or comments "
    "on the work, or checks what was already right.\n\n")
CONTEXT = (
    "Below are a problem and the beginning of a model's reasoning on it, one "
    "step a line. The last line, marked >>>, is the step to judge. Give it one "
    "of two labels.\n\n" + LABELS)
ALONE = (
    "Below is one step of a model's reasoning on a problem, marked >>>; the "
    "problem and the other steps are not shown. Give the step one of two "
    "labels.\n\n" + LABELS)
ANSWER = "\nAnswer with one word, important or removable."
WORDS = [" important", " removable"]


def rows_of(model, ids):
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].double()
    return logits.log_softmax(-1)


def line_of(text):
    return text.strip().replace("\n", " ").replace("\r", " ")


def user_turn(question, steps, k):
    if question is None:
        return ALONE + ">>> " + steps[k] + "\n" + ANSWER
    before = "".join(s + "\n" for s in steps[:k])
    return (CONTEXT + "Problem:\n" + question + "\n\nReasoning:\n" + before
            + ">>> " + steps[k] + "\n" + ANSWER)


def verdict(model, tokenizer, render, text):
    total = []
    for word in WORDS:
        ids = tokenizer(render(text) + "Label:" + word,
                        add_special_tokens=False)["input_ids"]
        rows = rows_of(model, ids)
        total.append((ids, rows))
    same = 0
    while total[0][0][same] == total[1][0][same]:
        same += 1
    sums = [sum(rows[i - 1, ids[i]].item() for i in range(same, len(ids)))
            for ids, rows in total]
    return sums[0] - sums[1]


def scores(model, tokenizer, render, chain):
    text = chain["text"].encode()
    spans = [(s["begin"], s["end"]) for s in chain["steps"]]
    steps = [line_of(text[a:b].decode()) for a, b in spans]
    whole = chain["prompt"] + chain["text"]
    got = tokenizer(whole, add_special_tokens=False,
                    return_offsets_mapping=True)
    ids, offsets = got["input_ids"], got["offset_mapping"]
    begin = [len(whole[:a].encode()) - len(chain["prompt"].encode())
             for a, _ in offsets]
    if not chain["prompt"] and tokenizer.bos_token_id is not None:
        ids, begin = [tokenizer.bos_token_id] + ids, [-1] + begin
    rows = rows_of(model, ids)
    entropy = -(rows.exp() * rows).sum(-1)
    out = {name: [] for name in ("logprob", "entropy", "judge", "judge-step")}
    for k, (a, b) in enumerate(spans):
        at = [t for t, x in enumerate(begin) if a <= x < b and t > 0]
        out["logprob"].append(
            sum(rows[t - 1, ids[t]].item() for t in at) / len(at)
            if at else None)
        out["entropy"].append(
            sum(entropy[t - 1].item() for t in at) / len(at) if at else None)
        for name, question in (("judge", chain["question"]),
                               ("judge-step", None)):
            out[name].append(verdict(model, tokenizer, render,
                                     user_turn(question, steps, k)))
    return out


def renderer(tokenizer):
    """The model's own template; a thinking that it opens is closed."""
    def render(text):
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], tokenize=False,
            add_generation_prompt=True)
        return prompt + ("\n</think>\n\n"
                         if prompt.rstrip().endswith("<think>") else "")
    return render


CHAINS = [
    {"id": "a/0", "problem": "a", "question": "How many coins has Mona?",
     "prompt": "<|im_start|>user\nHow many coins has Mona? Mona tops Iris by "
               "8. Iris holds 5 coins.<|im_end|>\n<|im_start|>assistant\n"
               "<think>\n",
     "parts": ["Now Iris holds 5 coins.", " Now Mona tops Iris's 5 by 8,\n"
               "making 3.", " Hm\u2026 \u20ac?", "", " So 3.\n"]},
    # samples of one problem share a prompt; this one begins alike
    {"id": "a/1", "problem": "a", "question": "How many coins has Mona?",
     "prompt": "<|im_start|>user\nHow many coins has Mona? Mona tops Iris by "
               "8. Iris holds 5 coins.<|im_end|>\n<|im_start|>assistant\n"
               "<think>\n",
     "parts": ["Now Iris holds 5 coins.", " Now Iris holds 7 coins."]},
    # nothing ahead of the first step
    {"id": "b/0", "problem": "b", "question": "What is 2 + 2?", "prompt": "",
     "parts": ["Karl holds 2 coins.", " Dora holds 2 coins."]},
]


def chain_of(c):
    text, steps = "", []
    for part in c["parts"]:
        begin = len(text.encode())
        text += part
        steps.append({"begin": begin, "end": len(text.encode())})
    return {**{k: c[k] for k in ("id", "problem", "question", "prompt")},
            "text": text, "steps": steps}


def open_model(folder):
    config = transformers.AutoConfig.from_pretrained(folder)
    config.max_position_embeddings = 4096
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, config=config, dtype=torch.float32,
        attn_implementation="eager").eval()


def score_all(name, chains):
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(
        MODELS / name)
    model = open_model(MODELS / name)
    if model.config.bos_token_id is not None:
        assert tokenizer.bos_token_id == model.config.bos_token_id
    render = renderer(tokenizer)
    every = [scores(model, tokenizer, render, c) for c in chains]
    for one in every:
        print(name, one)
    return every


def make():
    chains = [chain_of(c) for c in CHAINS]
    OUT.write_text(json.dumps({
        "made_by": "tests/golden/make_step_scores.py",
        "transformers": transformers.__version__, "torch": torch.__version__,
        "chains": chains, "scores": {name: score_all(name, chains)
                                     for name in ("demo-a", "demo-b")}})
        + "\n")


def compare(folder, chains, given):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32).eval()

    render = renderer(tokenizer)
    there = {}
    for line in open(given):
        line = json.loads(line)
        there[line["chain"]] = line["scores"]
    most, n = {}, 0
    for line in open(chains):
        chain = json.loads(line)
        want = scores(model, tokenizer, render, chain)
        for name, values in want.items():
            got = there[chain["id"]][name]
            assert len(got) == len(values)
            for a, b in zip(got, values):
                assert (a is None) == (b is None), (chain["id"], name)
                if a is not None:
                    most[name] = max(most.get(name, 0), abs(a - b))
                    n += 1
    print(n, "values, largest differences:", most)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if len(sys.argv) == 5 and sys.argv[1] == "compare":
        compare(*sys.argv[2:])
    elif len(sys.argv) == 1:
        make()
    else:
        sys.exit(__doc__)
