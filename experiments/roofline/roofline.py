#!/usr/bin/env python3
"""roofline.py - what an H100 SXM could do at best, kernel by kernel: bytes and
floating point operations by formula, the bound, and the shortest time. Prints
docs/roofline.md. Everything is computed, nothing measured.

    experiments/roofline/roofline.py >docs/roofline.md
"""

import json
import os

TABLES = os.path.join(os.path.dirname(os.path.abspath(__file__)),
                      "../../host/plan")


def load(name):
    with open(os.path.join(TABLES, name), encoding="utf-8") as file:
        return {row["name"]: row for row in json.load(file)}


# The tables that keystep plan has. A model's experts: (of a layer, active a
# token); weights: bytes an element of the MLP's matrices (bf16, where nothing
# is said; MXFP4: 4 bits + 1 scale of 8 a 32). windowed: layers with a window,
# and its keys.
DEVICE = load("devices.json")["h100"]
BANDWIDTH, TENSOR, FLOAT, DOUBLE = (
    DEVICE[key] for key in ("bandwidth", "tensor", "float", "double"))
UNITS = {TENSOR: "tensor", FLOAT: "f32", DOUBLE: "double"}
MODELS = [{"experts": None, "weights": 2, "windowed": (0, 0)} | row
          for name, row in load("models.json").items()
          if name in ("Qwen2.5-1.5B", "Qwen2.5-7B", "gpt-oss-20b")]
TOKENS, CONTEXT = 8192, 4096    # prefill: two chains of 4096 tokens
FORKS, PREFIX, OWN = 64, 2048, 512  # decode: 64 continuations of one prefix
STEP = 40                       # tokens a reasoning step
TILE_ROWS = 64                  # (token, head) of a block of decode attention
F32, BF16 = 4, 2


def gemm(m, n, k, weight=BF16):
    """x f32 [m, k], W [n, k] as stored, out f32; products in bf16."""
    return F32 * m * k + weight * n * k + F32 * m * n, 2.0 * m * n * k


def keys_seen(m, tokens, context):
    """Pairs (query, key) of a layer on average, causal and windowed."""
    full = tokens * (context + 1) / 2
    n, window = m["windowed"]
    if not n:
        return full
    if context > window:
        part = tokens * (window - window * (window - 1) / 2 / context)
    else:
        part = full
    return (part * n + full * (m["layers"] - n)) / m["layers"]


def prefill(m):
    """[(kernel, unit, calls, bytes, flops a call)] of a packed batch."""
    t, d, q, kv = TOKENS, m["d"], m["heads"] * m["dim"], m["kv"] * m["dim"]
    layers = m["layers"]
    out = [("embed", FLOAT, 1, t * d * (BF16 + F32), t * d),
           ("norm + residual add", FLOAT, 2 * layers, 4 * F32 * t * d,
            5 * t * d)]
    # cuBLASLt takes bf16 operands; our own kernel rounds in its loads.
    out.append(("operands to bf16, for cuBLASLt", FLOAT, 3 * layers,
                (F32 + BF16) * t * d, t * d))
    for name, n, k in (("gemm q", q, d), ("gemm k and v", 2 * kv, d),
                       ("gemm o", d, q)):
        out.append((name, TENSOR, layers) + gemm(t, n, k))
    out.append(("rope + KV write", FLOAT, layers,
                F32 * t * (2 * q + 4 * kv), 6 * t * (q + kv)))
    pairs = keys_seen(m, t, CONTEXT)
    out.append(("attention, varlen causal", TENSOR, layers,
                F32 * t * (2 * q + 2 * kv), 4 * pairs * q))
    ff = m["ff"]
    if m["experts"]:
        of, active = m["experts"]
        rows = t * active
        out.append(("router and top-k", TENSOR, layers) + gemm(t, of, d))
        for name, n, k in (("gemm gate and up, grouped", 2 * ff, d),
                           ("gemm down, grouped", d, ff)):
            moved = F32 * rows * (n + k) + m["weights"] * of * n * k
            out.append((name, TENSOR, layers, moved, 2.0 * rows * n * k))
        out.append(("rows by expert", FLOAT, layers, 4 * 3 * rows, 0))
        out.append(("sum of the experts", FLOAT, layers,
                    F32 * (rows + t) * d, 2 * rows * d))
    else:
        rows = t
        out.append(("gemm gate and up", TENSOR, layers) +
                   gemm(t, 2 * ff, d, m["weights"]))
        out.append(("gemm down", TENSOR, layers) + gemm(t, d, ff, m["weights"]))
    out.append(("gated activation" + (", clamped" if m["experts"] else ""),
                FLOAT, layers, 3 * F32 * rows * ff, 8 * rows * ff))
    out.append(("pool, 5 positions", FLOAT, layers + 1,
                F32 * t * d + 5 * BF16 * t / STEP * d, t * d))
    out.append(("every token's row, rounded (`tokens`)", FLOAT, "on request",
                (F32 + BF16) * t * d, t * d))
    out.append(("search for values that are not finite", FLOAT, 1,
                F32 * t * d, t * d))
    out.append(("log-softmax of given tokens", TENSOR, 1) +
               (F32 * t * d + BF16 * m["vocab"] * d, 2.0 * t * m["vocab"] * d))
    return out


