import { randomUUID } from 'node:crypto';
import { mkdir, readdir, readFile, rename, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { TierInfo } from '../../core/adapter.js';
import type { FetchedFile } from '../../core/adapter-fetch.js';
import { LoramuxError } from '../../core/errors.js';
import type { LocalCopy } from './remote-sources.js';

const DIGEST = /^[0-9a-f]{64}$/;
/** Fetches and uploads that a dead process left behind are deleted after this time. */
const STALE_MS = 24 * 3_600_000;

/** What a source held when it was last fetched. */
export interface KnownCopy {
  readonly digest: string;
  readonly directory: string;
  readonly files: readonly FetchedFile[];
}

/** Told of copies that go: to make room, or because they turned out to be damaged. */
export type DiskEviction = (reason: 'capacity' | 'failed', bytes: number) => void;

interface Entry {
  readonly digest: string;
  readonly bytes: number;
  holds: number;
}

/** Directory below the cache where fetches and uploads arrive. */
export function incomingRoot(directory: string): string {
  return join(directory, 'incoming');
}

/**
 * The disk tier: complete adapters in directories named by their digests, within a budget of bytes. What was not used
 * for longest goes first; held copies, and uploads that a name still stands for, stay.
 *
 * Layout: `content/<digest>/` the files, `sources/<key>.json` what a source held last, `incoming/<id>/` in transit.
 * Complete directories appear and go by renaming, so that processes may share it.
 */
export class DiskTier {
  /** Least recently used first. */
  readonly #entries = new Map<string, Entry>();
  readonly #content: string;
  #bytes = 0;
  #turn: Promise<unknown> = Promise.resolve();
  #isNamed: (digest: string) => boolean = () => false;

  /** Opens or creates the tier in `directory`, making it fit `capacity` bytes. */
  static async open(directory: string, capacity: number, onEvicted: DiskEviction = () => undefined): Promise<DiskTier> {
    const tier = new DiskTier(directory, capacity, onEvicted);
    for (const name of ['content', 'sources', 'incoming']) await mkdir(join(directory, name), { recursive: true });
    await tier.#scan();
    await tier.#removeStale();
    return tier;
  }

  private constructor(
    private readonly directory: string,
    private readonly capacity: number,
    private readonly onEvicted: DiskEviction,
  ) {
    this.#content = join(directory, 'content');
  }

  /** `isNamed` tells the uploads that must stay, since they exist nowhere else. */
  keepUploads(isNamed: (digest: string) => boolean): void {
    this.#isNamed = isNamed;
  }

  /** A path for files on their way; nothing is there yet. */
  newIncoming(): string {
    return join(incomingRoot(this.directory), randomUUID());
  }

  tier(): TierInfo {
    let pinned = 0;
    for (const entry of this.#entries.values()) if (this.#mustStay(entry)) pinned += entry.bytes;
    return { tier: 'disk', bytes: this.#bytes, capacity: this.capacity, pinned };
  }

  /** What the source of this key held last, if that is still here. */
  async find(key: string): Promise<KnownCopy | null> {
    try {
      const record = JSON.parse(await readFile(this.#recordPath(key), 'utf8')) as Omit<KnownCopy, 'directory'>;
      const directory = join(this.#content, record.digest);
      const isHere = DIGEST.test(record.digest) && this.#entries.has(record.digest) && (await isDirectory(directory));
      return isHere ? { ...record, directory } : null;
    } catch {
      // Missing or damaged: the source is asked anew.
      return null;
    }
  }

  /** Remembers what the source of this key holds. */
  async remember(key: string, digest: string, files: readonly FetchedFile[]): Promise<void> {
    const temporary = `${this.#recordPath(key)}.${randomUUID()}.tmp`;
    await writeFile(temporary, JSON.stringify({ digest, files }), { mode: 0o600 });
    await rename(temporary, this.#recordPath(key));
  }

  /** A hold on a copy that is here, null when it is not. */
  async hold(digest: string): Promise<LocalCopy | null> {
    if (!this.#entries.has(digest)) return null;
    const copy = this.retain(digest);
    if (await isDirectory(copy.directory)) {
      // Recency outlives the process.
      await utimes(copy.directory, new Date(), new Date()).catch(() => undefined);
      return copy;
    }
    copy.release();
    this.#forget(digest);
    return null;
  }

  /** A further hold on a copy that is known to be here. */
  retain(digest: string): LocalCopy {
    const entry = this.#entries.get(digest);
    if (entry === undefined) throw new Error(`no copy of ${digest} is on the disk`);
    entry.holds += 1;
    this.#entries.delete(digest);
    this.#entries.set(digest, entry);
    let held = true;
    return {
      digest,
      directory: join(this.#content, digest),
      root: this.#content,
      release: () => {
        if (held) entry.holds -= 1;
        held = false;
      },
    };
  }

  /** Moves complete files in, deleting others to make room, and holds them. ERR_ADAPTER_NO_SPACE. */
  adopt(incoming: string, digest: string, bytes: number): Promise<LocalCopy> {
    return this.#inTurn(async () => {
      const here = await this.hold(digest);
      if (here !== null) return here;
      await this.#makeRoom(bytes);
      await rename(incoming, join(this.#content, digest)).catch(async (thrown: unknown) => {
        // Another process may have brought the same files.
        if (!(await isDirectory(join(this.#content, digest)))) throw thrown;
      });
      this.#add({ digest, bytes, holds: 0 });
      return this.retain(digest);
    });
  }

  /** Deletes a copy that is damaged, held or not. */
  discard(digest: string): Promise<void> {
    return this.#delete(digest, 'failed');
  }

  async #delete(digest: string, reason: 'capacity' | 'failed'): Promise<void> {
    const entry = this.#entries.get(digest);
    if (entry !== undefined) this.onEvicted(reason, entry.bytes);
    this.#forget(digest);
    const doomed = this.newIncoming();
    const wasThere = await rename(join(this.#content, digest), doomed).then(
      () => true,
      () => false,
    );
    if (wasThere) await rm(doomed, { recursive: true, force: true });
  }

  #recordPath(key: string): string {
    return join(this.directory, 'sources', `${key}.json`);
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#turn.then(work);
    this.#turn = result.catch(() => undefined);
    return result;
  }

  #mustStay({ digest, holds }: Entry): boolean {
    return holds > 0 || this.#isNamed(digest);
  }

  #add(entry: Entry): void {
    this.#entries.set(entry.digest, entry);
    this.#bytes += entry.bytes;
  }

  #forget(digest: string): void {
    const entry = this.#entries.get(digest);
    if (entry !== undefined && this.#entries.delete(digest)) this.#bytes -= entry.bytes;
  }

  /** Deletes what was not used for longest until `needed` bytes fit; nothing at all where they never would. */
  async #makeRoom(needed: number): Promise<void> {
    const evictable = [...this.#entries.values()].filter((entry) => !this.#mustStay(entry));
    const sum = evictable.reduce((bytes, entry) => bytes + entry.bytes, 0);
    const free = Math.max(0, this.capacity - this.#bytes);
    if (this.#bytes - sum + needed > this.capacity) {
      throw new LoramuxError(
        'ERR_ADAPTER_NO_SPACE',
        `the adapter's files take ${needed} bytes, the disk tier of ${this.capacity} bytes has ${free} free and ${sum} that may be deleted: raise --adapter-disk or unload uploaded adapters`,
        { bytes: { needed, free, evictable: sum } },
      );
    }
    for (const entry of evictable) {
      if (this.#bytes + needed <= this.capacity) return;
      if (!this.#mustStay(entry)) await this.#delete(entry.digest, 'capacity');
    }
    // Somebody may have taken hold of a copy meanwhile.
    if (this.#bytes + needed > this.capacity) await this.#makeRoom(needed);
  }

  async #scan(): Promise<void> {
    const found: { digest: string; bytes: number; usedMs: number }[] = [];
    for (const digest of await readdir(this.#content)) {
      if (!DIGEST.test(digest)) continue;
      const path = join(this.#content, digest);
      const { mtimeMs } = await stat(path);
      let bytes = 0;
      for (const name of await readdir(path)) bytes += (await stat(join(path, name))).size;
      found.push({ digest, bytes, usedMs: mtimeMs });
    }
    for (const { digest, bytes } of found.sort((a, b) => a.usedMs - b.usedMs)) this.#add({ digest, bytes, holds: 0 });
    await this.#makeRoom(0);
  }

  async #removeStale(): Promise<void> {
    const root = incomingRoot(this.directory);
    for (const name of await readdir(root)) {
      const path = join(root, name);
      const { mtimeMs } = await stat(path);
      if (Date.now() - mtimeMs > STALE_MS) await rm(path, { recursive: true, force: true });
    }
  }
}

async function isDirectory(path: string): Promise<boolean> {
  return stat(path).then(
    (stats) => stats.isDirectory(),
    () => false,
  );
}
