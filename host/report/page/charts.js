// charts.js - the report's figures drawn by D3. Everything that comes from a
// file is set as text, nothing as markup.
'use strict';
const keystep = {};

// An element with attributes and children (strings become text nodes).
keystep.make = function (name, attributes, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key === 'class') node.className = value;
    else node.setAttribute(key, value === true ? '' : value);
  }
  for (const child of children)
    if (child !== null && child !== undefined)
      node.append(child);
  return node;
};

keystep.draw = function (name, attributes, text) {
  const node = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [key, value] of Object.entries(attributes || {}))
    node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  return node;
};

keystep.tone = (tone) =>
  tone >= 0 && tone < 10 ? `var(--t${tone})` : 'var(--tn)';

// 0.9675 as "96.8" where values are fractions, else three digits.
keystep.number = function (value, percent) {
  if (value === null || value === undefined || Number.isNaN(value)) return 'n/a';
  const shown = percent ? (100 * value).toFixed(1) : value.toFixed(3);
  return Number(shown) === 0 ? shown.replace('-', '') : shown.replace('-', '−');
};

// Paths of the five marks, about a point, so that colour is not all.
keystep.marks = [
  'M0,-3.6A3.6,3.6 0 1,1 0,3.6A3.6,3.6 0 1,1 0,-3.6Z',
  'M0,-4.4L4,3L-4,3Z', 'M-3.2,-3.2H3.2V3.2H-3.2Z',
  'M0,-4.6L4,0L0,4.6L-4,0Z', 'M0,4.4L4,-3L-4,-3Z'];
keystep.mark = (tone) => keystep.marks[tone >= 0 ? tone % 5 : 0];

// Colours of ramp.h, straight in sRGB between its stops; part of [0, 1].
keystep.between = function (stops, part) {
  const at = Math.max(0, Math.min(1, part)) * (stops.length - 1);
  const i = Math.min(Math.floor(at), stops.length - 2);
  return [1, 3, 5].map((k) => {
    const [from, to] = [stops[i], stops[i + 1]].map((stop) => parseInt(stop.slice(k, k + 2), 16));
    return Math.round(from + (to - from) * (at - i));
  });
};

keystep.luminance = (rgb) => rgb.map((v) => v / 255)
  .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + [0.2126, 0.7152, 0.0722][i] * v, 0);

// The page's inks where one has a contrast of 4.5 on the colour; between them
// white or black has.
keystep.inks = [[230, 228, 223], [31, 35, 40], [255, 255, 255], [0, 0, 0]];
keystep.inkOn = (rgb) => keystep.inks.find((ink) => {
  const [one, other] = [keystep.luminance(ink) + 0.05, keystep.luminance(rgb) + 0.05];
  return Math.max(one, other) / Math.min(one, other) >= 4.5;
});

// Both modes' colours go into the element; the style sheet takes one of them.
keystep.hue = function (node, ramp, part) {
  node.classList.add('hued');
  for (const mode of ['light', 'dark']) {
    const rgb = keystep.between(keystep.ramps[ramp][mode], part);
    node.style.setProperty(`--on-${mode}`, `rgb(${rgb.join()})`);
    node.style.setProperty(`--ink-on-${mode}`, `rgb(${keystep.inkOn(rgb).join()})`);
  }
  return node;
};

// A bar of the ramp's colours between two words, from left on; its width too.
keystep.key = function (ramp, words, left, room) {
  const [before, after] = words.map((word) => Math.round(6.6 * word.length + 10));
  const wide = 30 * Math.max(1, Math.min(4, Math.floor((room - before - after) / 30)));
  const node = keystep.draw('g', { class: 'key' });
  node.append(
    keystep.draw('text', { x: left + before - 6, y: 10, 'text-anchor': 'end' }, words[0]),
    keystep.draw('text', { x: left + before + wide + 6, y: 10 }, words[1]));
  for (let i = 0; i < 30; i++)
    node.append(keystep.hue(keystep.draw('rect', {
      x: left + before + i * wide / 30, width: wide / 30, height: 12,
      'shape-rendering': 'crispEdges' }), ramp, i / 29));
  return { node, width: before + wide + after };
};

