#!/usr/bin/env python3
"""mutate.py - does a test notice when a kernel is wrong? Plants one defect at a
time (mutants.py) in copies of the CUDA sources, builds the test programs that
use the source with it, and runs them: plain, then race and asan of the nearest
one, until one fails or hangs. What none of them notices has survived.

    mutate.py [--build DIR] [--seed N] [--draw N] [--only TEXT] [--out DIR]
    mutate.py --handful WORD --seconds N     a few, chosen by the word, in time
    mutate.py --list

mutants-equivalent.txt names those that change nothing that a test could see,
with the reason; an entry that fits no source any more is an error.
"""
import argparse
import csv
import glob
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

import mutants

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
BUILDS = ["plain", "race", "asan"]
FIELDS = ["file", "line", "kind", "before", "after", "verdict", "by",
          "seconds"]
PROGRAMS = 3  # that use a source and may try to kill one mutant of it
# Where a source's name does not say whose tests are its own.
OWN = {"device": ["simt_device", "simt_copy", "simt_backend"],
       "fault": ["simt_copy", "simt_heads", "simt_backend"],
       "graph": ["simt_copy", "simt_backend", "simt_forward"],
       "cuda": ["simt_copy", "simt_attention", "simt_backend"],
       "ops_cuda": ["simt_backend", "simt_forward"],
       "blaslt": ["simt_gemm", "simt_backend"],
       "draw": ["simt_heads"], "expand": ["simt_gemm", "simt_heads"],
       "vec": ["simt_norm", "simt_pool", "simt_rows_backward"]}


class Build:
    """What the build folder knows: test programs, their kernels, commands."""

    def __init__(self, folder):
        self.folder = os.path.abspath(folder)
        kernels = {}  # object: (source, object, command)
        with open(os.path.join(self.folder, "compile_commands.json")) as f:
            for entry in json.load(f):
                where = re.search(r"-o (\S*?/[^/]+-kernels-(\w+)\.dir/\S+)",
                                  entry["command"])
                if where and where[2] in BUILDS:
                    kernels[where[1]] = (os.path.relpath(entry["file"], ROOT),
                                         where[1], entry["command"])
        listed = subprocess.run(
            ["ctest", "--test-dir", self.folder, "--show-only=json-v1"],
            capture_output=True, text=True, check=True)
        self.environment = {}
        for test in json.loads(listed.stdout)["tests"]:
            for p in test.get("properties", []):
                if p["name"] == "ENVIRONMENT":
                    self.environment[test["name"]] = dict(
                        e.split("=", 1) for e in p["value"])
        self.links, self.uses, self.lock = {}, {}, threading.Lock()
        self.objects = {}  # (program, build): those of its kernels
        for test in self.environment:
            name, _, build = test.rpartition("-")
            if name.startswith("simt_") and build in BUILDS:
                self.objects[name, build] = [
                    kernels[word] for word in self.link(test).split()
                    if word in kernels]

    def ninja(self, *args):
        return subprocess.run(["ninja", "-C", self.folder] + list(args),
                              capture_output=True, text=True)

    def make(self, names):
        done = self.ninja(*names)
        if done.returncode:
            print("mutate.py: the build failed:\n" + done.stdout[-3000:],
                  flush=True)
            os._exit(1)

    def link(self, name):
        with self.lock:
            if name not in self.links:
                lines = self.ninja("-t", "commands", name).stdout.split("\n")
                self.links[name] = [s for s in lines if " -o " in s][-1]
            return self.links[name]

    def users(self, source):
        """The kernel headers that a source includes, through others too."""
        with self.lock:
            return self.included(source)

    def included(self, source):
        if source not in self.uses:
            self.uses[source] = found = set()
            with open(os.path.join(ROOT, source)) as f:
                for name in re.findall(r'^#include "([^"]+\.cuh)"', f.read(),
                                       re.M):
                    header = os.path.normpath(os.path.join(
                        os.path.dirname(source), name))
                    if os.path.exists(os.path.join(ROOT, header)):
                        found |= {header} | self.included(header)
        return self.uses[source]

    def programs(self, file):
        """Programs whose kernels include the file, the nearest first."""
        found = []
        for (program, build), objects in self.objects.items():
            if build == "plain" and any(file in self.users(s) or file == s
                                        for s, _, _ in objects):
                found.append((program, len(objects)))
        stem = os.path.splitext(os.path.basename(file))[0]
        own = OWN.get(stem, [])
        known = {p for p, _ in found}
        missing = [p for p in own if p not in known]
        if missing:
            sys.exit("mutate.py: %s is not in %s" % (file, missing))
        found.sort(key=lambda p: (
            len(os.path.commonprefix([stem, p[0][len("simt_"):]])) < 3, p[1],
            p[0]))
        return own or [p for p, _ in found[:PROGRAMS]]

    def judges(self, file, builds):
        """(program, build), the quick ones first: plain of all programs, the
        others of the nearest alone."""
        programs = self.programs(file)
        return [(p, b) for b in builds
                for p in (programs if b == "plain" else programs[:1])]


