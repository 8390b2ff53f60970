// The search page: what is asked for (`state`), and what happens when it changes. Everything else is one module a part.
import * as address from './address.js';
import { Busy, NeedsToken, Refused, api, setToken } from './api.js';
import { drawFilters, toTree } from './filters.js';
import { makeGrid } from './grid.js';
import { listenForPictures } from './pictures.js';
import { makePanel } from './panel.js';
import { drawExamples, drawTerms } from './terms.js';
import { chooseInterface, fillTexts, t, textsReady } from './texts.js';

const PAGE = 40; // rows of one answer; scrolling asks for the next ones
const PAUSE = 250; // milliseconds after the last key before a search starts
const MINUS = -0.5; // what is taken away counts half, as in a line of text (query_terms.py)
const $ = (id) => document.getElementById(id);

const state = address.read();
let collections = [];
let cursor = null;
let detected = null; // language that the service saw in the query
let running = null; // AbortController of the search under way
let loadingMore = false;
let sending = false; // a picture is on its way to the service
let composing = false; // an input method is putting a character together
let timer = 0;
let took = 0; // seconds of the search whose pictures are shown

const grid = makeGrid($('grid'), { open: openItem, reachedEnd: more });
const panel = makePanel($('panel'), {
  similar: (hit) => change({ query: '', terms: [{ kind: 'id', id: hit.id, weight: 1, preview: hit.thumbnail }], item: null }),
  add: (hit, weight) => change({ terms: [...state.terms, { kind: 'id', id: hit.id, weight, preview: hit.thumbnail }], item: null }),
  step: (by) => grid.neighbour(state.item, by),
  open: openItem,
  close: closeItem,
});

const info = () => collections.find((one) => one.name === state.collection) ?? collections[0];

/** Changes what is asked for, remembers it in the address, and searches. */
function change(changes, { replace = false } = {}) {
  Object.assign(state, changes);
  $('query').value = state.query;
  address.write(state, collections, replace);
  refresh();
}

/** Draws everything that follows from `state` and searches. */
function refresh() {
  drawAround();
  showItem();
  return search();
}

function drawAround() {
  const there = info();
  $('pick').hidden = !there?.image_encoder;
  $('facts').textContent = there ? `${t('rows', { n: there.rows })} · ${there.space}` : '';
  const typed = $('query').value.trim() !== '';
  $('plus').hidden = $('minus').hidden = !typed;
  drawTerms($('terms'), state, info(), {
    toggle: (place) => change({ terms: state.terms.map((term, i) => (i === place ? { ...term, weight: -term.weight } : term)) }),
    remove: (place) => change({ terms: state.terms.filter((_term, i) => i !== place) }),
    language: (lang) => change({ lang }),
    detected,
  });
  drawFilters($('filters'), info(), state, (changes) => change(changes));
  document.title = state.query ? `${state.query} – babelclip` : 'babelclip';
}

/** Asks the service and shows the first page of the answer; the one before stays, dimmed, until it is there. */
async function search() {
  clearTimeout(timer);
  running?.abort();
  cursor = null; // the one there is belongs to the question before
  const mine = (running = new AbortController());
  if (!info()) return;
  $('grid').classList.add('waiting');
  $('results').setAttribute('aria-busy', 'true');
  try {
    const answer = await api(`/v1/collections/${encodeURIComponent(info().name)}/search`, { body: asked(null), signal: mine.signal });
    cursor = answer.cursor;
    detected = state.query ? answer.language : null;
    grid.show(answer.hits);
    grid.finish(cursor === null);
    drawAround();
    tell(answer);
  } catch (error) {
    if (error.name === 'AbortError') return;
    trouble(error, search);
  } finally {
    if (running === mine) {
      $('grid').classList.remove('waiting');
      $('results').removeAttribute('aria-busy');
    }
  }
}

/** The next page, when the reader comes near the end. */
async function more() {
  if (cursor === null || loadingMore) return;
  loadingMore = true;
  const mine = running;
  try {
    const answer = await api(`/v1/collections/${encodeURIComponent(info().name)}/search`, { body: asked(cursor), signal: mine.signal });
    if (mine !== running) return; // another search has begun meanwhile
    cursor = answer.cursor;
    grid.append(answer.hits);
    grid.finish(cursor === null);
    show(null); // what may have gone wrong on the way here
    say();
  } catch (error) {
    // A cursor that is refused will be again, as the collection has changed since; anything else goes on where it stopped.
    if (error.name !== 'AbortError') trouble(error, error instanceof Refused ? search : more, { keep: true });
  } finally {
    loadingMore = false;
  }
}

