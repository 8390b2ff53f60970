// What is asked for, as an address that can be shared: ?c=…&q=…&l=sv&plus=…&minus=…&like=ID&unlike=ID&f.COLUMN=…&cut=…&item=ID.
// A picture that was pasted is a sealed text of kilobytes that opens for a day (terms.py), so it is left out.

const SIGNS = [['plus', 'text', 1], ['minus', 'text', -1], ['like', 'id', 1], ['unlike', 'id', -1]];

/** Returns the state that the present address describes. */
export function read() {
  const given = new URLSearchParams(location.search);
  const terms = SIGNS.flatMap(([name, kind, weight]) => given.getAll(name).map((value) => ({ kind, [kind]: value, weight })));
  const where = {};
  for (const [name, value] of given) if (name.startsWith('f.') && value) where[name.slice(2)] = fromText(value);
  const cut = Number(given.get('cut'));
  return {
    collection: given.get('c') ?? '',
    query: given.get('q') ?? '',
    lang: given.get('l') ?? '',
    terms,
    where,
    cut: cut > 0 && cut < 1 ? cut : 0,
    item: given.get('item'),
  };
}

/** Writes the state into the address: a new entry of the history, or in place of the present one. */
export function write(state, collections, replace) {
  const given = new URLSearchParams();
  if (state.collection && collections.length > 1) given.set('c', state.collection);
  if (state.query) given.set('q', state.query);
  if (state.lang) given.set('l', state.lang);
  for (const [name, kind, weight] of SIGNS) {
    for (const term of state.terms) if (term.kind === kind && Math.sign(term.weight) === weight) given.append(name, term[kind]);
  }
  for (const [column, choice] of Object.entries(state.where)) given.set(`f.${column}`, toText(choice));
  if (state.cut) given.set('cut', String(state.cut));
  if (state.item !== null) given.set('item', state.item);
  const next = `${location.pathname}${given.size ? `?${given}` : ''}`;
  if (next === location.pathname + location.search) return;
  history[replace ? 'replaceState' : 'pushState'](null, '', next);
}

// A choice is {is: value} or {min, max}; a range is written min..max, anything else as JSON.
function toText(choice) {
  return 'is' in choice ? JSON.stringify(choice.is) : `${choice.min ?? ''}..${choice.max ?? ''}`;
}

function fromText(text) {
  const range = /^([^"]*)\.\.([^"]*)$/.exec(text);
  if (range) return { ...(range[1] ? { min: plain(range[1]) } : {}), ...(range[2] ? { max: plain(range[2]) } : {}) };
  return { is: plain(text) };
}

function plain(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
