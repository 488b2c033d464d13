#!/usr/bin/env python3
"""Labels from the model's own behaviour, step by step as docs/method.md has them, in plain PyTorch: what
demo-c can do, and how well the labels recover the known truth.

  evaluate.py [--chains chains.jsonl] [--count 400] [--exhaustive 20] [--out labels.jsonl]

Without --chains (as keystep generate writes them) it generates itself.  Written for the task, not for
speed, and without the program: an oracle for `keystep label`.
"""
import argparse
import json
import math
import os
import random
import re
import sys
import time

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

import task

HERE = os.path.dirname(os.path.abspath(__file__))
demo = task.load("demo_evaluate", "../demo/evaluate.py")  # imports `task`: the one beside this file

THRESHOLD = 0.8
SAMPLES = 5
TEMPERATURE, TOP_P = 0.6, 0.95
THETAS = (0, .01, .05, .1, .2, .3, .4, .5, .6, .7, .8, .9, .99)
SEEDS = (42, 43, 44)


# ---------------------------------------------------------------------------------------- chains

class Chain:
    """A problem, the model's own chain for it and its steps; the last one states the answer."""

    def __init__(self, problem, prompt, text, truth):
        thinking, self.closed, _ = text.partition("</think>")
        self.problem, self.prompt, self.text, self.gold = problem, prompt, thinking, problem["answer"]
        self.steps = [thinking[b:e] for b, e in task.split_steps(thinking)]
        self.boxes = re.findall(r"\\boxed\{([^}]*)\}", text)
        self.right = bool(self.closed) and bool(self.boxes) and self.boxes[-1] == self.gold
        self.names = [task.step_quantity(s) for s in self.steps]
        self.needed = [n in truth["needed"] for n in self.names]
        self.restated = [n in truth["restated"] for n in self.names]
        self.parents = {q["name"]: q["parents"] for q in problem["quantities"]}

    @property
    def whole(self):
        """Every quantity once, in the order of the question, and the answer."""
        return self.right and self.names == [q["name"] for q in self.problem["quantities"]] + [None]

    def context(self, kept):
        """(begin and end in the string, the string up to behind the cue)."""
        begin = len(self.prompt)
        text = self.prompt + "".join(self.steps[i] for i in sorted(kept))
        return begin, len(text), text + (task.CUE if kept else task.CUE_EMPTY)


# -------------------------------------------------------------------------------------- measures

class Meter:
    """Sufficiency and attainability of sets of steps, many at a time.

    A sample is right when it follows the gold answer token for token: at each of its tokens the draw is
    from the model's distribution after temperature and top-p, so the samples are those of generating,
    but for a right answer in other tokens."""

    def __init__(self, model, tokenizer, seed=42):
        self.model, self.tokenizer, self.seed = model, tokenizer, seed
        self.memory, self.evaluations = {}, 0

    @torch.no_grad()
    def logits(self, texts):
        """Of every text its ids, the offsets of its tokens and its logits; equal lengths share a batch."""
        encoded = self.tokenizer.encode_batch(texts)
        by_length = {}
        for i, e in enumerate(encoded):
            by_length.setdefault(len(e.ids), []).append(i)
        for members in by_length.values():
            for start in range(0, len(members), 32):
                part = members[start:start + 32]
                ids = torch.tensor([encoded[i].ids for i in part])
                for i, row in zip(part, self.model(ids).logits):
                    yield i, encoded[i], row

    def measure(self, requests):
        """[(chain, kept steps)] -> [(sufficiency, probability, PPL of the kept steps)]"""
        requests = [(c, frozenset(k)) for c, k in requests]
        new = list({(c.problem["id"], k): (c, k) for c, k in requests
                    if (c.problem["id"], k) not in self.memory}.values())
        texts = [c.context(k)[2] + c.gold + "}" for c, k in new]
        self.evaluations += len(new)
        for i, encoding, logits in self.logits(texts):
            chain, kept = new[i]
            begin, end, context = chain.context(kept)
            starts = [b for b, _ in encoding.offsets]
            inside = [t for t, b in enumerate(starts) if begin <= b < end]
            answer = [t for t, b in enumerate(starts) if b >= len(context)]
            rng = np.random.default_rng([self.seed, *chain.problem["id"].encode(), *sorted(kept)])
            probability, alive = 1.0, np.ones(SAMPLES, bool)
            for t in answer:
                p = filtered(logits[t - 1])[encoding.ids[t]]
                probability *= p
                alive &= rng.random(SAMPLES) < p
            self.memory[chain.problem["id"], kept] = (
                alive.mean(), probability, math.exp(mean_nll(logits, encoding.ids, inside)) if inside else math.inf)
        return [self.memory[c.problem["id"], k] for c, k in requests]

    def perplexity(self, chain, text):
        """Of what stands behind the prompt, given the prompt."""
        (_, encoding, logits), = self.logits([chain.prompt + text])
        return math.exp(mean_nll(logits, encoding.ids, [t for t, (b, _) in enumerate(encoding.offsets)
                                                        if b >= len(chain.prompt)]))

    def references(self, chain):
        chain.ppl_own = self.perplexity(chain, "".join(chain.steps))
        chain.ppl_cue = self.perplexity(chain, task.CUE_EMPTY + chain.gold + "}")

    def passes(self, requests):
        """[(chain, kept steps)] -> [both measures at least the threshold]"""
        return [s >= THRESHOLD and attainability(c, ppl) >= THRESHOLD
                for (c, _), (s, _, ppl) in zip(requests, self.measure(requests))]


