#!/usr/bin/env python3
"""The sufficiency curve of a chain by others: K samples behind every prefix.

Usage: sufficiency_peers.py published|llama-one|llama-batch|check INPUT.json
published    transformers' generate, one prompt and one sample at a time
llama-one    llama.cpp, one sequence at a time; of the sequence before, the KV
             store keeps what the prompts have in common, and the prompt for
             all of its samples
llama-batch  llama.cpp, everything in one batch: the chain once, the prefixes
             share its cells, the samples those of their prompt.
             --merge: samples that have drawn the same are one sequence until
             they part
check        greedily all of them, and drawn all of llama.cpp's, must agree
INPUT.json, as chain40.py writes it: model_dir, gguf, prompts (tokens), answers
(tokens of each answer), answer (its text, for the sufficiency), k, temperature, top_p, max_new (0: twice the answer),
seed, stops. There is no top-k. llama.cpp's forms draw by the same uniform
numbers, so they draw the same tokens but for rounding.
--tune tries settings of llama.cpp on the first prompts, prints the fastest as
{"settings": {...}}; --settings takes them. --prompts N times N prompts, evenly
spread, the shortest and the longest among them, and extrapolates by tokens
(published only: the other forms live on what prompts share). Prints one JSON
object; seconds (the median of --repeat) leave out loading, the KV store's
setting up and one prompt for warming up.
"""
import argparse
import json
import os
import statistics
import time

import numpy as np

LLAMA = ("llama-one", "llama-batch")


class Task:
    """What is asked, read from INPUT.json and the command line."""

    def __init__(self, options):
        with open(options.input, encoding="utf-8") as file:
            said = json.load(file)
        self.folder, self.gguf = said["model_dir"], said["gguf"]
        self.prompts, self.k = said["prompts"], options.k or said["k"]
        self.top_p, self.seed = said["top_p"], said["seed"]
        self.temperature = (said["temperature"] if options.temperature is None
                            else options.temperature)
        most = options.max_new or said.get("max_new")
        self.limits = [most or 2 * n for n in said["answers"]]
        self.stops, self.answer = said["stops"], said.get("answer")
        if len(self.limits) != len(self.prompts):
            raise SystemExit(f"{options.input}: {len(self.prompts)} prompts, "
                             f"{len(self.limits)} answers")

    def only(self, chosen):
        """The same for some of the prompts."""
        part = object.__new__(Task)
        part.__dict__ = self.__dict__ | {
            "prompts": [self.prompts[i] for i in chosen],
            "limits": [self.limits[i] for i in chosen]}
        return part

    def sampling(self):
        from llama_low import Sampling
        return Sampling(self.prompts, self.limits, self.k, self.temperature,
                        self.top_p, self.stops, self.seed)


# ---------------------------------------------------------------------- forms

class Published:
    """One prompt and one sample at a time, the seed set before each prompt."""

    def __init__(self, task, options):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        torch.set_num_threads(options.settings.get("threads",
                                                   os.cpu_count()))
        self.torch, self.task, self.computed = torch, task, 0
        self.tokenizer = AutoTokenizer.from_pretrained(task.folder)
        self.model = AutoModelForCausalLM.from_pretrained(
            task.folder, dtype=torch.float32).eval()

    def sample(self, i):
        task = self.task
        drawn = {"do_sample": False}
        if task.temperature > 0:
            drawn = {"do_sample": True, "temperature": task.temperature,
                     "top_p": task.top_p, "top_k": 0}
        ids = self.torch.tensor([task.prompts[i]])
        out = self.model.generate(
            ids, attention_mask=self.torch.ones_like(ids),
            max_new_tokens=task.limits[i], eos_token_id=task.stops,
            pad_token_id=task.stops[0], **drawn)
        new = out[0, ids.shape[1]:].tolist()
        self.computed += ids.shape[1] + len(new) - 1
        return new

    def run(self):
        self.computed, found = 0, []
        with self.torch.inference_mode():
            for i in range(len(self.task.prompts)):
                self.torch.manual_seed(self.task.seed)
                found.append([self.sample(i) for _ in range(self.task.k)])
        return found

    def text(self, ids):
        return self.tokenizer.decode(ids)

    def close(self):
        pass


class LlamaForm:
    """What both forms of llama.cpp share."""

    model = None  # loaded once

    def __init__(self, task):
        import llama_low
        if not LlamaForm.model:
            LlamaForm.model = llama_low.load(task.gguf)
        self.low, self.task, self.sampling = llama_low, task, task.sampling()

    @property
    def computed(self):
        return self.context.computed

    def text(self, ids):
        return self.low.texts(self.model, ids)

    def close(self):
        self.context.close()


