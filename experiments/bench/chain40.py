#!/usr/bin/env python3
"""A chain of 40 steps and 800 tokens, and word problems, for the benches of
sampling: a stall's day, one sale or delivery after the other, from templates
and a seed, with arithmetic that is right.

Usage: chain40.py HF_DIR GGUF OUT_DIR [--steps N] [--tokens N] [--seed N]
writes into OUT_DIR, in Keystep's formats,
  curve.problems.jsonl, curve.chains.jsonl   the chain: 40 steps, and behind
                        them the step with the answer, which is masked
  generation.problems.jsonl                  problems to solve at once
and for the peers, with the model's paths and all settings,
  curve.json            tokens of the 40 prefixes, each with the cue
  generation.json       tokens of the problems' prompts
--tokens counts the 40 steps' own, without prompt, answer and cue.
"""
import argparse
import json
import os
import random

from transformers import AutoTokenizer

CUE = r" Therefore, the final answer is \boxed{"
TASK = (r"Solve the following problem. Put your final answer in \boxed{}."
        "\n\nProblem:\n")
NAMES = ("Nora", "Omar", "Lena", "Pavel", "Rosa", "Tom", "Mina", "Karl")
GOODS = ("apples", "loaves", "candles", "books", "roses", "eggs", "mugs")
PLACES = ("stall at the market", "small shop", "stand at the fair")
BUYERS = ("a neighbour", "a teacher", "the baker", "a tourist", "the school",
          "an old friend", "a family", "the cook", "a student")
SOURCES = ("a cousin", "the farmer", "a driver", "the warehouse", "an uncle")

# Ways to say the same, of different lengths; a step is one of a list.
OPENINGS = ("Let me follow the {goods} through the day, one event at a time, "
            "starting from the {now} that {name} has in the morning.",
            "{name} starts with {now} {goods}.",
            "At first there are {now} {goods}, so I start counting from "
            "there.")
READS = {
    1: ("Next, {who} brings {n} {goods}.",
        "Then {who} brings {n} more, and that makes the number of {goods} "
        "larger.",
        "After that {name} gets {n} {goods} from {who}, which have to be "
        "added to the {goods} that are there already."),
    -1: ("Next, {who} buys {n} {goods}.",
         "Then {who} takes {n} of them, and that makes the number of {goods} "
         "smaller.",
         "After that {name} sells {n} {goods} to {who}, which have to be "
         "taken away from the {goods} that were there before."),
}
SUMS = {
    1: ("Now {now} + {n} = {then}.",
        "Adding them to the {goods} from before gives {now} + {n} = {then} "
        "{goods}.",
        "We add the {n} new {goods} to the {now} that we had counted up to "
        "here, and we get {now} + {n} = {then}."),
    -1: ("Now {now} - {n} = {then}.",
         "Taking them away from the {goods} gives {now} - {n} = {then} "
         "{goods}.",
         "We take the {n} {goods} from the {now} that we had counted up to "
         "here, and we get {now} - {n} = {then}."),
}
STANDS = ("At this point of the day {name} has {then} {goods}.",
          "That leaves {name} with {then} {goods} after this event, and the "
          "next one starts from there.",
          "There are {then} now.",
          "We keep in mind that there are {then} {goods} now, before we look "
          "at what happens next.")


def story(chance, events):
    """Who, what, how many first, and the events (sign, n, who); the numbers
    stay within 10 and 99."""
    first = now = chance.randint(30, 70)
    said = []
    for _ in range(events):
        sign = chance.choice((1, -1))
        if not 10 <= now + sign * 20 <= 99:
            sign = -sign
        n = chance.randint(2, 20)
        said.append((sign, n, chance.choice(SOURCES if sign > 0 else BUYERS)))
        now += sign * n
    return {"name": chance.choice(NAMES), "goods": chance.choice(GOODS),
            "place": chance.choice(PLACES), "first": first, "events": said,
            "last": now}


def question(told):
    words = ["{name} has {first} {goods} for a {place}.".format(**told)]
    for sign, n, who in told["events"]:
        words.append(f"{who[0].upper()}{who[1:]} "
                     f"{'brings' if sign > 0 else 'buys'} {n}.")
    words.append("How many {goods} are there in the end?".format(**told))
    return " ".join(words)


def slots(told):
    """For each step its ways, filled in: an opening, three steps an event."""
    now, kinds = told["first"], []

    def ways(templates, **words):
        kinds.append([t.format(**told, **words) for t in templates])

    ways(OPENINGS, now=now)
    for sign, n, who in told["events"]:
        words = {"now": now, "n": n, "who": who, "then": now + sign * n}
        for templates in (READS[sign], SUMS[sign], STANDS):
            ways(templates, **words)
        now = words["then"]
    return kinds