function asked(from) {
  const terms = state.terms.map(({ kind, weight, ...term }) => ({ [kind]: term[kind], weight: weight < 0 ? MINUS : weight }));
  return {
    ...(state.query.trim() ? { query: state.query, ...(state.lang ? { lang: state.lang } : {}) } : {}),
    terms,
    k: PAGE,
    cursor: from,
    where: toTree(state.where),
    cut: state.cut || null,
  };
}

/** Says how many pictures are shown and how long the search took. */
function say() {
  const shown = grid.count();
  // What a next page would say of the question before is not news any more.
  if (!sending) $('status').textContent = shown ? `${t('shown', { n: shown })} · ${t('took', { ms: Math.max(1, Math.round(took * 1000)) })}` : '';
  $('save').hidden = !shown;
}

function tell(answer) {
  took = answer.seconds?.total ?? 0;
  say();
  const limited = state.cut > 0 || Object.keys(state.where).length > 0;
  if (grid.count()) return show(null);
  if (!state.query && !state.terms.length && !limited) return show({ title: t('empty_title'), lines: [t('empty_text')] });
  show({
    title: t('nothing_title'),
    lines: [t(limited ? 'nothing_limited' : 'nothing_text')],
    acts: limited ? [[t('clear_filters'), () => change({ where: {}, cut: 0 })]] : [],
  });
}

/** Says what went wrong and what can be done; `again` repeats what failed. */
function trouble(error, again, { keep = false } = {}) {
  if (!keep) {
    // No next page comes into the empty grid, nor one that is on its way.
    running?.abort();
    cursor = null;
    grid.show([]);
    grid.finish(true);
    say();
  }
  if (error instanceof NeedsToken) return askToken();
  if (error instanceof Busy) {
    timer = setTimeout(again, error.seconds * 1000);
    return show({ title: t('busy_title'), lines: [t('busy_text', { n: error.seconds })], error: true });
  }
  show({
    title: error.detail ? t('refused_title') : t('offline_title'),
    lines: [error.detail ?? t('offline_text')],
    acts: [[t('again'), again]],
    error: true,
  });
}

/** Shows a message in place of pictures; null takes it away. */
function show(message) {
  const place = $('message');
  place.hidden = message === null;
  place.replaceChildren();
  if (message === null) return;
  place.classList.toggle('error', Boolean(message.error));
  if (message.error) place.setAttribute('role', 'alert');
  else place.removeAttribute('role');
  place.append(element('h2', message.title), ...message.lines.map((line) => element('p', line)));
  if (message.acts?.length) {
    const acts = element('div', '', 'acts');
    for (const [label, act] of message.acts) {
      const button = element('button', label, 'plain');
      button.type = 'button';
      button.addEventListener('click', () => act());
      acts.append(button);
    }
    place.append(acts);
  }
}

function askToken() {
  show({ title: t('token_title'), lines: [t('token_text')] });
  const form = element('form', '', 'acts');
  const field = element('input');
  field.type = 'password';
  field.autocomplete = 'off';
  field.setAttribute('aria-label', t('token_title'));
  const button = element('button', t('token_use'), 'plain main');
  form.append(field, button);
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    setToken(field.value.trim());
    start();
  });
  $('message').append(form);
  field.focus();
}

function element(tag, text = '', className = '') {
  const made = document.createElement(tag);
  made.textContent = text;
  if (tag === 'p' || tag === 'h2') made.dir = 'auto';
  if (className) made.className = className;
  return made;
}

function openItem(hit) {
  state.item = hit.id;
  address.write(state, collections, false);
  panel.show(info().name, hit);
  grid.mark(hit.id);
}

function closeItem() {
  const before = state.item;
  state.item = null;
  address.write(state, collections, false);
  showItem();
  grid.focus(before);
}

function showItem() {
  grid.mark(state.item);
  if (state.item === null) panel.hide();
  else if (panel.shown() !== state.item) panel.load(info()?.name, state.item);
}

// ---- what a person does -------------------------------------------------------------------------------------------