class LlamaOne(LlamaForm):
    def __init__(self, task, options):
        super().__init__(task)
        cells = max(len(p) + m for p, m in zip(task.prompts, task.limits))
        self.context = self.low.Context(self.model, cells, 1,
                                        options.settings)

    def sample(self, i, number, first):
        """One more sample; first: what the prompt's logits allow."""
        sampling, context = self.sampling, self.context
        n, uniform = len(sampling.prompts[i]), sampling.uniform[i, number]
        ids = [first.pick(uniform[0])]
        while not sampling.ended(i, ids):
            context.add(ids[-1], n + len(ids) - 1, [0], True)
            nucleus = sampling.nucleus(context.decode()[0])
            ids.append(nucleus.pick(uniform[len(ids)]))
        context.drop(0, n)
        return ids

    def run(self):
        context, found, held = self.context, [], []
        context.clear()
        for i, prompt in enumerate(self.sampling.prompts):
            kept = min(self.low.common(held, prompt), len(prompt) - 1)
            context.drop(0, kept)
            for place in range(kept, len(prompt)):
                context.add(prompt[place], place, [0],
                            place == len(prompt) - 1)
            first = self.sampling.nucleus(context.decode()[0])
            found.append([self.sample(i, s, first)
                          for s in range(self.sampling.k)])
            held = prompt
        return found


class LlamaBatch(LlamaForm):
    def __init__(self, task, options):
        super().__init__(task)
        self.batched = self.low.Batched(self.model, self.sampling,
                                        options.settings, options.merge)
        self.context, self.run = self.batched.context, self.batched.run


FORMS = {"published": Published, "llama-one": LlamaOne,
         "llama-batch": LlamaBatch}


# --------------------------------------------------------------------- timing

def warm_up(form, task, options):
    """Pages are in memory, threads started."""
    tried = FORMS[form](task.only([0]), options)
    tried.run()
    tried.close()


def timed(form, task, options):
    """The form, its completions, and seconds of every turn, by the clock and
    of the processor."""
    one, seconds, found = FORMS[form](task, options), [], None
    for _ in range(options.repeat):
        start, before = time.perf_counter(), time.process_time()
        found = one.run()
        seconds.append((time.perf_counter() - start,
                        time.process_time() - before))
    return one, found, seconds


def spread(n, of):
    return sorted({round(v) for v in np.linspace(0, of - 1, min(n, of))})


def boxed(completion):
    """What stands in the box that the cue has opened; these answers are
    plain numbers, so that equal text is all that counts."""
    return completion.split("}")[0].strip()


def measure(task, options):
    """The JSON object that is printed."""
    chosen = list(range(len(task.prompts)))
    if options.prompts:
        if options.form != "published":
            raise SystemExit("--prompts is for the published form: to leave "
                             "prompts out changes what the others share")
        chosen = spread(options.prompts, len(chosen))
    some = task.only(chosen)
    warm_up(options.form, task, options)
    one, found, seconds = timed(options.form, some, options)
    sampled = sum(len(ids) for samples in found for ids in samples)
    said = {"form": options.form + (", merged" if options.merge else ""),
            "seconds": statistics.median(clock for clock, _ in seconds),
            "cpu_seconds": statistics.median(cpu for _, cpu in seconds),
            "all_seconds": [clock for clock, _ in seconds],
            "prompts": len(task.prompts), "timed_prompts": len(chosen),
            "sampled": sampled, "computed": one.computed,
            "temperature": task.temperature, "top_p": task.top_p, "top_k": 0,
            "k": task.k, "extrapolated": len(chosen) < len(task.prompts)}
    if said["extrapolated"]:
        share = (sum(map(len, some.prompts)) / sum(map(len, task.prompts)))
        said["note"] = (f"timed {len(chosen)} of {len(task.prompts)} prompts, "
                        f"{share:.3f} of the prompts' tokens; seconds and "
                        "tokens are divided by that")
        said["timed_seconds"] = said["seconds"]
        for key in ("seconds", "cpu_seconds", "sampled", "computed"):
            said[key] /= share
    said["ids"] = found
    said["completions"] = [[one.text(ids) for ids in samples]
                           for samples in found]
    if task.answer is not None:
        said["sufficiency"] = [
            sum(boxed(text) == task.answer for text in samples) / task.k
            for samples in said["completions"]]
    one.close()
    return said


TRIED = {"llama-one": ({"flash": 0}, {"kv": "f32"}),
         "llama-batch": ({"group": 20}, {"group": 10}, {"group": 5},
                         {"flash": 0}, {"kv": "f32"}, {"ubatch": 256},
                         {"ubatch": 2048})}