keystep.tip = {
  node: null,
  show(event, text) {
    if (!this.node) {
      this.node = keystep.make('div', { class: 'tip', 'aria-hidden': 'true' });
      document.body.append(this.node);
    }
    this.node.textContent = text;
    this.node.hidden = false;
    const box = this.node.getBoundingClientRect();
    const x = Math.min(event.clientX + 14, innerWidth - box.width - 6);
    const y = Math.min(event.clientY + 14, innerHeight - box.height - 6);
    this.node.style.left = `${Math.max(4, x)}px`;
    this.node.style.top = `${Math.max(4, y)}px`;
  },
  hide() {
    if (this.node) this.node.hidden = true;
  },
};

keystep.hover = (selection, words) => selection
  // D3 hands the event over first from version 6 on.
  .on('pointermove', function (first, second) {
    if (d3.event) keystep.tip.show(d3.event, words(first));
    else keystep.tip.show(first, words(second));
  })
  .on('pointerleave', () => keystep.tip.hide());

// The same of one element that is there without D3.
keystep.tell = function (node, words) {
  node.addEventListener('pointermove', (event) => keystep.tip.show(event, words()));
  node.addEventListener('pointerleave', () => keystep.tip.hide());
};

keystep.interval = function (figure, value, low, high) {
  const one = keystep.number(value, figure.percent);
  if (low === null || high === null) return one;
  return `${one} [${keystep.number(low, figure.percent)}, ` +
    `${keystep.number(high, figure.percent)}]`;
};

// ---------------------------------------------------------------------- lines

// Names at the ends of lines, moved apart where they would lie on each other.
keystep.apart = function (places, gap, low, high) {
  places.sort((a, b) => a.y - b.y);
  for (let i = 1; i < places.length; i++)
    places[i].y = Math.max(places[i].y, places[i - 1].y + gap);
  const over = places.length ? places[places.length - 1].y - high : 0;
  if (over > 0) {
    places[places.length - 1].y = high;
    for (let i = places.length - 2; i >= 0; i--)
      places[i].y = Math.min(places[i].y, places[i + 1].y - gap);
  }
  return places.filter((place) => place.y >= low - 1);
};

keystep.lines = function (svg, figure, width) {
  const times = figure.percent ? 100 : 1;
  const names = figure.lines.map((line) => line.name);
  const long = Math.max(0, ...names.map((name) => name.length));
  const side = Math.min(width * 0.36, 28 + 7 * long);
  const below = figure.references.length ? 66 : 44;
  const height = figure.diagonal ? Math.min(width, 430) : 330;
  const box = { left: 44, right: width - side, top: 10, bottom: height - below };
  const xs = figure.lines.flatMap((line) => line.points.map((p) => p[0]));
  const across = figure.diagonal ? times : 1;
  let [low, high] = [Math.min(...xs), Math.max(...xs)];
  if (figure.diagonal) [low, high] = [figure.low, figure.high];
  if (!(high > low)) { low -= 0.5; high += 0.5; }
  const x = (figure.log_x ? d3.scaleLog : d3.scaleLinear)(
    [low * across, high * across], [box.left + 8, box.right - 6]);
  const y = d3.scaleLinear([figure.low * times, figure.high * times], [box.bottom, box.top]);
  svg.attr('viewBox', `0 0 ${width} ${height}`);
  svg.append('g').selectAll('line').data(y.ticks(6)).enter().append('line')
    .attr('class', 'grid').attr('x1', box.left).attr('x2', box.right)
    .attr('y1', y).attr('y2', y);
  const ticks = x.ticks(Math.max(3, Math.min(12, width / 60))).filter((t) =>
    (!figure.whole_x || Number.isInteger(t)) &&
    (!figure.log_x || /^[125]/.test(t.toExponential())));
  svg.append('g').attr('class', 'axis').attr('transform', `translate(0,${box.bottom})`)
    .call(d3.axisBottom(x).tickValues(ticks).tickSizeOuter(0).tickFormat(d3.format('~g')));
  svg.append('g').attr('class', 'axis').attr('transform', `translate(${box.left},0)`)
    .call(d3.axisLeft(y).ticks(6).tickSize(0).tickPadding(8)).select('.domain').remove();
  svg.append('text').attr('x', (box.left + box.right) / 2).attr('y', box.bottom + 36)
    .attr('text-anchor', 'middle').text(figure.x_label);
  if (figure.diagonal)
    svg.append('line').attr('class', 'ref').attr('x1', x(low * across)).attr('x2', x(high * across))
      .attr('y1', y(figure.low * times)).attr('y2', y(figure.high * times));
  keystep.referenceLines(svg, figure, box, y, times, height);
  keystep.lineMarks(svg, figure, x, y, across, times);
  keystep.lineNames(svg, figure, box, y, times);
};

