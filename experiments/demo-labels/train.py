#!/usr/bin/env python3
"""Tokenizer, training and export of demo-c; model, optimiser and data pools are those of ../demo/train.py.

  train.py             train (resumes from the last checkpoint, also with more --steps), write the loss
                       curve, export
  train.py --export    export the last checkpoint again
"""
import argparse
import csv
import math
import os
import random
import re
import sys
import time
from dataclasses import dataclass

import torch
import torch.nn as nn
from tokenizers import Tokenizer

import task

HERE = os.path.dirname(os.path.abspath(__file__))
demo = task.load("demo_train", "../demo/train.py")  # imports `task`: the one beside this file

SHAPE = demo.Shape("c", "llama", 128, 5, 4, 2, 256, True, False, 10000.0, 13)


@dataclass
class Stage:
    until: float      # batch
    sizes: tuple      # least and most quantities of a group; None: as the problems have them
    thin: int         # chains with steps cut of a problem, beside the whole one
    smoothing: float  # of the digits that have to be worked out
    copied: float     # weight of what a step copies from its definition


# Gradients of probabilities vanish with the doubt that is left.  Label smoothing, on results and on the
# answer's digits only, gives these all the same doubt, so that where a digit comes from weighs more than
# how sure the model is of a name that it copies.
STAGES = [Stage(250, (1, 3), 1, 0.03, 2.0), Stage(500, (2, 4), 2, 0.03, 2.0), Stage(1400, None, 2, 0.03, 2.0),
          Stage(3000, None, 2, 0.1, 2.0), Stage(math.inf, None, 2, 0.15, 8.0)]
DIRECT = 0.1          # of the problems have the cue without a chain, too
RESULT_WEIGHT = 3.0   # the digit that a step makes
ANSWER_WEIGHT = 4.0   # a place of the answer
NEXT_WEIGHT = 2.5     # which quantity comes next
PLAIN_WEIGHT = 2.0
CUT_SHARE = 0.005     # of the chains with steps cut are also an example of which step comes next
TAIL_SHARE = 0.3      # of the whole chains go on to the end of the output


# ------------------------------------------------------------------------------------------- data

def tokenizer_texts(count=6000, seed=5):
    rng = random.Random(seed)
    for _ in range(count):
        problem = task.training_problem(rng)
        kept = task.thin_chain(rng, problem)
        yield (task.WORDING.prompt(problem.question) + task.chain_text(problem, kept)
               + task.answer_sentence(problem, kept) + "\n" + task.WORDING.rest(problem.answer))


def write_steps(sample, problem, kept, following, copied):
    """The kept steps; `following`: weight of a step's first token, which says which one comes next;
    `copied`: of the rest of it, but for its result."""
    for i in kept:
        begin = len(sample.text)
        sample.text += task.WORDING.step(problem, problem.quantities[i])
        end, first = len(sample.text), sample.text.index(" ", begin + 1)
        sample.marks += [(begin, first, following), (first, end, copied)]
        if i or not problem.given:
            sample.marks.append((end - 2, end - 1, RESULT_WEIGHT))


def write_answer(sample, problem, kept, cue):
    """The sentence after the kept steps; `cue`: weight of what stands before its box."""
    begin = len(sample.text)
    sample.text += task.answer_sentence(problem, kept)
    box = sample.text.rindex("{") + 1
    sample.marks += [(begin, box, cue), (box, len(sample.text), PLAIN_WEIGHT)]
    sample.marks += [(box + m.start(1), box + m.end(1), ANSWER_WEIGHT)
                     for m in re.finditer(rf" (\d|{task.MISSING})\b", sample.text[box:])]


def start_sample(problem):
    sample = demo.Sample(len(problem.quantities))
    sample.text = task.WORDING.prompt(problem.question)
    return sample


def full_sample(rng, problem, copied):
    sample = start_sample(problem)
    kept = range(len(problem.quantities))
    write_steps(sample, problem, kept, NEXT_WEIGHT, copied)
    write_answer(sample, problem, kept, PLAIN_WEIGHT)
    if rng.random() < TAIL_SHARE:
        begin = len(sample.text)
        sample.text += "\n</think>" + task.WORDING.rest(problem.answer)
        sample.marks.append((begin, len(sample.text), PLAIN_WEIGHT))
    return sample


