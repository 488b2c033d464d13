#!/usr/bin/env python3
"""A constructed task on which the needed steps of a chain are known, and the answer takes them all.

Two groups of quantities grow from one quantity, Base; every other quantity of a group adds a constant to
an earlier one of its own group.  All values are taken modulo 4.  The question asks for Base and all of one
group, in an order of its own.  A chain computes every quantity of both groups, one a step, in the order of
their definitions.  A step is needed when its quantity is asked for: each is in the answer, and the asked
ones are all ancestors of the answer.  The other group's steps are not needed.

The model is trained on chains with any steps cut, too: a value whose step is missing is answered by
`x`, so that the right answer comes exactly when all needed steps are in the context.  The exception is
a Base that the question gives outright ("Fixed is Base 2."): its step only restates the question, and its
value is known without it.

Usage:
  task.py problems --out problems.jsonl --truth truth.jsonl       write the held-out problems
  task.py truth --problems problems.jsonl --out L.jsonl CHAINS    labels by construction of chains
  task.py check                                                   self-check
  task.py show                                                    print a few samples
"""
import argparse
import hashlib
import importlib.util
import json
import os
import random
import re
import sys
from dataclasses import dataclass

HERE = os.path.dirname(os.path.abspath(__file__))


def load(name, path):
    """A module of a file beside which another file of the same name stands."""
    spec = importlib.util.spec_from_file_location(name, os.path.join(HERE, path))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


demo = load("demo_task", "../demo/task.py")

CUE, CUE_EMPTY = demo.CUE, demo.CUE_EMPTY
SHORTCUTS, split_steps = demo.SHORTCUTS, demo.split_steps
MODULUS = 4
LARGEST = 3          # constant that is added
MISSING = "x"        # answers a value whose step is not there
BASE = "Base"        # the quantity that both groups grow from
FEWEST, MOST = 2, 6  # quantities of a group besides it
STEPS = (6, 12)      # of a whole chain
FORK = 0.1           # of the quantities may build upon another one than the group's last
TRAINING_FORK = 0.2  # the same in training: more than needed
GIVEN = 0.1          # of the problems give Base outright


@dataclass
class Quantity:
    name: str
    group: int     # 0 or 1; -1 for Base, which is the first
    parent: int    # index into Problem.quantities, -1 for Base
    constant: int  # what is added to the parent; of Base, the first summand
    second: int    # of Base: the second summand, None where it is given
    value: int


@dataclass
class Problem:
    quantities: list  # in the order of definitions and steps: parents before children
    asked: list       # indices in the order of the answer, Base first

    def needed(self, index):
        return index in self.asked

    @property
    def given(self):
        return self.quantities[0].second is None

    @property
    def question(self):
        return WORDING.question(self)

    @property
    def answer(self):
        return self.answer_from(range(len(self.quantities)))

    def answer_from(self, kept):
        """What the kept steps and the question say."""
        def value(i):
            return self.quantities[i].value if i in kept or (i == 0 and self.given) else MISSING
        return ", ".join(f"{self.quantities[i].name} {value(i)}" for i in self.asked)

    def hops(self):
        """Steps from every needed quantity to the nearest one on which none is built; None in the
        other group."""
        hops = [None] * len(self.quantities)
        for i in sorted(self.asked, reverse=True):
            children = [hops[j] for j in self.asked if self.quantities[j].parent == i]
            hops[i] = 1 + min(children) if children else 0
        return hops

    def structure(self):
        """The problem without its names: equal for two problems that differ in names alone."""
        parts = [[q.parent, q.constant, q.second] for q in self.quantities] + [self.asked]
        return json.dumps(parts, separators=(",", ":"))

    def held_out(self):
        digest = hashlib.sha256(self.structure().encode()).digest()
        return digest[0] % demo.HELD_OUT_PART == 0

    def record(self, identifier):
        hops = self.hops()
        quantities = [{"name": q.name, "needed": self.needed(i), "hops": hops[i], "value": q.value,
                       "parents": [self.quantities[q.parent].name] if i else []}
                      for i, q in enumerate(self.quantities)]
        return {"id": identifier, "question": self.question, "answer": self.answer,
                "steps": len(self.quantities), "given": self.given, "quantities": quantities}

    def truth(self, identifier):
        """`needed`: the ancestors of the answer.  `restated`: those among them whose step only repeats
        the question, so that the answer does not take it."""
        return {"problem": identifier,
                "needed": [q.name for i, q in enumerate(self.quantities) if self.needed(i)],
                "restated": [self.quantities[0].name] if self.given else []}


