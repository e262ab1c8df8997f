import { LRUCache } from 'lru-cache';
import { LoramuxError } from '../core/errors.js';
import type { PageUse } from '../core/page-pool.js';

interface Entry {
  readonly bytes: number;
  /** Rows (sequences) that hold the adapter. */
  rows: number;
  /** Held by the operator. */
  operator: boolean;
  /** When the last pin went, on the owner's count of uses. */
  lastUse: number;
}

export interface ResidencyOptions {
  /** A mark for something used right now; compared with those of others that share the memory. */
  readonly use?: () => number;
  /** What the operator sets the capacity by. */
  readonly flag?: string;
}

/** Bytes of the tier. `resident + reserved + free = capacity`, `pinned + evictable = resident`. */
export interface ResidencyTotals {
  readonly capacity: number;
  readonly resident: number;
  readonly reserved: number;
  readonly pinned: number;
  readonly evictable: number;
  readonly free: number;
}

/**
 * Bookkeeping of the adapters in memory, in bytes: reserve → commit → remove, with pins and least-recently-used
 * eviction of what nothing pins. Keys are one adapter version each. It frees nothing itself: calls that make room
 * return the keys they evicted, oldest use first, and the caller frees them.
 */
export class Residency {
  readonly #reserved = new Map<number, number>();
  readonly #pinned = new Map<number, Entry>();
  /** Only what may be evicted; its own size limit is never reached because pins and reservations share the budget. */
  readonly #evictable: LRUCache<number, Entry>;
  #reservedBytes = 0;
  #pinnedBytes = 0;
  #operatorBytes = 0;

  readonly #use: () => number;
  readonly #flag: string;

  /** `capacity` in bytes, a whole number above zero. */
  constructor(
    readonly capacity: number,
    { use = () => 0, flag = '--adapter-memory' }: ResidencyOptions = {},
  ) {
    this.#use = use;
    this.#flag = flag;
    if (!Number.isSafeInteger(capacity) || capacity < 1) {
      throw new LoramuxError(
        'ERR_CONFIG',
        `expected adapter memory of at least one byte, found ${capacity}: raise ${flag}`,
      );
    }
    this.#evictable = new LRUCache({ maxSize: capacity, sizeCalculation: (entry) => entry.bytes });
  }

  totals(): ResidencyTotals {
    const evictable = this.#evictable.calculatedSize;
    const resident = this.#pinnedBytes + evictable;
    return {
      capacity: this.capacity,
      resident,
      reserved: this.#reservedBytes,
      pinned: this.#pinnedBytes,
      evictable,
      free: this.capacity - resident - this.#reservedBytes,
    };
  }

  /**
   * Sets `bytes` (> 0) apart for `key`, evicting as much as needed. Null when it must wait for pins to go; nothing
   * is evicted then. ERR_ADAPTER_NO_SPACE when no draining can ever make room.
   */
  reserve(key: number, bytes: number): number[] | null {
    this.#checkFits(bytes);
    return this.#set(key, bytes);
  }

  /** Changes a reservation to what the adapter really takes; otherwise as `reserve`, and on null it stays as it was. */
  resize(key: number, bytes: number): number[] | null {
    this.#reservation(key);
    this.#checkFits(bytes);
    return this.#set(key, bytes);
  }

  /** Gives a reservation up. */
  release(key: number): void {
    this.#reservedBytes -= this.#reservation(key);
    this.#reserved.delete(key);
  }

  /** Turns a reservation into a resident adapter with its first pins. */
  commit(key: number, rows: number, operator: boolean): void {
    const bytes = this.#reservation(key);
    this.release(key);
    this.#place(key, { bytes, rows, operator, lastUse: 0 });
  }

