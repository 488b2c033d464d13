#!/usr/bin/env python3
"""Compares `keystep tokenize` with the `tokenizers` package, live.

    python3 compare_tokenizer.py --keystep PROGRAM [--gsm8k DIR]
        [--gguf FILE] [--random N] [TOKENIZER.json ...]

Without names of tokenizers: those under tests/data/tokenizer. Texts: the
torture texts, all of GSM8K when its folder is given, N random strings of
awkward characters. With --gguf, tokenizers' side is rebuilt from that file's
metadata (pre-tokenizers gpt-2, smollm, llama-bpe, dbrx, qwen2).

Ids must be equal. Offsets must be equal once a token that holds a part of a
character is widened to all of it; where a normalizer changed a token's text,
ours must begin where theirs does or hold it. Where nothing is normalised or
removed, our tokens' spans must also lie end to end. For text with a character
that the vocabulary has no bytes for, only ids are compared: `tokenizers`
counts on as if it were not there. Exit code 0: all equal, 1: not, 77: skipped, with the reason.
"""
import argparse
import glob
import json
import os
import random
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
try:
    from tokenizers import Tokenizer
    import make_tokenizer as make
except ImportError as e:
    print(f"skipped: {e}", file=sys.stderr)
    sys.exit(77)

AWKWARD = (
    list("abcXYZ.,'’\"!?()[]{}<>|_-+=*/\\$€#@&^~`:;019²½٣१一二 \t\n\r")
    + ["'s", "'LL", "'Re", "  ", "\n\n", " \n ", "\r\n", "\u00a0", "\u2003",
       "\u3000", "\u0085", "\u180e", "\u200b", "\u200d", "\ufeff", "\x0b",
       "\x1c", "\u0301", "\u0323", "\u0338", "\u0344", "\u0f73", "\u1100",
       "\u1161", "\u11a8", "\uac00", "é", "e\u0301", "ſ", "ẞ", "İ", "ǅ", "ʰ",
       "中", "文", "の", "カ", "한", "ไ", "ि", "क", "ع", "א", "🙂", "👍🏽",
       "👨\u200d👩", "🇩🇪", "ﬁ", "ﬅ", "Ａ", "１", "㎏", "\U0001d54f",
       "\U00020000", "\u0378", "\ue000", "\uffff", "\u20e3", "\u203f",
       "Total", "éclair", "[MASK]", "[SEP]", "``", "<think>", "</think>",
       "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|start|>", " the",
       " ecosystem"])


def random_texts(n, seed=1):
    r = random.Random(seed)
    return ["".join(r.choices(AWKWARD, k=r.randint(1, 40))) for _ in range(n)]


def ours(program, model, texts):
    lines = "".join(json.dumps({"text": t}) + "\n" for t in texts)
    run = subprocess.run([program, "tokenize", "--model", model],
                         input=lines.encode(), stdout=subprocess.PIPE)
    return [json.loads(line) for line in run.stdout.splitlines()]


def widen(text_bytes, begin, end):
    while begin > 0 and begin < len(text_bytes) and \
            text_bytes[begin] & 0xC0 == 0x80:
        begin -= 1
    while end < len(text_bytes) and text_bytes[end] & 0xC0 == 0x80:
        end += 1
    return [begin, end]


def complaint(tokenizer, text, got, plain):
    """What is wrong with our answer, or None."""
    if "error" in got:
        return got["error"]
    ids, offsets = make.encode(tokenizer, text)
    if got["ids"] != ids:
        return f"ids {got['ids']} instead of {ids}"
    raw = text.encode()
    if not all(tokenizer.token_to_id(make.letter(b)) is not None
               for b in set(raw)):
        return None
    unchanged = tokenizer.normalizer is None or \
        tokenizer.normalizer.normalize_str(text) == text
    for k, (span, theirs) in enumerate(zip(got["offsets"], offsets)):
        wide = widen(raw, *span)
        same = wide == theirs
        if not unchanged:
            same = wide[0] <= theirs[0] and wide[1] >= theirs[1]
        if not same:
            return f"token {k} spans {span} instead of {theirs}"
    if plain and unchanged:
        at = 0
        for k, (b, e) in enumerate(got["offsets"]):
            if b != at:
                return f"token {k} begins at {b}, the one before ended at {at}"
            at = e
        if at != len(raw):
            return f"the last token ends at {at} of {len(raw)}"
    return None


def compare(program, model, tokenizer, texts, name, plain):
    got = ours(program, model, texts)
    bad = 0
    if len(got) != len(texts):
        print(f"{name}: {len(got)} answers to {len(texts)} texts")
        return False
    for text, answer in zip(texts, got):
        what = complaint(tokenizer, text, answer, plain)
        if what:
            bad += 1
            if bad <= 5:
                print(f"{name}: {text!r}\n    {what}")
    n = sum(len(a.get("ids", [])) for a in got)
    print(f"{name}: {len(texts)} texts, {n} tokens, {bad} differ")
    return bad == 0


def from_gguf(path):
    """A tokenizer.json with the facts of a GGUF file's metadata."""
    import gguf
    reader = gguf.GGUFReader(path)

    def strings(key):
        f = reader.fields[key]
        return [str(bytes(f.parts[i]), "utf-8") for i in f.data]
    names, merges = (strings("tokenizer.ggml." + k)
                     for k in ("tokens", "merges"))
    f = reader.fields["tokenizer.ggml.token_type"]
    types = [int(f.parts[i][0]) for i in f.data]
    pre = strings("tokenizer.ggml.pre")[0]
    family = next(v for v in make.FAMILIES.values() if v[0] == pre)
    t = Tokenizer(make.models.BPE())
    if family[1]:
        t.normalizer = family[1]
    t.pre_tokenizer = family[2]
    made = json.loads(t.to_str())
    made["model"].update(
        ignore_merges=pre == "llama-bpe",
        vocab={w: i for i, w in enumerate(names) if types[i] != 5},
        merges=[m.split(" ") for m in merges])
    made["added_tokens"] = [
        {"id": i, "content": w, "single_word": False, "lstrip": False,
         "rstrip": False, "normalized": False, "special": types[i] == 3}
        for i, w in enumerate(names) if types[i] in (3, 4)]
    return json.dumps(made, ensure_ascii=False)


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    p.add_argument("--keystep", required=True)
    p.add_argument("--gsm8k")
    p.add_argument("--gguf")
    p.add_argument("--random", type=int, default=2000)
    p.add_argument("tokenizers", nargs="*")
    a = p.parse_args()
    texts = make.TORTURE + random_texts(a.random)
    if a.gsm8k:
        texts += list(make.gsm8k(a.gsm8k))
    else:
        print("GSM8K left out: no --gsm8k", file=sys.stderr)
    good = True
    for path in a.tokenizers or sorted(
            glob.glob(os.path.join(HERE, "../data/tokenizer/*/*.json"))):
        if path.endswith("_config.json"):
            continue
        name = os.path.basename(os.path.dirname(os.path.abspath(path)))
        tokenizer = Tokenizer.from_file(path)
        tokenizer.post_processor = make.processors.ByteLevel(
            trim_offsets=False)
        good &= compare(a.keystep, path, tokenizer, texts, name,
                        name != "odd")
    if a.gguf:
        made = from_gguf(a.gguf)
        good &= compare(a.keystep, a.gguf, Tokenizer.from_str(made), texts,
                        os.path.basename(a.gguf), True)
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "tokenizer.json")
            with open(path, "w", encoding="utf-8") as f:
                f.write(made)
            good &= compare(a.keystep, path, Tokenizer.from_str(made), texts,
                            "the same as tokenizer.json", True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
