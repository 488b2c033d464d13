// reader.js - a chain's steps with the probe's scores and the labels. Chains
// come from models: their text is set as text, and characters that hide or
// turn others are shown as what they are.

keystep.reader = { runs: [], run: 0, chain: 0, step: 0, position: 0, layer: 0, order: [] };
keystep.by = (id) => document.getElementById(id);

// ------------------------------------------------------------------------ data

keystep.unpack = function (text) {
  const raw = atob(text);
  const bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return bytes;
};

keystep.prepare = function (run) {
  let first = 0;
  for (const chain of run.chains) {
    chain.first = first;
    chain.n = chain.labels.length;
    chain.lower = `${chain.id}\n${chain.problem}\n${chain.pieces.join('')}`.toLowerCase();
    first += chain.n;
  }
  run.steps = first;
  for (const position of run.positions) position.bytes = keystep.unpack(position.scores);
};

// The probe's score of a step, null where it was not probed: a byte is
// 128 + 16 times the score, 0 is none.
keystep.score = function (chain, step, layer, position) {
  const r = keystep.reader;
  const run = r.runs[r.run];
  const byte = run.positions[position].bytes[layer * run.steps + chain.first + step];
  return byte ? (byte - 128) / 16 : null;
};

keystep.now = {
  run: () => keystep.reader.runs[keystep.reader.run],
  chain: () => keystep.now.run().chains[keystep.reader.chain],
  position: () => keystep.now.run().positions[keystep.reader.position],
  score: (chain, step) => keystep.score(chain, step, keystep.reader.layer, keystep.reader.position),
};

// How often the probe is right in a chain, and how far from the labels it is.
keystep.judge = function (chain) {
  let [right, apart, n] = [0, 0, 0];
  for (let i = 0; i < chain.n; i++) {
    const score = keystep.now.score(chain, i);
    const label = chain.labels[i];
    if (score === null || label === null) continue;
    n++;
    right += (score > 0) === (label === 1);
    apart += Math.abs(label - 1 / (1 + Math.exp(-score)));
  }
  return { n, right, share: n ? right / n : null, apart: n ? apart / n : null };
};

keystep.shownScore = function (score) {
  if (score === null) return 'no score';
  const sign = score > 0 ? '+' : score < 0 ? '−' : '';
  // the outermost bytes stand for all beyond
  const beyond = Math.abs(score) < 127 / 16 ? '' : score > 0 ? '>' : '<';
  return beyond + sign + Math.abs(score).toFixed(1);
};

// Characters that are not seen, or that turn the order of others.
keystep.odd = /[\u0000-\u0008\u000B-\u001F\u007F-\u009F\u00AD\u061C\u200B\u200E\u200F\u202A-\u202E\u2028\u2029\u2060-\u2069\uFEFF]/g;
keystep.plain = function (node, text) {
  let at = 0;
  for (const match of text.matchAll(keystep.odd)) {
    node.append(text.slice(at, match.index));
    const code = match[0].codePointAt(0).toString(16).toUpperCase().padStart(4, '0');
    node.append(keystep.make('span', { class: 'odd' }, `U+${code}`));
    at = match.index + match[0].length;
  }
  node.append(text.slice(at));
  return node;
};

// ----------------------------------------------------------------------- chains

keystep.orders = {
  file: () => 0,
  id: (a, b) => a.chain.id.localeCompare(b.chain.id, 'en', { numeric: true }),
  long: (a, b) => b.chain.n - a.chain.n,
  short: (a, b) => a.chain.n - b.chain.n,
  right: (a, b) => keystep.last(b.how.share, -1) - keystep.last(a.how.share, -1),
  wrong: (a, b) => keystep.last(a.how.share, 2) - keystep.last(b.how.share, 2),
  apart: (a, b) => keystep.last(b.how.apart, -1) - keystep.last(a.how.apart, -1),
};
keystep.last = (value, otherwise) => value === null ? otherwise : value;