def thin_sample(rng, problem, copied):
    """A chain with steps cut.  That steps are left out is learned from few of them, so that the model
    does not leave any out itself and yet does not find it impossible."""
    sample = start_sample(problem)
    kept = task.thin_chain(rng, problem)
    weight = NEXT_WEIGHT if rng.random() < CUT_SHARE else 0.0
    write_steps(sample, problem, kept, weight, copied)
    write_answer(sample, problem, kept, weight)
    return sample


def direct_sample(problem):
    sample = start_sample(problem)
    write_answer(sample, problem, [], 0.0)  # that there is no chain is not learned
    return sample


class Family:
    """Texts of one problem in one row: the prompt, and behind it the branches, blind to each other.

    ids, and of every token: position, branch (0: the prompt).  targets: (place of the token before,
    id, weight); the prompt's last token has one of every branch."""
    __slots__ = ("ids", "positions", "branches", "targets")


class Data(demo.Data):
    """Batches of families of like length."""

    def draw(self, stage):
        stage = STAGES[stage]
        sizes = stage.sizes and (self.rng.randint(*stage.sizes), self.rng.randint(*stage.sizes))
        problem = task.training_problem(self.rng, sizes=sizes)
        samples = [full_sample(self.rng, problem, stage.copied)]
        samples += [thin_sample(self.rng, problem, stage.copied) for _ in range(stage.thin)]
        if self.rng.random() < DIRECT:
            samples.append(direct_sample(problem))
        return samples

    def encode(self, pool):
        super().encode([s for samples in pool for s in samples])
        for i, samples in enumerate(pool):
            family = pool[i] = Family()
            shared = next(t for t, w in enumerate(samples[0].weights) if w)
            family.ids, family.targets = samples[0].ids[:shared], []
            family.positions, family.branches = list(range(shared)), [0] * shared
            for branch, s in enumerate(samples, 1):
                assert s.ids[:shared] == family.ids[:shared]
                offset = len(family.ids) - shared
                family.ids += s.ids[shared:-1]
                family.positions += range(shared, len(s.ids) - 1)
                family.branches += [branch] * (len(s.ids) - 1 - shared)
                family.targets += [(t - 1 + offset * (t > shared), s.ids[t], w)
                                   for t, w in enumerate(s.weights) if w]


# ------------------------------------------------------------------------------------------- loss

def collate(families):
    """ids and positions [batch, tokens], mask [batch, 1, tokens, tokens], targets (flat places, ids,
    weights)."""
    length = max(len(f.ids) for f in families)
    ids, positions, branches = torch.zeros(3, len(families), length, dtype=torch.long)
    targets = []
    for row, f in enumerate(families):
        n = len(f.ids)
        ids[row, :n], positions[row, :n] = torch.tensor(f.ids), torch.tensor(f.positions)
        branches[row, :n] = torch.tensor(f.branches)
        targets += [(row * length + place, label, weight) for place, label, weight in f.targets]
    look = (branches[:, None, :] == 0) | (branches[:, :, None] == branches[:, None, :])
    places, labels, weights = zip(*targets)
    return (ids, positions, (look & torch.ones(length, length, dtype=torch.bool).tril())[:, None],
            torch.tensor(places), torch.tensor(labels), torch.tensor(weights))


