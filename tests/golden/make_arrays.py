#!/usr/bin/env python3
"""Golden arrays of tests/acts/test_import_array.c, as other programs write them.

Usage: make_arrays.py   (into tests/data/arrays/)

Each holds [2, 3, 4] numbers 100 i + 10 j + k + 0.5, which f16 and bf16 hold
exactly (up to 126); the h5 files from h5py, safetensors from the package (bf16
by torch), npy from numpy.
"""
import os

import h5py
import numpy as np
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

os.chdir(os.path.join(os.path.dirname(__file__), "..", "data"))
os.makedirs("arrays", exist_ok=True)
os.chdir("arrays")
i, j, k = np.indices((2, 3, 4))
x = (100 * i + 10 * j + k + 0.5).astype(np.float64)
bf16 = (x.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
back = (bf16.astype(np.uint32) << 16).view(np.float32)
assert (back == x).all() and (x.astype(np.float16) == x).all()

for name, dtype in (("f2", "<f2"), ("f4", "<f4"), ("f8", "<f8"),
                    ("big", ">f4"), ("i4", "<i4"), ("c8", "<c8")):
    np.save(f"{name}.npy", x.astype(dtype))
np.save("u2.npy", bf16)
np.save("v2.npy", bf16.view("V2"))
np.save("fortran.npy", np.asfortranarray(x.astype(np.float32)))
np.save("flat.npy", x[0].astype(np.float32))
np.save("scalar.npy", np.float32(3))
with open("version2.npy", "wb") as f:
    np.lib.format.write_array(f, x.astype(np.float32), version=(2, 0))

ids = np.arange(3, dtype=np.int64) * 7
save_torch({"hidden_states": torch.tensor(x).to(torch.bfloat16),
            "token_ids": torch.tensor(ids)}, "vllm.safetensors")
save_file({"x": x.astype(np.float16)}, "f16.safetensors")
save_file({"x": x}, "f64.safetensors")
save_file({"x": x.astype(np.int8)}, "i8.safetensors")

with h5py.File("plain.h5", "w", track_order=False) as f:
    for name, dtype in (("f2", "<f2"), ("f4", "<f4"), ("f8", "<f8"),
                        ("big", ">f4"), ("i1", "i1")):
        f.create_dataset(f"group/{name}", data=x.astype(dtype),
                         track_times=False)
    f.create_dataset("ids", data=ids, track_times=False)
    f.create_dataset("packed", data=x.astype("<f4"), compression="gzip",
                     track_times=False)
    f.create_dataset("empty", shape=(2, 3, 4), dtype="<f4", track_times=False)
    f.create_dataset("five", data=np.zeros((1, 1, 1, 1, 1), "<f4"),
                     track_times=False)