keystep.referenceLines = function (svg, figure, box, y, times, height) {
  let [at, line] = [box.left, 0];
  const room = Number(svg.attr('viewBox').split(' ')[2]);
  figure.references.forEach((reference, i) => {
    const words = reference.name + (i ? ` ${keystep.number(reference.at, figure.percent)}` : '');
    const long = 48 + 6.4 * words.length;
    if (at > box.left && at + long > room) [at, line] = [box.left, line + 1];
    svg.append('line').attr('class', i ? 'ref second' : 'ref')
      .attr('x1', box.left).attr('x2', box.right)
      .attr('y1', y(reference.at * times)).attr('y2', y(reference.at * times));
    const key = svg.append('g').attr('transform', `translate(${at},${height - 8 + 17 * line})`);
    key.append('line').attr('class', i ? 'ref second' : 'ref')
      .attr('x1', 0).attr('x2', 24).attr('y1', -4).attr('y2', -4);
    key.append('text').attr('x', 30).text(words);
    at += long;
  });
  if (line) svg.attr('viewBox', `0 0 ${room} ${height + 17 * line}`);
};

keystep.lineMarks = function (svg, figure, x, y, across, times) {
  const good = (p) => p[1] !== null;
  const ranged = (p) => p[2] !== null && p[3] !== null;
  for (const line of figure.lines) {
    const colour = keystep.tone(line.tone);
    const group = svg.append('g');
    group.append('path').datum(line.points.filter((p) => good(p) && ranged(p)))
      .attr('fill', colour).attr('fill-opacity', 0.13)
      .attr('d', d3.area().x((p) => x(p[0] * across)).y0((p) => y(p[2] * times))
        .y1((p) => y(p[3] * times)));
    group.append('path').datum(line.points.filter(good))
      .attr('fill', 'none').attr('stroke', colour).attr('stroke-width', 2)
      .attr('stroke-linejoin', 'round')
      .attr('d', d3.line().x((p) => x(p[0] * across)).y((p) => y(p[1] * times)));
    keystep.hover(
      group.selectAll('path.mark').data(line.points.filter(good)).enter()
        .append('path').attr('class', 'mark').attr('d', keystep.mark(line.tone))
        .attr('fill', colour)
        .attr('transform', (p) => `translate(${x(p[0] * across)},${y(p[1] * times)})`),
      (p) => `${line.name}, ${d3.format('~g')(d3.format('.4g')(p[0] * across))}\n` +
        keystep.interval(figure, p[1], p[2], p[3]));
  }
};

keystep.lineNames = function (svg, figure, box, y, times) {
  const places = [];
  for (const line of figure.lines) {
    const last = line.points.filter((p) => p[1] !== null).pop();
    if (last) places.push({ line, y: y(last[1] * times) });
  }
  for (const place of keystep.apart(places, 15, box.top, box.bottom)) {
    const group = svg.append('g').attr('transform', `translate(${box.right + 9},${place.y})`);
    group.append('path').attr('d', keystep.mark(place.line.tone))
      .attr('fill', keystep.tone(place.line.tone));
    group.append('text').attr('class', 'strong').attr('x', 8).attr('dy', '.35em')
      .text(place.line.name);
  }
};

// ----------------------------------------------------------------------- bars

keystep.cut = (text, most) => text.length > most ? `${text.slice(0, most - 1)}…` : text;

keystep.bars = function (svg, figure, width) {
  const times = figure.percent ? 100 : 1;
  const long = Math.max(...figure.bars.map((bar) => bar.name.length));
  const left = Math.min(width * 0.44, 18 + 7 * long);
  const letters = Math.floor((left - 12) / 7);
  const right = width - 52;
  let height = 6;
  let group = null;
  const places = figure.bars.map((bar) => {
    if (bar.group !== group && bar.group) height += height > 10 ? 30 : 18;
    group = bar.group;
    height += 22;
    return height - 11;
  });
  // a bar that leaves the axis is cut: its figure stands beside it
  const x = d3.scaleLinear([figure.low * times, figure.high * times], [left, right]).clamp(true);
  svg.attr('viewBox', `0 0 ${width} ${height + 44}`);
  svg.append('g').selectAll('line').data(x.ticks(6)).enter().append('line')
    .attr('class', 'grid').attr('x1', x).attr('x2', x).attr('y1', 4).attr('y2', height);
  svg.append('g').attr('class', 'axis').attr('transform', `translate(0,${height})`)
    .call(d3.axisBottom(x).ticks(6).tickSizeOuter(0));
  svg.append('text').attr('x', (left + right) / 2).attr('y', height + 38)
    .attr('text-anchor', 'middle').text(figure.x_label);
  const from = figure.references.length ? figure.references[0].at * times : figure.low * times;
  group = null;
  figure.bars.forEach((bar, i) => {
    if (bar.group && bar.group !== group)
      svg.append('text').attr('x', left).attr('y', places[i] - 17).text(bar.group);
    // the line that bars begin at stands beside bars, not through names
    svg.append('line').attr('x1', x(from)).attr('x2', x(from)).attr('y1', places[i] - 11)
      .attr('y2', places[i] + 11).attr('stroke', 'var(--ref)').attr('stroke-width', 1.3);
    group = bar.group;
    keystep.oneBar(svg, figure, bar, { x, y: places[i], from, left, letters, times, width });
  });
};

