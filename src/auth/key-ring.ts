import { createHmac, randomBytes } from 'node:crypto';
import type { Caller } from '../core/caller.js';
import { LoramuxError } from '../core/errors.js';
import { matchesAny } from '../core/name-pattern.js';
import type { KeyRecord } from './key-file.js';
import { grantsOf, meets, type Scope, spellingOf } from './scopes.js';
import { hashOf } from './tokens.js';

/** A key that was verified: who it is, and what it opens. */
export interface KeyHolder {
  readonly caller: Caller;
  opens(scope: Scope): boolean;
}

interface Entry {
  readonly holder: KeyHolder;
  readonly expiresMs: number;
}

const BEARER = /^Bearer +(\S+) *$/i;

/** The keys that are valid now. A new set takes the place of the old one between two requests. */
export class KeyRing {
  /**
   * Entries by HMAC of the key's hash under a secret of this process. Comparing hashes as they are would take a time
   * that depends on how much of them agrees; here nobody outside can tell what is compared.
   */
  #entries: ReadonlyMap<string, Entry> = new Map();
  readonly #secret = randomBytes(32);
  readonly #now: () => number;

  /** `now`: milliseconds since the epoch, for expiry. */
  constructor(records: readonly KeyRecord[], now: () => number = Date.now) {
    this.#now = now;
    this.replace(records);
  }

  get size(): number {
    return this.#entries.size;
  }

  /** From now on these keys are valid and no others. */
  replace(records: readonly KeyRecord[]): void {
    this.#entries = new Map(
      records.map((record) => [
        this.#blind(Buffer.from(record.hash, 'hex')),
        { holder: holderOf(record), expiresMs: record.expiresMs ?? Number.POSITIVE_INFINITY },
      ]),
    );
  }

  /**
   * Who an `Authorization` header speaks for. ERR_UNAUTHORIZED without one, for another scheme, and for a key that is
   * unknown or expired; the message does not tell these two apart.
   */
  authenticate(authorization: string | undefined): KeyHolder {
    if (authorization === undefined) throw unauthorized('expected an API key in "Authorization: Bearer KEY", got none');
    const token = BEARER.exec(authorization)?.[1];
    if (token === undefined) throw unauthorized('expected "Authorization: Bearer KEY", got another form');
    const hash = hashOf(token);
    const entry = hash === null ? undefined : this.#entries.get(this.#blind(hash));
    if (entry === undefined || this.#now() >= entry.expiresMs) {
      throw unauthorized(
        'expected a valid API key, got one that is unknown or expired: ask the operator for a new one',
      );
    }
    return entry.holder;
  }

  #blind(hash: Buffer): string {
    return createHmac('sha256', this.#secret).update(hash).digest('base64url');
  }
}

/** ERR_FORBIDDEN unless the key opens routes that ask for `scope`. */
export function requireScope(holder: KeyHolder, scope: Scope): void {
  if (holder.opens(scope)) return;
  const message = `the API key ${holder.caller.name} lacks the scope ${spellingOf(scope)}: use one that has it`;
  throw new LoramuxError('ERR_FORBIDDEN', message);
}

function holderOf({ name, scopes }: KeyRecord): KeyHolder {
  const grants = grantsOf(scopes);
  const { adapters } = grants;
  const caller = { name, adapters, mayUse: (adapter: string) => matchesAny(adapters, adapter) };
  return { caller, opens: (scope) => meets(grants, scope) };
}

function unauthorized(message: string): LoramuxError {
  return new LoramuxError('ERR_UNAUTHORIZED', message);
}