keystep.listChains = function () {
  const wanted = keystep.by('search').value.trim().toLowerCase();
  const all = keystep.now.run().chains
    .map((chain, index) => ({ chain, index, how: keystep.judge(chain) }))
    .filter((entry) => !wanted || entry.chain.lower.includes(wanted));
  all.sort((a, b) => keystep.orders[keystep.by('sort').value](a, b) || a.index - b.index);
  keystep.reader.order = all.map((entry) => entry.index);
  keystep.by('found').textContent = `${all.length} of ${keystep.now.run().chains.length} chains` +
    (wanted ? ' found' : '');
  const list = keystep.by('chains');
  list.textContent = '';
  for (const { chain, index, how } of all) {
    const button = keystep.make('button', { type: 'button', title: chain.id },
      keystep.plain(keystep.make('span', { class: 'what' }), chain.id),
      keystep.make('span', { class: 'how' }, `${chain.n} steps` +
        (how.n ? `, ${how.right} of ${how.n} right` : ', not probed')));
    button.dataset.chain = index;
    button.addEventListener('click', () => keystep.openChain(index));
    list.append(keystep.make('li', null, button));
  }
  keystep.markChain();
};

keystep.markChain = function () {
  for (const button of keystep.by('chains').querySelectorAll('button')) {
    const here = Number(button.dataset.chain) === keystep.reader.chain;
    if (here) button.setAttribute('aria-current', 'true');
    else button.removeAttribute('aria-current');
    // scrolls the list alone: scrollIntoView would move the page too
    if (here) {
      const list = keystep.by('chains');
      const [top, bottom] = [button.offsetTop - list.offsetTop,
        button.offsetTop - list.offsetTop + button.offsetHeight];
      if (top < list.scrollTop) list.scrollTop = top;
      if (bottom > list.scrollTop + list.clientHeight) list.scrollTop = bottom - list.clientHeight;
    }
  }
};

keystep.openChain = function (index, focus) {
  const r = keystep.reader;
  r.chain = index;
  r.step = 0;
  const chain = keystep.now.chain();
  const title = keystep.by('chain-title');
  title.textContent = '';
  keystep.plain(title, chain.id);
  keystep.by('question-fold').hidden = !chain.question;
  keystep.by('question').textContent = '';
  keystep.plain(keystep.by('question'), chain.question || '');
  keystep.buildSteps(chain);
  keystep.markChain();
  keystep.showScores();
  if (focus) keystep.by('steps').querySelector('[tabindex="0"]').focus({ preventScroll: true });
  keystep.keepPlace();
};

keystep.moveChain = function (by) {
  const r = keystep.reader;
  if (!r.order.length) return;
  const at = r.order.indexOf(r.chain);
  const to = at < 0 ? 0 : Math.max(0, Math.min(r.order.length - 1, at + by));
  keystep.openChain(r.order[to], true);
};

// ------------------------------------------------------------------------ steps

keystep.labelWords = (label) =>
  label === 1 ? 'labelled important' : label === 0 ? 'labelled removable' : 'not labelled';

keystep.buildSteps = function (chain) {
  const list = keystep.by('steps');
  list.textContent = '';
  for (let i = 0; i < chain.n; i++) {
    const label = chain.labels[i];
    const said = keystep.make('span', { class: 'said', dir: 'auto' });
    const before = i === 0 ? chain.pieces[0] : '';
    if (before.trim()) said.append(keystep.plain(keystep.make('span', { class: 'gap' }), before));
    keystep.plain(said, chain.pieces[2 * i + 1].replace(/^\s+|\s+$/g, ''));
    const after = chain.pieces[2 * i + 2];
    if (after.trim()) said.append(keystep.plain(keystep.make('span', { class: 'gap' }), after));
    const item = keystep.make('li', {
      role: 'option', id: `step-${i}`, tabindex: i === 0 ? '0' : '-1',
      class: label === 1 ? 'is-important' : label === 0 ? 'is-removable' : null,
    },
    keystep.make('span', { class: 'at' }, String(i + 1)),
    keystep.make('span', {
      class: keystep.labelMark(label).class, 'aria-hidden': 'true',
    }, keystep.labelMark(label).sign),
    keystep.make('span', { class: 'score' }),
    keystep.make('span', { class: 'apart', 'aria-hidden': 'true' }),
    said,
    keystep.make('span', { class: 'hidden' }, keystep.labelWords(label)));
    item.addEventListener('click', () => keystep.openStep(i, true));
    item.addEventListener('focus', () => keystep.openStep(i, false));
    item.addEventListener('pointerenter', (event) => {
      if (event.pointerType === 'mouse') keystep.detail(i);
    });
    item.addEventListener('pointerleave', () => keystep.detail(keystep.reader.step));
    list.append(item);
  }
};

