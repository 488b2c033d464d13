#!/usr/bin/env python3
"""compare_acts.py A.h5 B.h5 - largest difference of two captures of the same
chains, relative to the largest value of the layer. Fails above 2e-2 (bf16
operands on one side)."""
import sys

import h5py
import numpy as np

LIMIT = 2e-2


def main():
    worst, where = 0.0, ""
    with h5py.File(sys.argv[1]) as a, h5py.File(sys.argv[2]) as b:
        for position in a["activations/resid"]:
            x = a["activations/resid/" + position][()]
            y = b["activations/resid/" + position][()]
            if x.shape != y.shape:
                sys.exit("%s: %s and %s" % (position, x.shape, y.shape))
            if not np.array_equal(np.isnan(x), np.isnan(y)):
                sys.exit("%s: NaN in one of the two alone" % position)
            for layer in range(x.shape[0]):
                d = np.nanmax(np.abs(x[layer] - y[layer]))
                d /= np.nanmax(np.abs(x[layer]))
                print("%s layer %d: %.2e" % (position, layer, d))
                if d >= worst:
                    worst, where = d, "%s layer %d" % (position, layer)
    print("largest difference %.2e of the layer's largest value (%s)" % (
        worst, where))
    return 0 if worst <= LIMIT else 1


sys.exit(main())