class Tokens:
    def __init__(self, folder):
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    def __call__(self, text):
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def prompt(self, asked):
        return self.tokenizer.apply_chat_template(
            [{"role": "user", "content": TASK + asked + "\n"}],
            tokenize=False, add_generation_prompt=True)


def write_steps(chance, kinds, tokens, wanted):
    """The steps, said in ways that together have so many tokens. A step is
    tokenised alone, with the space before it, at which words part."""
    lengths = [[len(tokens(" " * (i > 0) + way)) for way in ways]
               for i, ways in enumerate(kinds)]
    order = list(range(len(kinds)))
    chance.shuffle(order)
    reach = [{0}]  # what the last steps of the order can add up to
    for i in reversed(order):
        reach.append({n + r for n in lengths[i] for r in reach[-1]})
    if wanted not in reach.pop():
        raise SystemExit(f"{len(kinds)} steps of these templates never have "
                         f"{wanted} tokens")
    said = [""] * len(kinds)
    for i in order:
        rest = reach.pop()
        way = chance.choice([w for w, n in enumerate(lengths[i])
                             if wanted - n in rest])
        said[i] = kinds[i][way]
        wanted -= lengths[i][way]
    return said


def make_chain(options, tokens):
    chance = random.Random(options.seed)
    told = story(chance, -(-(options.steps - 1) // 3))
    asked = question(told)
    prompt = tokens.prompt(asked)
    said = write_steps(chance, slots(told)[:options.steps], tokens,
                       options.tokens)
    if len(tokens(prompt + " ".join(said))) != (len(tokens(prompt)) +
                                                options.tokens):
        raise SystemExit("tokens reach over steps")
    said.append(f"The answer is \\boxed{{{told['last']}}}.")
    text, steps = "", []
    for step in said:
        begin = len(text)
        text += " " + step if text else step
        steps.append({"begin": begin, "end": len(text)})  # all of it is ASCII
    problem = {"id": "curve", "question": asked, "answer": str(told["last"])}
    chain = {"id": "curve/0", "problem": "curve", "model": "none",
             "prompt": prompt, "text": text, "steps": steps,
             "answer": problem["answer"], "correct": True, "finished": True,
             "closed": True}
    return problem, chain


def curve(problem, chain, options, tokens):
    """What is asked of the model: every prefix with the cue, the step of the
    answer masked."""
    ends = [step["end"] for step in chain["steps"][:-1]]
    answer = len(tokens(problem["answer"]))
    return {"prompts": [tokens(chain["prompt"] + chain["text"][:end] + CUE)
                        for end in ends],
            "answers": [answer] * len(ends), "answer": problem["answer"],
            "k": 5, "temperature": 0.6, "top_p": 0.95,
            "max_new": 2 * answer, "seed": 42}


def make_problems(options):
    chance = random.Random(options.seed + 1)
    made = []
    for i in range(options.problems):
        told = story(chance, chance.randint(2, 6))
        made.append({"id": f"generation-{i}", "question": question(told),
                     "answer": str(told["last"])})
    return made


def write(folder, name, lines):
    path = os.path.join(folder, name)
    with open(path + ".part", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    os.replace(path + ".part", path)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("hf")
    parser.add_argument("gguf")
    parser.add_argument("out")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=800)
    parser.add_argument("--problems", type=int, default=32)
    parser.add_argument("--max-new", type=int, default=256,
                        help="tokens of a solution at most")
    parser.add_argument("--seed", type=int, default=6,
                        help="6: SmolLM2 ends up right in most samples")
    options = parser.parse_args()
    tokens = Tokens(options.hf)
    with open(os.path.join(options.hf, "generation_config.json"),
              encoding="utf-8") as file:
        stop = json.load(file)["eos_token_id"]
    model = {"model_dir": os.path.abspath(options.hf),
             "gguf": os.path.abspath(options.gguf),
             "stops": stop if isinstance(stop, list) else [stop]}
    os.makedirs(options.out, exist_ok=True)
    problem, chain = make_chain(options, tokens)
    problems = make_problems(options)
    write(options.out, "curve.problems.jsonl", [problem])
    write(options.out, "curve.chains.jsonl", [chain])
    write(options.out, "generation.problems.jsonl", problems)
    texts = [tokens.prompt(p["question"]) for p in problems]
    write(options.out, "generation.json", [model | {
        "texts": texts, "prompts": [tokens(text) for text in texts],
        "max_new": options.max_new}])
    # last: that it is there says that all are
    write(options.out, "curve.json",
          [model | curve(problem, chain, options, tokens)])


if __name__ == "__main__":
    main()