keystep.oneBar = function (svg, figure, bar, at) {
  svg.append('text').attr('class', 'strong').attr('x', at.left - 8).attr('y', at.y)
    .attr('dy', '.35em').attr('text-anchor', 'end').text(keystep.cut(bar.name, at.letters));
  if (bar.value === null) return;
  const [a, b] = [at.x(at.from), at.x(bar.value * at.times)];
  keystep.hover(
    svg.append('rect').datum(bar).attr('x', Math.min(a, b)).attr('width', Math.abs(b - a))
      .attr('y', at.y - 8).attr('height', 16).attr('fill', keystep.tone(bar.tone))
      .attr('fill-opacity', 0.85),
    () => `${bar.name}\n${keystep.interval(figure, bar.value, bar.low, bar.high)}`);
  if (bar.low !== null && bar.high !== null) {
    const [low, high] = [at.x(bar.low * at.times), at.x(bar.high * at.times)];
    svg.append('path').attr('class', 'whisker').attr('fill', 'none')
      .attr('d', `M${low},${at.y}H${high}M${low},${at.y - 4}v8M${high},${at.y - 4}v8`);
  }
  svg.append('text').attr('class', 'strong').attr('x', at.width - 4).attr('y', at.y)
    .attr('dy', '.35em').attr('text-anchor', 'end')
    .text(keystep.number(bar.value, figure.percent));
};

// ------------------------------------------------------------- heat and strip

// Drawn without D3: what gnuplot makes of it has one colour for both modes.
keystep.heat = function (svg, figure, width) {
  const [rows, columns] = [figure.rows.length, figure.columns.length];
  const strip = figure.kind === 'strip';
  const long = Math.max(...figure.rows.map((name) => name.length));
  const left = Math.max(52, Math.min(width * 0.38, 32 + 6.6 * long));
  const widest = Math.max(...figure.columns.map((name) => name.length));
  const cell = Math.min((width - left - 8) / columns,
    strip ? 34 : Math.max(64, Math.min(150, 7 * widest + 12)));
  const tall = strip ? Math.max(9, Math.min(20, 320 / rows)) : Math.max(15, Math.min(24, 560 / rows));
  // beside few rows there is no room for what they are: it stands above them
  const above = rows * tall < 6.6 * figure.y_label.length;
  const bottom = (above ? 26 : 8) + rows * tall;
  const height = bottom + (strip ? 62 : 44);
  svg.setAttribute('viewBox', `0 0 ${width} ${height + 28}`);
  const at = { left, bottom, cell, tall, strip, height, above };
  figure.values.forEach((row, r) =>
    row.forEach((value, c) => keystep.heatCell(svg, figure, at, r, c, value)));
  keystep.heatNames(svg, figure, at);
  keystep.heatKey(svg, figure, at, width);
};

keystep.heatCell = function (svg, figure, at, r, c, value) {
  const [x, y] = [at.left + c * at.cell, at.bottom - (r + 1) * at.tall];
  const box = keystep.draw('rect', {
    x, y, width: at.cell - 0.5, height: at.tall - 0.5, class: 'cell' });
  if (value !== null)
    keystep.hue(box, keystep.rampOf(figure), (value - figure.low) / (figure.high - figure.low));
  keystep.tell(box, () =>
    `${figure.y_label} ${figure.rows[r]}, ${figure.x_label} ${figure.columns[c]}\n` +
    keystep.number(value, figure.percent));
  svg.append(box);
  if (value === null || at.cell < 26 || at.tall < 14 || at.strip) return;
  const text = keystep.draw('text', {
    x: x + at.cell / 2, y: y + at.tall / 2, dy: '.35em', 'text-anchor': 'middle', class: 'hued',
  }, figure.percent ? (100 * value).toFixed(0) : value.toFixed(1));
  text.style.cssText = box.style.cssText;
  svg.append(text);
};