def mirror(folder):
    """A tree of links to ours, so that a copy's #includes find the rest."""
    for top in ("host", "probes"):
        os.symlink(os.path.join(ROOT, top), os.path.join(folder, top))
    for part in ("kernels", "tests/simt"):
        os.makedirs(os.path.join(folder, part))
        for path in glob.glob(os.path.join(ROOT, part, "*")):
            os.symlink(path, os.path.join(folder, part,
                                          os.path.basename(path)))


def run(command, seconds, **more):
    """(exit status, output, seconds); status None: it ran past its time. That
    is of the processor, a process, for others may keep the machine busy; who
    sleeps has three times as much."""
    with tempfile.TemporaryFile() as out:
        child = subprocess.Popen(["prlimit", "--cpu=%d" % seconds] + command,
                                 stdout=out, stderr=out,
                                 start_new_session=True, **more)
        end, done, status = time.time() + 3 * seconds, False, None
        while not done and time.time() < end:
            time.sleep(0.02)
            done, code, used = os.wait4(child.pid, os.WNOHANG)
        if done:
            status = os.waitstatus_to_exitcode(code)
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        if not done:
            _, _, used = os.wait4(child.pid, 0)
        child.returncode = 0  # it has been waited for
        out.seek(0)
        return (status, out.read().decode(errors="replace"),
                used.ru_utime + used.ru_stime)


class Trial:
    """Builds and runs mutants in a mirror of its own."""

    def __init__(self, build, folder):
        self.build, self.folder = build, folder
        mirror(folder)

    def program(self, program, build, file):
        """Builds the program with the mirror's file: its path, or None."""
        made = self.build.link("%s-%s" % (program, build))
        for i, (source, object_, command) in enumerate(
                self.build.objects[program, build]):
            if source != file and file not in self.build.users(source):
                continue
            mine = os.path.join(self.folder, "%d.o" % i)
            command = command.replace(" -o " + object_, " -o " + mine)
            command = command.replace(os.path.join(ROOT, source),
                                      os.path.join(self.folder, source))
            # The mirror's headers first.
            command = command.replace(
                "-I" + ROOT + "/kernels", "-I" + self.folder + "/kernels")
            status, _, _ = run(shlex.split(command), 600, cwd=self.build.folder)
            if status != 0:
                return None
            made = made.replace(" %s " % object_, " %s " % mine)
        out = os.path.join(self.folder, "program")
        made = re.sub(r" -o \S+", " -o " + out, made, count=1)
        status, text, _ = run(["sh", "-c", made], 600, cwd=self.build.folder)
        if status != 0:
            sys.exit("mutate.py: linking failed: %s\n%s" % (made, text))
        return out

    def kill(self, mutant, text, baseline, builds):
        """("killed" | "survived" | "does not compile", by)."""
        path = os.path.join(self.folder, mutant.file)
        os.remove(path)
        with open(path, "w") as f:
            f.write(text[:mutant.begin] + mutant.becomes + text[mutant.end:])
        try:
            for program, build in self.build.judges(mutant.file, builds):
                name = "%s-%s" % (program, build)
                seconds = baseline.seconds(name)
                if seconds is None:
                    return "not judged", name
                made = self.program(program, build, mutant.file)
                if not made:
                    return "does not compile", ""
                status, said, _ = self.execute(made, name, seconds)
                if status is None:
                    return "killed", name + ": ran past its time"
                if status:
                    return "killed", name + failed(said)
        finally:
            os.remove(path)
            os.symlink(os.path.join(ROOT, mutant.file), path)
        return "survived", ""

    def execute(self, path, name, seconds):
        environment = dict(os.environ)
        environment.update(self.build.environment.get(name, {}))
        environment["CRITERION_VERBOSITY_LEVEL"] = "1"
        return run([path, "--fail-fast"], seconds, env=environment)


def failed(said):
    """The first test that Criterion names as failing."""
    said = re.sub(r"\x1b\[[0-9;]*m", "", said)
    test = re.search(r"\[FAIL\] ([\w:]+)", said) or re.search(
        r"\[----\].*?Test \"?([\w:]+)", said) or re.search(
        r"([\w]+::[\w]+)", said)
    return ": " + test[1] if test else ""


