#!/usr/bin/env python3
"""Tokenizer, training and export of the two demo models.

  train.py --model demo-a          train (resumes from the last checkpoint), write the loss curve, export
  train.py --model demo-a --export export the last checkpoint again

The data are generated on the fly by task.py from fixed seeds.  The parameters carry the names that
transformers gives them, so an export is a cast to bf16 and a rename of the folder.
"""
import argparse
import csv
import json
import math
import os
import random
import re
import shutil
import sys
import time
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

import task

HERE = os.path.dirname(os.path.abspath(__file__))


@dataclass
class Shape:
    wording: str
    architecture: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    tied: bool
    bias: bool            # on q, k and v, as Qwen2 has it
    theta: float
    seed: int
    head_dim: int = 64


SHAPES = {
    "demo-a": Shape("a", "llama", 128, 8, 4, 2, 256, True, False, 10000.0, 11),
    "demo-b": Shape("b", "qwen2", 192, 7, 3, 3, 256, False, True, 10000.0, 12),
}

# Stage by stage: shares of k; of chains with both groups; of restated definitions; of chains with steps
# missing; of direct answers; fewest and most batches.  A stage ends when the model's choice of the next step is
# close to the known distribution.
@dataclass
class Stage:
    ks: dict
    share: float
    restate: float = 0.0
    verdict: float = 0.0
    thin: float = 0.0
    direct: float = 0.0
    finish: bool = False
    fewest: int = 50
    most: int = 500


STAGES = [
    Stage({1: 0.2, 2: 0.8}, 0.0, restate=0.15, verdict=0.6, fewest=200, most=900),
    Stage({2: 0.4, 3: 0.6}, 0.0, restate=0.05, verdict=0.5, most=600),
    Stage({2: 0.1, 3: 0.3, 4: 0.6}, 0.0, verdict=0.4, thin=0.05, most=900),
    Stage({2: 0.1, 3: 0.2, 4: 0.7}, 0.3, verdict=0.3, thin=0.08, direct=0.01, most=500),
    Stage({2: 0.05, 3: 0.15, 4: 0.8}, 0.5, verdict=0.15, thin=0.12, direct=0.03, fewest=10**9, most=1950),
    Stage({2: 0.05, 3: 0.1, 4: 0.85}, 0.5, verdict=0.1, thin=0.12, direct=0.03, finish=True, fewest=10**9, most=10**9),
]
PASS = 0.12           # mean divergence from the known distribution of the next step, in nats
CHOICE_WEIGHT = 20.0  # the choice of the next step
VALUE_WEIGHT = 2.0    # a digit or an operand in a step
ANSWER_WEIGHT = 10.0  # the digit after a cue on a thin chain
MARK_WEIGHT = 15.0    # the word that says whether a step counts
TAIL_SHARE = 0.2      # of the chains go on to the answer; the others end with the root's step, to save time
# The last stage finishes what is right often but not always: results of steps, and the answer's digit.
RESULT_WEIGHT = 8.0
FINISH_TAIL = 0.6


# -------------------------------------------------------------------------------------- tokenizer

# The pattern of GPT-2 with single digits, as newer models have them.
PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def tokenizer_texts(wording, count=6000, seed=5):
    rng = random.Random(seed)
    for _ in range(count):
        problem = task.training_problem(rng, wording, 4)
        order, _ = task.make_chain(rng, problem, 0.5)
        yield (problem.question + " " + task.chain_text(problem, order)
               + task.answer_sentence(problem) + "\n\nThe answer is \\boxed{"
               + "\nuser\nassistant" + wording.verdict + wording.counts + wording.idles)


def train_tokenizer(wording, texts):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=2000, min_frequency=20, show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens(wording.special_tokens)
    for name in wording.names:
        assert len(tokenizer.encode(" " + name).ids) == 1, name
    return tokenizer


def tokenizer_config(wording):
    special = {"add_bos_token": False, "add_eos_token": False, "add_prefix_space": False,
               "bos_token": wording.start or None, "eos_token": wording.end, "unk_token": None,
               "pad_token": wording.special_tokens[0] if not wording.start else wording.end,
               "clean_up_tokenization_spaces": False, "model_max_length": 512,
               "chat_template": wording.chat_template, "tokenizer_class": "PreTrainedTokenizerFast"}
    return special


# ------------------------------------------------------------------------------------------ model

class RMSNorm(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x):
        return F.rms_norm(x, self.weight.shape, self.weight, 1e-6)