keystep.rampOf = (figure) => figure.diverging ? 'diverging' : 'sequential';

keystep.heatNames = function (svg, figure, at) {
  const put = (attributes, text) => svg.append(keystep.draw('text', attributes, text));
  const every = Math.ceil(figure.columns.length * 26 / (at.cell * figure.columns.length));
  figure.columns.forEach((name, c) => {
    const middle = { x: at.left + (c + 0.5) * at.cell, 'text-anchor': 'middle' };
    if (at.strip) {
      const mark = keystep.labelMark(figure.labels[c]);
      put({ ...middle, y: at.bottom + 15, class: mark.class }, mark.sign);
    }
    if (c % every === 0)
      put({ ...middle, y: at.bottom + (at.strip ? 32 : 16) },
        keystep.cut(name, Math.max(3, Math.floor(at.cell * every / 7.2))));
  });
  const step = Math.ceil(13 / at.tall);
  figure.rows.forEach((name, r) => {
    if (r % step === 0)
      put({ x: at.left - 7, y: at.bottom - (r + 0.5) * at.tall, dy: '.35em', 'text-anchor': 'end' },
        keystep.cut(name, Math.floor((at.left - 26) / 6.4)));
  });
  put({ x: at.left, y: at.height - 6 }, figure.x_label);
  put(at.above ? { x: at.left - 7, y: 16, 'text-anchor': 'end' } : {
    transform: `translate(11,${8 + (at.bottom - 8) / 2}) rotate(-90)`, 'text-anchor': 'middle',
  }, figure.y_label);
};

keystep.labelMark = (label) => label === 1 ? { sign: '●', class: 'dot important' }
  : label === 0 ? { sign: '○', class: 'dot removable' } : { sign: '·', class: 'dot' };

// What the colours stand for, at both ends: values beyond have the end's.
keystep.heatKey = function (svg, figure, at, width) {
  const all = figure.values.flat().filter((value) => value !== null);
  const end = (value, beyond, name) => (beyond ? `${beyond} ` : '') +
    (figure.percent ? `${(100 * value).toFixed(0)}%` : String(value).replace('-', '−')) +
    (name ? `, ${name}` : '');
  const chance = figure.references.find((reference) => reference.at === figure.low);
  const words = [
    end(figure.low, all.some((value) => value < figure.low) ? '≤' : '',
      at.strip ? 'removable' : chance && chance.name),
    end(figure.high, all.some((value) => value > figure.high) ? '≥' : '',
      at.strip ? 'important' : '')];
  const key = keystep.key(keystep.rampOf(figure), words, at.left, width - at.left - 8);
  key.node.setAttribute('transform', `translate(0,${at.height + 8})`);
  svg.append(key.node);
};

// ------------------------------------------------------------------------ all

// A figure with its title and what one sees in it. Without D3 the picture that
// gnuplot made stands there for lines and bars, or only the words.
keystep.figure = function (figure, picture) {
  const words = keystep.make('figcaption', null, keystep.make('h3', null, figure.title));
  const node = keystep.make('figure', null, words);
  const own = figure.kind === 'heat' || figure.kind === 'strip';
  if (own || typeof d3 !== 'undefined') {
    const place = keystep.make('div', { class: 'chart' });
    node.append(place);
    const redraw = () => {
      const width = Math.round(place.clientWidth);
      if (width < 40 || String(width) === place.dataset.width) return;
      place.dataset.width = width;
      place.textContent = '';
      const svg = keystep.draw('svg', {
        role: 'img', 'aria-label': `${figure.title}. ${figure.finding}` });
      place.append(svg);
      if (own) keystep.heat(svg, figure, width);
      else keystep[figure.kind](d3.select(svg), figure, width);
    };
    new ResizeObserver(redraw).observe(place);
  } else if (picture) {
    node.append(keystep.make('img', {
      src: `data:image/svg+xml;base64,${picture}`,
      alt: `${figure.title}. ${figure.finding}`,
    }));
  }
  words.append(keystep.make('span', { class: 'small' },
    figure.finding.replace(/(^|[ (])-(?=\d)/g, '$1−')));
  return node;
};