def sources():
    files = sorted(glob.glob(os.path.join(ROOT, "kernels", "*.cu")) +
                   glob.glob(os.path.join(ROOT, "kernels", "*.cuh")))
    out = {}
    for path in files:
        name = os.path.basename(path)
        # The wrappers that only nvcc sees are reviewed (docs/simt.md).
        if name != "device.cuh":
            with open(path) as f:
                out["kernels/" + name] = f.read()
    return out


class Baseline:
    """Programs as they are: built, and passing, before a mutant is judged."""

    def __init__(self, build, trust):
        self.build, self.trust = build, trust
        self.limits, self.locks = {}, {}
        self.lock = threading.Lock()

    def seconds(self, name):
        """That a mutant's run of the program may take; None: it fails as it
        is, and judges nothing."""
        with self.lock:
            lock = self.locks.setdefault(name, threading.Lock())
        with lock:
            if name not in self.limits:
                self.build.make([name])
                self.limits[name] = 60 if self.trust else self.run(name)
            return self.limits[name]

    def run(self, name):
        environment = dict(os.environ)
        environment.update(self.build.environment.get(name, {}))
        status, said, seconds = run(
            [os.path.join(self.build.folder, "tests", "simt", name)], 900,
            env=environment)
        if status != 0:
            print("mutate.py: %s fails without a mutant:\n%s" % (
                name, said[-2000:]), flush=True)
            return None
        return 20 + 3 * seconds


class Campaign:
    """Runs mutants in some threads until they are done, or the time is up."""

    def __init__(self, args, build, texts):
        self.args, self.build, self.texts = args, build, texts
        self.baseline = Baseline(build, bool(args.handful))
        self.results, self.lock = {}, threading.Lock()
        self.end = time.time() + args.seconds if args.seconds else None
        self.known = {}
        self.notes = os.path.join(ROOT, ".cache", "mutants-killed.json")
        if args.resume and os.path.exists(self.notes):
            with open(self.notes) as f:
                self.known = json.load(f)

    def key(self, m):
        text = self.texts[m.file]
        return hashlib.sha256((m.file + text[:m.begin] + m.becomes +
                               text[m.end:]).encode()).hexdigest()

    def work(self, queue, folder):
        trial = Trial(self.build, folder)
        while True:
            with self.lock:
                if not queue or (self.end and time.time() > self.end):
                    return
                mutant = queue.pop(0)
            began = time.time()
            key = self.key(mutant)
            if key in self.known:
                verdict, by = "killed", self.known[key]
            else:
                verdict, by = trial.kill(mutant, self.texts[mutant.file],
                                         self.baseline,
                                         self.args.builds.split(","))
            with self.lock:
                self.results[mutant] = (verdict, by, time.time() - began)
                if verdict == "killed" and key not in self.known:
                    self.known[key] = by
                    if self.args.resume:
                        with open(self.notes + ".part", "w") as f:
                            json.dump(self.known, f)
                        os.replace(self.notes + ".part", self.notes)
                print("%-8s %s:%d %s: %s => %s%s" % (
                    verdict, mutant.file, mutant.line, mutant.kind,
                    mutant.before, mutant.after, " (%s)" % by if by else ""),
                    flush=True)

    def run(self, chosen):
        queue = list(chosen)
        top = tempfile.mkdtemp(prefix="mutants-")
        threads = []
        for i in range(self.args.jobs):
            folder = os.path.join(top, str(i))
            os.mkdir(folder)
            threads.append(threading.Thread(target=self.work,
                                            args=(queue, folder)))
            threads[-1].start()
        for thread in threads:
            thread.join()
        shutil.rmtree(top)


