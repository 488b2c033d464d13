#!/usr/bin/env python3
"""What the exported demo models can do, and whether their activations say which steps matter.

  evaluate.py --model demo-a --problems problems-a.jsonl [--count 1200] [--chains chains.jsonl]

Reads the folder that users read (transformers), samples chains at temperature 1 on held-out problems,
and probes the step means of the residual stream.  All figures carry 95 % intervals from a bootstrap
over problems.
"""
import argparse
import json
import os
import random
import re

import numpy as np
import torch
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

import task

HERE = os.path.dirname(os.path.abspath(__file__))
POSITIONS = ("mean", "first", "middle", "last", "before")


# ---------------------------------------------------------------------------------------- chains

@torch.no_grad()
def generate(model, tokenizer, prompts, temperature, seed, max_new=160, batch=100):
    """Ids of the continuations.  Prompts of one length share a batch, so that nothing is padded."""
    generator = torch.Generator().manual_seed(seed)
    end = model.config.eos_token_id
    encoded = [tokenizer.encode(p).ids for p in prompts]
    by_length = {}
    for i, ids in enumerate(encoded):
        by_length.setdefault(len(ids), []).append(i)
    out = [None] * len(prompts)
    for members in by_length.values():
        for start in range(0, len(members), batch):
            part = members[start:start + batch]
            ids = torch.tensor([encoded[i] for i in part])
            written, alive = [[] for _ in part], [True] * len(part)
            state = model(ids, use_cache=True)
            for _ in range(max_new):
                logits = state.logits[:, -1].float()
                if temperature > 0:
                    p = (logits / temperature).softmax(-1)
                    token = torch.multinomial(p, 1, generator=generator)
                else:
                    token = logits.argmax(-1, keepdim=True)
                for row, t in enumerate(token[:, 0].tolist()):
                    if alive[row]:
                        written[row].append(t)
                        alive[row] = t != end
                if not any(alive):
                    break
                state = model(token, past_key_values=state.past_key_values, use_cache=True)
            for i, ids_ in zip(part, written):
                out[i] = ids_
    return out


def parse_chain(wording, problem, prompt, text):
    """The chain's steps, the quantities they compute and whether it is right and full."""
    thinking, mark, _ = text.partition("</think>")
    steps = task.split_steps(thinking)
    names = [task.step_quantity(wording, thinking[b:e]) for b, e in steps]
    boxes = re.findall(r"\\boxed\{(\d)\}", text)
    relevant = {q["name"]: q["relevant"] for q in problem["quantities"]}
    roots = {q["name"] for q in (problem["quantities"][problem["k"] - 1], problem["quantities"][-1])}
    computed = [n for n in names if n is not None]
    wanted = set(relevant) - roots
    tidy = (bool(mark) and names[:-1] == computed and len(set(computed)) == len(computed)
            and bool(computed) and computed[-1] == problem["asked"] and set(computed) <= set(relevant))
    return {"id": problem["id"], "problem": problem, "prompt": prompt, "thinking": thinking, "steps": steps,
            "names": names, "right": len(boxes) == 2 and all(b == problem["answer"] for b in boxes),
            "tidy": tidy, "full": tidy and set(computed[:-1]) == wanted,
            "only": tidy and all(relevant[n] for n in computed),
            "first": relevant.get(computed[0]) if computed else None}


def own_chains(model, tokenizer, wording, problems, temperature, seed):
    prompts = [wording.prompt(p["question"]) for p in problems]
    drift, chains = 0, []
    for problem, prompt, ids in zip(problems, prompts,
                                    generate(model, tokenizer, prompts, temperature, seed)):
        text = tokenizer.decode(ids, skip_special_tokens=False)
        drift += tokenizer.encode(prompt + text).ids != tokenizer.encode(prompt).ids + ids
        chains.append(parse_chain(wording, problem, prompt, text))
    return chains, drift


@torch.no_grad()
def cued_accuracy(model, tokenizer, texts, answers):
    """Share of greedy digits that are right straight after a cue."""
    right = []
    for text, answer in zip(texts, answers):
        logits = model(torch.tensor([tokenizer.encode(text).ids])).logits[0, -1]
        right.append(tokenizer.decode([int(logits.argmax())]) == answer)
    return float(np.mean(right))


