// page.js - puts the page together: views, colours, keys.

keystep.show = function () {
  const reader = location.hash.startsWith('#reader');
  const changed = keystep.by('view-reader').hidden === reader;
  keystep.by('view-reader').hidden = !reader;
  keystep.by('view-findings').hidden = reader;
  for (const [id, on] of [['to-reader', reader], ['to-findings', !reader]]) {
    if (on) keystep.by(id).setAttribute('aria-current', 'page');
    else keystep.by(id).removeAttribute('aria-current');
  }
  document.body.classList.toggle('reading', reader);
  if (changed) scrollTo(0, 0);
  if (reader) keystep.keepPlace();
};

// ---------------------------------------------------------------------- colours

keystep.themes = ['system', 'light', 'dark'];
keystep.theme = 'system';

keystep.setTheme = function (theme) {
  const dark = matchMedia('(prefers-color-scheme: dark)').matches;
  keystep.theme = theme;
  document.documentElement.dataset.theme = theme === 'system' ? (dark ? 'dark' : 'light') : theme;
  const words = { system: 'as the system', light: 'light', dark: 'dark' };
  keystep.by('theme').setAttribute('aria-label', `Colours: ${words[theme]}`);
  keystep.by('theme').title = `Colours: ${words[theme]}`;
  keystep.by('theme-sign').textContent = { system: '◐', light: '○', dark: '●' }[theme];
  try { localStorage.setItem('keystep-theme', theme); } catch (e) { /* not from disk */ }
};

keystep.nextTheme = function () {
  const next = keystep.themes[(keystep.themes.indexOf(keystep.theme) + 1) % 3];
  keystep.setTheme(next);
  keystep.by('say').textContent = keystep.by('theme').title;
};

// ------------------------------------------------------------------------- keys

keystep.keys = {
  j: () => keystep.openStep(keystep.reader.step + 1, true),
  ArrowDown: () => keystep.openStep(keystep.reader.step + 1, true),
  k: () => keystep.openStep(keystep.reader.step - 1, true),
  ArrowUp: () => keystep.openStep(keystep.reader.step - 1, true),
  Home: () => keystep.openStep(0, true),
  End: () => keystep.openStep(Infinity, true),
  n: () => keystep.moveChain(1),
  p: () => keystep.moveChain(-1),
  ArrowRight: () => keystep.moveLayer(1),
  ArrowLeft: () => keystep.moveLayer(-1),
};

keystep.moveLayer = function (by) {
  keystep.setLayer(keystep.reader.layer + by);
  keystep.by('say').textContent = keystep.by('chain-facts').textContent;
};

keystep.onKey = function (event) {
  if (event.ctrlKey || event.metaKey || event.altKey || keystep.by('help').open) return;
  const at = event.target;
  const typing = at.matches('input[type="search"], select, textarea');
  if (event.key === 'Escape' && typing) { at.blur(); return; }
  if (typing) return;
  const reading = !keystep.by('view-reader').hidden && keystep.reader.runs.length > 0;
  if (event.key === '?') keystep.by('help').showModal();
  else if (event.key === 'd') keystep.setTheme(
    document.documentElement.dataset.theme === 'dark' ? 'light' : 'dark');
  else if (event.key === '/' && reading) {
    keystep.by('picker-fold').open = true;
    keystep.by('search').focus();
  } else if (reading && Object.prototype.hasOwnProperty.call(keystep.keys, event.key)) {
    // the slider's own keys move it; a table or list that scrolls keeps the arrows
    if (at.matches('input[type="range"]') && event.key.startsWith('Arrow')) return;
    keystep.keys[event.key]();
  } else {
    return;
  }
  event.preventDefault();
};

// ------------------------------------------------------------------------- boot

keystep.boot = function () {
  const data = JSON.parse(keystep.by('data').textContent);
  let theme = 'system';
  try { theme = localStorage.getItem('keystep-theme') || 'system'; } catch (e) { /* as above */ }
  keystep.setTheme(keystep.themes.includes(theme) ? theme : 'system');
  matchMedia('(prefers-color-scheme: dark)')
    .addEventListener('change', () => keystep.setTheme(keystep.theme));
  keystep.by('title').textContent = data.report.title;
  keystep.by('foot').textContent = `Written by ${data.report.program}. Everything is in this ` +
    'file; it asks no network for anything.';
  keystep.by('licences').textContent = data.licences;
  keystep.ramps = data.ramps;
  keystep.findings(data.report, data.pictures);
  if (data.reader.length) {
    keystep.openReader(data.reader);
  } else {
    keystep.by('reader-body').replaceChildren(keystep.make('p', { class: 'none' }, data.why));
    keystep.by('reader-body').className = '';
  }
  keystep.by('theme').addEventListener('click', keystep.nextTheme);
  keystep.by('help-open').addEventListener('click', () => keystep.by('help').showModal());
  document.addEventListener('keydown', keystep.onKey);
  addEventListener('hashchange', () => {
    const place = keystep.readPlace();
    keystep.show();
    if (place && keystep.reader.runs.length) keystep.openRun(place[0], place);
  });
  keystep.show();
};
keystep.boot();