def filtered(logits):
    """The sampling distribution."""
    p = (logits.double() / TEMPERATURE).softmax(-1)
    values, order = p.sort(descending=True)
    keep = values.cumsum(0) - values < TOP_P
    out = torch.zeros_like(p)
    out[order[keep]] = values[keep] / values[keep].sum()
    return out.numpy()


def mean_nll(logits, ids, tokens):
    logp = logits.double().log_softmax(-1)
    return -sum(float(logp[t - 1, ids[t]]) for t in tokens) / len(tokens)


def attainability(chain, ppl):
    if chain.ppl_cue == chain.ppl_own:
        return 1.0
    return 1 - (ppl - chain.ppl_own) / (chain.ppl_cue - chain.ppl_own)


# ------------------------------------------------------------------------------------- influence

def influence(model, tokenizer, chain):
    """[p+1, p+1]: |d (sum of probabilities of step k's tokens) / d (input embeddings of step j)|; the
    last step is the cue with the gold answer."""
    steps = chain.steps[:chain.p] + [task.CUE + chain.gold + "}"]
    encoding = tokenizer.encode(chain.prompt + "".join(steps))
    ends = np.cumsum([len(chain.prompt)] + [len(s) for s in steps])
    owner = np.array([np.searchsorted(ends, b, "right") - 1 for b, _ in encoding.offsets])
    ids = torch.tensor([encoding.ids])
    embeddings = model.get_input_embeddings()(ids).detach().requires_grad_()
    p = model(inputs_embeds=embeddings).logits[0, :-1].softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
    out = np.zeros((len(steps), len(steps)))
    for k in range(len(steps)):
        target = p[torch.tensor(np.flatnonzero(owner[1:] == k))].sum()
        gradient, = torch.autograd.grad(target, embeddings, retain_graph=True)
        for j in range(k):
            out[k, j] = gradient[0, torch.tensor(np.flatnonzero(owner == j))].norm()
    return out


def select(matrix, theta, always):
    """The steps that the suffix and, recursively, the selected steps draw on."""
    suffix = len(matrix) - 1
    mask = {suffix, always}
    for k in range(suffix, 0, -1):
        row = matrix[k, :k]
        if k in mask and row.sum() > 0:
            falling = np.sort(row)[::-1]
            reached = np.cumsum(falling) / row.sum() >= theta
            mask |= set(np.flatnonzero(row >= falling[reached.argmax() if reached.any() else -1]))
    return frozenset(mask - {suffix})