def cue_figures(model, tokenizer, wording, chains):
    """Answers after the cue: no step, all steps but the root's, the important ones, the others."""
    def text(chain, keep):
        kept = [chain["thinking"][b:e] for (b, e), n in zip(chain["steps"][:-1], chain["names"]) if keep(n)]
        return chain["prompt"] + ("".join(kept) + task.CUE if kept else task.CUE_EMPTY)

    def accuracy(keep_of):
        return cued_accuracy(model, tokenizer, [text(c, keep_of(c)) for c in chains],
                             [c["problem"]["answer"] for c in chains])

    relevant = {id(c): {q["name"]: q["relevant"] for q in c["problem"]["quantities"]} for c in chains}
    parents = {id(c): set(next(q for q in c["problem"]["quantities"]
                               if q["name"] == c["problem"]["asked"])["parents"]) for c in chains}
    return {
        "direct": accuracy(lambda c: lambda n: False),
        "all steps but the root's": accuracy(lambda c: lambda n: n != c["problem"]["asked"]),
        "important steps but the root's":
            accuracy(lambda c: lambda n: relevant[id(c)][n] and n != c["problem"]["asked"]),
        "root's parents alone": accuracy(lambda c: lambda n: n in parents[id(c)]),
        "steps of the other group alone": accuracy(lambda c: lambda n: not relevant[id(c)][n]),
        "important steps without the root's parents":
            accuracy(lambda c: lambda n: relevant[id(c)][n] and n not in parents[id(c)]
                     and n != c["problem"]["asked"]),
    }


# ---------------------------------------------------------------------------------------- probing

@torch.no_grad()
def step_vectors(model, tokenizer, chains):
    """{position: [layers + 1, steps, hidden]} and one record a step."""
    captured = []
    blocks = model.model.layers
    hooks = [blocks[0].register_forward_pre_hook(lambda m, a, k: captured.append(a[0] if a else k["hidden_states"]),
                                                 with_kwargs=True)]
    hooks += [b.register_forward_hook(lambda m, a, o: captured.append(o[0] if isinstance(o, tuple) else o))
              for b in blocks]
    vectors, records = {p: [] for p in POSITIONS}, []
    for chain in chains:
        captured.clear()
        encoding = tokenizer.encode(chain["prompt"] + chain["thinking"])
        model(torch.tensor([encoding.ids]))
        stream = torch.stack([c.reshape(len(encoding.ids), -1) for c in captured]).float().numpy()
        offset = len(chain["prompt"])
        by_name = {q["name"]: q for q in chain["problem"]["quantities"]}
        starts = [begin for begin, _ in encoding.offsets]
        for number, ((begin, end), name) in enumerate(zip(chain["steps"], chain["names"])):
            if name is None or name == chain["problem"]["asked"]:
                continue
            tokens = [t for t, s in enumerate(starts) if offset + begin <= s < offset + end]
            picks = {"mean": stream[:, tokens].mean(1), "first": stream[:, tokens[0]],
                     "middle": stream[:, tokens[len(tokens) // 2]], "last": stream[:, tokens[-1]],
                     "before": stream[:, tokens[0] - 1]}
            for p in POSITIONS:
                vectors[p].append(picks[p])
            records.append({"problem": chain["id"], "label": int(by_name[name]["relevant"]),
                            "hops": by_name[name]["hops"], "index": number, "tokens": len(tokens),
                            "text": chain["thinking"][begin:end].strip(),
                            "place": tokens[0], "share": number / len(chain["steps"])})
    for hook in hooks:
        hook.remove()
    return {p: np.stack(v, 1) for p, v in vectors.items()}, records


def linear(strength):
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=300))


def out_of_fold(features, labels, groups, make, folds=5):
    predictions = np.zeros(len(labels), int)
    for train, test in GroupKFold(folds).split(labels, labels, groups):
        predictions[test] = make().fit(features[train], labels[train]).predict(features[test])
    return predictions


def best_layer(vectors, labels, groups, strength, folds=5):
    """Predictions with the layer chosen by an inner split of each training fold."""
    predictions, chosen = np.zeros(len(labels), int), []
    for train, test in GroupKFold(folds).split(labels, labels, groups):
        inner_train, inner_test = next(GroupKFold(4).split(train, train, groups[train]))
        scores = [np.mean(linear(strength).fit(v[train[inner_train]], labels[train[inner_train]])
                          .predict(v[train[inner_test]]) == labels[train[inner_test]]) for v in vectors]
        layer = int(np.argmax(scores))
        chosen.append(layer)
        predictions[test] = linear(strength).fit(vectors[layer][train], labels[train]).predict(vectors[layer][test])
    return predictions, chosen


def balanced(labels, predictions, weights=None):
    weights = np.ones(len(labels)) if weights is None else weights
    return np.mean([np.average(predictions[labels == c] == c, weights=weights[labels == c]) for c in (0, 1)])


def interval(labels, groups, *predictions, rounds=1000, seed=0):
    """Balanced accuracy (of the first minus the second, if two) with a bootstrap over problems."""
    rng = np.random.default_rng(seed)
    _, member = np.unique(groups, return_inverse=True)
    def value(weights=None):
        scores = [balanced(labels, p, weights) for p in predictions]
        return scores[0] - scores[1] if len(scores) == 2 else scores[0]
    draws = []
    for _ in range(rounds):
        counts = np.bincount(rng.integers(0, member.max() + 1, member.max() + 1), minlength=member.max() + 1)
        draws.append(value(counts[member].astype(float)))
    low, high = np.percentile(draws, (2.5, 97.5))
    return f"{100 * value():.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def surface(records, before=False):
    names = ("index", "place", "share") if before else ("index", "place", "share", "tokens")
    return np.array([[r[n] for n in names] + ([] if before else [len(r["text"])]) for r in records], float)


