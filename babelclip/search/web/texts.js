// The page's own words, in the reader's language: texts.json holds all of them.

let all = {};
let chosen = 'en';

export const textsReady = fetch('./static/texts.json').then((answer) => answer.json()).then((read) => {
  all = read;
  const wanted = [localStorage.getItem('interface'), ...navigator.languages].filter(Boolean);
  const known = wanted.map((code) => code.split('-')[0]).find((code) => code in all);
  use(known ?? 'en');
});

function use(code) {
  chosen = code in all ? code : 'en';
  document.documentElement.lang = chosen;
  document.documentElement.dir = all[chosen].direction;
}

/** Returns a text of the page; `{n}` and other places are filled from `values`, numbers as the language writes them. */
export function t(key, values = {}) {
  const text = all[chosen]?.[key] ?? all.en?.[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (_all, name) => {
    const value = values[name];
    return typeof value === 'number' ? new Intl.NumberFormat(chosen).format(value) : String(value ?? '');
  });
}

/** Returns a number as the reader's language writes it. */
export const number = (value, choices = {}) => new Intl.NumberFormat(chosen, choices).format(value);

/** Returns a day and time as the reader's language writes it; the code itself where it is no time. */
export function day(value) {
  const time = new Date(value);
  return Number.isNaN(time.valueOf()) ? String(value) : new Intl.DateTimeFormat(chosen, { dateStyle: 'medium', timeStyle: 'short' }).format(time);
}

/** Returns the name of a language (BCP-47) in the reader's language, for example "schwedisch" for sv. */
export function languageName(code) {
  try {
    return new Intl.DisplayNames([chosen], { type: 'language' }).of(code) ?? code;
  } catch {
    return code; // not a code that the browser knows
  }
}

/** Fills every element that names its text: `data-text`, `data-title`, `data-label`, `data-placeholder`. */
export function fillTexts(root = document) {
  for (const one of root.querySelectorAll('[data-text]')) one.textContent = t(one.dataset.text);
  for (const one of root.querySelectorAll('[data-placeholder]')) one.placeholder = t(one.dataset.placeholder);
  for (const one of root.querySelectorAll('[data-label]')) one.setAttribute('aria-label', t(one.dataset.label));
  for (const one of root.querySelectorAll('[data-title]')) {
    one.title = t(one.dataset.title);
    one.setAttribute('aria-label', t(one.dataset.title));
  }
}

/** Fills the choice of the page's language, each named in itself, and calls `changed` when another is taken. */
export function chooseInterface(select, changed) {
  select.replaceChildren(...Object.entries(all).map(([code, texts]) => new Option(texts.name, code)));
  for (const option of select.options) option.lang = option.value;
  select.value = chosen;
  select.addEventListener('change', () => {
    use(select.value);
    localStorage.setItem('interface', chosen);
    changed();
  });
}