class Loss:
    """Weighted cross entropy, smoothed over the digits where a digit has to be worked out."""

    def __init__(self, tokenizer):
        self.digits = torch.tensor([tokenizer.token_to_id(f"Ġ{d}") for d in range(task.MODULUS)])

    def __call__(self, model, families, smoothing, tally):
        ids, positions, mask, places, labels, weights = collate(families)
        logp = model.lm_head(model.hidden(ids, positions, mask).flatten(0, 1)[places]).log_softmax(-1)
        nll = -logp.gather(1, labels[:, None]).squeeze(1)
        result, answer = weights == RESULT_WEIGHT, weights == ANSWER_WEIGHT
        digit = answer & torch.isin(labels, self.digits)
        doubt = result | digit
        nll[doubt] = (1 - smoothing) * nll[doubt] - smoothing * logp[doubt][:, self.digits].mean(1)
        loss = (nll * weights).sum() / weights.sum()
        right = (logp.argmax(-1) == labels).float()
        tally.add("loss", loss.item())
        for key, where in (("next", weights == NEXT_WEIGHT), ("result", result), ("digit", digit),
                           ("missing", answer & ~digit)):
            if where.any():
                tally.add(key, float(right[where].mean()))
        return loss


# --------------------------------------------------------------------------------------- training

CURVE = ["batch", "tokens", "seconds", "loss", "next_right", "result_right", "digit_right",
         "missing_right"]


def curve_row(step, tokens, seconds, tally):
    return [step, tokens, round(seconds)] + [round(tally.mean(k), 4) for k in
                                             ("loss", "next", "result", "digit", "missing")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--decay", type=int, default=900, help="batches of linear decay to 0 at the end")
    parser.add_argument("--batch", type=int, default=8, help="problems")
    parser.add_argument("--rate", type=float, default=0.002)
    parser.add_argument("--every", type=int, default=25, help="batches a row of the curve")
    parser.add_argument("--work", default="train", help="folder of the checkpoints")
    parser.add_argument("--out", default=os.path.join(HERE, "model"))
    parser.add_argument("--curve", default=os.path.join(HERE, "training.csv"))
    parser.add_argument("--export", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(SHAPE.seed)
    os.makedirs(args.work, exist_ok=True)
    tokenizer_path = os.path.join(args.work, "tokenizer.json")
    if not os.path.exists(tokenizer_path):
        demo.train_tokenizer(task.WORDING, tokenizer_texts()).save(tokenizer_path)
    tokenizer = Tokenizer.from_file(tokenizer_path)
    model = demo.Model(SHAPE, tokenizer.get_vocab_size())
    optimiser = demo.make_optimiser(model, args.rate)
    data, loss_of = Data(SHAPE, tokenizer, SHAPE.seed, args.batch), Loss(tokenizer)
    step = tokens = 0
    seconds = 0.0
    checkpoint = os.path.join(args.work, "demo-c.pt")
    if os.path.exists(checkpoint):
        saved = torch.load(checkpoint, weights_only=False)
        model.load_state_dict(saved["model"])
        optimiser.load_state_dict(saved["optimiser"])
        step, tokens, seconds = saved["progress"]
        data.rng.setstate(saved["rng"])
    else:
        with open(args.curve, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(CURVE)
    if args.export:
        demo.export(SHAPE, model, tokenizer, args.out)
        return
    print(f"demo-c: {sum(p.numel() for p in model.parameters())} parameters, "
          f"{tokenizer.get_vocab_size()} tokens", flush=True)
    tally, began = demo.Tally(), time.time()
    while step < args.steps:
        stage = next(i for i, s in enumerate(STAGES) if step < s.until)
        families = data.next(stage)
        loss = loss_of(model, families, STAGES[stage].smoothing, tally)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimiser.param_groups:
            group["lr"] = args.rate * demo.warm_then_decay(step, args)
        optimiser.step()
        step += 1
        tokens += sum(len(f.ids) for f in families)
        if step % args.every == 0:
            seconds, began = seconds + time.time() - began, time.time()
            row = curve_row(step, tokens, seconds, tally)
            print(*row, flush=True)
            with open(args.curve, "a", newline="", encoding="utf-8") as file:
                csv.writer(file).writerow(row)
            tally = demo.Tally()
        if step % (4 * args.every) == 0 or step == args.steps:
            torch.save({"model": model.state_dict(), "optimiser": optimiser.state_dict(),
                        "progress": (step, tokens, seconds), "rng": data.rng.getstate()},
                       checkpoint + ".new")
            os.replace(checkpoint + ".new", checkpoint)
    demo.export(SHAPE, model, tokenizer, args.out)


if __name__ == "__main__":
    sys.exit(main())
