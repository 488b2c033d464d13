#!/usr/bin/env python3
"""The constructed task of the demo models: which steps of a chain matter is known by construction.

A problem holds two groups of k quantities.  Each group is a small directed acyclic graph whose last
quantity, the root, depends on every other one of its group.  All values are taken modulo 10.  The
question names the root of one group; the other group is a distractor.  A chain computes one quantity
a step, in a random order that respects dependence, and computes the asked root last.  A step is
important when its quantity is an ancestor of the asked root (that is, when it is of the asked
group), removable when it is of the other group.

The groups are exchangeable: same number of quantities, same distribution of graphs and constants,
names drawn from one pool, definitions and steps interleaved at random, and a coin decides which root
is asked.  So the words, the length and the place of a step say nothing about its importance.  The
root of the other group is never computed, and the step of the asked root is left out of the probing
(as is the answer sentence), because they would break that symmetry.

Usage:
  task.py problems --wording a --out problems-a.jsonl     write the held-out problems
  task.py check                                           self-check of both wordings
  task.py show --wording a                                print a few samples
"""
import argparse
import hashlib
import json
import random
import re
from dataclasses import dataclass

MODULUS = 10
CUE = " Therefore, the final answer is \\boxed{"  # after a chain, still inside the thinking
CUE_EMPTY = "The answer is \\boxed{"              # when no step is kept
HELD_OUT_PART = 16                                # one structure in 16 is never trained on


@dataclass
class Quantity:
    name: str
    group: int
    parents: list      # indices into Problem.quantities, at most two
    constant: int      # value of a leaf, or what is added to a single parent
    value: int = 0


@dataclass
class Problem:
    wording: "Wording"
    k: int
    quantities: list   # group 0 first, then group 1; parents before children; root last in its group
    told: list         # order in which the definitions are told
    asked: int         # index of the asked root

    @property
    def question(self):
        return self.wording.question(self)

    @property
    def answer(self):
        return str(self.quantities[self.asked].value)

    @property
    def roots(self):
        return self.k - 1, 2 * self.k - 1

    def relevant(self, index):
        return self.quantities[index].group == self.quantities[self.asked].group

    def hops(self):
        """Shortest distance of every quantity to the asked one; None in the other group."""
        distance = {self.asked: 0}
        frontier = [self.asked]
        while frontier:
            reached = []
            for child in frontier:
                for parent in self.quantities[child].parents:
                    if parent not in distance:
                        distance[parent] = distance[child] + 1
                        reached.append(parent)
            frontier = reached
        return [distance.get(i) for i in range(len(self.quantities))]

    def structure(self):
        """The problem without its names: equal for two problems that differ in names alone."""
        number = {self.asked: 0}
        parts = []
        for index in self.told:
            quantity = self.quantities[index]
            parts.append([number.setdefault(i, len(number)) for i in [index, *quantity.parents]]
                         + [quantity.constant])
        return json.dumps(parts, separators=(",", ":"))

    def held_out(self):
        digest = hashlib.sha256(self.structure().encode()).digest()
        return digest[0] % HELD_OUT_PART == 0

    def record(self, identifier):
        hops = self.hops()
        quantities = [{"name": q.name, "group": q.group, "relevant": self.relevant(i), "hops": hops[i],
                       "value": q.value, "parents": [self.quantities[p].name for p in q.parents]}
                      for i, q in enumerate(self.quantities)]
        return {"id": identifier, "question": self.question, "answer": self.answer, "k": self.k,
                "asked": self.quantities[self.asked].name, "quantities": quantities}


# ---------------------------------------------------------------------------------------- wordings

class Wording:
    """How a problem and its steps are put into words.  A step starts with `opener` and a name."""
    key = opener = start = end = ""
    names = []
    special_tokens = []

    def prompt(self, question):
        raise NotImplementedError

    def question(self, problem):
        asked = self.ask(problem.quantities[problem.asked].name)
        told = " ".join(self.define(problem, problem.quantities[i]) for i in problem.told)
        return f"{asked} {told} {self.rule} {asked}"

    def operands(self, problem, quantity):
        return [problem.quantities[p] for p in quantity.parents]

    def rest(self, answer):
        return f"\n\nThe answer is \\boxed{{{answer}}}.{self.end}"


