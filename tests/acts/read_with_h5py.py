"""Reads an activation file with stock h5py, the plain way and the fast way,
and compares with the values that tests/acts/fixture.h put there.

usage: read_with_h5py.py FILE
"""
import sys

import h5py
import numpy as np

STREAMS = ["resid", "attn", "mlp"]
POSITIONS = ["mean", "first", "middle", "last", "before", "tokens"]


def fast(path, dataset, dtype):
    """One layer as float32 without HDF5's slow conversion."""
    offset = dataset.id.get_offset()  # None or -1: virtual
    assert offset is not None and offset >= 0
    raw = {"bf16": np.uint16, "f16": np.float16, "f32": np.float32}[dtype]
    mapped = np.memmap(path, raw, "r", offset, dataset.shape)
    if dtype == "bf16":
        return (mapped.astype(np.uint32) << 16).view(np.float32)
    return mapped.astype(np.float32)


def main(path):
    with h5py.File(path, "r") as file:
        dtype = file.attrs["dtype"].decode()
        assert file.attrs["format"].decode() == "keystep activations"
        valid = file["steps/valid"][:].astype(bool)
        chain_ids = file["chains/id"][:]
        assert chain_ids[3].decode() == "p1/1", chain_ids[3]
        assert file["steps/label"][0] == -1 and file["steps/label"][2] == 1
        for s, stream in enumerate(STREAMS):
            for p, position in enumerate(POSITIONS):
                data = file["activations"][stream][position]
                assert np.isnan(np.float32(data.fillvalue)), "fill value"
                layers, rows, d = data.shape
                l, r, i = np.ogrid[:layers, :rows, :d]
                want = ((s * 131 + p * 31 + l * 17 + r * 7 + i) % 64 + 1.0)
                want = want.astype(np.float32)
                if position != "tokens":
                    want[:, ~valid] = np.nan
                plain = data[:].astype(np.float32)
                assert np.array_equal(plain, want, equal_nan=True), data.name
                assert np.array_equal(fast(path, data, dtype), want,
                                      equal_nan=True), data.name
                assert file["checksums"][stream][position].shape == (layers,
                                                                     rows)
    print("h5py reads", path)


if __name__ == "__main__":
    main(sys.argv[1])