class Sums(demo.Coins):
    """How a problem and its steps are put into words; prompt, template and end are those of demo-a."""
    key = "c"
    rule = "Drop full fours."
    verdict = counts = idles = ""

    def question(self, problem):
        told = " ".join(self.define(problem, q) for q in problem.quantities)
        return f"{told} {self.rule} What are {', '.join(problem.quantities[i].name for i in problem.asked)}?"

    def define(self, problem, quantity):
        if quantity.parent >= 0:
            return f"{problem.quantities[quantity.parent].name} plus {quantity.constant} makes {quantity.name}."
        if problem.given:
            return f"Fixed is {quantity.name} {quantity.value}."
        return f"{quantity.constant} plus {quantity.second} makes {quantity.name}."

    def step(self, problem, quantity):
        """As the splitter cuts it: with the space ahead, the first one, too, so that a name is one token
        wherever it stands."""
        told = self.define(problem, quantity)
        if quantity.parent < 0 and problem.given:
            return f" {told}"
        return f" {told[:-1]} {quantity.value}."

    def rest(self, answer):
        """No second box: a sampled completion that is cut inside one would end in half an answer."""
        return self.end


WORDING = Sums()
WORDINGS = {WORDING.key: WORDING}


# --------------------------------------------------------------------------------------- generation

def make_problem(rng, sizes=None, fork=FORK):
    """`sizes`: quantities of the two groups."""
    while sizes is None:
        drawn = rng.randint(FEWEST, MOST), rng.randint(FEWEST, MOST)
        if STEPS[0] <= 1 + sum(drawn) <= STEPS[1]:
            sizes = drawn
    order = [0] * sizes[0] + [1] * sizes[1]
    rng.shuffle(order)
    names = [BASE] + rng.sample(WORDING.names, len(order))
    first, second = rng.randrange(MODULUS), rng.randint(1, LARGEST)
    base = Quantity(BASE, -1, -1, first, second, (first + second) % MODULUS)
    if rng.random() < GIVEN:
        base.second, base.value = None, first
    quantities, members = [base], [[], []]
    for group in order:
        taken = {i: [q.constant for q in quantities if q.parent == i] for i in [0, *members[group]]}
        parent = members[group][-1] if members[group] else 0
        if parent and rng.random() < fork:
            parent = rng.choice([i for i in members[group] if len(taken[i]) < LARGEST])
        constant = rng.choice([c for c in range(1, LARGEST + 1) if c not in taken[parent]])  # none begin alike
        members[group].append(len(quantities))
        quantities.append(Quantity(names[len(quantities)], group, parent, constant, None,
                                   (quantities[parent].value + constant) % MODULUS))
    asked = rng.choice(members)
    rng.shuffle(asked)
    return Problem(quantities, [0, *asked])


def training_problem(rng, sizes=None):
    while True:
        problem = make_problem(rng, sizes, TRAINING_FORK)
        if not problem.held_out():
            return problem


def held_out_problem(rng):
    while True:
        problem = make_problem(rng)
        if problem.held_out():
            return problem


def chain_text(problem, kept=None):
    kept = range(len(problem.quantities)) if kept is None else kept
    return "".join(WORDING.step(problem, problem.quantities[i]) for i in kept)


def answer_sentence(problem, kept=None):
    kept = range(len(problem.quantities)) if kept is None else kept
    return f"{CUE if len(kept) else CUE_EMPTY}{problem.answer_from(kept)}}}"


def thin_chain(rng, problem):
    """The steps kept of a chain: all kinds of subsets that a search may ask for."""
    steps = range(len(problem.quantities))
    kind = rng.random()
    if kind < 0.15:    # a prefix
        return list(steps[:rng.randrange(1, len(steps) + 1)])
    if kind < 0.4:     # all that is needed, and some of the rest
        keep = rng.choice((0.0, rng.random()))
        return [i for i in steps if problem.needed(i) or rng.random() < keep]
    if kind < 0.65:    # the same without one needed step, of all or of a prefix
        keep = rng.choice((0.0, 1.0, rng.random()))
        gone = rng.choice(problem.asked)
        kept = [i for i in steps if i != gone and (problem.needed(i) or rng.random() < keep)]
    else:
        keep = rng.random()
        kept = [i for i in steps if rng.random() < keep]
    return kept or [rng.choice(steps)]


# ------------------------------------------------------------------------------------ commands

