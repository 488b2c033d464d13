#!/usr/bin/env python3
"""Drives the page of `keystep report` in a headless Chromium: what is shown is
what the files say, by mouse, keyboard and screen reader, and text from models
stays text.

Usage: test_page.py PROGRAM AXE.min.js [PICTURES]
PICTURES: a folder for screenshots, to be looked at.
"""
import csv
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback

import h5py
import numpy as np

from browser import Browser

HERE = os.path.dirname(os.path.abspath(__file__))
FULL = os.path.join(HERE, "..", "data", "report", "full")
POSITIONS = ["mean", "first", "last"]
LAYERS = 6
HOSTILE = [
    ("\"><img src=x onerror=\"window.hacked=1\">/0",
     ["<script>window.hacked=1</script>", "</script><script>window.hacked=1//",
      "<!-- <script> ]]> --!>", "{{data}} ${window.hacked=1} `x` &lt;b&gt;"]),
    ("turned/0", ["right \u202eto left\u202c and\u2066 isolated\u2069.",
                  "line\u2028separators\u2029here", "\ufeffmark\u200b\u00ad",
                  "\u0000\u0001\u0007\u007f\u0085 controls"]),
    ("long/0", ["x" * 100000, "many words " * 9000, "short", "end"]),
    ("\u05e9\u05dc\u05d5\u05dd/0", ["\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd",
                                    "\u0627\u0644\u0633\u0644\u0627\u0645 3 + 4 = 7",
                                    "\u4f60\u597d\uff0c\U0001f600", "e\u0301" * 20]),
]


# ------------------------------------------------------------------------ data

def chains_of(rng):
    chains = []
    for i in range(14):
        steps = [f"Step {k + 1} of chain {i}: {rng.integers(10, 99)} + 1."
                 for k in range(4 + (i * 5) % 9)]
        chains.append((f"p{i}/0", steps))
    return chains + HOSTILE


def write_run(folder, rng, chains):
    """summary.json of the fixture, and a probes.h5 and chains that fit it."""
    os.makedirs(folder)
    shutil.copy(os.path.join(FULL, "summary.json"), folder)
    lines, labels, rows = [], [], []
    for c, (name, steps) in enumerate(chains):
        text, spans = "", []
        for step in steps:
            begin = len(text.encode())
            text += step
            spans.append((begin, len(text.encode())))
            text += "\n"
        lines.append({"id": name, "problem": f"problem {c}", "prompt": "?",
                      "question": f"What is <b>{c}</b>?", "text": text,
                      "steps": [{"begin": b, "end": e} for b, e in spans]})
        own = [int(v) for v in rng.integers(0, 2, len(steps))]
        own[-1] = -1
        labels.append(own)
        rows += [(c, b, e, y) for (b, e), y in zip(spans, own)]
    rows = np.array(rows)
    n = len(rows)
    with h5py.File(os.path.join(folder, "probes.h5"), "w") as f:
        for key, value in {"model_name": "example", "model_sha256": "0" * 64,
                           "context": "full", "program_version": "0"}.items():
            f.attrs[key] = np.bytes_(value)
        probed = rows[:, 3] >= 0
        f["fold"] = np.where(probed, 0, 255).astype("u1")[None]
        for k, column in enumerate(["chain", "byte_begin", "byte_end"]):
            f[f"steps/{column}"] = rows[:, k].astype("i4")
        f["steps/label"] = rows[:, 3].astype("i1")
        for key, of in {"id": [l["id"] for l in lines],
                        "problem": [l["problem"] for l in lines],
                        "text_sha256": [sha(l["text"]) for l in lines]}.items():
            f[f"chains/{key}"] = np.array([v.encode() for v in of])
        scores = {}
        for p, position in enumerate(POSITIONS):
            s = rng.normal(0, 1.5 + p, (LAYERS, n)).astype("f4")
            s += (np.arange(LAYERS) / 3)[:, None] * np.where(rows[:, 3] == 1, 1, -1)
            s[5, ::9] *= 40  # beyond what a byte tells
            s[:, ~probed] = np.nan
            at = f"probes/resid-{position}/"
            f[at + "layer"] = np.arange(LAYERS, dtype="i4")
            f[at + "strength"] = np.ones((LAYERS, 1, 5))
            f[at + "chosen_layer"] = np.array([[5, 4, 4, 4, 5]], dtype="i4")
            f[at + "scores"] = s
            f[at + "best_scores"] = s[4]
            scores[position] = s
    path = os.path.join(folder, "chains.jsonl")
    with open(path, "w", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(line) + "\n")
    with open(os.path.join(folder, "labels.jsonl"), "w") as file:
        for line, own in zip(lines, labels):
            file.write(json.dumps({
                "chain": line["id"], "labels": [None if y < 0 else y for y in own],
                "hops": [k + 0.5 for k in range(len(own))]}) + "\n")
    first = np.cumsum([0] + [len(s) for _, s in chains])
    return {"folder": folder, "chains": chains, "labels": labels,
            "scores": scores, "first": first, "path": path}