def write(args, results, equivalent):
    os.makedirs(args.out, exist_ok=True)
    rows = [{"file": m.file, "line": m.line, "kind": m.kind,
             "before": m.before, "after": m.after, "verdict": v, "by": by,
             "seconds": "%.0f" % s} for m, (v, by, s) in results]
    with open(os.path.join(args.out, "mutants.csv"), "w", newline="") as f:
        out = csv.DictWriter(f, FIELDS, lineterminator="\n")
        out.writeheader()
        out.writerows(rows)
    machine = subprocess.run([os.path.join(ROOT, ".ci", "machine")],
                             capture_output=True, text=True).stdout
    out_of = ("does not compile", "not judged")
    rows = [r for r in rows if r["verdict"] not in out_of]
    survived = [r for r in rows if r["verdict"] == "survived"]
    with open(os.path.join(args.out, "mutants.md"), "w") as f:
        f.write("# Planted defects, and what noticed them\n\n`%s`, %s. "
                "Seed %d: every barrier, wait, commit, fragment, mask and "
                "event; %d of each source's comparisons, indices and logic. "
                "On the simulated device.\n\n" % (
                    args.made_by, machine.split("\n")[0], args.seed,
                    args.draw))
        f.write("%d mutants, %d killed, %d survived; %d more are equivalent "
                "to the source (below); %d did not compile or were not "
                "judged.\n\n" % (
                    len(rows), len(rows) - len(survived), len(survived),
                    len(equivalent), len(results) - len(rows)))
        kinds = [k for k in mutants.EVERY + mutants.DRAWN
                 if any(r["kind"] == k for r in rows)]
        f.write("| source | %s |\n|---|%s\n" % (
            " | ".join(kinds), "---|" * len(kinds)))
        for file in sorted({r["file"] for r in rows}):
            cells = []
            for kind in kinds:
                of = [r for r in rows if (r["file"], r["kind"]) ==
                      (file, kind)]
                dead = sum(r["verdict"] == "killed" for r in of)
                cells.append("%d of %d" % (dead, len(of)) if of else "")
            f.write("| `%s` | %s |\n" % (file, " | ".join(cells)))
        f.write("\nKilled by build: %s.\n" % ", ".join(
            "%s %d" % (b, sum("-%s" % b in r["by"].split(":")[0]
                              for r in rows)) for b in BUILDS))
        f.write("\n## Survivors\n\n")
        f.write("".join("- `%s:%s` %s: `%s` becomes `%s`\n" % (
            r["file"], r["line"], r["kind"], r["before"], r["after"])
            for r in survived) or "None.\n")
        f.write("\n## Equivalent\n\n")
        f.write("".join("- `%s`: %s\n" % (w, why)
                        for w, why in sorted(equivalent.items())) or
                "None.\n")


def stale(all_mutants, equivalent):
    """Entries of the list that fit no source."""
    words = {m.words() for m in all_mutants}
    return [w for w in equivalent if w not in words]


def options():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", default="build/release")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--draw", type=int, default=6)
    parser.add_argument("--builds", default=",".join(BUILDS))
    parser.add_argument("--only", default="", help="part of a source's name")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--out")
    parser.add_argument("--made-by", default="make -f Makefile.bench mutants")
    parser.add_argument("--resume", action="store_true",
                        help="keep what earlier runs have killed")
    parser.add_argument("--handful", metavar="WORD")
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--list", action="store_true")
    return parser.parse_args()


def main():
    args = options()
    texts = sources()
    found = [m for file, text in texts.items()
             for m in mutants.find(file, text)]
    equivalent = mutants.read_equivalent(
        os.path.join(HERE, "mutants-equivalent.txt"))
    for words in stale(found, equivalent):
        print("mutants-equivalent.txt: fits no source: " + words)
    if stale(found, equivalent):
        return 1
    found = [m for m in found if m.words() not in equivalent]
    chosen = [m for m in mutants.draw(found, args.seed, args.draw)
              if args.only in m.file]
    if args.list:
        for m in chosen:
            print(m.words())
        return 0
    build = Build(args.build)
    if args.handful:  # one a source first, in an order that the word decides
        chosen.sort(key=lambda m: m.order(args.handful))
        seen = {}
        for m in chosen:
            m.turn = seen[m.file] = seen.get(m.file, 0) + 1
        chosen.sort(key=lambda m: m.turn)
        chosen = chosen[:20]
    used = {m.file: build.programs(m.file) for m in chosen}
    alone = [file for file, programs in used.items() if not programs]
    for file in alone:
        print("%s: no test program runs it" % file, flush=True)
    chosen = [m for m in chosen if m.file not in alone]
    campaign = Campaign(args, build, texts)
    campaign.run(chosen)
    results = sorted(campaign.results.items(),
                     key=lambda r: (r[0].file, r[0].begin, r[0].becomes))
    if args.out:
        write(args, results, {w: r for w, r in equivalent.items()
                              if args.only in w})
    judged = [v for _, (v, _, _) in results]
    real = [v for v in judged if v in ("killed", "survived")]
    print("mutants killed: %d of %d%s%s" % (
        real.count("killed"), len(real),
        ", chosen by '%s'" % args.handful if args.handful else "",
        ", %d not judged or not compiled" % (len(judged) - len(real))
        if len(judged) > len(real) else ""))
    bad = alone or not real or "survived" in real or "not judged" in judged
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