  /** One more row holds the adapter. */
  pin(key: number): void {
    this.#update(key, (entry) => {
      entry.rows += 1;
    });
  }

  /** One row less; without any pin left the adapter becomes the most recently used evictable one. Returns rows left. */
  unpin(key: number): number {
    return this.#update(key, (entry) => {
      if (entry.rows === 0) throw new Error(`adapter version ${key} was unpinned more often than pinned`);
      entry.rows -= 1;
    }).rows;
  }

  setOperatorPin(key: number, pinned: boolean): void {
    this.#update(key, (entry) => {
      entry.operator = pinned;
    });
  }

  /** Rows that hold the adapter. */
  rows(key: number): number {
    return this.#entry(key).rows;
  }

  /** Forgets a resident adapter that no row holds. */
  remove(key: number): void {
    if (this.rows(key) > 0) throw new Error(`adapter version ${key} was removed under ${this.rows(key)} rows`);
    this.#take(key);
  }

  /** Evictable keys, the next to go first. */
  evictionOrder(): number[] {
    return [...this.#evictable.rkeys()];
  }

  /** When the key that goes next was used last; Infinity when there is none. */
  oldestUse(): number {
    const [key] = this.#evictable.rkeys();
    return (key === undefined ? undefined : this.#evictable.peek(key)?.lastUse) ?? Number.POSITIVE_INFINITY;
  }

  /** Forgets the key that goes next, and returns it. */
  evictOldest(): number {
    const [key] = this.#evictable.rkeys();
    if (key === undefined) throw new Error('no adapter may be evicted');
    this.#evictable.delete(key);
    return key;
  }

  /** Whether an adapter, or one that is loading, may go: now, once its rows have ended, or when the operator lets it. */
  useOf(key: number): PageUse {
    if (this.#evictable.has(key)) return 'idle';
    return this.#pinned.get(key)?.operator === true ? 'pinned' : 'held';
  }

  /** Everything that does not add up; empty when all is well. */
  violations(): string[] {
    const found: string[] = [];
    const { capacity, resident, reserved, free } = this.totals();
    const sum = (values: Iterable<number>): number => [...values].reduce((total, value) => total + value, 0);
    const pinned = [...this.#pinned.values()];
    const evictable = [...this.#evictable.values()];
    const expect = (what: string, actual: number, expected: number): void => {
      if (actual !== expected) found.push(`${what} is ${actual}, its parts sum to ${expected}`);
    };
    expect('reserved', reserved, sum(this.#reserved.values()));
    expect('pinned', this.#pinnedBytes, sum(pinned.map((entry) => entry.bytes)));
    expect(
      'pinned by the operator',
      this.#operatorBytes,
      sum(pinned.map((entry) => (entry.operator ? entry.bytes : 0))),
    );
    expect('evictable', this.#evictable.calculatedSize, sum(evictable.map((entry) => entry.bytes)));
    expect('capacity', capacity, resident + reserved + free);
    if (free < 0) found.push(`${-free} bytes over the capacity of ${capacity}`);
    if (pinned.some((entry) => entry.rows === 0 && !entry.operator))
      found.push('an entry without pins counts as pinned');
    if (evictable.some((entry) => entry.rows > 0 || entry.operator)) found.push('a pinned entry counts as evictable');
    for (const key of this.#pinned.keys()) if (this.#evictable.has(key)) found.push(`version ${key} is there twice`);
    return found;
  }

  #checkFits(bytes: number): void {
    if (!Number.isSafeInteger(bytes) || bytes < 1) throw new Error(`a reservation of ${bytes} bytes`);
    if (bytes <= this.capacity - this.#operatorBytes) return;
    const { free, evictable } = this.totals();
    throw new LoramuxError(
      'ERR_ADAPTER_NO_SPACE',
      `the adapter needs ${bytes} bytes, adapter memory has ${this.capacity} of which the operator pins ${this.#operatorBytes}: raise ${this.#flag} or unpin adapters`,
      { bytes: { needed: bytes, free, evictable } },
    );
  }

  #set(key: number, bytes: number): number[] | null {
    const before = this.#reserved.get(key) ?? 0;
    const { free, evictable } = this.totals();
    const missing = bytes - before - free;
    if (missing > evictable) return null;
    const evicted: number[] = [];
    for (let gained = 0; gained < missing; ) {
      const size = this.#evictable.calculatedSize;
      evicted.push(this.evictOldest());
      gained += size - this.#evictable.calculatedSize;
    }
    this.#reserved.set(key, bytes);
    this.#reservedBytes += bytes - before;
    return evicted;
  }

  #reservation(key: number): number {
    const bytes = this.#reserved.get(key);
    if (bytes === undefined) throw new Error(`adapter version ${key} has no reservation`);
    return bytes;
  }

  #entry(key: number): Entry {
    const entry = this.#pinned.get(key) ?? this.#evictable.peek(key);
    if (entry === undefined) throw new Error(`adapter version ${key} is not resident`);
    return entry;
  }

  #take(key: number): Entry {
    const entry = this.#entry(key);
    if (this.#pinned.delete(key)) {
      this.#pinnedBytes -= entry.bytes;
      if (entry.operator) this.#operatorBytes -= entry.bytes;
    } else {
      this.#evictable.delete(key);
    }
    return entry;
  }

  #place(key: number, entry: Entry): void {
    if (entry.rows === 0 && !entry.operator) {
      entry.lastUse = this.#use();
      this.#evictable.set(key, entry);
      return;
    }
    this.#pinned.set(key, entry);
    this.#pinnedBytes += entry.bytes;
    if (entry.operator) this.#operatorBytes += entry.bytes;
  }

  #update(key: number, change: (entry: Entry) => void): Entry {
    const entry = this.#take(key);
    try {
      change(entry);
    } finally {
      this.#place(key, entry);
    }
    return entry;
  }
}