def sha(text):
    import hashlib
    return hashlib.sha256(text.encode()).hexdigest()


# ----------------------------------------------------------------------- tests

class Page:
    """The reader, in its own words."""

    def __init__(self, browser, run, url):
        self.b, self.run, self.url = browser, run, url

    def reader(self):
        self.b.js("location.hash = '#reader'")
        self.b.wait("!document.getElementById('view-reader').hidden")
        self.b.settle()

    def findings(self):
        self.b.js("location.hash = '#findings'")
        self.b.wait("!document.getElementById('view-findings').hidden")
        self.b.settle()

    def at(self):
        return self.b.js("[keystep.reader.chain, keystep.reader.step, "
                         "keystep.reader.layer, keystep.reader.position]")

    def text(self, selector):
        return self.b.js(f"document.querySelector({json.dumps(selector)}).textContent")

    def texts(self, selector):
        return self.b.js("[...document.querySelectorAll(%s)].map(n => n.textContent)"
                         % json.dumps(selector))

    def choose(self, selector, value):
        self.b.js("""((node, value) => { node.value = value;
            node.dispatchEvent(new Event('input', {bubbles: true}));
            node.dispatchEvent(new Event('change', {bubbles: true})); })
            (document.querySelector(%s), %s)""" % (json.dumps(selector), json.dumps(value)))

    def score(self, chain, step, layer, position):
        """As the page shows it: in sixteenths, at most 7.9."""
        s = self.run["scores"][POSITIONS[position]][layer, self.run["first"][chain] + step]
        if math.isnan(s):
            return None
        return (min(255, max(1, math.floor(128 + 16 * float(s) + 0.5))) - 128) / 16

    def shown(self, score):
        sign = "+" if score > 0 else "−" if score < 0 else ""
        beyond = "" if abs(score) < 127 / 16 else ">" if score > 0 else "<"
        # JavaScript's toFixed rounds sixteenths away from zero
        return beyond + sign + f"{math.floor(abs(score) * 10 + 0.5) / 10:.1f}"

    def judged(self, chain, layer, position):
        right, apart, n = 0, 0.0, 0
        for step, label in enumerate(self.run["labels"][chain]):
            score = self.score(chain, step, layer, position)
            if score is None or label < 0:
                continue
            n += 1
            right += (score > 0) == (label == 1)
            apart += abs(label - 1 / (1 + math.exp(-score)))
        return right, n, apart / n


def check(condition, *words):
    if not condition:
        raise AssertionError(" ".join(str(w) for w in words))


def same(found, expected):
    check(found == expected, f"{found!r}, expected {expected!r}")


# -------------------------------------------------------------------- colours

def colour(text):
    """As a computed style has it; one that lets others through is none."""
    found = re.fullmatch(r"rgb\((\d+), (\d+), (\d+)\)", text)
    check(found, "not a colour of its own:", text)
    return tuple(map(int, found.groups()))


def luminance(rgb):
    """Of WCAG 2."""
    parts = [v / 255 / 12.92 if v <= 10 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in rgb]
    return sum(w * v for w, v in zip((0.2126, 0.7152, 0.0722), parts))


def contrast(one, other):
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def lightness(rgb):
    """CIE L*, of 0 to 100."""
    y = luminance(rgb)
    return 116 * y ** (1 / 3) - 16 if y > 0.008856 else 903.3 * y


def in_light_and_dark(page):
    for dark in (False, True):
        page.b.size(1280, 900, dark=dark)
        page.b.wait("document.getAnimations().length === 0")
        paper = colour(page.b.js("getComputedStyle(document.body).backgroundColor"))
        same(dark, luminance(paper) < 0.1)
        yield dark, paper
    page.b.size(1280, 900)


def opens_without_network_or_error(page):
    same(page.b.requests, [page.url])
    same(page.b.words, [])
    same(page.text("#title"), "A <b>title</b> & more")
    same(page.b.js("document.title"), "A <b>title</b> & more")
    same(page.b.js("document.querySelectorAll('h1 b').length"), 0)


