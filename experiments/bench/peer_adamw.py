#!/usr/bin/env python3
"""The published training loop for one seed: classes undersampled to equal
counts, a stratified random 80/20 split of steps, raw activations, AdamW (3e-4,
weight decay 1e-4), batch 32, the last partial batch dropped, 30 epochs with a
cosine rate, evaluation after each epoch.

Usage: peer_adamw.py ACTS.h5 [--layer N|all] [--seed N] [--hidden N]
           [--form loader|plain] [--threads N] [--epochs N] [--tune]
A probe on one layer, or on all layers side by side; --hidden 128 trains
inputs -> 128 -> 1 instead of a linear one. The form loader is the published
one, a DataLoader over a TensorDataset; plain indexes the tensors with a
permutation, the simplest form that is as fast as torch can be here. --epochs
runs the first so many of the 30. --tune tries both forms and numbers of
threads on one epoch and trains with the fastest.
Prints one JSON object.
"""
import argparse
import json
import os
import time

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch.utils.data import DataLoader, TensorDataset

from common import open_rows, read_layer

EPOCHS, BATCH = 30, 32


def balanced(y, seed):
    """Places of equally many rows of both classes."""
    rng = np.random.default_rng(seed)
    sides = [np.flatnonzero(y == c) for c in (0, 1)]
    least = min(map(len, sides))
    return np.sort(np.concatenate([rng.choice(s, least, replace=False)
                                   for s in sides]))


def by_loader(data):
    """Batches of an epoch to train on, and those to evaluate."""
    sets = [TensorDataset(*part) for part in data]
    train = DataLoader(sets[0], batch_size=BATCH, shuffle=True, drop_last=True)
    held = DataLoader(sets[1], batch_size=BATCH)
    return lambda: iter(train), lambda: iter(held)


def plainly(data):
    x, y = data[0]

    def train():
        order = torch.randperm(len(x))
        for at in range(0, len(x) - BATCH + 1, BATCH):
            pick = order[at:at + BATCH]
            yield x[pick], y[pick]

    return train, lambda: iter([data[1]])


FORMS = {"loader": by_loader, "plain": plainly}


def train(data, options, form, threads, epochs):
    """Best accuracy and seconds."""
    torch.set_num_threads(threads)
    torch.manual_seed(options.seed)
    width = data[0][0].shape[1]
    start = time.perf_counter()
    batches, held = FORMS[form](data)
    model = torch.nn.Linear(width, 1) if not options.hidden else \
        torch.nn.Sequential(torch.nn.Linear(width, options.hidden),
                            torch.nn.ReLU(),
                            torch.nn.Linear(options.hidden, 1))
    positive = float(data[0][1].sum())
    loss_of = torch.nn.BCEWithLogitsLoss(
        pos_weight=torch.tensor((len(data[0][1]) - positive) / positive))
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-4,
                                  weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, EPOCHS)
    best = 0.0
    for _ in range(epochs):
        model.train()
        for batch, wanted in batches():
            optimiser.zero_grad()
            loss_of(model(batch)[:, 0], wanted).backward()
            optimiser.step()
        schedule.step()
        model.eval()
        right = 0
        with torch.no_grad():
            for batch, wanted in held():
                right += int(((model(batch)[:, 0] > 0) == (wanted > 0)).sum())
        best = max(best, right / len(data[1][1]))
    return best, time.perf_counter() - start


def load(options):
    """Training and evaluation rows and labels (1: removable) as tensors."""
    file, keep, y, _ = open_rows(options.acts, options.rows)
    layers = file["activations/resid/mean"].shape[0]
    which = range(layers) if options.layer == "all" else [int(options.layer)]
    x = np.concatenate([read_layer(file, keep, k) for k in which], axis=1)
    rows = balanced(y, options.seed)
    parts = train_test_split(rows, test_size=0.2, random_state=options.seed,
                             stratify=y[rows])
    return layers, [(torch.from_numpy(x[part]),
                     torch.from_numpy((1 - y[part]).astype(np.float32)))
                    for part in parts]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("acts")
    parser.add_argument("--layer", default="15")
    parser.add_argument("--rows", type=int, default=8000)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--hidden", type=int, default=0)
    parser.add_argument("--form", choices=FORMS, default="loader")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--tune", action="store_true")
    options = parser.parse_args()
    layers, data = load(options)
    form, threads, tried = options.form, options.threads, {}
    if options.tune:
        for name in FORMS:
            for count in sorted({1, options.threads}):
                tried[name, count] = train(data, options, name, count, 1)[1]
        form, threads = min(tried, key=tried.get)
    train(data, options, form, threads, 1)  # warm
    best, seconds = train(data, options, form, threads, options.epochs)
    print(json.dumps({
        "seconds": seconds, "best_accuracy": best, "form": form,
        "threads": threads, "layers": layers, "epochs": options.epochs,
        "train_rows": len(data[0][1]), "eval_rows": len(data[1][1]),
        "tried": {f"{name}, {count} threads": v
                  for (name, count), v in tried.items()}}))


if __name__ == "__main__":
    main()
