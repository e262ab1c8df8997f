import { LoramuxError } from '../core/errors.js';
import { isScope, SCOPE_FORMS } from './scopes.js';

/** One line of the file. */
export interface KeyRecord {
  readonly name: string;
  /** SHA-256 of the key, 64 lower-case hex digits. */
  readonly hash: string;
  /** At least one. */
  readonly scopes: readonly string[];
  /** Milliseconds since the epoch from which on the key is refused; null = never. */
  readonly expiresMs: number | null;
}

/** Files above this are no lists of keys. */
export const MAX_KEY_FILE_BYTES = 4 * 2 ** 20;

const NAME = /^[A-Za-z0-9][\w.-]{0,63}$/;
const HASH = /^sha256:([0-9a-f]{64})$/;
const EXPIRES = 'expires=';
/** A day or a second, always UTC. */
const TIME = /^\d{4}-\d\d-\d\d(?:T\d\d:\d\d:\d\dZ)?$/;

export function isKeyName(text: string): boolean {
  return NAME.test(text);
}

/** Milliseconds since the epoch of `2027-01-31` or `2027-01-31T12:00:00Z`; null for anything else. */
export function parseTime(text: string): number | null {
  const ms = TIME.test(text) ? Date.parse(text) : Number.NaN;
  // Date.parse moves 31 April to 1 May; that is a slip, not a date.
  return Number.isNaN(ms) || !new Date(ms).toISOString().startsWith(text.replace(/Z$/, '')) ? null : ms;
}

/**
 * The keys of a file: `NAME sha256:HEX SCOPE … [expires=TIME]` on each line, empty lines and comments (`#`) between
 * them. ERR_CONFIG names file and line of what is malformed, or says that there is no key at all.
 */
export function parseKeyFile(text: string, file: string): readonly KeyRecord[] {
  const records = new Map<string, KeyRecord>();
  const hashes = new Set<string>();
  for (const [at, line] of text.split('\n').entries()) {
    const words = line.trim().split(/\s+/);
    if (words[0] === '' || words[0]?.startsWith('#')) continue;
    const refuse = (message: string): LoramuxError =>
      new LoramuxError('ERR_CONFIG', `${file}, line ${at + 1}: ${message}`, { file });
    const record = parseWords(words, refuse);
    if (records.has(record.name)) throw refuse(`a second key called ${record.name}: names are unique`);
    if (hashes.has(record.hash)) throw refuse(`the key of ${record.name} is on an earlier line already`);
    records.set(record.name, record);
    hashes.add(record.hash);
  }
  if (records.size === 0) {
    const message = `${file} holds no key: make one with loramux key add NAME --scope SCOPES --api-keys ${file}`;
    throw new LoramuxError('ERR_CONFIG', message, { file });
  }
  return [...records.values()];
}

/** Never shows a word that may be a key by mistake. */
function parseWords(words: readonly string[], refuse: (message: string) => LoramuxError): KeyRecord {
  const [name = '', hashed = '', ...rest] = words;
  if (!isKeyName(name)) throw refuse('expected a name of up to 64 letters, digits, ".", "_" and "-" first');
  const hash = HASH.exec(hashed)?.[1];
  if (hash === undefined) throw refuse(`expected sha256: and 64 lower-case hex digits after ${name}`);
  const times = rest.filter((word) => word.startsWith(EXPIRES));
  const scopes = rest.filter((word) => !word.startsWith(EXPIRES));
  if (scopes.length === 0 || !scopes.every(isScope)) throw refuse(`expected scopes for ${name}: ${SCOPE_FORMS}`);
  const [time] = times;
  const expiresMs = time === undefined ? null : parseTime(time.slice(EXPIRES.length));
  if (times.length > 1 || (time !== undefined && expiresMs === null)) {
    throw refuse(`expected at most one expires=2027-01-31 or expires=2027-01-31T12:00:00Z for ${name}`);
  }
  return { name, hash, scopes, expiresMs };
}

/** A key as its line. */
export function formatKey({ name, hash, scopes, expiresMs }: KeyRecord): string {
  const expiry = expiresMs === null ? [] : [`${EXPIRES}${new Date(expiresMs).toISOString().replace(/\.\d+Z$/, 'Z')}`];
  return [name, `sha256:${hash}`, ...scopes, ...expiry].join(' ');
}
