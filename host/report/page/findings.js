// findings.js - sections, claims and tables of the report.

keystep.signed = (text) => text.startsWith('−') || text === 'n/a' ? text : `+${text}`;

// A cell's text and, for intervals, its range.
keystep.cell = function (cell, kind) {
  const percent = kind === 'percent' || kind === 'points';
  if (kind === 'text') return [cell === null ? '' : cell];
  if (cell === null || (typeof cell === 'object' && cell.value === null)) return ['n/a'];
  if (kind === 'whole') return [String(cell)];
  if (kind === 'p') return [cell < 0.001 ? '<0.001' : cell.toFixed(3)];
  if (kind === 'number') return [keystep.number(cell, false)];
  if (kind === 'count') return [cell.toFixed(1)];
  const show = (value) => kind === 'points'
    ? keystep.signed(keystep.number(value, percent)) : keystep.number(value, percent);
  if (cell.low === null || cell.high === null) return [show(cell.value)];
  return [show(cell.value), `[${show(cell.low)}, ${show(cell.high)}]`];
};

// untitled: the heading above says it already.
keystep.table = function (table, untitled) {
  const head = keystep.make('tr');
  // words that are short stand on one line, sentences have some width
  const kinds = table.columns.map((column, c) => {
    if (column.kind !== 'text') return 'value';
    const most = Math.max(0, ...table.rows.map((row) => (row[c] || '').length));
    return most <= 24 ? 'text short' : most > 60 ? 'text long' : 'text';
  });
  table.columns.forEach((column, c) => head.append(keystep.make(
    'th', { scope: 'col', class: column.kind === 'text' ? kinds[c] : null }, column.name)));
  const body = keystep.make('tbody');
  for (const row of table.rows) {
    const line = keystep.make('tr');
    row.forEach((cell, c) => {
      const kind = table.columns[c].kind;
      const [value, range] = keystep.cell(cell, kind);
      line.append(keystep.make(c === 0 ? 'th' : 'td', {
        scope: c === 0 ? 'row' : null, class: kinds[c],
      }, value, range ? keystep.make('span', { class: 'span' }, ` ${range}`) : null));
    });
    body.append(line);
  }
  const node = keystep.make('table', null,
    keystep.make('caption', { class: untitled ? 'hidden' : null }, table.title),
    keystep.make('thead', null, head), body);
  const wrap = keystep.make('div', {
    class: 'scroll', tabindex: '0', role: 'region', 'aria-label': `Table: ${table.title}`,
  }, node);
  const parts = [wrap];
  if (table.note) parts.push(keystep.make('p', { class: 'small' }, table.note));
  if (table.rows.length <= 14) return keystep.make('div', null, ...parts);
  return keystep.make('details', { class: 'fold' },
    keystep.make('summary', null, `${table.title} (${table.rows.length} rows)`), ...parts);
};

keystep.verdicts = { yes: '✓ yes', no: '✗ no', undecided: '~ undecided' };

// Claims are read one by one: question, answer, rule.
keystep.claims = function (table) {
  const at = (name) => table.columns.findIndex((column) => column.name === name);
  const list = keystep.make('ol', { class: 'claims' });
  for (const row of table.rows) {
    const of = (name) => at(name) < 0 || row[at(name)] === null ? '' : row[at(name)];
    const p = of('p') === '' ? '' : `, p ${of('p') < 0.001 ? '<0.001' : of('p').toFixed(3)}`;
    const known = Object.keys(keystep.verdicts).includes(of('verdict'));
    const words = (text) => text.replace(/-(?=\d)/g, '−');
    list.append(keystep.make('li', null,
      keystep.make('span', { class: known ? `verdict ${of('verdict')}` : 'verdict' },
        known ? keystep.verdicts[of('verdict')] : of('verdict')),
      keystep.make('p', { class: 'ask' }, of('question')),
      keystep.make('p', { class: 'amount' }, words(`${of('figure')} ${of('95% interval')}${p}`),
        keystep.make('span', { class: 'small' },
          [of('run'), of('what the figure is')].filter((text) => text).join(': '))),
      keystep.make('p', { class: 'rule small' }, of('rule') ? `Rule: ${words(of('rule'))}` : '')));
  }
  return list;
};

keystep.section = function (section, pictures) {
  const node = keystep.make('section', {
    class: 'block', id: `s-${section.name}`, 'aria-labelledby': `h-${section.name}`,
  }, keystep.make('h2', { id: `h-${section.name}` }, section.title),
  section.lead ? keystep.make('p', { class: 'lead' }, section.lead) : null);
  let figures = null;
  for (const part of section.parts) {
    if (part.figure) {
      if (!figures) node.append(figures = keystep.make('div', { class: 'figures' }));
      const figure = keystep.figure(part.figure, pictures && pictures[part.figure.name]);
      if (part.figure.name === 'layers-of-all') figure.className = 'wide';
      figures.append(figure);
      continue;
    }
    figures = null;
    if (part.table)
      node.append(part.table.name === 'claims' ? keystep.claims(part.table)
        : keystep.table(part.table, part.table.title === section.title));
    else node.append(keystep.make('p', null, part.text));
  }
  return node;
};

keystep.findings = function (report, pictures) {
  const body = document.getElementById('findings-body');
  const list = keystep.make('ul');
  for (const section of report.sections) {
    list.append(keystep.make('li', null,
      keystep.make('a', { href: `#s-${section.name}` }, section.title)));
    body.append(keystep.section(section, pictures));
  }
  document.getElementById('sections').append(list);
  if (typeof d3 === 'undefined')
    body.prepend(keystep.make('p', { class: 'small' }, pictures && Object.keys(pictures).length
      ? 'The pictures are gnuplot\'s: this program was built without D3, or asked for them.'
      : 'Neither D3 nor gnuplot was there: figures are given as words and tables.'));
  if (!report.absent.length) return;
  body.append(keystep.make('section', { class: 'block', 'aria-labelledby': 'h-absent' },
    keystep.make('h2', { id: 'h-absent' }, 'Not in these runs'),
    keystep.make('ul', null, ...report.absent.map((line) => keystep.make('li', null, line)))));
};