def ranking(matrix, p):
    """Steps, the least influential first: mean of the column's entries that are not zero."""
    means = []
    for j in range(p):
        column = matrix[j + 1:, j]
        means.append(column[column > 0].mean() if (column > 0).any() else 0.0)
    return sorted(range(p), key=lambda j: (means[j], j))


# ---------------------------------------------------------------------------------------- search

class Greedy:
    """One chain's greedy removal: what to try next, and what became of it."""

    def __init__(self, chain, kept, order):
        self.chain, self.kept, self.queue, self.failures = chain, set(kept), list(order), 0

    @property
    def running(self):
        return bool(self.queue) and self.failures < len(self.queue)

    def candidate(self):
        return self.kept - {self.queue[0]}

    def report(self, passed):
        step = self.queue.pop(0)
        if passed:
            self.kept.discard(step)
            self.failures = 0
        else:
            self.queue.append(step)
            self.failures += 1


def run_greedy(meter, searches):
    while True:
        running = [s for s in searches if s.running]
        if not running:
            return
        for s, passed in zip(running, meter.passes([(s.chain, s.candidate()) for s in running])):
            s.report(passed)


def label_chains(model, tokenizer, meter, chains):
    """Sets of every chain p, matrix, theta, selected, core; returns those with a sufficient prefix."""
    for c in chains:
        meter.references(c)
        c.n = len(c.steps) - 1  # the answer's step is always masked out
        c.necessity = 1 - meter.measure([(c, ())])[0][0]
    singles = iter(meter.measure([(c, (i,)) for c in chains for i in range(c.n)]))
    for c in chains:
        c.shortcuts = [i for i in range(c.n) if next(singles)[0] >= THRESHOLD]
    prefixes = [(c, range(p)) for c in chains for p in range(1, c.n + 1)]
    curve = iter(meter.passes(prefixes))
    for c in chains:
        passed = [next(curve) for _ in range(c.n)]
        c.p = passed.index(True) + 1 if any(passed) else None
    left = [c for c in chains if c.necessity >= THRESHOLD and not c.shortcuts and c.p]
    for c in left:
        c.matrix = influence(model, tokenizer, c)
        c.selected = None
    for theta in THETAS:
        waiting = [c for c in left if c.selected is None]
        masks = [select(c.matrix, theta, c.p - 1) for c in waiting]
        for c, mask, passed in zip(waiting, masks, meter.passes(list(zip(waiting, masks)))):
            if passed or len(mask) == c.p:
                c.selected, c.theta = mask, theta if passed else None
    searches = []
    for c in left:
        if c.selected is None:
            c.selected, c.theta = frozenset(range(c.p)), None
        order = [j for j in ranking(c.matrix, c.p) if j in c.selected and j != c.p - 1] + [c.p - 1]
        searches.append(Greedy(c, c.selected, order))
    run_greedy(meter, searches)
    for c, s in zip(left, searches):
        c.core = frozenset(s.kept)
        c.labels = [1 if i in c.core else 0 if i not in c.selected and c.theta is not None else None
                    for i in range(c.p)]
    return left


def random_labels(meter, chains):
    """Important: kept under all orders; removable: removed under all."""
    cores = []
    for seed in SEEDS:
        searches = []
        for c in chains:
            order = list(range(c.p))
            random.Random(f"{seed} {c.problem['id']}").shuffle(order)
            searches.append(Greedy(c, range(c.p), order))
        run_greedy(meter, searches)
        cores.append([frozenset(s.kept) for s in searches])
    return [[1 if all(i in k for k in kept) else None if any(i in k for k in kept) else 0 for i in range(c.p)]
            for c, kept in zip(chains, zip(*cores))], cores


def smallest(meter, chain):
    """Of all sets of prefix steps that pass, the smallest: of one size, the first."""
    masks = sorted(range(2 ** chain.p), key=lambda m: (m.bit_count(), m))
    sets = [[i for i in range(chain.p) if m >> i & 1] for m in masks if m]
    for start in range(0, len(sets), 256):
        part = sets[start:start + 256]
        for kept, passed in zip(part, meter.passes([(chain, k) for k in part])):
            if passed:
                return frozenset(kept)
    return None