keystep.openStep = function (index, focus) {
  const r = keystep.reader;
  const items = keystep.by('steps').children;
  r.step = Math.max(0, Math.min(items.length - 1, index));
  [...items].forEach((item, i) => {
    item.tabIndex = i === r.step ? 0 : -1;
    item.setAttribute('aria-selected', String(i === r.step));
  });
  if (focus) items[r.step].focus();
  keystep.detail(r.step);
  keystep.drawStrip();
};

// The score's place among the colours, as in the figure of a chain (reader.c),
// where 4 and more is the end; most: how far from the middle that end may be.
keystep.surest = 4;
keystep.leaning = (score, most) =>
  0.5 + 0.5 * (most || 1) * Math.max(-1, Math.min(1, score / keystep.surest));

// Colours, figures and marks at the layer that the slider stands on.
keystep.showScores = function () {
  const r = keystep.reader;
  const chain = keystep.now.chain();
  const position = keystep.now.position();
  [...keystep.by('steps').children].forEach((item, i) => {
    const score = keystep.now.score(chain, i);
    const label = chain.labels[i];
    const differs = score !== null && label !== null && (score > 0) !== (label === 1);
    item.classList.remove('hued');
    // faint: the step's text is read on it, in the page's quiet ink too
    if (score !== null) keystep.hue(item, 'diverging', keystep.leaning(score, 0.2));
    item.querySelector('.score').textContent = score === null ? '' :
      `${score > 0 ? '▲' : '▼'} ${keystep.shownScore(score)}`;
    const mark = item.querySelector('.apart');
    mark.textContent = differs ? '≠' : '';
    item.setAttribute('aria-selected', String(i === r.step));
  });
  const how = keystep.judge(chain);
  keystep.by('layer-shown').textContent =
    `${position.layers[r.layer]} of ${position.layers[position.layers.length - 1]}` +
    (position.layers[r.layer] === position.best ? ', chosen most' : '');
  keystep.by('chain-facts').textContent = how.n
    ? `Problem ${chain.problem}, ${chain.n} steps. At layer ${position.layers[r.layer]} the probe ` +
      `is right on ${how.right} of ${how.n} labelled steps.`
    : `Problem ${chain.problem}, ${chain.n} steps, none of them probed.`;
  keystep.detail(r.step);
  keystep.drawStrip();
};

// ----------------------------------------------------------------------- layers

keystep.setLayer = function (layer) {
  const n = keystep.now.position().layers.length;
  keystep.reader.layer = Math.max(0, Math.min(n - 1, layer));
  keystep.by('layer').value = keystep.reader.layer;
  keystep.by('layer').setAttribute('aria-valuetext',
    `layer ${keystep.now.position().layers[keystep.reader.layer]}`);
  keystep.showScores();
  keystep.keepPlace();
};

keystep.setPosition = function (index) {
  const r = keystep.reader;
  const layer = keystep.now.position().layers[r.layer];
  r.position = index;
  const position = keystep.now.position();
  keystep.by('layer').max = position.layers.length - 1;
  const same = position.layers.indexOf(layer);
  keystep.setLayer(same >= 0 ? same : position.layers.indexOf(position.best));
  keystep.listChains();
};

// A chain at a glance: layers up, steps across. Drawn once; frames then move to
// the layer and the step that are chosen.
keystep.strip = { of: null };
keystep.drawStrip = function () {
  const r = keystep.reader;
  const chain = keystep.now.chain();
  const strip = keystep.strip;
  const of = `${r.run}/${r.chain}/${r.position}`;
  if (strip.of !== of) keystep.buildStrip(chain, keystep.now.position().layers);
  strip.of = of;
  strip.row.setAttribute('y', (strip.layers - 1 - r.layer) * strip.tall - 0.5);
  strip.column.setAttribute('x', strip.left + r.step * strip.wide - 0.5);
};