def hostile_text_stays_text(page):
    page.reader()
    for index, (name, steps) in enumerate(HOSTILE):
        chain = len(page.run["chains"]) - len(HOSTILE) + index
        page.b.js(f"keystep.openChain({chain})")
        said = page.texts("#steps .said")
        same(len(said), len(steps))
        odd = page.b.js("keystep.odd.source")
        for got, step in zip(said, steps):
            wanted = re.sub(odd, lambda m: f"U+{ord(m[0]):04X}", step.strip(
                " \t\n\r\v\f\ufeff\u2028\u2029"))
            check(got == wanted or got == re.sub(
                odd, lambda m: f"U+{ord(m[0]):04X}", step),
                repr(got[:80]), "expected", repr(wanted[:80]))
        same(page.text("#chain-title"), name)
        same(page.text("#question"), f"What is <b>{chain}</b>?")
    same(page.b.js("typeof window.hacked"), "undefined")
    same(page.b.js("document.querySelectorAll('#view-reader img, #view-reader script,"
                   "#view-reader b').length"), 0)
    same(page.b.js("document.scripts.length"), 6)
    check(max(page.b.js("[...document.querySelectorAll('#steps .said')]"
                        ".map(n => n.clientHeight)")) < 500, "a long step fills the page")
    check("U+202E" in "".join(page.b.js(
        "(keystep.openChain(%d), [...document.querySelectorAll('#steps .odd')]"
        ".map(n => n.textContent))" % (len(page.run["chains"]) - 3))), "no U+202E shown")


def scores_are_those_of_the_file(page):
    page.reader()
    for chain, position, layer in [(0, 0, 4), (3, 1, 0), (7, 2, 5), (12, 0, 2)]:
        page.b.js(f"keystep.openChain({chain})")
        page.choose("#position", str(position))
        page.choose("#layer", str(layer))
        for step, text in enumerate(page.texts("#steps .score")):
            score = page.score(chain, step, layer, position)
            same(text, "" if score is None else
                 f"{'▲' if score > 0 else '▼'} {page.shown(score)}")
        differ = [False if y < 0 else (page.score(chain, i, layer, position) > 0) != (y == 1)
                  for i, y in enumerate(page.run["labels"][chain])]
        same(page.texts("#steps .apart"), ["≠" if d else "" for d in differ])
        right, n, _ = page.judged(chain, layer, position)
        check(f"is right on {right} of {n} labelled" in page.text("#chain-facts"),
              page.text("#chain-facts"))
        page.b.js("keystep.openStep(1, true)")
        cells = dict(page.b.js("[...document.querySelectorAll('#step-scores tr')]"
                               ".map(r => [...r.children].map(c => c.textContent))"))
        for p, name in enumerate(POSITIONS):
            same(cells[name], page.shown(page.score(chain, 1, layer, p)))
        same(cells["hops"], "1.5")
        said = page.b.js("document.querySelector('#step-chart svg').getAttribute('aria-label')")
        check(all(f"{l}: {page.shown(page.score(chain, 1, l, position))}" in said
                  for l in range(LAYERS)), said)
    page.choose("#position", "0")


def keys_do_what_help_says(page):
    page.reader()
    page.choose("#sort", "file")
    page.b.js("keystep.openChain(0); keystep.setLayer(3); keystep.openStep(0, true)")
    for key, expected in [("j", [0, 1, 3, 0]), ("ArrowDown", [0, 2, 3, 0]),
                          ("k", [0, 1, 3, 0]), ("ArrowUp", [0, 0, 3, 0]),
                          ("k", [0, 0, 3, 0]), ("ArrowRight", [0, 0, 4, 0]),
                          ("ArrowRight", [0, 0, 5, 0]), ("ArrowRight", [0, 0, 5, 0]),
                          ("ArrowLeft", [0, 0, 4, 0]), ("n", [1, 0, 4, 0]),
                          ("n", [2, 0, 4, 0]), ("p", [1, 0, 4, 0]), ("p", [0, 0, 4, 0]),
                          ("p", [0, 0, 4, 0])]:
        page.b.key(key)
        same([key, page.at()], [key, expected])
    same(page.b.js("document.activeElement.id"), "step-0")
    same(page.b.js("document.getElementById('layer').value"), "4")
    page.b.key("/")
    same(page.b.js("document.activeElement.id"), "search")
    for letter in "P11":
        page.b.key(letter)
    same(page.text("#found"), f"1 of {len(page.run['chains'])} chains found")
    same(page.at(), [0, 0, 4, 0])  # typing moves nothing
    page.b.key("Escape")
    check(page.b.js("document.activeElement.id") != "search", "Escape leaves the search")
    page.choose("#search", "")
    page.b.key("?")
    check(page.b.js("document.getElementById('help').open"), "? opens the help")
    page.b.key("Escape")
    check(not page.b.js("document.getElementById('help').open"), "Escape closes it")