def tune(task, options):
    """One setting after the other; what is faster stays. Groups have to be
    tried on all prompts; one at a time ten tell enough."""
    if options.form not in LLAMA:
        raise SystemExit(f"{options.form} has nothing to tune")
    if options.form == "llama-one":
        task = task.only(range(min(10, len(task.prompts))))
    warm_up(options.form, task, options)
    best, least, tried = options.settings, None, []
    for change in ({}, *TRIED[options.form]):
        options.settings = best | change
        one, _, seconds = timed(options.form, task, options)
        one.close()
        took = min(clock for clock, _ in seconds)
        tried.append(options.settings | {"seconds": took})
        if least is None or took < least:
            best, least = options.settings, took
    return {"settings": best, "tried": tried}


# ---------------------------------------------------------------------- check

def gap(published, prompt, a, b):
    """How far apart the logits of two tokens are, by transformers."""
    torch = published.torch
    with torch.inference_mode():
        logits = published.model(torch.tensor([prompt])).logits[0, -1]
    return float(abs(logits[a] - logits[b]))


def compare(name, theirs, ours, task, published):
    """Completions that differ, and at the first difference the logits' gap."""
    differ = []
    for prompt, a, b in zip(task.prompts, theirs, ours):
        for x, y in zip(a, b):
            if x != y:
                at = next((t for t, (u, v) in enumerate(zip(x, y)) if u != v),
                          min(len(x), len(y)) - 1)
                differ.append(gap(published, prompt + x[:at], x[at], y[at]))
    return {"of": name, "completions": sum(map(len, theirs)),
            "differ": len(differ), "gaps": differ}


def check_nucleus(task, published):
    """Ours against transformers' own: the probability that is elsewhere."""
    from transformers import TemperatureLogitsWarper, TopPLogitsWarper
    torch, worst = published.torch, 0.0
    temperature = task.temperature or 0.6
    warm, top = (TemperatureLogitsWarper(temperature),
                 TopPLogitsWarper(task.top_p))
    from llama_low import Nucleus
    for prompt in task.prompts:
        with torch.inference_mode():
            logits = published.model(torch.tensor([prompt])).logits[0, -1:]
        theirs = torch.softmax(top(None, warm(None, logits)), -1)[0]
        nucleus = Nucleus(logits[0].numpy(), temperature, task.top_p)
        ours = torch.zeros_like(theirs)
        ours[torch.tensor(nucleus.ids)] = torch.tensor(
            np.diff(nucleus.sums, prepend=0), dtype=ours.dtype)
        worst = max(worst, float((ours - theirs).abs().sum() / 2))
    return worst


def check(task, options):
    """Forms side by side; wrong is what no near tie explains."""
    chosen = spread(options.prompts or 4, len(task.prompts))
    drawn = task.only(chosen)
    greedy = task.only(chosen)
    greedy.temperature, greedy.k = 0.0, 1
    published = Published(greedy, options)
    rows = []
    for part in (greedy, drawn):
        found = {}
        for form in LLAMA:
            for options.merge in (False, True)[:1 + (form == "llama-batch")]:
                one = FORMS[form](part, options)
                found[form + ", merged" * options.merge] = one.run()
                one.close()
        first = published.run() if part is greedy else found["llama-one"]
        kind = ("greedy, published" if part is greedy else
                f"temperature {part.temperature:g}, llama-one")
        rows += [compare(f"{kind} and {name}", first, other, part, published)
                 for name, other in found.items() if other is not first]
    apart = check_nucleus(drawn, published)
    wrong = apart > 1e-4 or any(
        g > 0.05 for row in rows if row["of"].startswith("greedy")
        for g in row["gaps"]) or any(
        row["differ"] > 0.05 * row["completions"] for row in rows)
    return {"agree": not wrong, "prompts": len(chosen),
            "max_new": max(drawn.limits), "nucleus_apart": apart,
            "compared": rows}


# -------------------------------------------------------------------- command

def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("form", choices=[*FORMS, "check"])
    parser.add_argument("input")
    parser.add_argument("--prompts", type=int, default=0)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--merge", action="store_true")
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--settings", type=json.loads, default={},
                        help="JSON, as --tune prints it; threads as well")
    parser.add_argument("--gguf", help="other weights than the input's")
    parser.add_argument("--k", type=int, help="in place of the input's")
    parser.add_argument("--temperature", type=float, help="the same")
    parser.add_argument("--max-new", type=int, help="the same")
    options = parser.parse_args()
    task = Task(options)
    task.gguf = options.gguf or task.gguf
    if options.form == "check":
        said = check(task, options)
        print(json.dumps(said))
        raise SystemExit(0 if said["agree"] else 1)
    print(json.dumps(tune(task, options) if options.tune
                     else measure(task, options)))


if __name__ == "__main__":
    main()
