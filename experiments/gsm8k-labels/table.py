#!/usr/bin/env python3
"""What each filter of labels took, and labels of what is left: table.py RUN.

RUN is the folder that `keystep run experiment.yaml` made; a column a cell.
Standard library only.
"""
import collections
import json
import os
import sys

ORDER = ["without an answer to the problem", "unfinished", "without steps",
         "with a wrong answer", "whose answer no step states",
         "too long for the context", "answered without the chain",
         "of a single step",
         "of nothing but steps that give the answer away",
         "not enough for the answer"]


def load(*path):
    with open(os.path.join(*path), encoding="utf-8") as file:
        return json.load(file)


def lines(*path):
    with open(os.path.join(*path), encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def read(run, cell):
    """Counts of the cell's chains and steps."""
    stage = next(s for s in cell["stages"] if s.startswith("label-"))
    folder = os.path.join(run, "stages", stage)
    labels = lines(folder, "labels.jsonl")
    skipped = lines(folder, "skipped.jsonl")
    marks = collections.Counter(mark for one in labels
                                for mark in one["labels"])
    searched = sum(one["searched"] for one in labels)
    fails = [one for one in labels if one["confirmed"] is not None and
             round(one["confirmed"], 4) < one["sampling"]["enough"]]
    given = {one["role"]: one["path"]
             for one in load(folder, "stage.json")["inputs"]}
    way = cell["point"]["label.sufficiency"]
    return {"sufficiency": way,
            "model": os.path.basename(os.path.realpath(given["model"])),
            "chains": len(labels) + len(skipped), "labelled": len(labels),
            "skipped": collections.Counter(one["why"] for one in skipped),
            "cut": sum(len(one["removed"])
                       for one in lines(folder, "clean.jsonl")),
            "steps": searched, "important": marks[1], "removable": marks[0],
            "unlabelled": searched - marks[1] - marks[0],
            "unconfirmed": "" if way == "exact" else len(fails)}


def row(name, values):
    print("| " + " | ".join([name, *map(str, values)]) + " |")


def main():
    run, = sys.argv[1:]
    said = [read(run, cell) for cell in load(run, "run.json")["cells"]]
    print(f"{said[0]['chains']} solutions of GSM8K as chains, read by "
          f"{said[0]['model']}.\n")
    ways = [one["sufficiency"] for one in said]
    row("chains", ["sufficiency " + ways[0], *ways[1:]])
    print("|" + "---|" * (len(said) + 1))
    others = sorted({why for one in said for why in one["skipped"]} -
                    set(ORDER))
    for why in ORDER + others:
        counts = [one["skipped"][why] for one in said]
        if any(counts):
            row(why, counts)
    row("**labelled**", [one["labelled"] for one in said])
    print()
    row("steps of labelled chains", ways)
    print("|" + "---|" * (len(said) + 1))
    for name, key in (("cut, for they give the answer away", "cut"),
                      ("in sufficient prefixes", "steps"),
                      ("important", "important"), ("removable", "removable"),
                      ("in between", "unlabelled"),
                      ("cores that fail with fresh samples", "unconfirmed")):
        row(name, [one[key] for one in said])


if __name__ == "__main__":
    main()