class Coins(Wording):
    key = "a"
    opener = "Now"
    names = ("Anna Ben Cara Dora Emil Finn Greta Hugo Iris Jonas Karl Lena "
             "Mona Nils Otto Paula Rosa Sven Tara Ulla Vera Wanda Yuri Zoe").split()
    rule = "Drop every full ten."
    verdict = " Say who counts."
    counts, idles = " counts.", " idles."
    end = "<|im_end|>"
    special_tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
    chat_template = (
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content']"
        " + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}"
        "{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}")

    def prompt(self, question):
        return f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n<think>\n"

    def ask(self, name):
        return f"How many coins has {name}?"

    def define(self, problem, quantity):
        operands = self.operands(problem, quantity)
        if not operands:
            return f"{quantity.name} holds {quantity.constant} coins."
        if len(operands) == 1:
            return f"{quantity.name} tops {operands[0].name} by {quantity.constant}."
        return f"{quantity.name} matches {operands[0].name} and {operands[1].name} together."

    def step(self, problem, quantity):
        operands = self.operands(problem, quantity)
        if not operands:
            return f"Now {quantity.name} holds {quantity.value} coins."
        first = f"{operands[0].name}'s {operands[0].value}"
        if len(operands) == 1:
            return f"Now {quantity.name} tops {first} by {quantity.constant}, making {quantity.value}."
        second = f"{operands[1].name}'s {operands[1].value}"
        return f"Now {quantity.name} matches {first} and {second} together, making {quantity.value}."


class Dials(Wording):
    key = "b"
    opener = "Dial"
    names = ("copper iron zinc silver gold nickel cobalt amber ivory pearl ruby topaz "
             "onyx jade quartz coral slate marble bronze brass steel chrome pewter opal").split()
    rule = "Dials wrap past nine."
    verdict = " Say which matter."
    counts, idles = " matters.", " idles."
    start = "<｜begin▁of▁sentence｜>"
    end = "<｜end▁of▁sentence｜>"
    special_tokens = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>",
                      "<think>", "</think>"]
    chat_template = (
        "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
        "{{ '<｜User｜>' + message['content'] }}{% else %}"
        "{{ '<｜Assistant｜>' + message['content'] + '<｜end▁of▁sentence｜>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}")

    def prompt(self, question):
        return f"{self.start}<｜User｜>{question}<｜Assistant｜><think>\n"

    def ask(self, name):
        return f"Where does dial {name} point?"

    def define(self, problem, quantity):
        operands = self.operands(problem, quantity)
        if not operands:
            return f"Dial {quantity.name} stays at {quantity.constant}."
        if len(operands) == 1:
            return f"Dial {quantity.name} follows {operands[0].name} plus {quantity.constant}."
        return f"Dial {quantity.name} joins {operands[0].name} with {operands[1].name}."

    def step(self, problem, quantity):
        operands = self.operands(problem, quantity)
        if not operands:
            return f"Dial {quantity.name} stays at {quantity.value}."
        first = f"{operands[0].name} at {operands[0].value}"
        if len(operands) == 1:
            return f"Dial {quantity.name} follows {first} plus {quantity.constant} to reach {quantity.value}."
        second = f"{operands[1].name} at {operands[1].value}"
        return f"Dial {quantity.name} joins {first} with {second} to reach {quantity.value}."


WORDINGS = {w.key: w for w in (Coins(), Dials())}


# --------------------------------------------------------------------------------------- generation

def make_group(rng, k):
    """Parents of k quantities: the last one depends on all others, nobody has more than two."""
    parents = [[] for _ in range(k)]
    for i in reversed(range(k - 1)):
        parents[rng.choice([j for j in range(i + 1, k) if len(parents[j]) < 2])].append(i)
    for j in range(1, k):  # some quantities feed two others
        others = [i for i in range(j) if i not in parents[j]]
        if len(parents[j]) == 1 and others and rng.random() < 0.15:
            parents[j].append(rng.choice(others))
    for row in parents:
        rng.shuffle(row)
    return parents