keystep.buildStrip = function (chain, layers) {
  const r = keystep.reader;
  const left = 30;
  const wide = Math.max(9, Math.min(34, 620 / chain.n));
  const tall = Math.max(4, Math.min(11, 150 / layers.length));
  const [width, height] = [left + wide * chain.n + 2, tall * layers.length + 20];
  const svg = keystep.draw('svg', {
    viewBox: `0 0 ${width} ${height}`, role: 'img',
    'aria-label': 'The probe\'s score of every step at every layer, as colours; the marks ' +
      'beneath are the labels. Steps and layer below say the same in words.',
  });
  svg.style.maxWidth = `${width}px`;
  svg.style.minWidth = `${Math.min(width, 9 * chain.n)}px`;
  for (let i = 0; i < chain.n; i++) {
    for (let l = 0; l < layers.length; l++) {
      const score = keystep.score(chain, i, l, r.position);
      const cell = keystep.draw('rect', {
        x: left + i * wide, y: (layers.length - 1 - l) * tall, width: wide - 1,
        height: tall - 0.5, 'data-step': i, 'data-layer': l, class: 'cell',
      });
      if (score !== null) keystep.hue(cell, 'diverging', keystep.leaning(score));
      svg.append(cell);
    }
    const mark = keystep.labelMark(chain.labels[i]);
    svg.append(keystep.draw('text', {
      x: left + (i + 0.5) * wide - 0.5, y: height - 8, 'text-anchor': 'middle',
      'font-size': Math.min(11, wide), class: mark.class,
    }, mark.sign));
  }
  svg.addEventListener('click', (event) => {
    const cell = event.target.dataset;
    if (cell.step === undefined) return;
    keystep.setLayer(Number(cell.layer));
    keystep.openStep(Number(cell.step), true);
  });
  const frame = { fill: 'none', 'stroke-width': 1.2, 'pointer-events': 'none' };
  const row = keystep.draw('rect', {
    ...frame, x: left - 1, width: wide * chain.n + 1, height: tall, stroke: 'var(--ink)' });
  const column = keystep.draw('rect', {
    ...frame, y: 0.5, width: wide, height: height - 2, stroke: 'var(--link)' });
  svg.append(row, column);
  for (const [l, y] of [[layers[0], tall * layers.length - 1], [layers[layers.length - 1], 8]])
    svg.append(keystep.draw('text', {
      x: left - 5, y, 'text-anchor': 'end', 'font-size': 10, fill: 'var(--quiet)',
    }, String(l)));
  keystep.by('strip').replaceChildren(svg);
  Object.assign(keystep.strip, { row, column, left, wide, tall, layers: layers.length });
};

// ----------------------------------------------------------------------- detail

keystep.detail = function (index) {
  const r = keystep.reader;
  const chain = keystep.now.chain();
  if (index >= chain.n) return;
  const score = keystep.now.score(chain, index);
  const chance = score === null ? null : 1 / (1 + Math.exp(-score));
  keystep.by('step-title').textContent = `Step ${index + 1} of ${chain.n}`;
  keystep.by('step-facts').textContent = `${keystep.labelWords(chain.labels[index])}; ` +
    (score === null ? 'not probed' :
      `score ${keystep.shownScore(score)}: important with ${(100 * chance).toFixed(0)}%`);
  const body = keystep.make('tbody');
  const row = (name, value) => body.append(keystep.make('tr', null,
    keystep.make('th', { scope: 'row', class: 'text' }, name), keystep.make('td', null, value)));
  keystep.now.run().positions.forEach((position, p) => {
    const layer = position.layers.indexOf(keystep.now.position().layers[r.layer]);
    if (layer >= 0) row(position.name, keystep.shownScore(keystep.score(chain, index, layer, p)));
  });
  for (const [name, values] of Object.entries(chain.graded || {}))
    row(name, values[index] === null ? 'n/a' : String(values[index]));
  keystep.by('step-scores').replaceChild(body, keystep.by('step-scores').tBodies[0]);
  keystep.drawScores(chain, index);
};