class Attention(nn.Module):
    def __init__(self, s):
        super().__init__()
        self.shape = s
        self.q_proj = nn.Linear(s.hidden, s.heads * s.head_dim, bias=s.bias)
        self.k_proj = nn.Linear(s.hidden, s.kv_heads * s.head_dim, bias=s.bias)
        self.v_proj = nn.Linear(s.hidden, s.kv_heads * s.head_dim, bias=s.bias)
        self.o_proj = nn.Linear(s.heads * s.head_dim, s.hidden, bias=False)

    def forward(self, x, cos, sin, mask=None):
        s = self.shape
        batch, length, _ = x.shape
        q = self.q_proj(x).view(batch, length, s.heads, s.head_dim).transpose(1, 2)
        k = self.k_proj(x).view(batch, length, s.kv_heads, s.head_dim).transpose(1, 2)
        v = self.v_proj(x).view(batch, length, s.kv_heads, s.head_dim).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        k = k.repeat_interleave(s.heads // s.kv_heads, 1)
        v = v.repeat_interleave(s.heads // s.kv_heads, 1)
        out = F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None)
        return self.o_proj(out.transpose(1, 2).reshape(batch, length, -1))


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


class MLP(nn.Module):
    def __init__(self, s):
        super().__init__()
        self.gate_proj = nn.Linear(s.hidden, s.intermediate, bias=False)
        self.up_proj = nn.Linear(s.hidden, s.intermediate, bias=False)
        self.down_proj = nn.Linear(s.intermediate, s.hidden, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, s):
        super().__init__()
        self.input_layernorm = RMSNorm(s.hidden)
        self.self_attn = Attention(s)
        self.post_attention_layernorm = RMSNorm(s.hidden)
        self.mlp = MLP(s)

    def forward(self, x, cos, sin, mask=None):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class Body(nn.Module):
    def __init__(self, s, vocabulary):
        super().__init__()
        self.embed_tokens = nn.Embedding(vocabulary, s.hidden)
        self.layers = nn.ModuleList(Block(s) for _ in range(s.layers))
        self.norm = RMSNorm(s.hidden)


def initialise(model, s):
    """Plain normal weights, and in every layer two kinds of heads that training otherwise takes
    thousands of batches to find: heads of the first key group look a few tokens back, those of the
    last at earlier copies of the same token.  What they carry and how it is put to use is learned."""
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            nn.init.normal_(parameter, std=0.5 / math.sqrt(parameter.shape[1]))
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.data /= math.sqrt(2 * s.layers)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
    with torch.no_grad():
        embedding = model.model.embed_tokens.weight
        nn.init.normal_(embedding, std=EMBEDDING_STD)
        embedding[:, 0] = 4 * EMBEDDING_STD  # the same for all tokens: positional heads hang on to it
        model.lm_head.weight.copy_(embedding)
        for index, layer in enumerate(model.model.layers):
            look_back(layer.self_attn, s, DISTANCES[index % len(DISTANCES)])
            look_alike(layer.self_attn, s)


EMBEDDING_STD = 0.15
DISTANCES = [(1, 2), (2, 4), (1, 3), (2, 5), (4, 1), (2, 3)]  # tokens back, of the first heads a layer
LOOK_BACK = 4.0    # amplitude: how sharply a head looks at its distance
LOOK_ALIKE = 0.12  # std of the shared projection


def look_back(attention, s, distances):
    """q.k peaks at a distance: in the four fastest rotations, q is k turned by that distance."""
    half, heads = s.head_dim // 2, s.heads // s.kv_heads
    constant = 4 / math.sqrt((16 + s.hidden - 1) / s.hidden)  # of the first input after the norm
    q = attention.q_proj.weight.view(s.heads, s.head_dim, s.hidden)
    k = attention.k_proj.weight.view(s.kv_heads, s.head_dim, s.hidden)
    groups = 2 if s.kv_heads > 2 else 1
    for h in range(groups * heads):
        q[h] *= 0.3
        if h % heads == 0:
            k[h // heads] *= 0.3
            k[h // heads, :4, 0] += LOOK_BACK / constant
        for f in range(4):
            angle = -distances[h % 2] * s.theta ** (-f / half)
            q[h, f, 0] += LOOK_BACK / constant * math.cos(angle)
            q[h, f + half, 0] += LOOK_BACK / constant * math.sin(angle)


def look_alike(attention, s):
    """q and k of the last group are one random projection, in the rotations too slow to matter
    within a text, so that equal tokens attend to each other at any distance."""
    half, heads = s.head_dim // 2, s.heads // s.kv_heads
    slow = list(range(18, half)) + list(range(half + 18, s.head_dim))
    q = attention.q_proj.weight.view(s.heads, s.head_dim, s.hidden)
    k = attention.k_proj.weight.view(s.kv_heads, s.head_dim, s.hidden)
    shared = torch.randn(len(slow), s.hidden) * LOOK_ALIKE * math.sqrt(128 / s.hidden)
    shared[:, 0] = 0
    q[-heads:] *= 0.3
    k[-1] *= 0.3
    k[-1, slow] = shared
    q[-heads:, slow] = shared


class Model(nn.Module):
    """Llama and Qwen2 differ here only in the biases of q, k and v."""

    def __init__(self, s, vocabulary):
        super().__init__()
        self.shape = s
        self.model = Body(s, vocabulary)
        self.lm_head = nn.Linear(s.hidden, vocabulary, bias=False)
        initialise(self, s)
        if s.tied:
            self.lm_head.weight = self.model.embed_tokens.weight
        angles = torch.outer(torch.arange(512).float(),
                             s.theta ** (-torch.arange(0, s.head_dim, 2).float() / s.head_dim))
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def hidden(self, ids, positions=None, mask=None):
        """positions [batch, tokens] and mask [batch, 1, tokens, tokens] (true: may look), both for texts
        that share their beginning; without them every row is one text."""
        x = self.model.embed_tokens(ids)
        if positions is None:
            cos, sin = self.cos[:ids.shape[1]], self.sin[:ids.shape[1]]
        else:
            cos, sin = self.cos[positions][:, None], self.sin[positions][:, None]
        for layer in self.model.layers:
            x = layer(x, cos, sin, mask)
        return self.model.norm(x)

    def forward(self, ids):
        return self.lm_head(self.hidden(ids))


# ------------------------------------------------------------------------------------------- data

class Sample:
    """Token ids, a weight for each token as a target, and the known distribution of every next step."""
    __slots__ = ("text", "marks", "choices", "relevant", "k", "ids", "weights", "targets", "first")

    def __init__(self, k):
        self.k, self.marks, self.choices, self.relevant = k, [], [], set()
        self.targets = {}


def full_sample(rng, wording, problem, share, finish):
    sample = Sample(problem.k)
    order, choices = task.make_chain(rng, problem, share)
    sample.text = wording.prompt(problem.question)
    begin = len(sample.text)
    asked_again = sample.text.rindex(problem.quantities[problem.asked].name) - 1
    sample.marks.append((asked_again, asked_again + 2, 0.5))
    for number, (index, choice) in enumerate(zip(order, choices)):
        step = wording.step(problem, problem.quantities[index])
        start = len(sample.text) + (number > 0)
        sample.text += (" " if number else "") + step
        sample.choices.append((start + len(wording.opener),
                               {problem.quantities[i].name: p for i, p in choice.items()}))
    sample.marks.append((begin, len(sample.text), VALUE_WEIGHT))
    if finish:
        sample.marks += [(begin + m.start(1), begin + m.end(1), RESULT_WEIGHT)
                         for m in re.finditer(r"(\d)(?: coins)?\.", sample.text[begin:])]
    sample.relevant = {q.name for i, q in enumerate(problem.quantities) if problem.relevant(i)}
    if rng.random() > (FINISH_TAIL if finish else TAIL_SHARE):
        sample.text += " Therefore"
        sample.marks.append((len(sample.text) - 1, len(sample.text), VALUE_WEIGHT))
        return sample
    begin = len(sample.text)
    sample.text += (task.answer_sentence(problem) + "\n</think>" + wording.rest(problem.answer))
    sample.marks.append((begin, len(sample.text), 1.0))
    if finish:
        sample.marks += [(begin + m.start(1), begin + m.end(1), ANSWER_WEIGHT)
                         for m in re.finditer(r"boxed\{(\d)", sample.text[begin:])]
    return sample


def thin_sample(rng, wording, problem, share):
    """A chain with steps missing and the answer straight after the cue; only the answer is learned."""
    sample = Sample(problem.k)
    order, _ = task.make_chain(rng, problem, share)
    kept = task.thin_chain(rng, problem, order)
    sample.text = wording.prompt(problem.question) + task.chain_text(problem, kept) + task.CUE
    begin = len(sample.text)
    sample.text += problem.answer + "}."
    sample.marks.append((begin, begin + 1, ANSWER_WEIGHT))
    sample.marks.append((begin + 1, len(sample.text), 1.0))
    return sample


def direct_sample(wording, problem):
    sample = Sample(problem.k)
    sample.text = wording.prompt(problem.question) + task.CUE_EMPTY + problem.answer + "}."
    begin = len(wording.prompt(problem.question)) + len(task.CUE_EMPTY)
    sample.marks.append((begin, len(sample.text), 1.0))
    return sample


def verdict_sample(rng, wording, problem):
    """Quantities that say whether they count: many chances a text to learn what is relevant."""
    sample = Sample(problem.k)
    sample.text = wording.prompt(problem.question + wording.verdict)[:-1]
    for name, verdict in task.verdicts(rng, problem):
        sample.text += " " + name
        begin = len(sample.text)
        sample.text += verdict
        sample.marks.append((begin, len(sample.text) - 1, MARK_WEIGHT))
    return sample


def restated_sample(rng, wording, problem):
    """The definitions once more in another order: looking a name up is learned from these first."""
    sample = Sample(problem.k)
    sample.text = wording.prompt(problem.question)
    told = [wording.define(problem, q) for q in problem.quantities]
    rng.shuffle(told)
    begin = len(sample.text)
    sample.text += " ".join(told)
    sample.marks.append((begin, len(sample.text), VALUE_WEIGHT))
    return sample


class Data:
    """Batches of samples of like length, drawn from pools of eight batches."""

    def __init__(self, shape, tokenizer, seed, batch):
        self.wording, self.tokenizer, self.batch = task.WORDINGS[shape.wording], tokenizer, batch
        self.rng = random.Random(seed)
        self.queue, self.stage = [], None
        self.name_id = {n: tokenizer.encode(" " + n).ids[0] for n in self.wording.names}

    def draw(self, stage):
        stage = STAGES[stage]
        k = self.rng.choices(list(stage.ks), list(stage.ks.values()))[0]
        restate = self.rng.random() < stage.restate
        problem = task.training_problem(self.rng, self.wording, 4 if restate else k)
        if restate:
            return restated_sample(self.rng, self.wording, problem)
        if self.rng.random() < stage.verdict:
            return verdict_sample(self.rng, self.wording, problem)
        kind = self.rng.random()
        if kind < stage.thin:
            return thin_sample(self.rng, self.wording, problem, stage.share)
        if kind < stage.thin + stage.direct:
            return direct_sample(self.wording, problem)
        return full_sample(self.rng, self.wording, problem, stage.share, stage.finish)

    def encode(self, samples):
        for sample, encoding in zip(samples, self.tokenizer.encode_batch([s.text for s in samples])):
            sample.ids = encoding.ids
            sample.weights = [0.0] * len(encoding.ids)
            token_of = {begin: t for t, (begin, _) in enumerate(encoding.offsets)}
            token_at = []  # token of every character
            for t, (begin, end) in enumerate(encoding.offsets):
                token_at += [t] * (end - len(token_at))
            for begin, end, weight in sample.marks:
                for t in range(token_at[begin], token_at[end - 1] + 1):
                    sample.weights[t] = weight
            for begin, choice in sample.choices:
                token = token_of[begin]
                sample.weights[token] = CHOICE_WEIGHT
                sample.targets[token] = {self.name_id[n]: (p, n in sample.relevant)
                                         for n, p in choice.items()}
            sample.first = min(sample.targets) if sample.targets else -1

    def next(self, stage):
        if not self.queue or stage != self.stage:
            self.stage = stage
            pool = [self.draw(stage) for _ in range(8 * self.batch)]
            self.encode(pool)
            pool.sort(key=lambda s: len(s.ids))
            self.queue = [pool[i:i + self.batch] for i in range(0, len(pool), self.batch)]
            self.rng.shuffle(self.queue)
        return self.queue.pop()


def loss_and_metrics(model, samples, tally):
    """Weighted cross entropy; at the choice of a step, against the known distribution."""
    length = max(len(s.ids) for s in samples) - 1
    ids = torch.zeros(len(samples), length, dtype=torch.long)
    weights = torch.zeros(len(samples), length)
    labels = torch.zeros(len(samples), length, dtype=torch.long)
    for row, s in enumerate(samples):
        n = len(s.ids) - 1
        ids[row, :n] = torch.tensor(s.ids[:-1])
        labels[row, :n] = torch.tensor(s.ids[1:])
        weights[row, :n] = torch.tensor(s.weights[1:])
    picked = weights.flatten().nonzero().squeeze(1)
    where = {int(p): i for i, p in enumerate(picked)}
    hidden = model.hidden(ids).flatten(0, 1)[picked]
    logp = model.lm_head(hidden).log_softmax(-1)
    labels, weights = labels.flatten()[picked], weights.flatten()[picked]
    nll = -logp.gather(1, labels[:, None]).squeeze(1)

    entries = [(s, token == s.first, where[r * length + token - 1], name, p, relevant)
               for r, s in enumerate(samples) for token, target in s.targets.items()
               for name, (p, relevant) in target.items()]
    is_choice = torch.zeros(len(nll), dtype=torch.bool)
    if entries:
        rows, columns = torch.tensor([e[2] for e in entries]), torch.tensor([e[3] for e in entries])
        p, relevant = torch.tensor([e[4] for e in entries]), torch.tensor([float(e[5]) for e in entries])
        at = logp[rows, columns]
        is_choice[rows] = True
        divergence = torch.zeros(len(nll)).index_add(0, rows, p * (p.log() - at))
        nll = torch.where(is_choice, divergence, nll)
        with torch.no_grad():
            zeros = torch.zeros(len(nll))
            ready = zeros.index_add(0, rows, at.exp())
            first = zeros.index_add(0, rows, at.exp() * relevant)
            want = zeros.index_add(0, rows, p * relevant)
            for s, is_first, row in {(e[0], e[1], e[2]) for e in entries}:
                tally.add(("ready", s.k), float(ready[row]))    # on steps that may come next
                tally.add(("kl", s.k), float(divergence[row]))
                if is_first:
                    tally.add(("first", s.k), float(first[row]))
                    tally.add(("want", s.k), float(want[row]))
    loss = (nll * weights).sum() / weights.sum()
    tally.add("token", float((logp.argmax(-1) == labels)[~is_choice].float().mean()))
    tally.add("loss", loss.item())
    marked = weights == MARK_WEIGHT
    if marked.any():
        tally.add("mark", float((logp.argmax(-1) == labels)[marked].float().mean()))
    return loss


class Tally:
    def __init__(self):
        self.sums = {}

    def add(self, key, value):
        total, n = self.sums.get(key, (0.0, 0))
        self.sums[key] = total + value, n + 1

    def mean(self, key):
        total, n = self.sums.get(key, (0.0, 0))
        return total / n if n else float("nan")


# ------------------------------------------------------------------------------------- optimiser

def make_optimiser(model, rate):
    return torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01)


# ----------------------------------------------------------------------------------------- export

def model_config(s, tokenizer):
    wording = task.WORDINGS[s.wording]
    config = {
        "architectures": ["LlamaForCausalLM" if s.architecture == "llama" else "Qwen2ForCausalLM"],
        "model_type": s.architecture, "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": s.hidden, "intermediate_size": s.intermediate, "num_hidden_layers": s.layers,
        "num_attention_heads": s.heads, "num_key_value_heads": s.kv_heads, "head_dim": s.head_dim,
        "hidden_act": "silu", "max_position_embeddings": 512, "rms_norm_eps": 1e-6,
        "rope_theta": s.theta, "rope_scaling": None, "attention_dropout": 0.0,
        "tie_word_embeddings": s.tied, "use_cache": True, "initializer_range": 0.02,
        "bos_token_id": tokenizer.token_to_id(wording.start) if wording.start else None,
        "eos_token_id": tokenizer.token_to_id(wording.end), "torch_dtype": "bfloat16"}
    if s.architecture == "llama":
        config.update(attention_bias=False, mlp_bias=False, pretraining_tp=1)
    else:
        config.update(use_sliding_window=False, sliding_window=None)
    return config


def export(shape, model, tokenizer, final):
    """Write the model folder beside its place, then swap it in."""
    folder = final + ".new"
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    wording = task.WORDINGS[shape.wording]
    state = {k: v.detach().to(torch.bfloat16).contiguous() for k, v in model.state_dict().items()
             if not (shape.tied and k == "lm_head.weight")}
    save_file(state, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    tokenizer.save(os.path.join(folder, "tokenizer.json"))
    config = model_config(shape, tokenizer)
    generation = {"do_sample": True, "temperature": 1.0, "bos_token_id": config["bos_token_id"],
                  "eos_token_id": config["eos_token_id"],
                  "pad_token_id": tokenizer.token_to_id(tokenizer_config(wording)["pad_token"])}
    for file, content in (("config.json", config), ("generation_config.json", generation),
                          ("tokenizer_config.json", tokenizer_config(wording))):
        with open(os.path.join(folder, file), "w", encoding="utf-8") as out:
            json.dump(content, out, indent=2, ensure_ascii=False)
            out.write("\n")
    old = final + ".old"
    shutil.rmtree(old, ignore_errors=True)
    if os.path.exists(final):
        os.rename(final, old)
    os.rename(folder, final)
    shutil.rmtree(old, ignore_errors=True)


# --------------------------------------------------------------------------------------- training

CURVE = (["batch", "stage", "tokens", "seconds", "loss", "token_right", "mark_right"]
         + [f"{m}_k{k}" for k in (1, 2, 3, 4) for m in ("ready", "kl", "first_relevant", "first_expected")])


def curve_row(step, stage, tokens, seconds, tally):
    row = [step, stage, tokens, round(seconds)] + [round(tally.mean(k), 4) for k in ("loss", "token", "mark")]
    for k in (1, 2, 3, 4):
        row += [round(tally.mean((m, k)), 4) for m in ("ready", "kl", "first", "want")]
    return row


def passed(tally, stage):
    return all(tally.mean(("kl", k)) < PASS for k in STAGES[stage].ks)


def warm_then_decay(step, args):
    return min(1.0, (step + 1) / 30) * min(1.0, max(0.0, (args.steps - step) / args.decay))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(SHAPES), required=True)
    parser.add_argument("--steps", type=int, default=4400)
    parser.add_argument("--decay", type=int, default=800, help="batches of linear decay to 0 at the end")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=0.001)
    parser.add_argument("--every", type=int, default=50, help="batches a row of the curve")
    parser.add_argument("--work", default="train", help="folder of the checkpoints")
    parser.add_argument("--export", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    shape = SHAPES[args.model]
    torch.manual_seed(shape.seed)
    os.makedirs(args.work, exist_ok=True)
    tokenizer_path = os.path.join(args.work, f"{args.model}-tokenizer.json")
    if not os.path.exists(tokenizer_path):
        wording = task.WORDINGS[shape.wording]
        train_tokenizer(wording, tokenizer_texts(wording)).save(tokenizer_path)
    tokenizer = Tokenizer.from_file(tokenizer_path)
    model = Model(shape, tokenizer.get_vocab_size())
    optimiser = make_optimiser(model, args.rate)
    data = Data(shape, tokenizer, shape.seed, args.batch)
    step = stage = in_stage = tokens = 0
    seconds = 0.0
    checkpoint = os.path.join(args.work, f"{args.model}.pt")
    curve = os.path.join(HERE, f"training-{args.model}.csv")
    folder = os.path.join(HERE, "models", args.model)
    if os.path.exists(checkpoint):
        saved = torch.load(checkpoint, weights_only=False)
        model.load_state_dict(saved["model"])
        optimiser.load_state_dict(saved["optimiser"])
        step, stage, in_stage, tokens, seconds = saved["progress"]
        data.rng.setstate(saved["rng"])
    else:
        with open(curve, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(CURVE)
    if args.export:
        export(shape, model, tokenizer, folder)
        return
    print(f"{args.model}: {sum(p.numel() for p in model.parameters())} parameters, "
          f"{tokenizer.get_vocab_size()} tokens", flush=True)
    tally, began = Tally(), time.time()
    while step < args.steps:
        samples = data.next(stage)
        loss = loss_and_metrics(model, samples, tally)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimiser.param_groups:
            group["lr"] = args.rate * warm_then_decay(step, args)
        optimiser.step()
        step, in_stage = step + 1, in_stage + 1
        tokens += sum(len(s.ids) for s in samples)
        if step % args.every == 0:
            seconds, began = seconds + time.time() - began, time.time()
            row = curve_row(step, stage, tokens, seconds, tally)
            print(*row, flush=True)
            with open(curve, "a", newline="", encoding="utf-8") as file:
                csv.writer(file).writerow(row)
            fewest, most = STAGES[stage].fewest, STAGES[stage].most
            if in_stage >= most or (in_stage >= fewest and passed(tally, stage)):
                stage, in_stage = stage + 1, 0
            tally = Tally()
        if step % (4 * args.every) == 0 or step == args.steps:
            torch.save({"model": model.state_dict(), "optimiser": optimiser.state_dict(),
                        "progress": (step, stage, in_stage, tokens, seconds), "rng": data.rng.getstate()},
                       checkpoint + ".new")
            os.replace(checkpoint + ".new", checkpoint)
    export(shape, model, tokenizer, folder)


if __name__ == "__main__":
    sys.exit(main())
