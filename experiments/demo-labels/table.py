#!/usr/bin/env python3
"""Labels of several runs beside the truth: table.py RUNS...

A run is NAME=FOLDER with labels.jsonl, clean.jsonl and truth.jsonl (labels by
construction of those clean chains). Prints a table in Markdown, a run a row:
F1 of the label important against the needed steps, an unlabelled step counted
as wrong (needed: missed; not needed: called important); labelled steps; sizes
of the important set, of random-greedy cores and of the least set in shares of
the prefix. Steps of sufficient prefixes alone; 95% intervals by bootstrap over
problems (2000 draws). With --subsets also the second truth: what no set of
steps that is enough lacks.
"""
import json
import random
import sys


def lines(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def read(folder):
    """A row a chain: (problem, pairs of label and truth, sizes)."""
    truth = {one["chain"]: one["labels"]
             for one in lines(f"{folder}/truth.jsonl")}
    rows = []
    for one in lines(f"{folder}/labels.jsonl"):
        searched = [i for i in range(one["prefix"])
                    if truth[one["chain"]][i] is not None]
        pairs = [(one["labels"][i], truth[one["chain"]][i]) for i in searched]
        subsets = one["subsets"] or {}
        needed = subsets.get("needed")
        rows.append({
            "problem": one["chain"].rsplit("/", 1)[0], "pairs": pairs,
            "n": len(pairs), "important": sum(p == 1 for p, _ in pairs),
            "random": sum(one["random_cores"]) / len(one["random_cores"])
            if one["random_cores"] else None,
            "least": subsets.get("least"),
            "second": needed and [(one["labels"][i], needed[i])
                                  for i in searched]})
    return rows


def f1(rows, key="pairs"):
    right = wrong = 0
    for row in rows:
        for label, truth in row[key] or []:
            right += 2 * (label == 1 and truth == 1)
            wrong += (label != 0 and truth == 0) + (label != 1 and truth == 1)
    return right / (right + wrong) if right + wrong else float("nan")


def labelled(rows):
    pairs = [pair for row in rows for pair in row["pairs"]]
    return sum(label is not None for label, _ in pairs) / len(pairs)


def share(rows, key):
    rows = [row for row in rows if row[key] is not None]
    n = sum(row["n"] for row in rows)
    return sum(row[key] for row in rows) / n if n else float("nan")


def interval(rows, figure, draws=2000):
    by = {}
    for row in rows:
        by.setdefault(row["problem"], []).append(row)
    problems, rng = list(by), random.Random(1)
    values = sorted(
        figure([row for problem in rng.choices(problems, k=len(problems))
                for row in by[problem]]) for _ in range(draws))
    return values[int(0.025 * draws)], values[int(0.975 * draws) - 1]


def shown(rows, figure):
    low, high = interval(rows, figure)
    return f"{100 * figure(rows):.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def main():
    arguments = sys.argv[1:]
    second = "--subsets" in arguments
    runs = [one.split("=", 1) for one in arguments if one != "--subsets"]
    head = ["run", "chains", "steps", "F1, %", "labelled, %", "important, % of "
            "the prefix", "random-greedy core, %"]
    if second:
        head += ["least set that is enough, %", "F1 against all subsets, %"]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for name, folder in runs:
        rows = read(folder)
        if not rows:
            print(f"| {name} | 0 |" + " |" * (len(head) - 2))
            continue
        cells = [name, str(len(rows)), str(sum(row["n"] for row in rows)),
                 shown(rows, f1), f"{100 * labelled(rows):.1f}",
                 f"{100 * share(rows, 'important'):.1f}",
                 f"{100 * share(rows, 'random'):.1f}"]
        if second:
            asked = [row for row in rows if row["second"]]
            cells += [f"{100 * share(asked, 'least'):.1f} (of {len(asked)} "
                      "chains)", shown(asked, lambda r: f1(r, "second"))]
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