def make_problem(rng, wording, k):
    names = rng.sample(wording.names, 2 * k)
    quantities = []
    for group in (0, 1):
        for row in make_group(rng, k):
            constant = (rng.randrange(MODULUS), rng.randrange(1, MODULUS), 0)[len(row)]
            quantity = Quantity(names[len(quantities)], group, [group * k + p for p in row], constant)
            quantity.value = (constant + sum(quantities[p].value for p in quantity.parents)) % MODULUS
            quantities.append(quantity)
    problem = Problem(wording, k, quantities, [], 0)
    problem.told = tell(rng, problem)
    problem.asked = rng.choice(problem.roots)
    return problem


def tell(rng, problem):
    """Each group from its root downwards (a quantity is mentioned before it is defined), the two
    groups interleaved at random."""
    waiting = [sum(i in q.parents for q in problem.quantities) for i in range(2 * problem.k)]
    told = []
    while len(told) < 2 * problem.k:
        ready = [i for i in range(2 * problem.k) if waiting[i] == 0 and i not in told]
        chosen = rng.choice(ready)
        told.append(chosen)
        for parent in problem.quantities[chosen].parents:
            waiting[parent] -= 1
    return told


def training_problem(rng, wording, k):
    while True:
        problem = make_problem(rng, wording, k)
        if not problem.held_out():
            return problem


def held_out_problem(rng, wording, k):
    while True:
        problem = make_problem(rng, wording, k)
        if problem.held_out():
            return problem


def ready_quantities(problem, done, both):
    """What may be computed next: any non-root whose parents are done, the asked root after all."""
    open_ = [i for i in range(2 * problem.k) if i not in problem.roots and i not in done
             and (both or problem.relevant(i))]
    if not open_:
        return [problem.asked]
    return [i for i in open_ if all(p in done for p in problem.quantities[i].parents)]


def make_chain(rng, problem, share):
    """An order of steps, and before every step the exact distribution of the next one.

    With probability `share` the chain also computes the other group.  Whoever reads the chain does
    not know which kind it is until a step of the other group appears, so the distribution is the
    mixture under the posterior of the two kinds."""
    both = rng.random() < share
    done, order, choices = set(), [], []
    weight = {False: 1.0 - share, True: share}
    while problem.asked not in done:
        ready = {kind: ready_quantities(problem, done, kind) for kind in (False, True)}
        total = sum(weight.values())
        target = {}
        for kind in (False, True):
            for i in ready[kind]:
                target[i] = target.get(i, 0.0) + weight[kind] / total / len(ready[kind])
        choices.append({i: p for i, p in target.items() if p > 0})
        chosen = rng.choice(ready[both])
        for kind in (False, True):
            weight[kind] *= (chosen in ready[kind]) / len(ready[kind])
        order.append(chosen)
        done.add(chosen)
    return order, choices


def verdicts(rng, problem):
    """Whether randomly drawn quantities count, for a share of the training texts; the question asks
    for it (`Wording.verdict`), which no held-out problem does.  Drawn with replacement: with each
    quantity named once, counting the verdicts so far would answer the last ones."""
    drawn = [rng.randrange(2 * problem.k) for _ in range(2 * problem.k)]
    return [(problem.quantities[i].name,
             problem.wording.counts if problem.relevant(i) else problem.wording.idles) for i in drawn]


def chain_text(problem, order):
    return " ".join(problem.wording.step(problem, problem.quantities[i]) for i in order)


def answer_sentence(problem):
    return f"{CUE}{problem.answer}}}."


def sufficient(problem, kept):
    """The asked value can be read off, or is one addition away from, the kept steps."""
    return problem.asked in kept or all(p in kept for p in problem.quantities[problem.asked].parents)


def thin_chain(rng, problem, order):
    """A chain with steps missing: without the root alone, a prefix, or a random part.  Parts from
    which the answer does not follow at once are kept rare, so that answering without the steps is
    not what the model is trained for."""
    while True:
        kind = rng.random()
        if kind < 0.3:
            kept = order[:-1]
        elif kind < 0.5:
            kept = order[:rng.randrange(1, len(order))]
        else:
            keep = rng.random()
            kept = [i for i in order if rng.random() < (keep if i != problem.asked else 0.3)]
        if kept and (sufficient(problem, kept) or rng.random() < 0.2):
            return kept


# --------------------------------------------------------------------------- the step splitter