function listen() {
  const query = $('query');
  const typed = () => {
    drawAround();
    clearTimeout(timer);
    // What an input method has not finished is not a query yet.
    if (!composing) timer = setTimeout(() => change({ query: query.value, item: null }, { replace: true }), PAUSE);
  };
  query.addEventListener('input', typed);
  query.addEventListener('compositionstart', () => { composing = true; });
  query.addEventListener('compositionend', () => { composing = false; typed(); });
  $('search').addEventListener('submit', (event) => {
    event.preventDefault();
    if (composing) return;
    clearTimeout(timer);
    const sign = query.value.trim()[0];
    if ((sign === '+' || sign === '-' || sign === '−') && query.value.trim().length > 1) return addText(query.value.trim().slice(1), sign === '+' ? 1 : -1);
    change({ query: query.value, item: null });
  });
  $('plus').addEventListener('click', () => addText(query.value, 1));
  $('minus').addEventListener('click', () => addText(query.value, -1));
  $('home').addEventListener('click', (event) => {
    event.preventDefault();
    change({ query: '', terms: [], where: {}, cut: 0, item: null, lang: '' });
    query.focus();
  });
  $('filters-open').addEventListener('click', () => {
    const opened = $('filters').hidden;
    $('filters').hidden = !opened;
    $('filters-open').setAttribute('aria-expanded', String(opened));
  });
  $('collection').addEventListener('change', () => change({ collection: $('collection').value, terms: [], where: {}, cut: 0, item: null }));
  $('save').addEventListener('click', saveAll);
  $('theme').addEventListener('change', () => setTheme($('theme').value));
  document.addEventListener('keydown', keyPressed);
  window.addEventListener('popstate', () => {
    Object.assign(state, address.read());
    $('query').value = state.query;
    $('collection').value = info()?.name ?? '';
    refresh();
  });
  listenForPictures({ button: $('pick'), file: $('file'), curtain: $('drop') }, async (picture) => {
    $('status').textContent = t('sending');
    $('grid').classList.add('waiting');
    sending = true;
    try {
      const { upload } = await api('/v1/uploads', { bytes: picture }).finally(() => { sending = false; });
      change({ query: '', terms: [{ kind: 'upload', upload, weight: 1, preview: URL.createObjectURL(picture) }], item: null });
    } catch (error) {
      $('grid').classList.remove('waiting');
      trouble(error, () => change({}));
    }
  });
  new ResizeObserver(([entry]) => {
    document.documentElement.style.setProperty('--top', `${Math.ceil(entry.borderBoxSize[0].blockSize)}px`);
  }).observe(document.querySelector('.top'));
}

/** Saves what is shown as a JSON file: ids, captions, scores, metadata; without addresses that only open for a while. */
function saveAll() {
  const hits = grid.hits().map(({ thumbnail: _thumbnail, picture: _picture, ...facts }) => facts);
  const link = element('a');
  link.href = URL.createObjectURL(new Blob([`${JSON.stringify(hits, null, 1)}\n`], { type: 'application/json' }));
  link.download = `${info().name}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

function addText(text, weight) {
  const words = text.trim();
  if (words) change({ query: '', terms: [...state.terms, { kind: 'text', text: words, weight }], item: null });
  $('query').focus();
}

function keyPressed(event) {
  if (event.isComposing || event.ctrlKey || event.metaKey || event.altKey) return;
  const inField = event.target.closest('input, select, textarea');
  if (event.key === '/' && !inField) {
    event.preventDefault();
    $('query').focus();
    $('query').select();
  } else if (event.key === 'Escape') {
    if (state.item !== null) closeItem();
    else if (event.target === $('query') && !$('query').value) $('query').blur();
  } else if (event.key === 'ArrowDown' && event.target === $('query')) {
    event.preventDefault();
    grid.focusFirst();
  } else if (!inField && event.key.startsWith('Arrow')) {
    if (panel.holds(event.target) && panel.arrow(event)) return;
    if (!grid.arrow(event)) return;
    event.preventDefault();
  }
}

function setTheme(theme) {
  if (theme === 'auto') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  $('theme').value = theme;
  localStorage.setItem('theme', theme);
}

// ---- start ----------------------------------------------------------------------------------------------------------

async function start() {
  try {
    ({ collections } = await api('/v1/collections'));
  } catch (error) {
    return trouble(error, start);
  }
  const choice = $('collection');
  choice.replaceChildren(...collections.map((one) => new Option(one.name, one.name)));
  choice.hidden = collections.length < 2;
  if (!info()) return show({ title: t('none_title'), lines: [t('none_text')] });
  choice.value = info().name;
  $('query').value = state.query;
  drawExamples($('terms'), state, info(), (example) => change({ query: example.text }));
  if (!info().text_encoder) show({ title: t('no_text_title'), lines: [t('no_text_text')] });
  await refresh();
  if (!state.query && !state.terms.length && !state.item && matchMedia('(min-width: 46rem)').matches) $('query').focus();
}

await textsReady;
setTheme(localStorage.getItem('theme') ?? 'auto');
chooseInterface($('interface'), () => { fillTexts(); refresh(); });
fillTexts();
listen();
await start();
