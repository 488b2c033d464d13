#!/usr/bin/env python3
"""registers.py - what ptxas says of every kernel: registers, spills, shared
memory, and the occupancy that follows on paper.

    registers.py [--nvcc NVCC] [--arch 80,90a] [--out DIR] [--shared FILE]
                 [--no-spills] [FILE...]

FILE: CUDA sources (kernels/*.cu). --out writes DIR/registers.csv and .md;
--no-spills fails on any. Occupancy is theory: of the launch bound's threads
(256 where a kernel has none), registers and shared memory. How much of that
is dynamic shows where a kernel is launched: --shared FILE is what the
simulated tests left in $KS_SIMT_SHARED.
"""
import argparse
import csv
import glob
import multiprocessing.pool
import os
import re
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__))))

# Per multiprocessor: warps, blocks, bytes of shared memory (CUDA programming
# guide, "Technical Specifications per Compute Capability"). 64 K registers
# everywhere, given out to warps by 256; 1 KB of shared memory a block is the
# system's.
LIMITS = {"80": (64, 32, 164), "86": (48, 16, 100), "89": (48, 24, 100),
          "90a": (64, 32, 228), "100": (64, 32, 228), "120": (48, 24, 100)}
FLAGS = ["-std=c++17", "-Werror", "all-warnings"]
FIELDS = ["file", "kernel", "arch", "threads", "bounded", "registers", "stack",
          "spill_stores", "spill_loads", "static_shared", "dynamic_shared",
          "blocks", "occupancy"]


def includes():
    """-I options of the kernels' host headers."""
    jansson = subprocess.run(["pkg-config", "--cflags-only-I", "jansson"],
                             capture_output=True, text=True)
    return ["-I" + os.path.join(ROOT, "host"),
            "-I" + os.path.join(ROOT, "probes"),
            "-I" + os.path.join(ROOT, "kernels")] + jansson.stdout.split()


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit("%s\n%s%s" % (" ".join(command), done.stdout, done.stderr))
    return done.stdout + done.stderr


def demangle(names):
    """{symbol: short name}: without return type and parameters."""
    out = subprocess.run(["c++filt"], input="\n".join(names),
                         capture_output=True, text=True).stdout.split("\n")
    short = {}
    for name, full in zip(names, out):
        full = re.sub(r"\(anonymous namespace\)::", "", full)
        depth, end = 0, len(full)
        for i, c in enumerate(full):
            depth += (c == "<") - (c == ">")
            if c == "(" and depth == 0:
                end = i
                break
        full = full[:end].strip()
        at = full.find("<")
        head = full if at < 0 else full[:at]
        full = full[head.rfind(" ") + 1:]
        short[name] = re.sub(r"\((?:int|bool|unsigned int|\w+)\)", "", full)
    return short


def compile_one(nvcc, arch, source, folder):
    """Rows of one source for one architecture: to PTX, then ptxas -v."""
    ptx = os.path.join(folder, "%s.%s.ptx" % (os.path.basename(source), arch))
    run([nvcc] + FLAGS + includes() +
        ["-ptx", "-arch=compute_" + arch, "-o", ptx, source])
    with open(ptx) as f:
        text = f.read()
    bounds = {}
    for entry in re.finditer(r"\.entry\s+(\w+)\s*\((.*?)\)([^{]*)\{", text,
                             re.S):
        most = re.search(r"\.maxntid\s+(\d+)(?:,\s*(\d+))?(?:,\s*(\d+))?",
                         entry[3])
        if most:
            n = 1
            for group in most.groups():
                n *= int(group or 1)
            bounds[entry[1]] = n
    ptxas = os.path.join(os.path.dirname(nvcc), "ptxas")
    log = run([ptxas, "-arch=sm_" + arch, "-v", "-o", os.devnull, ptx])
    rows = []
    for part in log.split("Compiling entry function '")[1:]:
        name = part[:part.index("'")]
        stack = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill "
                          r"stores, (\d+) bytes spill loads", part)
        used = re.search(r"Used (\d+) registers(.*)", part)
        shared = re.search(r"(\d+) bytes smem", used[2])
        rows.append({"file": os.path.relpath(source, ROOT), "kernel": name,
                     "arch": "sm_" + arch,
                     "threads": bounds.get(name, 256),
                     "bounded": "yes" if name in bounds else "no",
                     "registers": int(used[1]), "stack": int(stack[1]),
                     "spill_stores": int(stack[2]),
                     "spill_loads": int(stack[3]),
                     "static_shared": int(shared[1]) if shared else 0})
    return rows