def mouse_and_slider(page):
    page.reader()
    page.b.js("keystep.openChain(2)")
    page.b.click("#step-3 .said")
    same(page.at()[:2], [2, 3])
    same(page.b.js("document.getElementById('step-3').getAttribute('aria-selected')"), "true")
    page.b.click("#layer")  # its middle
    check(page.at()[2] in (2, 3), page.at())
    layer = page.at()[2]
    page.b.key("ArrowRight")  # the slider has the focus
    same(page.at()[2], layer + 1)
    page.b.click("#strip rect[data-step='2'][data-layer='1']")
    same(page.at(), [2, 2, 1, 0])
    frames = page.b.js("""[...document.querySelectorAll('#strip rect[fill=none]')].map(n => {
        const box = n.getBoundingClientRect(); return [box.x, box.y, box.right, box.bottom]; })""")
    cell = page.b.js("""(() => { const box = document.querySelector(
        "#strip rect[data-step='2'][data-layer='1']").getBoundingClientRect();
        return [box.x + box.width / 2, box.y + box.height / 2]; })()""")
    for x, y, right, bottom in frames:
        check(x < cell[0] < right and y < cell[1] < bottom, frames, cell)
    page.b.click("#chains li:nth-child(5) button")
    same(page.at()[0], 4)
    same(page.text("#chain-title"), page.run["chains"][4][0])
    same(page.b.js("document.querySelectorAll('#chains [aria-current]').length"), 1)
    page.b.click("#to-findings")
    page.b.wait("!document.getElementById('view-findings').hidden")


