#!/usr/bin/env python3
"""The published training loop for one layer and seed: classes undersampled to
equal counts, a stratified random 80/20 split of steps, a linear probe on raw
activations, AdamW (3e-4, weight decay 1e-4), batch 32 from a DataLoader with
the last partial batch dropped, 30 epochs with a cosine rate, evaluation after
each epoch.

Usage: peer_adamw.py ACTS.h5 [--layer N] [--seed N] [--hidden N]
--hidden 128 trains the published standard probe, d -> 128 -> 1, instead.
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

EPOCHS = 30


def balanced(y, seed):
    """Places of equally many rows of both classes."""
    rng = np.random.default_rng(seed)
    sides = [np.flatnonzero(y == c) for c in (0, 1)]
    least = min(map(len, sides))
    return np.sort(np.concatenate([rng.choice(s, least, replace=False)
                                   for s in sides]))


def train(x, y, seed, hidden):
    torch.manual_seed(seed)
    rows = balanced(y, seed)
    inner, outer = train_test_split(rows, test_size=0.2, random_state=seed,
                                    stratify=y[rows])
    sets = [TensorDataset(torch.from_numpy(x[part]),
                          torch.from_numpy(y[part].astype(np.float32)))
            for part in (inner, outer)]
    train_loader = DataLoader(sets[0], batch_size=32, shuffle=True,
                              drop_last=True)
    eval_loader = DataLoader(sets[1], batch_size=32)
    width = x.shape[1]
    model = torch.nn.Linear(width, 1) if not hidden else torch.nn.Sequential(
        torch.nn.Linear(width, hidden), torch.nn.ReLU(),
        torch.nn.Linear(hidden, 1))
    negative = float((y[inner] == 0).sum())
    loss_of = torch.nn.BCEWithLogitsLoss(
        pos_weight=torch.tensor(negative / (len(inner) - negative)))
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-4,
                                  weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, EPOCHS)
    best = 0.0
    for _ in range(EPOCHS):
        model.train()
        for batch, wanted in train_loader:
            optimiser.zero_grad()
            loss_of(model(batch)[:, 0], wanted).backward()
            optimiser.step()
        schedule.step()
        model.eval()
        right = 0
        with torch.no_grad():
            for batch, wanted in eval_loader:
                right += int(((model(batch)[:, 0] > 0) == (wanted > 0)).sum())
        best = max(best, right / len(sets[1]))
    return best


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("acts")
    parser.add_argument("--layer", type=int, default=15)
    parser.add_argument("--rows", type=int, default=8000)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--hidden", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(os.cpu_count())
    file, keep, y, _ = open_rows(options.acts, options.rows)
    x = read_layer(file, keep, options.layer)
    start = time.perf_counter()
    best = train(x, y, options.seed, options.hidden)
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "best_accuracy": best}))


if __name__ == "__main__":
    main()
