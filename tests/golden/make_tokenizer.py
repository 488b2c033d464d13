#!/usr/bin/env python3
"""Makes tests/data/tokenizer: small tokenizers of each model family, as
tokenizer.json and as GGUF, and what the `tokenizers` package makes of the
texts in texts.jsonl.

    python3 make_tokenizer.py --gsm8k DIR [--out DIR]

Vocabularies are trained on GSM8K (MIT licence) and on the torture texts below;
the sample of it that is committed is in texts.jsonl. Training is not random:
the same packages give the same files. Offsets are those of `tokenizers`, in
UTF-8 bytes: a token with a part of a character has the whole one's, and a
character that NFC composed has those of its first source character alone.
"""
import argparse
import json
import os
import sys

from tokenizers import (AddedToken, Regex, Tokenizer, models, normalizers,
                        pre_tokenizers, processors, trainers)

VOCAB = 640

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
BLANKS = r"\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = (CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
          r"| ?[^\s\p{L}\p{N}]+[\r\n]*|" + BLANKS)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
O200K = (rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{CONTRACTIONS}?"
         rf"|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{CONTRACTIONS}?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + BLANKS)
DEEPSEEK = [r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+",
            "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+"
            "|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
            "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"]


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(pattern), behavior, invert)


def bytes_only():
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def special(text, **flags):
    return AddedToken(text, special=True, normalized=False, **flags)


CHAT = [special("<|endoftext|>"), special("<|im_start|>"),
        special("<|im_end|>")]
THINK = [AddedToken("<think>", normalized=False),
         AddedToken("</think>", normalized=False)]
SEQUENCE = pre_tokenizers.Sequence

# name: (GGUF's pre or None, normalizer, pre-tokenizer, special, added)
FAMILIES = {
    "gpt2": ("gpt-2", None, pre_tokenizers.ByteLevel(add_prefix_space=False),
             [special("<|endoftext|>")], []),
    "smollm": ("smollm", None,
               SEQUENCE([pre_tokenizers.Digits(individual_digits=True),
                         pre_tokenizers.ByteLevel(add_prefix_space=False)]),
               CHAT, []),
    "llama3": ("llama-bpe", None, SEQUENCE([split(LLAMA3), bytes_only()]),
               [special("<|begin_of_text|>"), special("<|eot_id|>"),
                special("<|start_header_id|>")], []),
    "qwen2": ("qwen2", normalizers.NFC(),
              SEQUENCE([split(QWEN2), bytes_only()]), CHAT, THINK),
    "deepseek": ("deepseek-v3", None,
                 SEQUENCE([split(p) for p in DEEPSEEK] + [bytes_only()]),
                 [special("<｜begin▁of▁sentence｜>"),
                  special("<｜User｜>")], THINK),
    "olmo": ("olmo", normalizers.NFC(),
             pre_tokenizers.ByteLevel(add_prefix_space=False),
             [special("<|endoftext|>"), special("<|padding|>")], []),
    "olmo2": ("dbrx", None, SEQUENCE([split(LLAMA3), bytes_only()]), CHAT, []),
    "o200k": ("gpt-4o", None, SEQUENCE([split(O200K), bytes_only()]),
              [special("<|start|>"), special("<|channel|>"),
               special("<|message|>")], []),
    # No model's: what the format can say and the families above do not.
    "odd": (None,
            normalizers.Sequence([
                normalizers.NFKC(), normalizers.Replace("``", '"'),
                normalizers.Replace(Regex(r"\s{3,}"), "  "),
                normalizers.Lowercase()]),
            SEQUENCE([split(r"\s+", "merged_with_next"),
                      split(r"[.,;]", "merged_with_previous"),
                      pre_tokenizers.Digits(individual_digits=False),
                      split(r"[$€]+", "removed"),
                      pre_tokenizers.Punctuation("contiguous"),
                      pre_tokenizers.ByteLevel(add_prefix_space=True)]),
            [special("[MASK]", lstrip=True), special("[SEP]", rstrip=True)],
            [AddedToken("Total", single_word=True, normalized=True),
             AddedToken("éclair", normalized=True),
             AddedToken("éclairs", normalized=True)]),
}

