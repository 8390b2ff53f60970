// One picture, large, with what is known of it and where to go from it.
import { api } from './api.js';
import { day, languageName, number, t } from './texts.js';

const STRIP = 12; // small pictures of a strip

function make(tag, text = '', className = '') {
  const made = document.createElement(tag);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

function act(label, does, className = 'plain') {
  const button = make('button', label, className);
  button.type = 'button';
  button.addEventListener('click', does);
  return button;
}

/**
 * @param {HTMLElement} root
 * @param {{similar: Function, add: Function, step: Function, open: Function, close: Function}} acts
 */
export function makePanel(root, acts) {
  let shown = null;
  let collection = '';

  function draw(hit, { focus = true } = {}) {
    const had = root.contains(document.activeElement);
    const close = act('✕', acts.close, 'icon close');
    close.title = t('close');
    close.setAttribute('aria-label', t('close'));
    const bar = make('div', '', 'bar');
    const steps = make('div');
    steps.append(...[['previous', -1], ['next', 1]].map(([name, by]) => stepButton(name, by)));
    bar.append(steps, close);
    root.replaceChildren(bar, bigPicture(hit), heading(hit), buttons(hit), facts(hit));
    root.hidden = false;
    if (focus || had) close.focus({ preventScroll: true });
    if (hit.similar) strip(t('folded', { n: hit.similar }), `items/${encodeURIComponent(hit.id)}/group?k=${STRIP}`, hit.id);
  }

  function stepButton(name, by) {
    // Arrows point where the reading goes: in a right-to-left page the next picture lies to the left.
    const right = (by > 0) !== (document.documentElement.dir === 'rtl');
    const button = act(right ? '→' : '←', () => step(by), 'icon');
    button.title = t(name);
    button.setAttribute('aria-label', t(name));
    return button;
  }

  function step(by) {
    const next = acts.step(by);
    if (next) acts.open(next);
    return Boolean(next);
  }

  function bigPicture(hit) {
    const place = make('div', '', 'big');
    const image = make('img');
    image.alt = hit.caption ?? t('picture');
    // The thumbnail is there at once; the large picture takes its place when it has come.
    image.src = hit.thumbnail ?? '';
    if (hit.width && hit.height) image.style.aspectRatio = `${hit.width} / ${hit.height}`;
    if (hit.picture) {
      const large = new Image();
      large.addEventListener('load', () => { image.src = large.src; });
      large.src = hit.picture;
      const link = make('a');
      link.href = hit.picture;
      link.target = '_blank';
      link.rel = 'noopener noreferrer';
      link.append(image);
      place.append(link);
    } else if (hit.thumbnail) place.append(image);
    else place.append(make('p', t('no_thumbnail')));
    return place;
  }

  function heading(hit) {
    const title = make('h2', hit.caption ?? '');
    title.dir = 'auto';
    if (hit.lang) title.lang = hit.lang;
    title.hidden = !hit.caption;
    return title;
  }

  function buttons(hit) {
    const place = make('div', '', 'acts');
    const link = act(t('copy_link'), async () => {
      const address = new URL(location.pathname, location.href);
      address.search = new URLSearchParams({ c: collection, item: hit.id });
      await navigator.clipboard.writeText(address.href);
      link.textContent = t('copied');
    });
    place.append(
      act(t('similar'), () => acts.similar(hit), 'plain main'),
      act(t('and_this'), () => acts.add(hit, 1)),
      act(t('not_this'), () => acts.add(hit, -1)),
    );
    if (navigator.clipboard) place.append(link);
    return place;
  }

  function facts(hit) {
    const list = make('dl');
    const rows = [];
    if (hit.relative !== null && hit.relative !== undefined) rows.push([t('fit'), number(Math.min(hit.relative, 0.9999), { style: 'percent', maximumFractionDigits: 2 })]);
    if (hit.score !== null && hit.score !== undefined) rows.push([t('cosine'), number(hit.score, { minimumFractionDigits: 3, maximumFractionDigits: 3 })]);
    if (hit.width && hit.height) rows.push([t('size'), `${number(hit.width)} × ${number(hit.height)}`]);
    if (hit.lang) rows.push([t('caption_language'), languageName(hit.lang)]);
    for (const [name, value] of Object.entries(hit.columns ?? {})) {
      if (value === null || value === '' || name === 'colour') continue;
      rows.push([t(`column_${name}`) === `column_${name}` ? name : t(`column_${name}`), plain(name, value)]);
    }
    for (const [name, value] of rows) {
      const shownValue = make('dd');
      shownValue.append(isAddress(value) ? linkTo(value) : value);
      shownValue.dir = 'auto';
      list.append(make('dt', name), shownValue);
    }
    return list;
  }

  function plain(name, value) {
    if (name === 'modified') return day(value);
    if (name === 'bytes') return number(value / 1000, { style: 'unit', unit: 'kilobyte', maximumFractionDigits: 1 });
    return String(value);
  }

  // Elsewhere is gone to only by a person's own click, without telling where from: pictures of other hosts are never shown,
  // since that would tell those hosts who looks at what.
  const isAddress = (value) => /^https?:\/\/[^\s]+$/i.test(value) && URL.canParse(value);

  function linkTo(address) {
    const link = make('a', address);
    link.href = address;
    link.target = '_blank';
    link.rel = 'noopener noreferrer nofollow';
    return link;
  }

  async function strip(title, path, own) {
    const answer = await api(`/v1/collections/${encodeURIComponent(collection)}/${path}`).catch(() => null);
    if (!answer || shown !== own) return;
    const others = answer.hits.filter((hit) => hit.id !== own && hit.thumbnail);
    if (!others.length) return;
    const place = make('div', '', 'strip');
    for (const hit of others) {
      const image = make('img');
      image.src = hit.thumbnail;
      image.alt = hit.caption ?? t('picture');
      const button = act('', () => acts.open(hit), '');
      button.append(image);
      place.append(button);
    }
    root.append(make('p', title), place);
  }

  return {
    shown: () => shown,
    holds: (element) => root.contains(element),
    /** Shows a picture of the grid at once, and all of its columns when they have come. */
    async show(name, hit) {
      collection = name;
      shown = hit.id;
      draw(hit);
      const whole = await api(`/v1/collections/${encodeURIComponent(name)}/items/${encodeURIComponent(hit.id)}`).catch(() => null);
      if (whole && shown === hit.id) draw({ ...whole, score: hit.score, relative: hit.relative, similar: hit.similar }, { focus: false });
    },
    /** Shows a picture that only its id is known of, as a shared address names it. */
    async load(name, id) {
      collection = name;
      shown = id;
      try {
        const hit = await api(`/v1/collections/${encodeURIComponent(name)}/items/${encodeURIComponent(id)}`);
        if (shown === id) draw(hit);
      } catch (error) {
        if (shown !== id) return;
        root.replaceChildren(act(t('close'), acts.close), make('p', error.detail ?? t('offline_text')));
        root.hidden = false;
      }
    },
    hide() {
      shown = null;
      root.hidden = true;
      root.replaceChildren();
    },
    /** Left and right go to the picture before and after; returns whether the key was used. */
    arrow(event) {
      if (shown === null || (event.key !== 'ArrowLeft' && event.key !== 'ArrowRight')) return false;
      const forward = document.documentElement.dir === 'rtl' ? 'ArrowLeft' : 'ArrowRight';
      event.preventDefault();
      return step(event.key === forward ? 1 : -1);
    },
  };
}