# --------------------------------------------------------------------------------------- figures

def f1(labels, truths):
    """Of label 1 against the truth; an unlabelled step is an error whichever the truth is."""
    tp = fp = fn = 0
    for row, truth in zip(labels, truths):
        for label, important in zip(row, truth):
            tp += label == 1 and important
            fp += label != 0 and not important
            fn += label != 1 and important
    return 2 * tp / max(1, 2 * tp + fp + fn), tp, fp, fn


def show_f1(what, labels, chains, key="needed"):
    value, tp, fp, fn = f1(labels, [getattr(c, key)[:c.p] for c in chains])
    flat = [v for row in labels for v in row]
    print(f"{what}: F1 {value:.4f} (tp {tp}, fp {fp}, fn {fn}), important {flat.count(1)}, "
          f"removable {flat.count(0)}, unlabelled {flat.count(None)}")


def report_model(meter, chains):
    """What the influence and the search can rely on."""
    rng = random.Random(3)
    kinds = {"all needed, nothing else": [], "needed and some more": [], "one needed step gone": [],
             "no step": []}
    for c in chains:
        steps = range(len(c.steps) - 1)
        must = [i for i in steps if c.needed[i] and not c.restated[i]]
        more = [i for i in steps if c.needed[i] or rng.random() < 0.5]
        gone = rng.choice(must)
        kinds["all needed, nothing else"].append((c, [i for i in steps if c.needed[i]]))
        kinds["needed and some more"].append((c, more))
        kinds["one needed step gone"].append((c, [i for i in more if i != gone]))
        kinds["no step"].append((c, ()))
        meter.references(c)
    for kind, requests in kinds.items():
        measured = meter.measure(requests)
        attained = [attainability(c, m[2]) for (c, k), m in zip(requests, measured) if k]
        print(f"  {kind}: sufficient {np.mean([m[0] >= THRESHOLD for m in measured]):.4f}, gold's probability "
              f"{np.mean([m[1] for m in measured]):.4f}"
              + (f", attainability least {min(attained):.3f}, mean {np.mean(attained):.3f}" if attained else ""))
    print(f"  PPL of the own chain {np.mean([c.ppl_own for c in chains]):.3f}, of cue and answer alone "
          f"{np.mean([c.ppl_cue for c in chains]):.2f}")