def probe_report(model, twin, tokenizer, chains, strength):
    vectors, records = step_vectors(model, tokenizer, chains)
    random_vectors, _ = step_vectors(twin, tokenizer, chains)
    labels = np.array([r["label"] for r in records])
    groups = np.array([r["problem"] for r in records])
    hops = np.array([-1 if r["hops"] is None else r["hops"] for r in records])
    texts = np.array([r["text"] for r in records])
    print(f"probing: {len(chains)} chains, {len(labels)} steps, {labels.mean():.3f} important")

    print("\nbalanced accuracy of `mean` by layer")
    by_layer = [out_of_fold(v, labels, groups, lambda: linear(strength)) for v in vectors["mean"]]
    for layer, p in enumerate(by_layer):
        print(f"  layer {layer}: {interval(labels, groups, p)}")

    best, chosen = best_layer(vectors["mean"], labels, groups, strength)
    twin_best, _ = best_layer(random_vectors["mean"], labels, groups, strength)
    words = out_of_fold(texts, labels, groups, lambda: make_pipeline(
        CountVectorizer(token_pattern=r"\w+"), LogisticRegression(C=0.1, max_iter=300)))
    tfidf = out_of_fold(texts, labels, groups, lambda: make_pipeline(
        TfidfVectorizer(ngram_range=(1, 5), sublinear_tf=True), LogisticRegression(max_iter=300)))
    place = out_of_fold(surface(records), labels, groups, lambda: linear(1.0))
    print(f"\nbest layer (chosen inside, {chosen}): {interval(labels, groups, best)}")
    print(f"random weights, best layer: {interval(labels, groups, twin_best)}")
    print(f"paired difference: {interval(labels, groups, best, twin_best)}")
    print(f"bag of words: {interval(labels, groups, words)}")
    print(f"TF-IDF: {interval(labels, groups, tfidf)}")
    print(f"position and length: {interval(labels, groups, place)}")

    print("\nby hop distance: important steps of that distance against all steps of the other group")
    for distance in sorted(set(hops[hops > 0])):
        part = (hops == distance) | (hops < 0)
        print(f"  {distance}: {interval(labels[part], groups[part], best[part])}, "
              f"position and length {interval(labels[part], groups[part], place[part])}, "
              f"{int((hops == distance).sum())} steps, recall {np.mean(best[hops == distance]):.3f}")

    print("\nbest layer at every position, beside position alone")
    for position in POSITIONS:
        p, chosen = best_layer(vectors[position], labels, groups, strength)
        b = out_of_fold(surface(records, before=position == "before"), labels, groups, lambda: linear(1.0))
        print(f"  {position}: {interval(labels, groups, p)} (layers {chosen}), baseline {interval(labels, groups, b)}")


# ------------------------------------------------------------------------------------------ main

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="demo-a, demo-b or a folder")
    parser.add_argument("--problems", required=True)
    parser.add_argument("--count", type=int, default=1200)
    parser.add_argument("--probe-chains", type=int, default=400)
    parser.add_argument("--strength", type=float, default=0.05, help="C of the probe")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--no-probe", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    folder = args.model if os.path.isdir(args.model) else os.path.join(HERE, "models", args.model)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    wording = task.WORDINGS["a" if model.config.model_type == "llama" else "b"]
    with open(args.problems, encoding="utf-8") as file:
        problems = [json.loads(line) for line in file][:args.count]

    greedy, _ = own_chains(model, tokenizer, wording, problems[:200], 0.0, args.seed)
    print(f"greedy: right {np.mean([c['right'] for c in greedy]):.3f} of {len(greedy)}")
    chains, drift = own_chains(model, tokenizer, wording, problems, 1.0, args.seed)
    print(f"temperature 1: right {np.mean([c['right'] for c in chains]):.3f} of {len(chains)}, "
          f"tidy {np.mean([c['tidy'] for c in chains]):.3f}, "
          f"asked group alone {np.mean([c['only'] for c in chains]):.3f}, "
          f"both in full {np.mean([c['full'] for c in chains]):.3f}, "
          f"re-tokenised differently {drift}")
    full = [c for c in chains if c["full"] and c["right"]]
    first = [c["first"] for c in chains]
    print(f"first step relevant: {np.mean([bool(f) for f in first]):.3f} (expected about 0.75), "
          f"in full chains {np.mean([bool(c['first']) for c in full]) if full else float('nan'):.3f} (0.5)")
    if full:
        for kind, accuracy in cue_figures(model, tokenizer, wording, full[:200]).items():
            print(f"answer after the cue, {kind}: {accuracy:.3f}")
    if not args.no_probe and len(full) >= 50:
        torch.manual_seed(args.seed)
        twin = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)).float().eval()
        probe_report(model, twin, tokenizer, full[:args.probe_chains], args.strength)


if __name__ == "__main__":
    main()