TORTURE = [
    "", " ", "\n", "a", "\u00e9", "\U0001f600", "\x00", "a\x00b\x00\x00c",
    "Hello world", " Hello  world   again    ", "I'll we've THEY'RE don't "
    "it's I'M he'D 'S 'ſ x'ſt o'clock ''s 'tis ’s",
    "1 12 123 1234 12345 123456 1234567 3.14159 1,000,000 007 ½ ² ① Ⅷ ٣٤٥ "
    "१२३ 一二三 1٢3४5 x1y22z333",
    "tabs\tand\t\tmore\t\t\tnewlines\n\n\nmix \n \n\t\n  \r\n\r\n x\r\ry",
    "trailing blanks   ", "   leading blanks", "\n\n  \n", " \n", "\n ",
    "\u00a0nbsp\u00a0\u00a0here \u00a0 and\u2003em\u2009thin\u202fnarrow"
    "\u3000ideographic\u1680ogham\u2028line\u2029paragraph\u0085next",
    "not blanks: zero\u200bwidth bom\ufeff mongolian\u180evowel "
    "word\u2060joiner \x1c\x1d\x1e\x1f separators \x0b vt \x0c ff",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 family "
    "\U0001f3f3\ufe0f\u200d\U0001f308 flag \U0001f1e9\U0001f1ea"
    "\U0001f1eb\U0001f1f7 \U0001f44d\U0001f3fd thumbs 1\ufe0f\u20e3 keycap",
    "中文分词测试，没有空格。日本語のテキスト、カタカナとひらがな。한국어 "
    "텍스트도 있습니다. 漢字𠀀𠮷野家 〆々〇 ㊗️",
    "e\u0301 a\u0323\u0301 a\u0301\u0323 n\u0303o \u0301alone o\u0308\u0304 "
    "\u1e69 s\u0323\u0307 s\u0307\u0323 cafe\u0301 cafe\u0301s \u212b \u2126 "
    "\u0344 \u0958 \u0f73 q\u0307\u0323",
    "\u1112\u1161\u11ab\u1100\u1173\u11af \ud55c\u11ab \uac00\u11a8 "
    "\u1100\u1161 \u11a8 Zalgo: Z\u0351\u036b\u0343\u036a\u0302\u036b\u033d"
    "\u034f\u0334\u0319a\u0317\u032e\u033dlgo",
    "ﬁ ﬂ ﬃ ﬅ ｆｕｌｌｗｉｄｔｈ ＡＢＣ １２３ ㎏ ℃ № ™ ﷺ Å İstanbul ẞ ǅ",
    "हिन्दी में लिखा हुआ पाठ क्षेत्र தமிழ் ไทยไม่มีช่องว่าง ქართული "
    "עברית עם נִקּוּד العربية مع تَشْكِيل اردو ፊደል",
    "camelCaseWords XMLHttpRequest snake_case_name kebab-case CONSTANT_NAME "
    "x86_64 utf8Proc ÀÉÎcaps Ünïcode iPhone",
    "def f(x):\n    return x**2  # comment\n\n\tif (a&&b) { c[0]+=1; } // x",
    "<|im_start|>user\nHi<|im_end|>\n<|endoftext|><|endoftext|>x<|im_end|",
    "<|begin_of_text|><|start_header_id|>user<|eot_id|> <|eot_id|>"
    "<｜begin▁of▁sentence｜><｜User｜>q<think>\n\nhm</think>\n\n<think",
    "<|start|>assistant<|channel|>analysis<|message|>ok<think>\u0338>",
    "x  [MASK]  y [SEP]  \n z[MASK][SEP][MASK] \u00a0[MASK]\u2003[SEP]\u3000 "
    "Total total Totals _Total (Total) Total\u0301 eTotal TOTAL Total",
    "éclair e\u0301clair éclairs E\u0301CLAIRS Éclairs ``quoted`` $5 €6 "
    "$$$ a.b,c;;d  .  , x...y",
    "supercalifragilisticexpialidocious" * 8, "a" * 300, " " * 300,
    "\n" * 70, "ab" * 130 + " " + "1" * 130, "!?" * 60, "=" * 99 + ">" * 33,
    "你好" * 60, "\U0001f600" * 40, "e\u0301" * 50, "a" + "\u0301\u0323" * 30,
    "\U0010ffff \U000e0001 \ue000 \ufffd \ufffe \uffff \ufdd0 \u0378",
    "#### 42\n<<16-3-4=9>>9 $<<9*2=18>>18 a_b^c ~`|\\/ \"q\" 'q' «q» “q” …",
]


def letter(byte):
    """The character that stands for a byte in a byte-level vocabulary."""
    plain = [*range(0x21, 0x7f), *range(0xa1, 0xad), *range(0xae, 0x100)]
    if byte in plain:
        return chr(byte)
    return chr(0x100 + sum(b not in plain for b in range(byte)))


def byte_offsets(text, offsets):
    """Character offsets as byte offsets."""
    at = [0]
    for c in text:
        at.append(at[-1] + len(c.encode()))
    return [[at[b], at[e]] for b, e in offsets]


def encode(tokenizer, text):
    """Ids and byte offsets as `tokenizers` has them, nothing added."""
    e = tokenizer.encode(text, add_special_tokens=False)
    return list(e.ids), byte_offsets(text, e.offsets)


