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

// Orange for important, blue for removable, white between; part of [-1, 1].
keystep.leaning = function (part, most) {
  const depth = Math.min(1, Math.abs(part)) * (most || 1);
  return part >= 0 ? `rgba(209, 98, 0, ${depth.toFixed(3)})`
                   : `rgba(33, 102, 172, ${depth.toFixed(3)})`;
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
      .attr('fill-opacity', bar.tone < 0 ? 0.55 : 0.85),
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
  svg.attr('viewBox', `0 0 ${width} ${height}`);
  const deep = (value) => (value - figure.low) / (figure.high - figure.low);
  const sequential = d3.interpolateRgbBasis(
    ['#f7fbff', '#c6dbef', '#6baed6', '#2171b5', '#08306b']);
  // through these colours, so that white is white
  const middles = ['#2166ac', '#92c5de', '#f7f7f7', '#fdb863', '#b35806'];
  const scale = d3.scaleLinear([0, 0.25, 0.5, 0.75, 1], middles);
  const diverging = (part) => scale(part);
  const part = (value) => Math.max(0, Math.min(1, deep(value)));
  figure.values.forEach((row, r) => row.forEach((value, c) => {
    const [px, py] = [left + c * cell, bottom - (r + 1) * tall];
    const box = svg.append('rect').attr('x', px).attr('y', py)
      .attr('width', cell - 0.5).attr('height', tall - 0.5)
      .attr('fill', value === null ? 'none'
        : (figure.diverging ? diverging : sequential)(part(value)))
      .attr('stroke', value === null ? 'var(--line)' : null)
      .attr('pointer-events', 'all');
    keystep.hover(box.datum(value), () =>
      `${figure.y_label} ${figure.rows[r]}, ${figure.x_label} ${figure.columns[c]}\n` +
      keystep.number(value, figure.percent));
    if (value === null || cell < 26 || tall < 14 || strip) return;
    const dark = figure.diverging ? Math.abs(part(value) - 0.5) > 0.36 : part(value) > 0.52;
    svg.append('text').attr('x', px + cell / 2).attr('y', py + tall / 2).attr('dy', '.35em')
      .attr('text-anchor', 'middle').style('fill', dark ? '#fff' : '#222')
      .style('pointer-events', 'none')
      .text(figure.percent ? (100 * value).toFixed(0) : value.toFixed(1));
  }));
  keystep.heatNames(svg, figure, { left, bottom, cell, tall, strip, height, above });
};

keystep.heatNames = function (svg, figure, at) {
  const every = Math.ceil(figure.columns.length * 26 / (at.cell * figure.columns.length));
  figure.columns.forEach((name, c) => {
    const middle = at.left + (c + 0.5) * at.cell;
    if (at.strip)
      svg.append('text').attr('x', middle).attr('y', at.bottom + 15).attr('text-anchor', 'middle')
        .style('fill', figure.labels[c] === 1 ? 'var(--important)' : 'var(--removable)')
        .text(figure.labels[c] === 1 ? '●' : figure.labels[c] === 0 ? '○' : '·');
    if (c % every === 0)
      svg.append('text').attr('x', middle).attr('y', at.bottom + (at.strip ? 32 : 16))
        .attr('text-anchor', 'middle').text(keystep.cut(name, Math.max(3, Math.floor(at.cell * every / 6.6))));
  });
  const step = Math.ceil(13 / at.tall);
  figure.rows.forEach((name, r) => {
    if (r % step === 0)
      svg.append('text').attr('x', at.left - 7).attr('y', at.bottom - (r + 0.5) * at.tall)
        .attr('dy', '.35em').attr('text-anchor', 'end')
        .text(keystep.cut(name, Math.floor((at.left - 26) / 6.4)));
  });
  svg.append('text').attr('x', at.left).attr('y', at.height - 6).text(figure.x_label);
  const name = svg.append('text').text(figure.y_label);
  if (at.above) name.attr('x', at.left - 7).attr('y', 16).attr('text-anchor', 'end');
  else
    name.attr('transform', `translate(11,${8 + (at.bottom - 8) / 2}) rotate(-90)`)
      .attr('text-anchor', 'middle');
};

// ------------------------------------------------------------------------ all

// A figure with its title and what one sees in it. Without D3 the picture that
// gnuplot made stands there, and where there is none only the words.
keystep.figure = function (figure, picture) {
  const words = keystep.make('figcaption', null, keystep.make('h3', null, figure.title));
  const node = keystep.make('figure', null, words);
  if (typeof d3 !== 'undefined') {
    const place = keystep.make('div', { class: 'chart' });
    node.append(place);
    const redraw = () => {
      const width = Math.round(place.clientWidth);
      if (width < 40 || String(width) === place.dataset.width) return;
      place.dataset.width = width;
      place.textContent = '';
      const svg = d3.select(place).append('svg')
        .attr('role', 'img').attr('aria-label', `${figure.title}. ${figure.finding}`);
      keystep[figure.kind === 'strip' ? 'heat' : figure.kind](svg, figure, width);
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