def decode(m):
    """One token of FORKS continuations that share a prefix."""
    t, d, q, kv = FORKS, m["d"], m["heads"] * m["dim"], m["kv"] * m["dim"]
    layers, ff = m["layers"], m["ff"]
    out = [("embed", FLOAT, 1, t * d * (BF16 + F32), t * d),
           ("norm + residual add", FLOAT, 2 * layers, 4 * F32 * t * d,
            5 * t * d)]
    for name, n, k in (("gemm q", q, d), ("gemm k and v", 2 * kv, d),
                       ("gemm o", d, q)):
        out.append((name, TENSOR, layers) + gemm(t, n, k))
    out.append(("rope + KV write", FLOAT, layers,
                F32 * t * (2 * q + 4 * kv), 6 * t * (q + kv)))
    # A block has the heads of a group for as many forks as it has rows: that
    # often the prefix is read. Their own keys each.
    forks = TILE_ROWS // (m["heads"] // m["kv"])
    own = F32 * (2 * kv * t * OWN + 2 * t * q)
    flops = 4.0 * t * (PREFIX + OWN) * q
    for name, calls, reads in (
            ("attention over the prefix tree, %d forks a block" % forks,
             layers, -(-t // forks)),
            ("the same, prefix read once", "for comparison", 1),
            ("the same, prefix read by each fork", "for comparison", t)):
        out.append((name, TENSOR, calls, own + F32 * 2 * kv * PREFIX * reads,
                    flops))
    if m["experts"]:
        of, active = m["experts"]
        rows = t * active
        used = of * (1 - (1 - active / of) ** t)  # experts that a batch meets
        out.append(("router and top-k", TENSOR, layers) + gemm(t, of, d))
        for name, n, k in (("gemm gate and up, grouped", 2 * ff, d),
                           ("gemm down, grouped", d, ff)):
            moved = F32 * rows * (n + k) + m["weights"] * used * n * k
            out.append((name, TENSOR, layers, moved, 2.0 * rows * n * k))
        out.append(("rows by expert", FLOAT, layers, 4 * 3 * rows, 0))
        out.append(("sum of the experts", FLOAT, layers,
                    F32 * (rows + t) * d, 2 * rows * d))
    else:
        rows = t
        out.append(("gemm gate and up", TENSOR, layers) +
                   gemm(t, 2 * ff, d, m["weights"]))
        out.append(("gemm down", TENSOR, layers) + gemm(t, d, ff, m["weights"]))
    out.append(("gated activation" + (", clamped" if m["experts"] else ""),
                FLOAT, layers, 3 * F32 * rows * ff, 8 * rows * ff))
    out.append(("search for values that are not finite", FLOAT, 1,
                F32 * t * d, t * d))
    for name, calls in (("sample (head and draw)", 1),
                        ("share of a set of ids (head and search)",
                         "on request")):
        out.append((name, TENSOR, calls, F32 * t * d + BF16 * m["vocab"] * d,
                    2.0 * t * m["vocab"] * d))
    return out


def backward(m):
    """Twins for 8 cotangents a forward of one chain; none for experts."""
    targets, t = 8, CONTEXT
    rows = targets * t
    d, q, kv = m["d"], m["heads"] * m["dim"], m["kv"] * m["dim"]
    layers, ff, vocab = m["layers"], m["ff"], m["vocab"]
    pairs = keys_seen(m, t, CONTEXT)
    given = targets * STEP  # tokens whose probabilities are derived
    out = [("head: logits and their way back", TENSOR, 1,
            2 * BF16 * vocab * d + F32 * given * (2 * d + 3 * vocab),
            4.0 * given * vocab * d),
           ("norm backward", FLOAT, 2 * layers, F32 * (3 * rows * d + t * d),
            8 * rows * d)]
    for name, n, k in (("gemm o", q, d), ("gemm q", d, q),
                       ("gemm k and v", d, 2 * kv)):
        out.append((name + ", to its input", TENSOR, layers) +
                   gemm(rows, n, k))
    # Scores and dP made twice, for dQ and for dK and dV: seven products.
    out.append(("attention backward", TENSOR, layers,
                F32 * (targets * t * (4 * q + 2 * kv) + t * (q + 2 * kv)),
                14.0 * targets * pairs * q))
    out.append(("rope backward", FLOAT, layers, 2 * F32 * rows * (q + kv),
                6 * rows * (q + kv)))
    for name, n, k in (("gemm down", ff, d), ("gemm gate and up", d, 2 * ff)):
        out.append((name + ", to its input", TENSOR, layers) +
                   gemm(rows, n, k, m["weights"]))
    out.append(("gate backward", FLOAT, layers, F32 * (rows * 3 + t * 2) * ff,
                12 * rows * ff))
    return out


def probes(m):
    """All layers of a model; 20,000 steps, 10 strengths x 5 folds."""
    n, d, columns, layers = 20000, m["d"], 50, m["layers"]
    x = F32 * n * d
    return [
        # Both products walk x in one order; what does not fit L2 comes twice.
        ("L2: loss and gradient, or curvature product", FLOAT, layers,
         x * (1 if x <= 32e6 else 2), 4.0 * n * d * columns),
        ("L2: Gram matrix of a layer", FLOAT, layers, x + F32 * d * d,
         2.0 * n * d * d),
        ("L2: Hessian of a column", DOUBLE, layers, 2 * x + 8 * d * d,
         2.0 * n * d * d),
        ("L2: projection on 50 directions", FLOAT, layers, 2 * x,
         4.0 * n * d * columns),
        ("AdamW, linear: an epoch of mini-batches of 32, 50 probes resident",
         FLOAT, layers, F32 * n * d * columns, 4.0 * n * d * columns),
        ("AdamW, MLP h = 128: an epoch, 50 probes, grouped GEMMs", FLOAT,
         layers, (n / 32) * columns * (6 * F32 * d * 128 + F32 * 32 * d),
         6.0 * n * d * 128 * columns),
        # Values and logits of every token, then their cotangents' way back.
        ("attention over a step's tokens: a pass, 50 probes, f32 products",
         FLOAT, "on request", 2 * F32 * n * STEP * (d + 2 * columns),
         8.0 * n * STEP * d * columns),
    ]


def figure(x, unit):
    for scale, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"),
                          (1e3, "k")):
        if x >= scale:
            return "%.3g %s%s" % (x / scale, prefix, unit)
    return "%.3g %s" % (x, unit)


def table(title, rows):
    print("\n### %s\n" % title)
    print("| kernel | calls | bytes a call | FLOP a call | bound | us a call | "
          "share |")
    print("|---|---|---|---|---|---|---|")
    times = [max(moved / BANDWIDTH, flops / peak)
             for _, peak, _, moved, flops in rows]
    # Calls that are words are not in the sum.
    total = sum(t * r[2] for t, r in zip(times, rows)
                if not isinstance(r[2], str))
    for (name, peak, calls, moved, flops), took in zip(rows, times):
        bound = "bytes" if moved / BANDWIDTH >= flops / peak else UNITS[peak]
        print("| %s | %s | %s | %s | %s | %.3g | %s |" % (
            name, calls, figure(moved, "B"), figure(flops, "FLOP"), bound,
            took * 1e6, "" if isinstance(calls, str) else
            "%.1f%%" % (100 * took * calls / total)))
    print("\nAll calls: %.3g ms." % (total * 1e3))
    return total


def main():
    print("""# Roofline on paper: H100 SXM

**Computed, not measured.** `experiments/roofline/roofline.py` prints this page from formulas: for each kernel the bytes that it must move at least (every operand once, f32 activations, weights as stored), the floating point operations that our kernel makes, which of the two takes longer at %.2f TB/s and %d TFLOP/s (bf16 tensor cores; %d TFLOP/s in f32 and %d in double for what does not use them), the shortest time that follows, and its share of the sum. A real kernel takes longer: `experiments/gpu-check` measures how much. What runs on request alone, or stands for comparison, is not in the sum. Launch times, cache misses and the tail of a grid are not in it; with operands in f32 precision (`dev->precise`) the tensor-bound lines take three times as long.

Prefill: %d packed tokens, chains of %d, steps of %d tokens. Decode: %d continuations of one prefix of %d tokens, each %d tokens long so far. Backward: 8 cotangents a chain of %d tokens. Probes: 20,000 steps, 50 columns (10 strengths x 5 folds), all layers.""" % (
        BANDWIDTH / 1e12, TENSOR / 1e12, FLOAT / 1e12, DOUBLE / 1e12, TOKENS,
        CONTEXT, STEP,
        FORKS, PREFIX, OWN, CONTEXT))
    for m in MODELS:
        print("\n## %s" % m["name"])
        took = table("Prefill with capture", prefill(m))
        print("%.0f thousand tokens a second at most." % (
            TOKENS / took / 1e3))
        took = table("Decode, one token each", decode(m))
        print("%.0f thousand tokens a second at most." % (FORKS / took / 1e3))
        if m["experts"]:
            print("\nBackward: refused for a mixture of experts.")
        else:
            table("Backward", backward(m))
        table("Probes", probes(m))


main()
