"""mutants.py - the defects that mutate.py plants: every place of a CUDA source
where one of a fixed list of changes applies, found by its text alone.

The sources are clang-formatted, which is what lets ' < ' be told from the
bracket of a template.
"""
import hashlib
import re

# Rare ones stand for what a GPU would not forgive: all of them are run. The
# others are drawn.
EVERY = ["barrier", "wait", "commit", "fragment", "mask", "event"]
DRAWN = ["compare", "index", "logic"]

EVENTS = ("cudaStreamWaitEvent", "cudaEventRecord", "cudaEventSynchronize",
          "cudaStreamSynchronize", "cudaDeviceSynchronize")
TOGGLE = {"<": ("<=", "< -1 +"), "<=": ("<", "<= 1 +"),
          ">": (">=", "> 1 +"), ">=": (">", ">= -1 +")}


class Mutant:
    """text[begin:end] of file becomes `becomes`."""

    def __init__(self, file, text, kind, begin, end, becomes):
        self.file, self.kind = file, kind
        self.begin, self.end, self.becomes = begin, end, becomes
        self.was = text[begin:end]
        self.line = text.count("\n", 0, begin) + 1
        first = text.rfind("\n", 0, begin) + 1
        last = text.find("\n", end)
        last = len(text) if last < 0 else last
        self.before = " ".join(text[first:last].split())
        self.after = " ".join(
            (text[first:begin] + becomes + text[end:last]).split())
        self.number = 0  # among those with the same words

    def words(self):
        """What names it, whatever stands above it in the file."""
        return "%s | %s | %s | %s%s" % (
            self.file, self.kind, self.before, self.after,
            " | %d" % self.number if self.number else "")

    def order(self, seed):
        return hashlib.sha256(("%s %s" % (seed, self.words()))
                              .encode()).hexdigest()