def occupancy(row, dynamic):
    """Blocks a multiprocessor, and its share of warps, in theory."""
    warps, blocks, kb = LIMITS[row["arch"][3:]]
    of_block = -(-row["threads"] // 32)
    by_registers = 65536 // (-(-row["registers"] * 32 // 256) * 256)
    shared = row["static_shared"] + (dynamic or 0) + 1024
    fit = min(blocks, warps // of_block, by_registers // of_block,
              kb * 1024 // (-(-shared // 128) * 128))
    row["dynamic_shared"] = dynamic
    row["blocks"] = fit
    row["occupancy"] = "%.0f%%" % (100.0 * fit * of_block / warps)


def launched(path):
    """{kernel: the most bytes of dynamic shared memory it was launched with},
    of lines "program address bytes"."""
    with open(path) as f:
        lines = {tuple(line.split()) for line in f}
    most = {}  # (program, symbol): bytes
    for program in {p for p, _, _ in lines}:
        mine = [(a, int(b)) for p, a, b in lines if p == program]
        out = run(["addr2line", "-f", "-e", program] + [a for a, _ in mine])
        for symbol, (_, b) in zip(out.split("\n")[::2], mine):
            most[symbol] = max(b, most.get(symbol, 0))
    names = demangle(sorted(most))
    out = {}
    for symbol, b in most.items():
        out[names[symbol]] = max(b, out.get(names[symbol], 0))
    return out


def template(kernel):
    return kernel.split("<")[0]


def made_by(nvcc, command):
    version = run([nvcc, "--version"])
    commit = run([os.path.join(ROOT, ".ci", "machine")]).split("\n")[0]
    return "`%s`, nvcc %s, %s" % (
        command, re.search(r"V[\d.]+", version)[0], commit)


def write(rows, args):
    os.makedirs(args.out, exist_ok=True)
    with open(os.path.join(args.out, "registers.csv"), "w", newline="") as f:
        out = csv.DictWriter(f, FIELDS, lineterminator="\n")
        out.writeheader()
        out.writerows(rows)
    archs = sorted({r["arch"] for r in rows}, key=lambda a: int(
        re.sub(r"\D", "", a)))
    spills = [r for r in rows if r["spill_stores"] or r["spill_loads"]]
    with open(os.path.join(args.out, "registers.md"), "w") as f:
        f.write("# Registers, shared memory and occupancy on paper\n\n")
        f.write(made_by(args.nvcc, args.made_by) + ".\n\n")
        f.write("What ptxas reports; nothing here was measured on a GPU. A "
                "cell is registers a thread, then the share of a "
                "multiprocessor's warps that can be resident (theory: launch "
                "bound, 256 threads where a kernel has none, marked *; "
                "registers; shared memory). Shared memory in bytes: static, "
                "+ the most dynamic that the simulated tests launched it "
                "with; `?`: they launch other instances only, and the "
                "occupancy is without. `registers.csv` has all columns. %d kernels, %s.\n\n" % (
                    len({(r["file"], r["kernel"]) for r in rows}),
                    "no spills" if not spills else
                    "%d with spills" % len(spills)))
        f.write("| kernel | threads | shared | %s |\n" % " | ".join(archs))
        f.write("|---|---|---|%s\n" % ("---|" * len(archs)))
        table = {}
        for r in rows:
            table.setdefault((r["file"], r["kernel"]), {})[r["arch"]] = r
        file = None
        for (path, kernel), cells in sorted(table.items()):
            if path != file:
                file = path
                f.write("| **%s** |%s\n" % (path, " |" * (2 + len(archs))))
            one = next(iter(cells.values()))
            shared = str(one["static_shared"])
            if one["dynamic_shared"] is None:
                shared += " + ?"
            elif one["dynamic_shared"]:
                shared += " + %d" % one["dynamic_shared"]
            f.write("| `%s` | %d%s | %s | %s |\n" % (
                kernel, one["threads"], "" if one["bounded"] == "yes" else "*",
                shared, " | ".join(
                    "%d, %s%s" % (
                        cells[a]["registers"], cells[a]["occupancy"],
                        " SPILLS %d" % cells[a]["spill_stores"]
                        if cells[a]["spill_stores"] else "")
                    if a in cells else "" for a in archs)))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--nvcc", default="/usr/local/cuda/bin/nvcc")
    parser.add_argument("--arch", default=",".join(LIMITS))
    parser.add_argument("--out")
    parser.add_argument("--shared")
    parser.add_argument("--made-by", default="make -f Makefile.bench kernels")
    parser.add_argument("--no-spills", action="store_true")
    parser.add_argument("files", nargs="*")
    args = parser.parse_args()
    files = args.files or sorted(glob.glob(os.path.join(ROOT, "kernels",
                                                        "*.cu")))
    dynamic = launched(args.shared) if args.shared else {}
    with tempfile.TemporaryDirectory() as folder, \
            multiprocessing.pool.ThreadPool() as pool:
        parts = pool.starmap(compile_one, [
            (args.nvcc, arch, os.path.abspath(source), folder)
            for source in files for arch in args.arch.split(",")], 1)
    rows = [row for part in parts for row in part]
    names = demangle(sorted({r["kernel"] for r in rows}))
    some = {template(kernel) for kernel in dynamic}
    bad = 0
    for row in rows:
        row["kernel"] = names[row["kernel"]]
        occupancy(row, dynamic.get(
            row["kernel"], None if template(row["kernel"]) in some else 0))
        if row["spill_stores"] or row["spill_loads"]:
            bad += 1
            print("%s: %s spills at %s: %d bytes stored, %d loaded" % (
                row["file"], row["kernel"], row["arch"], row["spill_stores"],
                row["spill_loads"]))
    if args.out:
        write(rows, args)
    print("%d kernels in %d files at %s: %d spill" % (
        len({(r["file"], r["kernel"]) for r in rows}), len(files), args.arch,
        bad))
    return 1 if bad and args.no_spills else 0


if __name__ == "__main__":
    sys.exit(main())