def search_and_order(page):
    page.reader()
    run, n = page.run, len(page.run["chains"])
    page.choose("#position", "1")
    page.choose("#layer", "4")
    judged = [page.judged(c, 4, 1) for c in range(n)]
    length = [len(steps) for _, steps in run["chains"]]
    share = [right / of for right, of, _ in judged]

    def natural(c):
        return [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", run["chains"][c][0])]
    plain = [c for c in range(n) if run["chains"][c][0].startswith("p")]
    for name, key in [("file", lambda c: 0), ("long", lambda c: -length[c]),
                      ("short", lambda c: length[c]), ("right", lambda c: -share[c]),
                      ("wrong", lambda c: share[c]), ("apart", lambda c: -judged[c][2])]:
        page.choose("#sort", name)
        same([name, page.b.js("keystep.reader.order")],
             [name, sorted(range(n), key=lambda c: (key(c), c))])
    page.choose("#sort", "id")
    order = [c for c in page.b.js("keystep.reader.order") if c in plain]
    same(order, sorted(plain, key=natural))
    for words, found in [("p3/0", [3]), ("CHAIN 12:", [12]), ("</SCRIPT>", [n - 4]),
                         ("no such text", []), ("problem 5", [5])]:
        page.choose("#search", words)
        same([words, page.b.js("keystep.reader.order")], [words, found])
    page.choose("#search", "")
    page.choose("#sort", "file")
    page.choose("#position", "0")


def light_and_dark(page):
    def paper():
        return page.b.js("getComputedStyle(document.body).backgroundColor")
    page.b.size(1280, 900, dark=True)
    dark = paper()
    page.b.size(1280, 900)
    light = paper()
    check(sum(map(int, re.findall(r"\d+", dark)[:3])) < 120, dark)
    check(sum(map(int, re.findall(r"\d+", light)[:3])) > 700, light)
    for expected in (light, dark, light):  # system, light, dark, system
        page.b.click("#theme")
        same(paper(), expected)
    page.b.key("d")
    same(paper(), dark)
    page.b.key("d")
    same(paper(), light)
    page.b.js("keystep.setTheme('system')")  # or no later test sees the dark


def colours_keep_their_order(page):
    """Equal steps of a value are equal steps of lightness, away from the page;
    on every colour its ink is read (WCAG AA)."""
    page.findings()
    for dark, paper in in_light_and_dark(page):
        for ramp in ("sequential", "diverging"):
            got = page.b.js("""((ramp) => {
                const svg = keystep.draw('svg', {class: 'chart'});
                document.body.append(svg);
                const all = [...Array(101).keys()].map(i => ['rect', 'text'].map(name => {
                    const node = keystep.hue(keystep.draw(name, {class: 'cell'}), ramp, i / 100);
                    svg.append(node);
                    return getComputedStyle(node).fill; }));
                svg.remove();
                return all; })(%s)""" % json.dumps(ramp))
            cells = [colour(fill) for fill, _ in got]
            for fill, ink in got:
                check(contrast(colour(fill), colour(ink)) >= 4.5, ramp, dark, fill, ink)
            sides = [cells] if ramp == "sequential" else [cells[50::-1], cells[50:]]
            for side in sides:
                away = [abs(lightness(c) - lightness(paper)) for c in side]
                check(all(b > a for a, b in zip(away, away[2:])), ramp, dark, away)
                # between stops sRGB is not even, but nearly so
                steps = np.diff(away[::10])
                check(max(steps) < 1.7 * min(steps), ramp, dark, steps)
                check(away[0] < 8, "what says nothing stands out:", ramp, dark, away[0])
                check(away[-1] - away[0] > 35, ramp, dark, away)
            ends = [lightness(cells[0]), lightness(cells[-1])]
            check(ramp == "sequential" or abs(ends[0] - ends[1]) < 3, "uneven ends", ends)
            check(not dark or max(map(luminance, cells)) < 0.55, "glares", ramp)


def text_on_colours_is_read(page):
    seen = {}
    for dark, paper in in_light_and_dark(page):
        page.findings()
        texts = page.b.js("""[...document.querySelectorAll('.chart text')].map(n => {
            const on = n.matches('.hued') ? n.previousElementSibling : null;
            return [n.textContent, n.matches('.dot'), getComputedStyle(n).fill,
                    on && getComputedStyle(on).fill]; })""")
        for text, sign, ink, on in texts:
            least = 3 if sign else 4.5
            check(contrast(colour(ink), colour(on) if on else paper) >= least, text, ink, on, dark)
        for kind, drawn, through in page.b.js("""[...document.querySelectorAll(
                '.chart [stroke-width="2"], .chart .mark, .chart rect[fill-opacity]')].map(n => {
                const style = getComputedStyle(n);
                return [n.outerHTML.slice(0, 90), n.matches('[fill=none]') ? style.stroke : style.fill,
                        Number(style.fillOpacity)]; })"""):
            mixed = [through * a + (1 - through) * b for a, b in zip(colour(drawn), paper)]
            check(contrast(mixed, paper) >= 3, kind, drawn, dark)  # WCAG 1.4.11
        seen[dark] = sum(on is not None for *_, on in texts)
        maps = page.b.js("""[...document.querySelectorAll('.chart svg')].map(svg =>
            [...svg.querySelectorAll('.cell.hued')].map(n => getComputedStyle(n).fill))""")
        maps = [np.mean([luminance(colour(c)) for c in cells]) for cells in maps if cells]
        check(len(maps) >= 3, maps)
        check(max(maps) < 0.3 if dark else min(maps) > 0.15, "maps glare:", dark, maps)
        page.reader()
        grounds = set()
        for chain in range(len(page.run["chains"])):
            page.b.js(f"keystep.openChain({chain})")
            page.b.wait("document.getAnimations().length === 0")
            for text, sign, ink, on in page.b.js("""[...document.querySelectorAll(
                    '#steps li > :not(.hidden), #steps .gap')].map(n => [n.textContent.slice(0, 40),
                    n.matches('.dot, .apart'), getComputedStyle(n).color,
                    getComputedStyle(n.closest('li')).backgroundColor])"""):
                on = paper if on == "rgba(0, 0, 0, 0)" else colour(on)
                grounds.add(on)
                check(contrast(colour(ink), on) >= (3 if sign else 4.5), text, ink, on, dark)
        deepest = max(abs(lightness(on) - lightness(paper)) for on in grounds)
        check(len(grounds) > 20 and 5 < deepest < 22, len(grounds), deepest)
    check(seen[False] == seen[True] >= 20, seen)


def on_paper_all_is_light(page):
    page.findings()
    page.b.size(1280, 900, dark=True)
    page.b.on("Emulation.setEmulatedMedia", media="print", features=[
        {"name": "prefers-color-scheme", "value": "dark"}])
    inks = page.b.js("""[document.body, document.querySelector('.chart text:not(.hued)'),
        ...document.querySelectorAll('figcaption .small')].map(n =>
        n.matches('text') ? getComputedStyle(n).fill : getComputedStyle(n).color)""")
    cells = page.b.js("""[...document.querySelectorAll('figure .key')].map(n =>
        getComputedStyle(n.querySelector('rect:nth-of-type(' +
            (n.closest('figure').querySelector('.dot') ? 15 : 1) + ')')).fill)""")
    page.b.on("Emulation.setEmulatedMedia", media="", features=[])
    page.b.size(1280, 900)
    check(all(contrast(colour(ink), (255, 255, 255)) >= 4.5 for ink in inks), inks)
    check(cells and all(luminance(colour(c)) > 0.8 for c in cells), cells)


def chance_is_told(page):
    """By each map of accuracies, at the low end of its colours."""
    page.findings()
    maps = page.b.js("""JSON.parse(document.getElementById('data').textContent).report.sections
        .flatMap(s => s.parts).map(p => p.figure).filter(f => f && f.kind === 'heat')
        .map(f => [f.title, f.y_label, f.references.length, f.values.flat().some(v => v < f.low)])""")
    keys = dict(page.b.js("""[...document.querySelectorAll('figure')].filter(f =>
        f.querySelector('.key')).map(f => [f.querySelector('h3').textContent,
        [...f.querySelectorAll('.key text')].map(n => n.textContent)])"""))
    check(sum(told for _, _, told, _ in maps) >= 2, maps)
    for title, _, told, below in maps:
        same(keys[title], [("≤ " if below else "") + "50%" + (", chance" if told else ""), "100%"])


def fits_a_phone(page):
    page.b.size(360, 740, phone=True)
    for view in (page.findings, page.reader):
        view()
        page.b.js("document.querySelectorAll('details').forEach(d => d.open = true)")
        page.b.settle()
        for chain in (0, len(page.run["chains"]) - 2):
            page.b.js(f"keystep.openChain({chain})")
            same(page.b.js("document.documentElement.scrollWidth"), 360)
            wide = page.b.js("""[...document.querySelectorAll('main *')].filter(n =>
                n.getClientRects().length && !n.closest('.scroll, .strip, #chains, svg, .hidden')
                && n.getBoundingClientRect().right > 361).map(n => n.outerHTML.slice(0, 90))""")
            same(wide, [])
            cut = page.b.js("""[...document.querySelectorAll('caption:not(.hidden)')].filter(n =>
                n.getClientRects().length && !n.closest('.fold')
                && n.getBoundingClientRect().right > 361).map(n => n.textContent)""")
            same(cut, [])
    page.b.size(1280, 900)


def accessible(page):
    with open(AXE, encoding="utf-8") as file:
        page.b.js(file.read() + "\n;0")
    for view, width, dark in [(page.findings, 1280, False), (page.findings, 1280, True),
                              (page.reader, 1280, False), (page.reader, 1280, True),
                              (page.reader, 360, False)]:
        page.b.size(width, 800, dark=dark)
        view()
        same(page.b.js("document.documentElement.dataset.theme"), "dark" if dark else "light")
        page.b.js("document.querySelectorAll('details').forEach(d => d.open = %s);"
                  "keystep.openChain(1); keystep.openStep(1, true)"
                  % ("false" if dark else "true"))
        # in the dark only colours are others
        rules = ", runOnly: ['color-contrast']" if dark else ""
        found = page.b.js("""axe.run(document, {resultTypes: ['violations']%s})
            .then(r => r.violations.map(v => [v.id, v.nodes.length,
                v.nodes[0].html.slice(0, 120)]))""" % rules)
        same([view.__name__, dark, width, found], [view.__name__, dark, width, []])
    page.b.size(1280, 900)
    page.findings()
    names = page.b.js("[...document.querySelectorAll('figure svg')]"
                      ".map(n => n.getAttribute('aria-label'))")
    check(len(names) >= 12 and all(len(n) > 30 for n in names), names)


def charts_are_whole(page):
    page.findings()
    page.b.js("document.querySelectorAll('details').forEach(d => d.open = true)")
    page.b.settle()
    figures = page.b.js("JSON.parse(document.getElementById('data').textContent)"
                        ".report.sections.flatMap(s => s.parts).filter(p => p.figure).length")
    same(page.b.js("document.querySelectorAll('figure .chart svg').length"), figures)
    bad = page.b.js(r"""[...document.querySelectorAll('figure svg *')].filter(n =>
        [...n.attributes].some(a => /NaN|undefined|Infinity/.test(a.value)))
        .map(n => n.outerHTML.slice(0, 120))""")
    same(bad, [])
    # the line's last mark stands where its figure says
    place = page.b.js("""(() => { const svg = document.querySelector('figure .chart svg');
        const ticks = [...svg.querySelectorAll('.axis:last-of-type .tick')];
        const marks = svg.querySelectorAll('path.mark');
        return [marks.length, marks[5].getAttribute('transform')]; })()""")
    same(place[0], 3 * LAYERS)


def tables_are_those_of_the_files(page):
    page.findings()
    with open(os.path.join(page.run["out"], "tables", "layers.md"), encoding="utf-8") as file:
        wanted = [[cell.strip() for cell in line.strip().strip("|").split("|")]
                  for line in file if not line.startswith("|--")]
    got = page.b.js("""[...[...document.querySelectorAll('table')].find(t =>
        t.caption.textContent.startsWith('Balanced accuracy by layer')).rows]
        .map(r => [...r.cells].map(c => c.textContent))""")
    same(got, wanted)
    with open(os.path.join(page.run["out"], "tables", "claims.csv"), encoding="utf-8") as file:
        claims = list(csv.DictReader(file))
    same(page.texts(".claims .ask"), [c["question"] for c in claims])
    same([t.split()[-1] for t in page.texts(".claims .verdict")], [c["verdict"] for c in claims])


def links_open_a_place(page):
    page.b.open(page.url + "#reader/0/3/1/2")
    same(page.at(), [3, 0, 2, 1])
    same(page.text("#chain-title"), page.run["chains"][3][0])
    for place in ("#reader/9/99/9/99", "#reader/a/b/c/d", "#reader/-1/0/0/0", "#reader/1e9/0/0/0"):
        page.b.js("location.hash = '#findings'")
        page.b.open(page.url + place)
        check(page.text("#chain-title"), place)
    same(page.b.words, [])
    page.b.open(page.url)


def policy_forbids_all_else(page):
    before = len(page.b.requests)
    page.b.js("""(() => { const s = document.createElement('script');
        s.textContent = 'window.hacked = 2'; document.body.append(s);
        const d = document.createElement('div'); document.body.append(d);
        d.setAttribute('onclick', 'window.hacked = 3'); d.click();
        const i = document.createElement('img'); i.src = 'https://example.org/x.png';
        document.body.append(i);
        const f = document.createElement('iframe'); f.src = 'https://example.org/';
        document.body.append(f); })()""")
    same(page.b.js("fetch('https://example.org/').then(() => 'went', () => 'refused')"), "refused")
    same(page.b.js("fetch('file:///etc/passwd').then(() => 'went', () => 'refused')"), "refused")
    page.b.settle()
    same(page.b.js("typeof window.hacked"), "undefined")
    check(sum("Content Security Policy" in w for w in page.b.words) >= 4, page.b.words)
    same([u for u in page.b.requests[before:] if u.startswith("http") and u in page.b.answered], [])
    page.b.words.clear()
    page.b.open(page.url)


def pictures_in_place_of_d3(page):
    out = report(page.run, "svg", "--charts", "svg")
    page.b.open(f"file://{out}/index.html")
    same(page.b.js("typeof d3"), "undefined")
    page.b.wait("[...document.querySelectorAll('figure img')].every(i => i.complete)")
    shown = page.b.js("[...document.querySelectorAll('figure img')].map(i => "
                      "[i.naturalWidth > 100, i.alt.length > 30])")
    check(len(shown) >= 9 and all(a and b for a, b in shown), shown)
    # maps and chains are drawn all the same: their colours are of both modes
    same(page.b.js("document.querySelectorAll('.chart svg').length"),
         len(re.findall("\"kind\": ?\"(?:heat|strip)\"", page.b.js(
             "document.getElementById('data').textContent"))))
    for dark, _ in in_light_and_dark(page):
        grey = page.b.js("""[...document.querySelectorAll('figure img')].map(img => {
            const pen = Object.assign(document.createElement('canvas'),
                {width: 90, height: 50}).getContext('2d');
            pen.filter = getComputedStyle(img).filter;
            pen.drawImage(img, 0, 0, 90, 50);
            const all = pen.getImageData(0, 0, 90, 50).data;
            return all.reduce((sum, v) => sum + v, 0) / all.length; })""")
        # of 255, the opaque fourth too: 191 is 170 of the colours
        check(max(grey) < 130 if dark else min(grey) > 191, dark, grey)
    page.reader()
    page.b.key("j")
    same(page.at()[1], 1)
    same(page.b.words, [])
    out = report({**page.run, "path": None}, "bare", "--no-pictures", "--charts", "svg")
    page.b.open(f"file://{out}/index.html#reader")
    check("no chains in this report" in page.text("#reader-body"), page.text("#reader-body"))
    page.b.key("j")
    same(page.b.words, [])


def bad_chains_are_refused(page):
    with open(page.run["path"], "rb") as file:
        whole = file.read()
    path = os.path.join(page.run["folder"], "bytes.jsonl")
    with open(path, "wb") as file:
        file.write(whole.replace(b"Step 1 of chain 1", b"Step \xff of chain 1", 1))
    done = subprocess.run([PROGRAM, "report", page.run["folder"], "--chains", path, "--out",
                           os.path.join(page.run["folder"], "bytes")],
                          capture_output=True, text=True, check=False)
    same(done.returncode, 1)
    check("bytes.jsonl line 2" in done.stderr, done.stderr)


TESTS = [opens_without_network_or_error, hostile_text_stays_text, scores_are_those_of_the_file,
         keys_do_what_help_says, mouse_and_slider, search_and_order, light_and_dark,
         colours_keep_their_order, text_on_colours_is_read, on_paper_all_is_light,
         chance_is_told, fits_a_phone,
         accessible, charts_are_whole, tables_are_those_of_the_files, links_open_a_place,
         policy_forbids_all_else, pictures_in_place_of_d3, bad_chains_are_refused]


# ------------------------------------------------------------------------- run

def report(run, name, *more):
    out = os.path.join(run["folder"], name)
    chains = [] if run["path"] is None else [
        "--chains", run["path"], "--labels", os.path.join(run["folder"], "labels.jsonl")]
    subprocess.run([PROGRAM, "report", run["folder"], *chains, "--out", out, "--quiet",
                    "--title", "A <b>title</b> & more", *more], check=True,
                   stdout=subprocess.DEVNULL)
    return out


def pictures(page, folder):
    os.makedirs(folder, exist_ok=True)
    for name, size in {"light": (1280, 900, False, False), "dark": (1280, 900, True, False),
                       "phone": (360, 780, False, True),
                       "phone-dark": (360, 780, True, True)}.items():
        page.b.size(*size)
        for view in (page.findings, page.reader):
            view()
            page.b.js("keystep.openChain(1)")
            page.b.settle()
            page.b.picture(os.path.join(folder, f"{view.__name__}-{name}.png"))
        page.findings()
        for kind in ("map", "chain"):
            page.b.js("""[...document.querySelectorAll('figure')].filter(f => f.querySelector('.key')
                && Boolean(f.querySelector('.dot')) === %s)[0].scrollIntoView({block: 'center'})"""
                      % json.dumps(kind == "chain"))
            page.b.settle()
            page.b.picture(os.path.join(folder, f"{kind}-{name}.png"))
    page.b.size(1280, 900)


def main():
    folder = tempfile.mkdtemp(prefix="keystep-page-")
    bad = 0
    browser = Browser()
    try:
        rng = np.random.default_rng(7)
        run = write_run(os.path.join(folder, "run"), rng, chains_of(rng))
        run["out"] = report(run, "out", "--no-pictures")
        page = Page(browser, run, f"file://{run['out']}/index.html")
        browser.size(1280, 900)
        browser.open(page.url)
        if len(sys.argv) > 3:
            pictures(page, sys.argv[3])
            browser.open(page.url)
            browser.requests[:] = [page.url]
        for test in TESTS:
            began = time.monotonic()
            try:
                test(page)
                print(f"{test.__name__}: {time.monotonic() - began:.1f} s")
            except Exception:  # pylint: disable=broad-except
                bad += 1
                print(f"[FAIL] page::{test.__name__}")
                traceback.print_exc(file=sys.stdout)
    finally:
        browser.close()
        shutil.rmtree(folder)
    print(f"[====] Synthesis: Tested: {len(TESTS)} | Passing: {len(TESTS) - bad} | "
          f"Failing: {bad} | Crashing: 0 ")
    return bad > 0


if __name__ == "__main__":
    PROGRAM, AXE = os.path.abspath(sys.argv[1]), sys.argv[2]
    sys.exit(main())
