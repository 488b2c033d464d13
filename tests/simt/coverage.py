#!/usr/bin/env python3
"""coverage.py - lines of kernels/ that the simulated tests have run.

    coverage.py [--build DIR] [--out DIR]    report; fails below 100%
    coverage.py [--build DIR] --clean        forget earlier runs

Reads what the programs of the cover build (-DKS_SIMT_COVER=ON) left behind. A
line counts when any instantiation of a template ran it. Lines that no test can
run stand in coverage-exceptions.txt with their reason; an entry that fits no
line, or one that was run, is an error.
"""
import argparse
import glob
import json
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
EXCEPTIONS = os.path.join(HERE, "coverage-exceptions.txt")


def notes(build, ending):
    return sorted(glob.glob(os.path.join(
        build, "tests", "simt", "CMakeFiles", "*-kernels-cover.dir", "**",
        "*." + ending), recursive=True))


def lines_run(build, under):
    """{file: {line: times}} of the sources under that folder of the tree."""
    run = {}
    for note in notes(build, "gcno"):
        data = note[:-4] + "gcda"
        out = subprocess.run(
            ["gcov", "--json-format", "--stdout",
             data if os.path.exists(data) else note],
            capture_output=True, text=True, check=True, cwd=build)
        for document in out.stdout.splitlines():
            document = json.loads(document)
            for file in document["files"]:
                path = os.path.relpath(os.path.realpath(os.path.join(
                    document["current_working_directory"], file["file"])),
                    os.path.realpath(ROOT))
                if not path.startswith(under):
                    continue
                times = run.setdefault(path, {})
                for line in file["lines"]:
                    n = line["line_number"]
                    times[n] = times.get(n, 0) + line["count"]
    return run


def read_exceptions():
    """{(file, text of the line): reason}"""
    out = {}
    with open(EXCEPTIONS) as f:
        for line in f:
            if line.strip() and not line.startswith("#"):
                where, reason = line.rstrip("\n").rsplit(" || ", 1)
                file, text = where.split(" | ", 1)
                out[file, text] = reason
    return out


def judge(run, exceptions):
    """[(file, lines, missed, excused)] and the entries that fit nothing."""
    rows, used = [], set()
    for path, times in sorted(run.items()):
        with open(os.path.join(ROOT, path)) as f:
            text = [" ".join(line.split()) for line in f]
        missed, excused = [], []
        for n, count in sorted(times.items()):
            if count:
                continue
            key = (path, text[n - 1])
            if key in exceptions:
                used.add(key)
                excused.append((n, text[n - 1], exceptions[key]))
            else:
                missed.append((n, text[n - 1]))
        rows.append((path, len(times), missed, excused))
    return rows, [e for e in exceptions if e not in used]


def write(rows, args):
    machine = subprocess.run([os.path.join(ROOT, ".ci", "machine")],
                             capture_output=True, text=True).stdout
    os.makedirs(args.out, exist_ok=True)
    total = sum(n for _, n, _, _ in rows)
    missed = sum(len(m) + len(e) for _, _, m, e in rows)
    with open(os.path.join(args.out, "coverage.md"), "w") as f:
        f.write("# Lines of `kernels/` that the simulated tests run\n\n`%s`, "
                "%s. gcov, kernels at -O0, each test program once.\n\n" % (
                    args.made_by, machine.split("\n")[0]))
        f.write("| source | lines | run | share |\n|---|---|---|---|\n")
        for path, n, m, e in rows:
            ran = n - len(m) - len(e)
            f.write("| `%s` | %d | %d | %s |\n" % (path, n, ran,
                                                   share(ran, n)))
        f.write("| all | %d | %d | %s |\n" % (total, total - missed, share(
            total - missed, total)))
        for title, which in (("Not run", 2), ("Not run, and why", 3)):
            f.write("\n## %s\n\n" % title)
            listed = ["- `%s:%d` `%s`%s\n" % (
                row[0], line[0], line[1], ": " + line[2] if which == 3 else "")
                for row in rows for line in row[which]]
            f.write("".join(listed) or "None.\n")


def share(part, whole):
    """Per cent, never rounded up to 100."""
    return "100%" if part == whole else "%.1f%%" % min(
        99.9, 100.0 * part / whole)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", default="build/release")
    parser.add_argument("--under", default="kernels/")
    parser.add_argument("--out")
    parser.add_argument("--made-by", default="make -f Makefile.bench coverage")
    parser.add_argument("--clean", action="store_true")
    args = parser.parse_args()
    build = os.path.abspath(args.build)
    if args.clean:
        for path in notes(build, "gcda"):
            os.remove(path)
        return 0
    rows, stale = judge(lines_run(build, args.under), read_exceptions())
    if not rows:
        print("error: no notes of a cover build in " + build)
        return 1
    if args.out:
        write(rows, args)
    for path, n, missed, excused in rows:
        print("%s: %s of %d lines%s" % (
            path, share(n - len(missed) - len(excused), n), n,
            ", %d excused" % len(excused) if excused else ""))
        for line, text in missed:
            print("error: %s:%d: no test runs: %s" % (path, line, text))
    for file, text in stale:
        print("error: coverage-exceptions.txt: no line that was not run: "
              "%s | %s" % (file, text))
    return 1 if stale or any(missed for _, _, missed, _ in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