def split_steps(text):
    """Byte-for-byte the splitter of the program: a step ends at a blank line, or at . ? ! before a
    space or newline; pieces shorter than 10 characters join the step before."""
    cuts = [0]
    for i, char in enumerate(text):
        if text.startswith(("\n\n", "\r\n\r\n"), i) or (char in ".?!" and text[i + 1:i + 2] in (" ", "\n")):
            cuts.append(i + 1)
    cuts.append(len(text))
    steps = []
    for begin, end in zip(cuts, cuts[1:]):
        piece = text[begin:end]
        if steps and len(piece.strip()) < 10:
            if piece.strip() or end < len(text):
                steps[-1] = (steps[-1][0], end)
        elif piece.strip():
            steps.append((begin, end))
    return steps


def step_quantity(wording, step):
    """Name of the quantity that a step computes, or None."""
    match = re.match(rf"\s*{wording.opener} (\w+)\b", step)
    return match.group(1) if match and match.group(1) in wording.names else None


SHORTCUTS = (r"(thus|therefore|so|hence|consequently|this means).*(answer|result).+",
             r"(the|our|my)\s+(final\s+)?(answer|result).+", r"\\boxed\{")


# ------------------------------------------------------------------------------------ commands

def write_problems(wording, k, count, seed, path):
    rng = random.Random(seed)
    seen, lines = set(), []
    while len(lines) < count:
        problem = held_out_problem(rng, wording, k)
        if problem.structure() not in seen:
            seen.add(problem.structure())
            record = problem.record(f"{wording.key}{len(lines):04d}")
            lines.append(json.dumps(record, separators=(",", ":"), ensure_ascii=False) + "\n")
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(lines)


def check(wording, count=2000):
    lowered = [n.lower() for n in wording.names]
    assert not any(a in b for i, a in enumerate(lowered) for j, b in enumerate(lowered) if i != j)
    rng = random.Random(1)
    relevant = steps = firsts = first_relevant = 0
    hops = {}
    for _ in range(count):
        problem = make_problem(rng, wording, rng.choice((2, 3, 4)))
        assert all(h is not None for i, h in enumerate(problem.hops()) if problem.relevant(i))
        order, choices = make_chain(rng, problem, 0.5)
        text = chain_text(problem, order) + answer_sentence(problem) + "\n"
        pieces = [text[b:e] for b, e in split_steps(text)]
        assert [step_quantity(wording, p) for p in pieces[:-1]] == [problem.quantities[i].name for i in order]
        assert "\\boxed" in pieces[-1]
        assert not any(re.search(s, p, re.I) for p in pieces[:-1] for s in SHORTCUTS)
        assert all(abs(sum(c.values()) - 1) < 1e-9 and i in c for c, i in zip(choices, order))
        if len(order) == 2 * problem.k - 1:
            relevant += sum(problem.relevant(i) for i in order[:-1])
            steps += len(order) - 1
            firsts += 1
            first_relevant += problem.relevant(order[0])
            if problem.k == 4:
                for i in order[:-1]:
                    hops[problem.hops()[i]] = hops.get(problem.hops()[i], 0) + 1
    print(f"wording {wording.key}: steps of full chains relevant {relevant / steps:.3f}, "
          f"first step relevant {first_relevant / firsts:.3f}, steps by hops at k=4 {hops}")


def show(wording):
    rng = random.Random(0)
    for k in (2, 4):
        problem = make_problem(rng, wording, k)
        order, _ = make_chain(rng, problem, 1.0)
        print(wording.prompt(problem.question) + chain_text(problem, order) + answer_sentence(problem)
              + "\n</think>" + wording.rest(problem.answer), end="\n\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("problems", "check", "show"))
    parser.add_argument("--wording", choices=sorted(WORDINGS), default="a")
    parser.add_argument("--k", type=int, default=4)
    parser.add_argument("--count", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=1000003, help="training uses other seeds")
    parser.add_argument("--out")
    args = parser.parse_args()
    if args.command == "check":
        for wording in WORDINGS.values():
            check(wording)
    elif args.command == "show":
        show(WORDINGS[args.wording])
    else:
        write_problems(WORDINGS[args.wording], args.k, args.count, args.seed, args.out)


if __name__ == "__main__":
    main()
