import { LRUCache } from 'lru-cache';
import type { TierInfo } from '../core/adapter.js';
import type { AdapterSource } from '../core/adapter-source.js';
import { type AdapterText, textBytes } from '../core/adapter-text.js';
import { toLoramuxError } from '../core/errors.js';
import type { Telemetry } from '../core/telemetry.js';
import type { NativeEngine } from '../engine/binding.js';
import type { PlanFacts } from './plan.js';

/** What the tier needs of the native side. */
export type HostTierBackend = Pick<NativeEngine, 'keepAdapter' | 'restoreAdapter' | 'discardImage'>;

/** What a load from files found out, and a load from the host need not find out again. */
export interface KeptFacts {
  readonly digest: string;
  /** On the device. */
  readonly bytes: number;
  /** Of its pages there. */
  readonly runs: readonly number[];
  readonly plan: PlanFacts;
  readonly text: AdapterText | null;
  readonly baseModel: string | null;
  readonly warnings: readonly string[];
}

interface Entry {
  readonly facts: KeptFacts;
  /** Of the files that it was made from, see `fingerprintOf`. */
  readonly fingerprint: string;
  readonly name: string;
  readonly image: number;
  /** Of the image and of what this side holds. */
  readonly bytes: number;
  /** Loads that use the image; it is freed when the last one ends. */
  users: number;
  dropped: boolean;
}

/** An adapter on the host in the hands of one load. */
export interface KeptAdapter {
  readonly facts: KeptFacts;
  /** To `pages` of the device, as many as its runs add up to. Errors: ERR_DEVICE. */
  restore(pages: Int32Array): Promise<{ handle: number; bytes: number }>;
  /** Ends the hold; to be called once. */
  end(): void;
}

export interface HostTierOptions {
  readonly backend: HostTierBackend;
  /** Above zero. */
  readonly capacityBytes: number;
  readonly emit: (fact: Telemetry) => void;
  readonly warn: (name: string, warning: string) => void;
}

/**
 * Copies, in pinned host memory, of adapters that a device has or had: a load finds them by source and fingerprint, so
 * that files which changed are read. Least recently used first when bytes run out; what is on the device counts as used
 * when it was loaded and when it left.
 */
export class HostTier {
  readonly #options: HostTierOptions;
  readonly #kept: LRUCache<string, Entry>;
  /** Nothing more is kept. */
  #off = false;
  /** Copies in flight, and images that loads still use though they were dropped: their memory comes free. */
  #busy = 0;

  constructor(options: HostTierOptions) {
    this.#options = options;
    this.#kept = new LRUCache({
      maxSize: options.capacityBytes,
      sizeCalculation: (entry) => entry.bytes,
      dispose: (entry) => this.#drop(entry),
    });
  }

  /** True when there is an image of `source`, whatever its files hold by now. */
  has(source: AdapterSource): boolean {
    return this.#kept.has(keyOf(source));
  }

  /** Takes hold of what was made from these very files; what was made from others of the same source goes. */
  find(name: string, source: AdapterSource, fingerprint: string | null): KeptAdapter | null {
    const key = keyOf(source);
    const entry = this.#kept.get(key);
    const found = entry !== undefined && entry.fingerprint === fingerprint ? entry : null;
    if (found === null) this.#kept.delete(key);
    this.#options.emit({ kind: 'adapter-lookup', tier: 'host', name, result: found === null ? 'miss' : 'hit' });
    if (found === null) return null;
    found.users += 1;
    return {
      facts: found.facts,
      restore: (pages) => this.#options.backend.restoreAdapter(found.image, pages),
      end: () => this.#leave(found),
    };
  }

  /**
   * Keeps a copy of the adapter that has just been loaded as `handle`, dropping what was used longest ago as far as it
   * must. Never fails a load: without room, or without pinned memory, nothing is kept.
   */
  async keep(
    name: string,
    source: AdapterSource,
    fingerprint: string | null,
    handle: number,
    facts: KeptFacts,
  ): Promise<void> {
    const { backend, capacityBytes } = this.#options;
    const here = textBytes(facts.text);
    if (this.#off || fingerprint === null || facts.bytes + here > capacityBytes) return;
    this.#kept.delete(keyOf(source));
    while (this.#kept.calculatedSize + facts.bytes + here > capacityBytes) this.#evictOldest();
    let kept = await this.#copy(name, handle);
    while (kept === null && !this.#off) {
      if (!this.#evictOldest()) {
        this.#lacking(name, facts.bytes);
        return;
      }
      kept = await this.#copy(name, handle);
    }
    if (kept === null) return;
    const bytes = kept.bytes + here;
    if (this.#off || bytes > capacityBytes) {
      backend.discardImage(kept.image);
      return;
    }
    this.#kept.set(keyOf(source), { facts, fingerprint, name, image: kept.image, bytes, users: 0, dropped: false });
  }

  /** Counts what `source` left behind as used now. */
  touch(source: AdapterSource): void {
    this.#kept.get(keyOf(source));
  }

  /** Forgets what was made from `source`. */
  drop(source: AdapterSource): void {
    this.#kept.delete(keyOf(source));
  }

  /** Forgets all and keeps nothing more. */
  close(): void {
    this.#off = true;
    this.#kept.clear();
  }

  tier(): TierInfo {
    return { tier: 'host', bytes: this.#kept.calculatedSize, capacity: this.#options.capacityBytes, pinned: 0 };
  }

  /** Null when the native side has no room. A device that fails keeps nothing more. */
  async #copy(name: string, handle: number): Promise<{ image: number; bytes: number } | null> {
    this.#busy += 1;
    try {
      return await this.#options.backend.keepAdapter(handle);
    } catch (thrown) {
      if (!this.#off)
        this.#options.warn(name, `adapters are no longer kept on the host: ${toLoramuxError(thrown).message}`);
      this.#off = true;
      return null;
    } finally {
      this.#busy -= 1;
    }
  }

  /** False when there is nothing that would make room. */
  #evictOldest(): boolean {
    const entry = this.#kept.pop();
    if (entry === undefined) return false;
    this.#options.emit({
      kind: 'adapter-evict',
      tier: 'host',
      name: entry.name,
      reason: 'capacity',
      bytes: entry.bytes,
    });
    return true;
  }

  /** An empty tier has no room for what fits its budget: there is no pinned memory, unless others are at it. */
  #lacking(name: string, bytes: number): void {
    if (this.#busy > 0) return;
    this.#off = true;
    this.#options.warn(
      name,
      `adapters are not kept on the host: there is no pinned memory for its ${bytes} bytes; lower --adapter-host-memory, or set it to 0`,
    );
  }

  #drop(entry: Entry): void {
    entry.dropped = true;
    if (entry.users > 0) this.#busy += 1;
    else this.#options.backend.discardImage(entry.image);
  }

  #leave(entry: Entry): void {
    entry.users -= 1;
    if (!entry.dropped || entry.users > 0) return;
    this.#busy -= 1;
    this.#options.backend.discardImage(entry.image);
  }
}

/** Who may open a source is part of it; where an upload lay before it was taken over is not. */
function keyOf(source: AdapterSource): string {
  return JSON.stringify(source, (key, value: unknown) => (key === 'received' ? undefined : value));
}
