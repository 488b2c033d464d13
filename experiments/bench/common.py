"""What the peers that train probes share: the data file of `keystep bench
probe --out-data`, and the same labels, folds and strengths as there."""
import h5py
import numpy as np

STRENGTHS = 10.0 ** (-4 + 5.0 * np.arange(8) / 7)
TOLERANCE = 1e-6


def open_rows(path, rows):
    """The file, the labelled valid rows, their labels and problems."""
    file = h5py.File(path, "r")
    labels = file["steps/label"][:]
    keep = np.flatnonzero((labels >= 0) & (file["steps/valid"][:] != 0))[:rows]
    chain = file["steps/chain"][:][keep]
    names = file["chains/problem"][:]
    order, problem = {}, np.empty(len(keep), dtype=np.int64)
    for i, c in enumerate(chain):
        problem[i] = order.setdefault(names[c], len(order))
    return file, keep, labels[keep].astype(np.int64), problem


def read_layer(file, keep, layer, position="mean"):
    return file[f"activations/resid/{position}"][layer][keep].astype(
        np.float32)


def spread_layers(n_layers, count):
    """So many layers, evenly from the first to the last."""
    return sorted({int(round(v)) for v in
                   np.linspace(0, n_layers - 1, min(count, n_layers))})
