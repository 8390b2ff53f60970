// Under the box: the language of the query, and a chip for every further word or picture, wanted or unwanted.
import { languageName, t } from './texts.js';

/**
 * Draws the chips; nothing is drawn where there is nothing to say.
 *
 * @param {HTMLElement} root
 * @param {object} state
 * @param {object} info facts of the collection
 * @param {{toggle: Function, remove: Function, language: Function, detected: object|null}} acts
 */
export function drawTerms(root, state, info, acts) {
  const chips = state.terms.map((term, place) => chip(term, place, acts));
  if (state.query.trim()) chips.unshift(languageChip(state, info, acts));
  if (!chips.length && root.querySelector('.examples')) return; // the examples stay until something is asked for
  root.replaceChildren(...chips);
}

/** Draws queries to try, in several scripts, while nothing is asked for. */
export function drawExamples(root, state, info, take) {
  if (state.query || state.terms.length || !info?.example_queries?.length) return;
  const place = document.createElement('div');
  place.className = 'examples';
  for (const example of info.example_queries) {
    const button = document.createElement('button');
    button.type = 'button';
    button.textContent = example.text;
    button.lang = example.lang;
    button.dir = 'auto';
    button.addEventListener('click', () => take(example));
    place.append(button);
  }
  root.replaceChildren(place);
}

function chip(term, place, acts) {
  const made = document.createElement('span');
  made.className = term.weight < 0 ? 'chip minus' : 'chip';
  const named = term.text ?? t('picture');
  made.append(button('toggle', term.weight < 0 ? '−' : '+', `${t(term.weight < 0 ? 'make_plus' : 'make_minus')}: ${named}`, () => acts.toggle(place)));
  if (term.preview) {
    const image = document.createElement('img');
    image.src = term.preview;
    image.alt = t('picture');
    made.append(image);
  } else {
    const text = document.createElement('span');
    text.textContent = named;
    text.dir = 'auto';
    made.append(text);
  }
  made.append(button('remove', '✕', `${t('remove')}: ${named}`, () => acts.remove(place)));
  return made;
}

function button(className, text, label, does) {
  const made = document.createElement('button');
  made.type = 'button';
  made.className = className;
  made.textContent = text;
  made.title = label;
  made.setAttribute('aria-label', label);
  made.addEventListener('click', does);
  return made;
}

/** The language that the service saw in the query, and the choice of another. */
function languageChip(state, info, { language, detected }) {
  const made = document.createElement('label');
  made.className = 'chip language';
  const label = document.createElement('span');
  label.textContent = t('language');
  const select = document.createElement('select');
  const seen = detected && !state.lang ? detected.code : null;
  select.append(new Option(seen ? `${languageName(seen)}${detected.sure ? '' : ' ?'}` : t('detect'), ''));
  const codes = [...new Set([...(info?.languages ?? []), ...(state.lang ? [state.lang] : [])])];
  const named = codes.map((code) => [languageName(code), code]).sort((a, b) => a[0].localeCompare(b[0]));
  select.append(...named.map(([name, code]) => new Option(name, code)));
  select.value = state.lang;
  select.addEventListener('change', () => language(select.value));
  made.append(label, select);
  return made;
}