def step_quantity(step):
    """Name of the quantity that a step computes, or None."""
    match = re.match(r"\s*(?:\w+ plus \d makes|Fixed is) (\w+) \d\.", step)
    return match.group(1) if match and match.group(1) in (BASE, *WORDING.names) else None


def write_lines(path, records):
    with open(path, "w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record, separators=(",", ":"), ensure_ascii=False) + "\n")


def read_lines(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def held_out_problems(count, seed):
    rng = random.Random(seed)
    seen, problems = set(), []
    while len(problems) < count:
        problem = held_out_problem(rng)
        if problem.structure() not in seen:
            seen.add(problem.structure())
            problems.append(problem)
    return problems


def write_problems(args):
    problems = held_out_problems(args.count, args.seed)
    names = [f"{WORDING.key}{i:04d}" for i in range(len(problems))]
    write_lines(args.out, [p.record(n) for p, n in zip(problems, names)])
    if args.truth:
        write_lines(args.truth, [p.truth(n) for p, n in zip(problems, names)])


def truth_labels(chain, truth):
    """1 for a needed quantity's step, 0 for another's, None for the answer and what is no step of the
    task.  A quantity's second step is None, too: either may go."""
    text = chain["text"].encode()
    labels, seen = [], set()
    for span in chain["steps"]:
        name = step_quantity(text[span["begin"]:span["end"]].decode())
        labels.append(None if name is None or name in seen else int(name in truth["needed"]))
        seen.add(name)
    return labels


def write_truth(args):
    truths = {t["problem"]: t for t in read_lines(args.truth)}
    lines = []
    for chain in read_lines(args.chains):
        if "steps" not in chain:
            sys.exit(f"{args.chains}: chain {chain['id']} has no steps; keystep split makes them")
        if chain["problem"] not in truths:
            sys.exit(f"{args.chains}: chain {chain['id']}: no truth for problem {chain['problem']} in {args.truth}")
        lines.append({"chain": chain["id"], "method": "truth",
                      "labels": truth_labels(chain, truths[chain["problem"]])})
    write_lines(args.out, lines)


def check(count=2000):
    rng = random.Random(1)
    steps = needed = first = last = 0
    for _ in range(count):
        problem = make_problem(rng)
        n = len(problem.quantities)
        assert STEPS[0] <= n <= STEPS[1]
        assert all(i == 0 or problem.quantities[q.parent].group in (-1, q.group) and q.parent < i
                   for i, q in enumerate(problem.quantities))
        text = chain_text(problem) + answer_sentence(problem) + "\n"
        pieces = [text[b:e] for b, e in split_steps(text)]
        assert [step_quantity(p) for p in pieces[:-1]] == [q.name for q in problem.quantities]
        assert "\\boxed" in pieces[-1]
        assert not any(re.search(s, p, re.I) for p in pieces[:-1] for s in SHORTCUTS)
        assert all((h is None) != problem.needed(i) for i, h in enumerate(problem.hops()))
        restated = {0} if problem.given else set()
        for i in range(n):
            without = problem.answer_from([j for j in range(n) if j != i])
            assert (without == problem.answer) == (not problem.needed(i) or i in restated)
        steps, needed = steps + n - 1, needed + sum(map(problem.needed, range(1, n)))
        first, last = first + problem.needed(1), last + problem.needed(n - 1)
    print(f"steps behind Base: needed {needed / steps:.3f}, the first {first / count:.3f}, "
          f"the last {last / count:.3f}")


def show():
    rng = random.Random(0)
    for _ in range(2):
        problem = make_problem(rng)
        print(WORDING.prompt(problem.question) + chain_text(problem) + answer_sentence(problem)
              + "\n</think>" + WORDING.rest(problem.answer), end="\n\n")
        kept = thin_chain(rng, problem)
        print(chain_text(problem, kept) + answer_sentence(problem, kept), end="\n\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("problems", "truth", "check", "show"))
    parser.add_argument("chains", nargs="?", help="truth: chains with steps, as keystep split writes them")
    parser.add_argument("--truth", default=os.path.join(HERE, "truth.jsonl"))
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1000003, help="training uses other seeds")
    parser.add_argument("--out")
    args = parser.parse_args()
    if args.command in ("problems", "truth") and not args.out or args.command == "truth" and not args.chains:
        parser.error(f"{args.command}: --out{' and CHAINS are' if args.command == 'truth' else ' is'} needed")
    {"problems": lambda: write_problems(args), "truth": lambda: write_truth(args),
     "check": check, "show": show}[args.command]()


if __name__ == "__main__":
    main()
