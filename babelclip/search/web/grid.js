// Pictures in justified rows: every picture keeps its proportions, every full row has the width of the page.
import { t } from './texts.js';

const GAP = 6; // as --gap in style.css
const FLATTEST = 2.8; // a panorama or a receipt is cropped to these proportions rather than to a sliver
const TALLEST = 0.45;

const target = () => (innerWidth < 740 ? 128 : 212);

/**
 * @param {HTMLElement} root
 * @param {{open: (hit: object) => void, reachedEnd: () => void}} acts
 */
export function makeGrid(root, { open, reachedEnd }) {
  let cards = []; // {hit, element, aspect}, in order
  let rows = []; // {element, start, end}
  let width = 0;

  function makeCard(hit) {
    const element = document.createElement('button');
    element.type = 'button';
    element.className = 'card';
    element.dataset.id = hit.id;
    element.setAttribute('role', 'listitem');
    const caption = hit.caption ?? '';
    element.setAttribute('aria-label', caption || t('picture'));
    if (hit.colour) element.style.backgroundColor = hit.colour;
    element.append(hit.thumbnail ? picture(hit, element) : absent());
    if (caption) element.append(span('caption', caption));
    // The mark before it keeps the sign before the number, also where the page is read from the right.
    if (hit.similar) element.append(span('similar', `\u200e+${hit.similar}`, t('folded', { n: hit.similar })));
    element.addEventListener('click', () => open(hit));
    const aspect = hit.width && hit.height ? hit.width / hit.height : 1;
    return { hit, element, aspect: Math.min(FLATTEST, Math.max(TALLEST, aspect)) };
  }

  function picture(hit, card) {
    const image = document.createElement('img');
    image.alt = '';
    image.loading = 'lazy';
    image.decoding = 'async';
    image.addEventListener('error', () => image.replaceWith(absent()));
    image.src = hit.thumbnail;
    if (card) card.draggable = false;
    return image;
  }

  const absent = () => span('absent', t('no_thumbnail'));

  function span(className, text, label = '') {
    const made = document.createElement('span');
    made.className = className;
    made.textContent = text;
    if (label) made.title = label;
    else made.dir = 'auto';
    return made;
  }

  /** Sets rows from the card at `start` on; those above stay as they are. */
  function layout(start) {
    const focused = root.contains(document.activeElement) ? document.activeElement : null;
    width = root.clientWidth;
    while (rows.length && rows.at(-1).end > start) rows.pop().element.remove();
    let first = rows.at(-1)?.end ?? 0;
    let sum = 0;
    for (let i = first; i < cards.length; i += 1) {
      sum += cards[i].aspect;
      const last = i === cards.length - 1;
      const height = (width - GAP * (i - first)) / sum;
      if (height > target() && !last) continue;
      // The row at the end keeps the usual height: two pictures across a whole screen would be posters.
      addRow(first, i + 1, Math.min(height, last ? target() * 1.15 : height));
      first = i + 1;
      sum = 0;
    }
    focused?.focus({ preventScroll: true });
  }

  function addRow(start, end, height) {
    const element = document.createElement('div');
    element.className = 'row';
    element.setAttribute('role', 'presentation');
    element.style.height = `${height}px`;
    element.style.containIntrinsicSize = `auto ${height}px`;
    for (const card of cards.slice(start, end)) {
      card.element.style.width = `${card.aspect * height}px`;
      card.element.style.height = `${height}px`;
      element.append(card.element);
    }
    root.append(element);
    rows.push({ element, start, end });
  }

  const openRow = () => (rows.length ? rows.at(-1).start : 0);
  const placeOf = (id) => cards.findIndex((card) => card.hit.id === id);
  const placeOfFocus = () => cards.findIndex((card) => card.element === document.activeElement);

  function focusAt(place) {
    const card = cards[place];
    if (!card) return false;
    card.element.focus();
    card.element.scrollIntoView({ block: 'nearest' });
    if (place > cards.length - 12) reachedEnd();
    return true;
  }

  /** The card of the row above or below whose middle is nearest. */
  function vertical(place, by) {
    const row = rows.findIndex(({ start, end }) => place >= start && place < end);
    const next = rows[row + by];
    if (!next) return -1;
    const middle = (i) => cards[i].element.offsetLeft + cards[i].element.offsetWidth / 2;
    let best = next.start;
    for (let i = next.start; i < next.end; i += 1) if (Math.abs(middle(i) - middle(place)) < Math.abs(middle(best) - middle(place))) best = i;
    return best;
  }

  const end = document.getElementById('more');
  const nearEnd = new IntersectionObserver((seen) => {
    if (seen.at(-1).isIntersecting) reachedEnd();
  }, { rootMargin: '1200px' });
  new ResizeObserver(() => {
    if (cards.length && root.clientWidth !== width) layout(0);
  }).observe(root);

  return {
    /** Shows these pictures in place of those before. */
    show(hits) {
      root.replaceChildren();
      rows = [];
      cards = hits.map(makeCard);
      layout(0);
    },
    /** Adds pictures below. */
    append(hits) {
      const start = openRow();
      const known = new Set(cards.map((card) => card.hit.id));
      cards.push(...hits.filter((hit) => !known.has(hit.id)).map(makeCard));
      layout(start);
    },
    /** Says whether more can come. The end is looked at anew each time: it may have been in sight all along. */
    finish(done) {
      nearEnd.unobserve(end);
      if (!done) nearEnd.observe(end);
    },
    count: () => cards.length,
    /** Returns what is shown, in order. */
    hits: () => cards.map((card) => card.hit),
    /** Returns the picture `by` places after the one with this id, or undefined. */
    neighbour(id, by) {
      const place = placeOf(id);
      if (place < 0) return undefined;
      if (place + by > cards.length - 12) reachedEnd();
      return cards[place + by]?.hit;
    },
    mark(id) {
      for (const card of cards) {
        if (card.hit.id === id) card.element.setAttribute('aria-current', 'true');
        else card.element.removeAttribute('aria-current');
      }
      if (id !== null) cards[placeOf(id)]?.element.scrollIntoView({ block: 'nearest' });
    },
    focus: (id) => focusAt(placeOf(id)),
    focusFirst: () => focusAt(0),
    /** Moves the focus with an arrow key; returns whether it did. */
    arrow(event) {
      const place = placeOfFocus();
      if (place < 0) return event.key === 'ArrowDown' && document.activeElement === document.body && focusAt(0);
      const forward = document.documentElement.dir === 'rtl' ? 'ArrowLeft' : 'ArrowRight';
      if (event.key === 'ArrowUp' || event.key === 'ArrowDown') return focusAt(vertical(place, event.key === 'ArrowDown' ? 1 : -1));
      return focusAt(place + (event.key === forward ? 1 : -1));
    },
  };
}
