#!/usr/bin/env python3
"""Golden file of `keystep label --sufficiency exact`: the whole method on
chains of the demo's model, written out a second time with PyTorch.

Usage: make_label.py CHAINS
CHAINS: `keystep generate --model experiments/demo/models/demo-a` of the first
problems of experiments/demo/problems-a.jsonl. Writes ../data/label/:
  problems.jsonl, chains.jsonl   those chains that the test reads
  golden.json                    for each chain why it has no labels, or every
                                 figure of its label line
A chain is taken only where every comparison with a threshold (0.8, and shares
of influence) is clear by MARGIN: float32 in another order must not turn it.

The model computes in float32 on whole sequences; softmax, sampling's cut and
sums in float64. One evaluation is one forward of prompt, kept steps, cue and
answer; nothing is shared or remembered. Gradients are torch's autograd.
"""
import json
import math
import pathlib
import re
import sys

import torch
import transformers

HERE = pathlib.Path(__file__).resolve().parent
DEMO = HERE.parent.parent / "experiments" / "demo"
OUT = HERE.parent / "data" / "label"
CUE = r" Therefore, the final answer is \boxed{"
EMPTY = r"The answer is \boxed{"
TAU, TEMPERATURE, TOP_P, MARGIN = 0.8, 0.6, 0.95, 2e-3
THETAS = [0, .01, .05, .1, .2, .3, .4, .5, .6, .7, .8, .9, .99]
MOST = 14  # chains


class Unclear(Exception):
    pass


def clear(value, threshold):
    if abs(value - threshold) < MARGIN:
        raise Unclear(f"{value} against {threshold}")
    return value >= threshold


def round4(x):
    return math.floor(abs(x) * 1e4 + 0.5) / 1e4 * (1 if x >= 0 else -1)


class Model:
    def __init__(self, path):
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(path)
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, attn_implementation="eager").eval()
        size = len(self.tokenizer)
        self.closers = [i for i in range(size)
                        if self.tokenizer.decode([i]).startswith("}")]

    def tokens(self, text):
        got = self.tokenizer(text, add_special_tokens=False,
                             return_offsets_mapping=True)
        return got["input_ids"], [b for b, _ in got["offset_mapping"]]

    def logits(self, ids):
        with torch.no_grad():
            return self.model(torch.tensor([ids])).logits[0].double()

    def mean_nll(self, front, rest):
        """Of the tokens that begin behind `front` in front + rest."""
        ids, begins = self.tokens(front + rest)
        rows = self.logits(ids).log_softmax(-1)
        logs = [rows[t - 1, ids[t]].item() for t in range(1, len(ids))
                if begins[t] >= len(front)]
        return -sum(logs) / len(logs) if logs else 0.0

    def answer_rows(self, front, answer):
        """ids of the answer and its brace, and the logits ahead of each."""
        ids, _ = self.tokens(front)
        more, begins = self.tokens(answer + "}")
        rows = self.logits(ids + more)[len(ids) - 1:]
        closed = begins[-1] == len(answer)
        return more, rows, closed

    def enough(self, front, answer):
        more, rows, closed = self.answer_rows(front, answer)
        total = 1.0
        for i, token in enumerate(more):
            p = (rows[i] / TEMPERATURE).softmax(-1)
            order = torch.argsort(-p, stable=True)
            before = p[order].cumsum(0) - p[order]
            kept = order[before < TOP_P]
            edge = (before - TOP_P).abs().min().item()
            want = self.closers if closed and i == len(more) - 1 else [token]
            share = sum(p[k].item() for k in kept if k.item() in want) / \
                p[kept].sum().item()
            if edge < 1e-5 and 0.01 < share < 0.99:
                raise Unclear("the cut of top-p")
            total *= share
        return total

    def answer_log(self, front, answer):
        more, rows, closed = self.answer_rows(front, answer)
        rows = rows.log_softmax(-1)
        n = len(more) - closed
        return sum(rows[i, more[i]].item() for i in range(n))

    def influences(self, front, steps, suffix):
        ids, begins = self.tokens(front + "".join(steps) + suffix)
        bounds, at = [], len(front)
        for step in steps + [suffix]:
            bounds.append(sum(b < at for b in begins))
            at += len(step)
        bounds.append(len(ids))
        embeds = self.model.get_input_embeddings()(torch.tensor([ids]))
        embeds = embeds.detach().requires_grad_(True)
        p = self.model(inputs_embeds=embeds).logits[0].softmax(-1)
        n = len(bounds) - 1
        matrix = [[0.0] * n for _ in range(n)]
        for k in range(1, n):
            f = sum(p[t - 1, ids[t]] for t in range(bounds[k], bounds[k + 1]))
            g, = torch.autograd.grad(f, embeds, retain_graph=True)
            for j in range(k):
                matrix[k][j] = g[0, bounds[j]:bounds[j + 1]].norm().item()
        return matrix


def select(matrix, theta):
    n = len(matrix)
    mask = [0] * n
    mask[n - 1] = mask[n - 2] = 1
    for k in range(n - 1, 0, -1):
        row = matrix[k][:k]
        total = sum(row)
        if not mask[k] or total == 0:
            continue
        cumulative = 0.0
        for value in sorted(row, reverse=True):
            cumulative += value
            if theta > 0 and abs(cumulative / total - theta) < 1e-5:
                raise Unclear("a share of influence")
            if cumulative / total >= theta:
                break
        for j in range(k):
            if row[j] >= value:
                mask[j] = 1
    return mask