def gsm8k(folder):
    for name in "train.jsonl", "test.jsonl":
        with open(os.path.join(folder, name), encoding="utf-8") as f:
            for line in f:
                row = json.loads(line)
                yield row["question"] + "\n" + row["answer"]


def build(name, corpus):
    """The family's tokenizer, as the object of its tokenizer.json."""
    pre, normalizer, pretokenizer, specials, added = FAMILIES[name]
    t = Tokenizer(models.BPE())
    if normalizer:
        t.normalizer = normalizer
    t.pre_tokenizer = pretokenizer
    t.train_from_iterator(corpus, trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=specials, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    t.add_tokens(added)
    made = json.loads(t.to_str())
    model = made["model"]
    if name == "gpt2":  # the older way to write them
        model["merges"] = [" ".join(m) for m in model["merges"]]
    if name == "llama3":
        # a token that no merge makes: only ignore_merges finds it
        model["ignore_merges"] = True
        model["vocab"]["Ġecosystem"] = VOCAB
        bos = {"id": "<|begin_of_text|>", "ids": [0],
               "tokens": ["<|begin_of_text|>"]}
        made["post_processor"] = {"type": "Sequence", "processors": [
            {"type": "ByteLevel", "add_prefix_space": True,
             "trim_offsets": False, "use_regex": True},
            {"type": "TemplateProcessing",
             "single": [{"SpecialToken": {"id": bos["id"], "type_id": 0}},
                        {"Sequence": {"id": "A", "type_id": 0}}],
             "pair": [{"Sequence": {"id": "A", "type_id": 0}},
                      {"Sequence": {"id": "B", "type_id": 1}}],
             "special_tokens": {bos["id"]: bos}}]}
    return made


def write_gguf(path, made, pre, bos):
    import gguf
    vocab = dict(made["model"]["vocab"])
    added = {a["id"]: a for a in made["added_tokens"]}
    vocab.update({a["content"]: a["id"] for a in added.values()})
    names = sorted(vocab, key=vocab.get)
    types = [gguf.TokenType.NORMAL] * len(names)
    for i, a in added.items():
        types[i] = (gguf.TokenType.CONTROL if a["special"]
                    else gguf.TokenType.USER_DEFINED)
    while len(names) % 32:  # as converters pad to the embedding's rows
        names.append(f"[PAD{len(names)}]")
        types.append(gguf.TokenType.UNUSED)
    w = gguf.GGUFWriter(path, "llama")
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre(pre)
    w.add_token_list(names)
    w.add_token_types(types)
    w.add_token_merges([m if isinstance(m, str) else " ".join(m)
                        for m in made["model"]["merges"]])
    if bos is not None:
        w.add_bos_token_id(bos)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.close()


def dump(path, value):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(value, f, ensure_ascii=False, separators=(",", ":"))
        f.write("\n")


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    here = os.path.dirname(os.path.abspath(__file__))
    p.add_argument("--gsm8k", required=True, help="folder with train.jsonl")
    p.add_argument("--out", default=os.path.join(here, "../data/tokenizer"))
    a = p.parse_args()
    problems = list(gsm8k(a.gsm8k))
    texts = TORTURE + ["An ecosystem, my ecosystems: ecosystem"]
    texts += problems[::700]
    corpus = problems[::4] + TORTURE * 40 + [" ecosystem"] * 3
    os.makedirs(a.out, exist_ok=True)
    with open(os.path.join(a.out, "texts.jsonl"), "w") as f:
        for text in texts:
            f.write(json.dumps({"text": text}) + "\n")
    for name, (pre, *_, specials, added) in FAMILIES.items():
        folder = os.path.join(a.out, name)
        os.makedirs(folder, exist_ok=True)
        made = build(name, corpus)
        path = os.path.join(folder, "tokenizer.json")
        dump(path, made)
        if name in ("llama3", "qwen2"):
            first = specials[0].content
            dump(os.path.join(folder, "tokenizer_config.json"),
                 {"bos_token": first} if name == "llama3" else
                 {"add_bos_token": False, "bos_token": {
                     "__type": "AddedToken", "content": first}})
        if pre:
            write_gguf(os.path.join(folder, "tokenizer.gguf"), made, pre, 0)
        t = Tokenizer.from_file(path)
        with open(os.path.join(folder, "golden.jsonl"), "w") as f:
            for text in texts:
                ids, offsets = encode(t, text)
                f.write(json.dumps({"ids": ids, "offsets": offsets},
                                   separators=(",", ":")) + "\n")
    print(f"{len(FAMILIES)} tokenizers, {len(texts)} texts", file=sys.stderr)


if __name__ == "__main__":
    main()