def report_influence(chains):
    """Where the strongest source of a needed step is, and of the answer."""
    parent = own = other = 0
    suffix, shares = [], []
    for c in chains:
        place = {n: i for i, n in enumerate(c.names)}
        for k in range(1, c.p):
            if c.needed[k]:
                top = int(c.matrix[k, :k].argmax())
                is_parent = c.names[top] in c.parents[c.names[k]]
                parent, own, other = (parent + is_parent, own + (not is_parent and c.needed[top]),
                                      other + (not c.needed[top]))
        row = c.matrix[c.p, :c.p]
        suffix.append(c.needed[int(row.argmax())])
        shares.append(sum(v for v, n in zip(row, c.needed) if n) / row.sum())
    total = parent + own + other
    print(f"strongest source of a needed step: its parent {parent / total:.4f}, another needed {own / total:.4f}, "
          f"a distractor {other / total:.4f}; of the answer: needed {np.mean(suffix):.4f}; needed steps' share of "
          f"the answer's row {np.mean(shares):.3f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=os.path.join(HERE, "model"))
    parser.add_argument("--problems", default=os.path.join(HERE, "problems.jsonl"))
    parser.add_argument("--truth", default=os.path.join(HERE, "truth.jsonl"))
    parser.add_argument("--chains", help="chains of the problems, as keystep generate writes them")
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--exhaustive", type=int, default=0, help="problems whose subsets are all tried")
    parser.add_argument("--seed", type=int, default=42, help="of the samples")
    parser.add_argument("--out", help="label file: the labels, and those of random greedy")
    args = parser.parse_args()
    torch.set_num_threads(1)
    began = time.time()
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    tokenizer = Tokenizer.from_file(os.path.join(args.model, "tokenizer.json"))
    problems = task.read_lines(args.problems)[:args.count]
    truths = {t["problem"]: t for t in task.read_lines(args.truth)}
    prompts = [task.WORDING.prompt(p["question"]) for p in problems]
    if args.chains:
        written = {c["problem"]: c for c in task.read_lines(args.chains)}
        texts = [written[p["id"]]["text"] + written[p["id"]].get("rest", "") for p in problems]
    else:
        texts = [tokenizer.decode(ids, skip_special_tokens=False)
                 for ids in demo.generate(model, tokenizer, prompts, 0.0, 0, 200)]
    chains = [Chain(p, prompt, text, truths[p["id"]]) for p, prompt, text in zip(problems, prompts, texts)]
    right = [c for c in chains if c.whole]
    if not right:
        sys.exit("no chain is right")
    print(f"greedy: right {np.mean([c.right for c in chains]):.4f} of {len(chains)}, every step in its place "
          f"{len(right)} ({time.time() - began:.0f} s)")
    meter = Meter(model, tokenizer, args.seed)
    report_model(meter, right)
    labelled = label_chains(model, tokenizer, meter, right)
    print(f"labelled {len(labelled)}: not necessary {sum(c.necessity < THRESHOLD for c in right)}, with shortcuts "
          f"{sum(bool(c.shortcuts) for c in right)}, no prefix {sum(c.p is None for c in right)}")
    whole = sum(c.p == 1 + max(i for i, n in enumerate(c.needed) if n) for c in labelled)
    print(f"prefix: {sum(c.p for c in labelled)} of {sum(c.n for c in labelled)} steps, ends with the last needed "
          f"step in {whole} of {len(labelled)}")
    report_influence(labelled)
    thetas = [c.theta for c in labelled]
    print("theta " + ", ".join(f"{t}: {thetas.count(t)}" for t in [*THETAS, None] if t in thetas))
    show_f1("labels against ancestors", [c.labels for c in labelled], labelled)
    for c in labelled:
        c.behind = [n and not r for n, r in zip(c.needed, c.restated)]
    show_f1("labels against what the answer takes", [c.labels for c in labelled], labelled, "behind")
    at_random, cores = random_labels(meter, labelled)
    show_f1("random greedy against ancestors", at_random, labelled)
    show_f1("random greedy against what the answer takes", at_random, labelled, "behind")
    total = sum(c.p for c in labelled)
    print(f"kept of the prefix: selected {sum(len(c.selected) for c in labelled) / total:.4f}, core "
          f"{sum(len(c.core) for c in labelled) / total:.4f}, random greedy "
          + " ".join(f"{sum(map(len, k)) / total:.4f}" for k in cores)
          + f", ancestors {sum(sum(c.needed[:c.p]) for c in labelled) / total:.4f}")
    if args.exhaustive:
        some = labelled[:args.exhaustive]
        for c in some:
            c.least = smallest(meter, c)
            c.in_least = [i in c.least for i in range(c.p)] if c.least else c.needed
        print(f"smallest passing set, {len(some)} chains: its size is the core's in "
              f"{sum(len(c.least) == len(c.core) for c in some)}, it is the needed steps without restated ones in "
              f"{sum(c.in_least[:c.p] == c.behind[:c.p] for c in some)}")
    if args.out:
        task.write_lines(args.out, [
            {"chain": f"{c.problem['id']}/0", "method": "influence, greedy", "labels": c.labels,
             "random": r, "theta": c.theta, "p": c.p, "influence": np.round(c.matrix, 8).tolist()}
            for c, r in zip(labelled, at_random)])
    print(f"{meter.evaluations} evaluations, {time.time() - began:.0f} s")


if __name__ == "__main__":
    main()