def blank(text):
    """The text with comments, literals and preprocessor lines as blanks."""
    def spaces(match):
        return re.sub(r"[^\n]", " ", match[0])
    text = re.sub(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"'
                  r"|'(?:\\.|[^'\\\n])+'", spaces, text, flags=re.S)
    return re.sub(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", spaces, text, flags=re.M)


def closing(code, at):
    """Index of the bracket that closes the one at `at`."""
    pairs = {"(": ")", "[": "]", "{": "}"}
    depth = 0
    for i in range(at, len(code)):
        depth += code[i] in pairs
        depth -= code[i] in pairs.values()
        if depth == 0:
            return i
    return len(code) - 1


def arguments(code, at):
    """[(begin, end)] of a call's arguments; at: its opening bracket."""
    end, depth, begin, out = closing(code, at), 0, at + 1, []
    for i in range(at + 1, end + 1):
        depth += code[i] in "([{"
        depth -= code[i] in ")]}" and i < end
        if i == end or (code[i] == "," and depth == 0):
            out.append((begin, i))
            begin = i + 1
    return out


def declares(code, at):
    """Is the [ at `at` part of a declaration, and not an access?"""
    while code[at - 1] == "]":  # back to the first dimension
        depth = 0
        for i in range(at - 1, -1, -1):
            depth += (code[i] == "]") - (code[i] == "[")
            if depth == 0:
                break
        at = i
    head = code[:at]
    name = re.search(r"[A-Za-z_]\w*$", head)
    if not name:
        return True  # a cast, a lambda, the result of a call
    before = head[:name.start()].rstrip()
    word = re.search(r"[A-Za-z_]\w*$", before)
    if word and word[0] not in ("return", "else", "case", "sizeof", "do"):
        return True
    if before.endswith("*"):  # `float *x[2]`, or a product
        type_ = re.search(r"([A-Za-z_]\w*)\s*\**$", before[:-1])
        return bool(type_) and re.search(
            r"(^|[;{(,])\s*(static |const |struct )*%s\s*\**$" %
            re.escape(type_[1]), before[:-1]) is not None
    # a further name of a declaration: `float m[4], l[4];`
    statement = before[max(before.rfind(c) for c in ";{}()") + 1:]
    return re.match(r"\s*(static |const |unsigned )*"
                    r"(float|double|int|bool|char|bf16|half|\w+_t|float[24])\s"
                    r"[^=]*,$", statement) is not None


def swapped(code, text, name, at):
    """Calls of an mma with two registers of an operand swapped."""
    args = [text[b:e].strip() for b, e in arguments(code, at)]
    end = closing(code, at) + 1
    if len(args) != 3 or code[end:end + 1] != ";":
        return
    d, a, b = args
    yield end + 1, ("{ const uint32_t swap_[4] = {(%s)[0], (%s)[2], (%s)[1], "
                    "(%s)[3]}; %s(%s, swap_, %s); }" % (a, a, a, a, name, d, b))
    yield end + 1, ("{ const uint32_t swap_[2] = {(%s)[1], (%s)[0]}; "
                    "%s(%s, %s, swap_); }" % (b, b, name, d, a))


def find(file, text):
    """All mutants of a source, in the order of the text."""
    code = blank(text)
    out = []

    def add(kind, begin, end, becomes):
        out.append(Mutant(file, text, kind, begin, end, becomes))

    for m in re.finditer(r"__sync(threads|warp)\s*\([^()]*\)\s*;", code):
        add("barrier", m.start(), m.end(), ";")
    for m in re.finditer(r"\bcp_async_wait\s*<([^<>]+)>\s*\(\s*\)\s*;", code):
        add("wait", m.start(), m.end(), ";")
        add("wait", m.start(1), m.end(1), "(%s) + 1" % m[1])
    for m in re.finditer(r"\bcp_async_commit\s*\(\s*\)\s*;", code):
        add("commit", m.start(), m.end(), ";")
    for m in re.finditer(r"\b(mma_(?:bf16|f16))\s*\(", code):
        for end, becomes in swapped(code, text, m[1], m.end() - 1):
            add("fragment", m.start(), end, becomes)
    for m in re.finditer(r"\bcp_async16\s*\(", code):
        args = arguments(code, m.end() - 1)
        if len(args) == 3:
            begin, end = args[2]
            add("mask", begin, end, " true")
    for m in re.finditer(r"\b(%s)\s*\(" % "|".join(EVENTS), code):
        add("event", m.start(), closing(code, m.end() - 1) + 1, "cudaSuccess")
    for m in re.finditer(r"(?<=\s)(<=|>=|<|>)(?=\s)", code):
        if code[:m.start()].rstrip().endswith("template"):
            continue
        for becomes in TOGGLE[m[0]]:
            add("compare", m.start(), m.end(), becomes)
    for m in re.finditer(r"(?<=\s)(&&|\|\|)(?=\s)", code):
        add("logic", m.start(), m.end(), "||" if m[0] == "&&" else "&&")
    for m in re.finditer(r"(?<=[\w\]])\[", code):
        end = closing(code, m.start())
        if code[m.end():end].strip() and not declares(code, m.start()):
            add("index", m.end(), end, "(%s) + 1" % text[m.end():end])
    out.sort(key=lambda mutant: (mutant.begin, mutant.end, mutant.becomes))
    seen = {}
    for mutant in out:
        words = mutant.words()
        mutant.number = seen[words] = seen.get(words, 0) + 1
    for mutant in out:
        mutant.number -= 1
    return out


def draw(mutants, seed, drawn):
    """All of EVERY, and `drawn` of each file's others."""
    chosen = [m for m in mutants if m.kind in EVERY]
    files = sorted({m.file for m in mutants})
    for file in files:
        rest = {kind: sorted((m for m in mutants
                              if m.file == file and m.kind == kind),
                             key=lambda m: m.order(seed)) for kind in DRAWN}
        turn = 0
        left = drawn
        while left and any(rest.values()):
            pool = rest[DRAWN[turn % len(DRAWN)]]
            turn += 1
            if pool:
                chosen.append(pool.pop(0))
                left -= 1
    return sorted(chosen, key=lambda m: (m.file, m.begin, m.becomes))


def read_equivalent(path):
    """{words: reason} of the committed list."""
    out = {}
    with open(path) as f:
        for line in f:
            if line.strip() and not line.startswith("#"):
                words, reason = line.rstrip("\n").rsplit(" || ", 1)
                out[words] = reason
    return out
