#!/usr/bin/env python3
"""Chains for the capture bench where GSM8K is not at hand: the embedded
model's problems, as long as GSM8K's solutions and their prompts are (about
190 tokens). What they say does not matter for speed.

Usage: make_chains.py PROBLEMS.jsonl OUT.jsonl
"""
import json
import os
import sys


def chain(number, problems):
    """The first question is the prompt, the sentences of two more the steps."""
    sentences = [s + "." for p in problems[1:]
                 for s in p["question"].split("?")[1].split(".") if s.strip()]
    text, steps = "", []
    for sentence in sentences:
        begin = len(text.encode())
        text += sentence if text else sentence.lstrip()
        steps.append({"begin": begin, "end": len(text.encode())})
    name = f"bench-{number}"
    return {"id": f"{name}/0", "problem": name, "model": "none",
            "prompt": problems[0]["question"] + "\n", "text": text,
            "steps": steps}


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    source, target = sys.argv[1:]
    with open(source, encoding="utf-8") as file:
        problems = [json.loads(line) for line in file]
    with open(target + ".part", "w", encoding="utf-8") as file:
        for i in range(len(problems) // 3):
            file.write(json.dumps(chain(i, problems[3 * i:3 * i + 3])) + "\n")
    os.replace(target + ".part", target)


if __name__ == "__main__":
    main()
