// Conditions on what is known of the pictures, and how well they must fit.
import { languageName, number, t } from './texts.js';

/**
 * Draws one field a column that can be filtered, as the collection describes them.
 *
 * @param {HTMLElement} root
 * @param {object} info facts of the collection
 * @param {{where: object, cut: number}} state `where` maps a column to {is: value} or {min, max}
 * @param {(changes: object) => void} change
 */
export function drawFilters(root, info, state, change) {
  // A field that the reader is in must not be drawn anew under their fingers.
  if (!info || root.contains(document.activeElement)) return;
  const fields = (info.filterable ?? []).map((column) => field(column, state.where[column.column], (choice) => {
    const where = { ...state.where };
    if (choice === null) delete where[column.column];
    else where[column.column] = choice;
    change({ where, item: null });
  }));
  if (info.calibrated) fields.unshift(cutField(state.cut, (cut) => change({ cut, item: null })));
  if (Object.keys(state.where).length || state.cut) {
    const clear = document.createElement('button');
    clear.type = 'button';
    clear.className = 'plain';
    clear.textContent = t('clear_filters');
    clear.addEventListener('click', () => { clear.blur(); change({ where: {}, cut: 0, item: null }); });
    fields.push(clear);
  }
  if (!fields.length) fields.push(document.createTextNode(t('no_filters')));
  root.replaceChildren(...fields);
}

/** Returns the tree of conditions that the service takes, or null where there is none. */
export function toTree(where) {
  const parts = Object.entries(where).map(([column, choice]) => (
    'is' in choice
      ? { op: 'eq', column, value: choice.is }
      : { op: 'range', column, ...('min' in choice ? { gte: choice.min } : {}), ...('max' in choice ? { lte: choice.max } : {}) }
  ));
  if (!parts.length) return null;
  return parts.length === 1 ? parts[0] : { op: 'and', parts };
}

function field(column, choice, changed) {
  const named = t(`column_${column.column}`) === `column_${column.column}` ? column.column : t(`column_${column.column}`);
  const group = document.createElement('fieldset');
  const legend = document.createElement('legend');
  legend.textContent = named;
  group.append(legend);
  if (column.values?.length) group.append(choiceOf(column, choice, changed, named));
  else group.append(bound(column, choice, 'min', changed, named), document.createTextNode(' – '), bound(column, choice, 'max', changed, named));
  return group;
}

function choiceOf(column, choice, changed, named) {
  const select = document.createElement('select');
  select.setAttribute('aria-label', named);
  select.append(new Option(t('any'), ''));
  for (const { value, count } of column.values) {
    const shown = column.column === 'lang' ? languageName(value) : String(value);
    select.append(new Option(`${shown} (${number(count)})`, JSON.stringify(value)));
  }
  select.value = choice && 'is' in choice ? JSON.stringify(choice.is) : '';
  select.addEventListener('change', () => changed(select.value === '' ? null : { is: JSON.parse(select.value) }));
  return select;
}

function bound(column, choice, side, changed, named) {
  const input = document.createElement('input');
  input.type = column.type === 'time' ? 'date' : 'number';
  input.setAttribute('aria-label', `${named}: ${t(side)}`);
  input.placeholder = column[side] === null || column[side] === undefined ? '' : String(column[side]).slice(0, 10);
  if (input.type === 'number') input.step = 'any';
  input.value = choice?.[side] === undefined ? '' : String(choice[side]).slice(0, input.type === 'date' ? 10 : undefined);
  input.addEventListener('change', () => {
    const next = { ...(choice && !('is' in choice) ? choice : {}) };
    if (input.value === '') delete next[side];
    else if (input.type === 'number') next[side] = Number(input.value);
    else next[side] = side === 'max' ? `${input.value}T23:59:59Z` : `${input.value}T00:00:00Z`;
    changed('min' in next || 'max' in next ? next : null);
  });
  return input;
}

// Most of the scale lies near 1: half of all pictures fit a query better than the other half, which says little.
const STEPS = [0, 0.5, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9995, 0.9999];

function cutField(cut, changed) {
  const label = document.createElement('label');
  const text = document.createElement('span');
  text.className = 'label';
  const slider = document.createElement('input');
  slider.type = 'range';
  slider.min = '0';
  slider.max = String(STEPS.length - 1);
  slider.value = String(Math.max(0, STEPS.findLastIndex((step) => step <= cut)));
  const say = () => {
    const step = STEPS[Number(slider.value)];
    const said = step ? t('cut_at', { share: number(1 - step, { style: 'percent', maximumFractionDigits: 2 }) }) : t('cut_none');
    text.textContent = `${t('cut')}: ${said}`;
    slider.setAttribute('aria-valuetext', said);
  };
  say();
  slider.addEventListener('input', say);
  slider.addEventListener('change', () => changed(STEPS[Number(slider.value)]));
  label.append(text, document.createElement('br'), slider);
  return label;
}
