// Asking the service: one function, and the failures that the page treats apart.

/** The service wants a token that it was not given, or another one. */
export class NeedsToken extends Error {}

/** The service is at its limit; `seconds` says when to come again. */
export class Busy extends Error {
  constructor(seconds) {
    super('busy');
    this.seconds = seconds;
  }
}

/** The service refused; `detail` is its own sentence. */
export class Refused extends Error {
  constructor(detail) {
    super(detail);
    this.detail = detail;
  }
}

/** Keeps the token for this tab only. */
export function setToken(token) {
  sessionStorage.setItem('token', token);
}

/**
 * Returns the JSON of an address of this service.
 *
 * @param {string} path from the root of the service, for example `/v1/collections`
 * @param {{body?: object, bytes?: Blob, signal?: AbortSignal}} choices a JSON body or a picture's bytes make it a POST
 */
export async function api(path, { body, bytes, signal } = {}) {
  const headers = {};
  const token = sessionStorage.getItem('token');
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body) headers['Content-Type'] = 'application/json';
  if (bytes) headers['Content-Type'] = bytes.type || 'application/octet-stream';
  const method = body || bytes ? 'POST' : 'GET';
  const answer = await fetch(`.${path}`, { method, headers, signal, body: body ? JSON.stringify(body) : bytes });
  if (answer.ok) return answer.json();
  if (answer.status === 401) throw new NeedsToken();
  if (answer.status === 503 || answer.status === 429) throw new Busy(Number(answer.headers.get('Retry-After')) || 2);
  const problem = await answer.json().catch(() => ({}));
  throw new Refused(problem.detail ?? problem.title ?? `${answer.status} ${answer.statusText}`);
}