class Chain:
    def __init__(self, model, chain, answer):
        self.model, self.prompt, self.gold = model, chain["prompt"], answer
        raw = chain["text"].encode()
        self.steps = [raw[s["begin"]:s["end"]].decode()
                      for s in chain["steps"]]
        self.tail = raw[chain["steps"][-1]["end"]:].decode()

    def front(self, kept):
        text = "".join(kept)
        return self.prompt + text + (CUE if kept else EMPTY)

    def enough(self, kept):
        return round4(self.model.enough(self.front(kept), self.gold))

    def attainability(self, kept):
        value = math.exp(self.model.mean_nll(self.prompt, "".join(kept)))
        return round4(1 - (value - self.ppl_all) /
                      (self.ppl_answer - self.ppl_all))

    def passes(self, kept):
        return clear(self.attainability(kept), TAU) and \
            clear(self.enough(kept), TAU)

    def label(self):
        boxed = [i for i, s in enumerate(self.steps) if r"\boxed{" in s]
        if not boxed:
            return {"skip": "not stated"}
        answer = boxed[-1]
        if f"\\boxed{{{self.gold}}}" not in self.steps[answer]:
            return {"skip": "wrong"}
        necessity = round4(1 - self.model.enough(self.front([]), self.gold))
        if not clear(necessity, TAU):
            return {"skip": "unneeded"}
        cut = []
        for i, step in enumerate(self.steps):
            if i == answer:
                continue
            assert not re.search(r"answer|result|boxed", step)
            if clear(self.enough([step]), TAU):
                cut.append(i)
        # no piece is shorter than 10 characters, so nothing merges anew
        assert all(len(s.strip()) >= 10 for s in self.steps)
        clean = [s for i, s in enumerate(self.steps) if i not in cut]
        at = clean.index(self.steps[answer])
        if len(clean) < 2:
            return {"skip": "all cut"}
        others = [s for i, s in enumerate(clean) if i != at]
        sufficiency = self.enough(others)
        if not clear(sufficiency, TAU):
            return {"skip": "insufficient"}
        self.ppl_all = math.exp(self.model.mean_nll(self.prompt,
                                                    "".join(clean) +
                                                    self.tail))
        self.ppl_answer = math.exp(self.model.mean_nll(
            self.prompt, EMPTY + self.gold + "}"))
        assert at == len(clean) - 1
        p = next((p for p in range(1, len(clean) + 1)
                  if self.passes(others[:p])), len(clean))
        steps = others[:p]
        return {"necessity": necessity, "cut": cut, "prefix": p,
                "sufficiency_all": sufficiency, "ppl_all": self.ppl_all,
                "ppl_answer": self.ppl_answer, **self.search(steps)}

    def search(self, steps):
        q = len(steps)
        matrix = self.model.influences(self.prompt, steps,
                                       CUE + self.gold + "}")
        score = []
        for j in range(q):
            column = [matrix[k][j] for k in range(j + 1, q + 1)
                      if matrix[k][j] > 0]
            score.append(sum(column) / len(column) if column else 0.0)
        order = sorted(range(q), key=lambda j: (score[j], j))
        for a, b in zip(order, order[1:]):
            if score[b] - score[a] < 1e-3 * score[b]:
                raise Unclear("an order of steps")

        def kept(mask):
            return [s for s, m in zip(steps, mask) if m]

        threshold, start = None, [1] * (q + 1)
        for theta in THETAS:
            mask = select(matrix, theta)
            if self.passes(kept(mask)):
                threshold, start = theta, mask
                break
            if all(mask):
                break
        core, failures = list(start), 0
        queue = [j for j in order if j != q - 1 and core[j]]
        while queue and failures < len(queue):
            j = queue.pop(0)
            core[j] = 0
            if self.passes(kept(core)):
                failures = 0
            else:
                core[j] = 1
                queue.append(j)
                failures += 1
        without = list(core)
        without[q - 1] = 0
        needed = not self.passes(kept(without))
        labels = []
        for j in range(q):
            if j == q - 1:
                labels.append(1 if needed else None)
            elif core[j]:
                labels.append(1)
            else:
                labels.append(0 if threshold is not None and not start[j]
                              else None)
        whole = self.model.answer_log(self.front(steps), self.gold)
        drop = [whole - self.model.answer_log(
            self.front(steps[:j] + steps[j + 1:]), self.gold)
            for j in range(q)]
        return {"threshold": threshold, "selected": sum(start[:q]),
                "core": sum(core[:q]), "labels": labels, "drop": drop,
                "influence": score, "direct": matrix[q][:q]}


def main():
    torch.set_num_threads(1)
    model = Model(DEMO / "models" / "demo-a")
    problems = {}
    for line in open(DEMO / "problems-a.jsonl"):
        problem = json.loads(line)
        problems[problem["id"]] = problem
    golden, kept, skips = {}, [], {}
    for line in open(sys.argv[1]):
        chain = json.loads(line)
        try:
            got = Chain(model, chain,
                        problems[chain["problem"]]["answer"]).label()
        except Unclear as why:
            print(chain["id"], "left out:", why)
            continue
        reason = got.get("skip", "")
        skips[reason] = skips.get(reason, 0) + 1
        if reason and skips[reason] > 2 or len(kept) >= MOST:
            continue
        golden[chain["id"]] = got
        kept.append(line)
        print(chain["id"], got.get("skip") or got["labels"])
    OUT.mkdir(exist_ok=True)
    (OUT / "chains.jsonl").write_text("".join(kept))
    (OUT / "problems.jsonl").write_text("".join(
        json.dumps({k: problems[json.loads(line)["problem"]][k]
                    for k in ("id", "question", "answer")}) + "\n"
        for line in kept))
    (OUT / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")
    print(skips)


if __name__ == "__main__":
    main()
