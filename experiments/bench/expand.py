#!/usr/bin/env python3
"""Expands a GGUF once to f32, so that every program is given the same weights.

Usage: expand.py IN.gguf OUT_DIR
writes OUT_DIR/model-f32.gguf and OUT_DIR/hf/ (transformers' folder form)
"""
import os
import sys

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
from gguf.quants import dequantize


def expand_gguf(source, target):
    reader = GGUFReader(source)
    arch = reader.fields["general.architecture"].contents()
    writer = GGUFWriter(target + ".part", arch)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        if name == "general.file_type":
            writer.add_uint32(name, 0)  # all f32
            continue
        kind = field.types[0]
        sub = field.types[-1] if kind == GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), kind, sub_type=sub)
    for tensor in reader.tensors:
        shape = [int(n) for n in reversed(tensor.shape)]
        if tensor.tensor_type == GGMLQuantizationType.F32:
            values = np.array(tensor.data, dtype=np.float32)
        else:
            values = dequantize(tensor.data, tensor.tensor_type)
        writer.add_tensor(tensor.name,
                          values.astype(np.float32).reshape(shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(target + ".part", target)


def expand_hf(source, target):
    """transformers reads the f32 GGUF itself: same numbers for everybody."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    folder, name = os.path.split(source)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name,
                                                 dtype=torch.float32)
    # A model read from GGUF calls itself quantised and refuses to be saved.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    plain = AutoModelForCausalLM.from_config(model.config,
                                             dtype=torch.float32)
    plain.load_state_dict(model.state_dict())
    plain.save_pretrained(target)
    AutoTokenizer.from_pretrained(folder, gguf_file=name).save_pretrained(
        target)


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    source, out = sys.argv[1:]
    os.makedirs(out, exist_ok=True)
    full = os.path.join(out, "model-f32.gguf")
    if not os.path.exists(full):
        expand_gguf(source, full)
    hf = os.path.join(out, "hf")
    if not os.path.exists(os.path.join(hf, "config.json")):
        expand_hf(full, hf)


if __name__ == "__main__":
    main()
