#!/usr/bin/env python3
"""How far sampled sufficiency is from exact: exact.py SAMPLED EXACT SAMPLES.

Both files are label lines of the same chains, `--method curve`."""
import json
import math
import sys


def read(path):
    with open(path, encoding="utf-8") as file:
        return {one["chain"]: one["scores"]["sufficiency"]
                for one in map(json.loads, file)}


def main():
    sampled, exact = read(sys.argv[1]), read(sys.argv[2])
    n = int(sys.argv[3])
    pairs = [(a, b) for chain in sampled
             for a, b in zip(sampled[chain], exact[chain])
             if a is not None and b is not None]
    # standardised by the binomial's deviation, where there is one
    z = [(a - b) / math.sqrt(b * (1 - b) / n) for a, b in pairs
         if 0.005 < b < 0.995]
    mean = sum(a - b for a, b in pairs) / len(pairs)
    print("| | |\n|---|---|")
    print(f"| prefixes | {len(pairs)} |")
    print(f"| with an exact sufficiency of 0.005 to 0.995 | {len(z)} |")
    print(f"| mean of sampled minus exact | {mean:+.4f} |")
    print(f"| largest difference | "
          f"{max(abs(a - b) for a, b in pairs):.3f} |")
    print(f"| root mean square of the difference, in standard deviations of "
          f"{n} draws (noise alone: 1) | "
          f"{math.sqrt(sum(x * x for x in z) / len(z)):.2f} |")
    print(f"| mean of that | {sum(z) / len(z):+.2f} |")


if __name__ == "__main__":
    main()
