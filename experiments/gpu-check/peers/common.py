"""What the peers share: arguments, timing on whatever device torch has."""
import argparse
import csv
import statistics
import sys
import time


def options(doc):
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--out", required=True, help="CSV")
    parser.add_argument("--tiny", action="store_true",
                        help="only to see that it runs")
    return parser.parse_args()


def median_ms(run, device, repeats):
    """Median milliseconds of run(), after two that do not count."""
    import torch
    times = []
    for i in range(-2, repeats):
        if device == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        if i >= 0:
            times.append((time.perf_counter() - began) * 1e3)
    return statistics.median(times)


def write(path, rows):
    with open(path, "w", newline="") as f:
        out = csv.DictWriter(f, rows[0].keys(), lineterminator="\n")
        out.writeheader()
        out.writerows(rows)
    print("%d rows in %s" % (len(rows), path))
    sys.stdout.flush()


# name, d, heads, kv heads, head dim, ff, tokens, context: as bench.cpp's.
SHAPES = [("1.5b", 1536, 12, 2, 128, 8960, 8192, 4096),
          ("7b", 3584, 28, 4, 128, 18944, 8192, 4096)]
TINY = [("tiny", 64, 2, 1, 64, 96, 40, 40)]