// The step's scores over layers, at every position; the chosen one in full.
keystep.drawScores = function (chain, index) {
  const r = keystep.reader;
  const positions = keystep.now.run().positions;
  const here = keystep.now.position();
  const [width, height, left, right] = [240, 150, 26, 8];
  const last = here.layers[here.layers.length - 1] || 1;
  const x = (layer) => left + (width - left - right) * layer / last;
  const y = (score) => 10 + (height - 34) * (8 - Math.max(-8, Math.min(8, score))) / 16;
  const svg = keystep.draw('svg', { viewBox: `0 0 ${width} ${height}`, role: 'img', class: 'chart' });
  for (const tick of [-8, -4, 0, 4, 8]) {
    svg.append(keystep.draw('line', {
      x1: left, x2: width - right, y1: y(tick), y2: y(tick), class: tick ? 'grid' : 'ref',
    }));
    svg.append(keystep.draw('text', { x: left - 5, y: y(tick) + 4, 'text-anchor': 'end' },
      String(tick).replace('-', '−')));
  }
  positions.forEach((position, p) => {
    const points = position.layers
      .map((layer, l) => [layer, keystep.score(chain, index, l, p)])
      .filter((point) => point[1] !== null);
    svg.append(keystep.draw('polyline', {
      points: points.map(([layer, score]) => `${x(layer)},${y(score)}`).join(' '),
      fill: 'none', stroke: keystep.tone(position.tone),
      'stroke-width': p === r.position ? 2.2 : 1, opacity: p === r.position ? 1 : 0.6,
    }));
  });
  const score = keystep.score(chain, index, r.layer, r.position);
  if (score !== null)
    svg.append(keystep.draw('path', {
      d: keystep.mark(here.tone), fill: keystep.tone(here.tone),
      transform: `translate(${x(here.layers[r.layer])},${y(score)}) scale(1.3)`,
    }));
  svg.append(keystep.draw('text', { x: left, y: height - 4 }, 'layer 0'));
  svg.append(keystep.draw('text', { x: width - right, y: height - 4, 'text-anchor': 'end' },
    String(last)));
  svg.setAttribute('aria-label', `Score of step ${index + 1} by layer, position ${here.name}: ` +
    here.layers.map((layer, l) =>
      `${layer}: ${keystep.shownScore(keystep.score(chain, index, l, r.position))}`).join(', '));
  keystep.by('step-chart').replaceChildren(svg);
};

// ------------------------------------------------------------------------- open

// The address tells run, chain, position and layer, so that a link opens them.
keystep.keepPlace = function () {
  if (keystep.by('view-reader').hidden) return;
  const r = keystep.reader;
  const words = [r.run, r.chain, r.position, r.layer].join('/');
  history.replaceState(null, '', `#reader/${words}`);
};

keystep.openRun = function (index, place) {
  const r = keystep.reader;
  r.run = Math.max(0, Math.min(r.runs.length - 1, index));
  const run = keystep.now.run();
  keystep.by('run').value = r.run;
  keystep.by('position').replaceChildren(...run.positions.map((position, i) =>
    keystep.make('option', { value: i }, position.name)));
  const best = Math.max(0, run.positions.findIndex((position) => position.name === run.position));
  r.position = Math.min(place ? place[2] : best, run.positions.length - 1);
  const position = keystep.now.position();
  keystep.by('position').value = r.position;
  keystep.by('layer').max = position.layers.length - 1;
  r.layer = Math.min(place ? place[3] : Math.max(0, position.layers.indexOf(position.best)),
    position.layers.length - 1);
  keystep.by('layer').value = r.layer;
  keystep.by('reader-lead').textContent = run.words;
  r.chain = place ? Math.min(place[1], run.chains.length - 1) : 0;
  keystep.listChains();
  keystep.openChain(place ? r.chain : r.order[0]);
};

keystep.readPlace = function () {
  const words = location.hash.split('/').slice(1).map((word) => parseInt(word, 10));
  return words.length === 4 && words.every((word) => word >= 0) ? words : null;
};

keystep.openReader = function (runs) {
  const r = keystep.reader;
  r.runs = runs;
  const key = keystep.key('diverging', ['≤ −4', '≥ 4'], 0, 170);
  const colours = keystep.draw('svg', {
    class: 'chart', width: key.width, height: 14, 'aria-hidden': 'true' });
  colours.append(key.node);
  keystep.by('colours').append(colours);
  runs.forEach(keystep.prepare);
  keystep.by('run').replaceChildren(...runs.map((run, i) =>
    keystep.make('option', { value: i }, run.name)));
  // on narrow screens what is not the text is folded
  for (const [id, width] of [['picker-fold', '46rem'], ['step-fold', '70rem']]) {
    const narrow = matchMedia(`(max-width: ${width})`);
    const fold = () => { keystep.by(id).open = !narrow.matches; };
    narrow.addEventListener('change', fold);
    fold();
  }
  keystep.by('run').addEventListener('change', (e) => keystep.openRun(Number(e.target.value)));
  keystep.by('search').addEventListener('input', keystep.listChains);
  keystep.by('sort').addEventListener('change', keystep.listChains);
  keystep.by('position').addEventListener('change', (e) => keystep.setPosition(Number(e.target.value)));
  keystep.by('layer').addEventListener('input', (e) => keystep.setLayer(Number(e.target.value)));
  keystep.by('layer').addEventListener('change', keystep.listChains);
  keystep.openRun((keystep.readPlace() || [0])[0], keystep.readPlace());
};
