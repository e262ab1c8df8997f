import { createHash } from 'node:crypto';
import { isSameSource, type MergeSource, type RemoteSource } from '../core/adapter-source.js';
import { type AdapterRecord, createRecord } from './adapter-record.js';
import type { NameBook } from './name-book.js';
import { notFound, otherSource } from './registry-errors.js';

/** Adapters that requests located themselves, remembered without being resident. */
const MAX_IDLE_LOCATED = 256;
/** Merges that are remembered without being resident. */
const MAX_IDLE_MERGES = 256;

/** Names that requests make: of merges, and of adapters that a request says where to find. */
export class RequestNames {
  constructor(private readonly book: NameBook) {}

  /**
   * The name under which a merge of other adapters is acquired; no request can spell it. Merges that are not resident
   * are forgotten when they become many.
   */
  derive(source: MergeSource): string {
    const name = `merge:${source.location}`;
    if (this.book.records.has(name)) return name;
    const idle = [...this.book.records.values()].filter((record) => record.source.type === 'merge' && isIdle(record));
    for (const record of idle.slice(0, Math.max(0, idle.length - MAX_IDLE_MERGES)))
      this.book.records.delete(record.name);
    this.book.records.set(name, createRecord(name, source));
    return name;
  }

  /**
   * The name under which an adapter is acquired that a request says where to find, if it is known already: its own, or
   * with a token one that no request can spell, so that only those who have the token get what it opened.
   * Errors: ERR_VALIDATION when the name stands for something else here.
   */
  located(name: string, source: RemoteSource): string | null {
    const known = nameForToken(name, source);
    const record = this.book.records.get(known);
    if (this.book.aliases.has(known) || (record !== undefined && !isSameSource(record.source, source))) {
      throw otherSource(name);
    }
    return record === undefined ? null : known;
  }

  /**
   * As `located`, making the adapter known if it is not. Those that are neither resident nor loading are forgotten when
   * they become many. Errors: as `located`, ERR_ADAPTER_NOT_FOUND for a name that the operator unloaded, and those of
   * sources that may not be fetched.
   */
  async locate(name: string, source: RemoteSource): Promise<string> {
    const known = nameForToken(name, source);
    if (this.located(name, source) !== null) return known;
    if (this.book.unloaded.has(known)) throw notFound(name, true);
    const inRoots = await this.book.roots.find(known);
    const admitted = await this.book.admit(source);
    if (inRoots !== null) throw otherSource(name);
    if (this.located(name, source) !== null) return known;
    this.#forgetLocated();
    this.book.located.add(known);
    this.book.records.set(known, createRecord(known, admitted));
    return known;
  }

  #forgetLocated(): void {
    for (const name of this.book.located) {
      const record = this.book.records.get(name);
      if (record !== undefined && this.book.located.size < MAX_IDLE_LOCATED) break;
      if (record !== undefined && !isIdle(record)) continue;
      this.book.located.delete(name);
      this.book.records.delete(name);
    }
  }
}

function isIdle({ versions, load }: AdapterRecord): boolean {
  return versions.size === 0 && load === null;
}

/** A digest of the token is part of the name: `#` is in no name that a request or an operator can give. */
function nameForToken(name: string, source: RemoteSource): string {
  const token = source.type === 'hub' || source.type === 'http' ? source.token : null;
  if (token === null) return name;
  return `${name}#${createHash('sha256').update(token).digest('hex').slice(0, 32)}`;
}
