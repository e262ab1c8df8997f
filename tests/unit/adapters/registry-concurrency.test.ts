import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import type { AdapterLease } from '../../../src/adapters/adapter-record.js';
import { adapterDigest } from '../../../src/adapters/digest.js';
import { AdapterRegistry } from '../../../src/adapters/registry.js';
import { LoramuxError } from '../../../src/core/errors.js';
import { PagePool } from '../../../src/core/page-pool.js';
import { RANK_BYTES, ScriptedBackend, temporaryDirectory, tinyBase, turns, writeAdapter } from './support.js';

const NAMES = ['a', 'b', 'c', 'd'] as const;
const RANKS = { a: 1, b: 1, c: 2, d: 3 };
const VARIANTS = 2;
/** Less than the adapters' sum of 7 ranks, so that eviction is constant. */
const ROOM = 4;

const operation = fc.oneof(
  {
    weight: 12,
    arbitrary: fc.record({
      do: fc.constant('request' as const),
      name: fc.constantFrom(...NAMES),
      hold: fc.nat(30),
      abortAfter: fc.option(fc.nat(20)),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('load' as const),
      name: fc.constantFrom(...NAMES),
      variant: fc.nat(VARIANTS - 1),
      pin: fc.boolean(),
      replace: fc.boolean(),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ do: fc.constant('unload' as const), name: fc.constantFrom(...NAMES), force: fc.boolean() }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ do: fc.constant('pin' as const), name: fc.constantFrom(...NAMES), pinned: fc.boolean() }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ do: fc.constant('wait' as const), turns: fc.nat(10), ms: fc.constantFrom(0, 1, 3_000) }),
  },
);
type Operation = typeof operation extends fc.Arbitrary<infer T> ? T : never;

/** Errors that this traffic may meet; anything else is a defect. */
const EXPECTED = new Set([
  'ERR_ABORTED',
  'ERR_ADAPTER_UNLOADED',
  'ERR_ADAPTER_NOT_FOUND',
  'ERR_ADAPTER_NO_SPACE',
  'ERR_BAD_REQUEST',
  'ERR_ADAPTER_INVALID',
]);

interface Variant {
  readonly name: string;
  readonly directory: string;
  readonly sha256: string;
}

/** Every adapter file of the test, by digest. */
async function writeVariants(root: string): Promise<Map<string, Variant>> {
  const variants = new Map<string, Variant>();
  for (const name of NAMES) {
    for (let variant = 0; variant < VARIANTS; variant += 1) {
      const directory = join(root, variant === 0 ? name : `${name}-${variant}`);
      await writeAdapter(directory, { rank: RANKS[name], fill: variant * 16 + NAMES.indexOf(name) });
      const files = await Promise.all(
        ['adapter_config.json', 'adapter_model.safetensors'].map(async (path) => {
          const content = await readFile(join(directory, path));
          return { path, bytes: content.byteLength, sha256: createHash('sha256').update(content).digest('hex') };
        }),
      );
      variants.set(adapterDigest(files), { name, directory, sha256: files[1]?.sha256 ?? '' });
    }
  }
  return variants;
}

class Traffic {
  readonly backend = new ScriptedBackend();
  /** All files are older. */
  readonly clock = { ms: Date.now() + 3_600_000 };
  readonly registry: AdapterRegistry;
  readonly running: Promise<void>[] = [];
  readonly held = new Set<AdapterLease>();
  granted = 0;

  constructor(
    private readonly root: string,
    private readonly variants: ReadonlyMap<string, Variant>,
    delays: readonly number[],
    failing: readonly boolean[],
    hostRoom = 0,
  ) {
    let stage = 0;
    const delay = async (): Promise<void> => {
      stage += 1;
      await turns(delays[stage % delays.length] ?? 0);
    };
    this.backend.onOpen = delay;
    this.backend.onCompile = async () => {
      await delay();
      if (failing[stage % failing.length] === true)
        throw Object.assign(new Error('NaN'), { code: 'ERR_ADAPTER_INVALID' });
    };
    this.registry = new AdapterRegistry({
      backend: this.backend,
      base: tinyBase(),
      roots: [root],
      capacityBytes: ROOM * RANK_BYTES,
      ...(hostRoom === 0 ? {} : { device: this.#device(hostRoom * RANK_BYTES) }),
      emit: () => undefined,
      now: () => this.clock.ms,
    });
  }

  /** Pages of one rank each. */
  #device(hostBytes: number) {
    this.backend.runsOf = (bytes) => Array<number>(bytes / RANK_BYTES).fill(1);
    return {
      pages: { pool: new PagePool(ROOM), pageBytes: RANK_BYTES },
      host: { backend: this.backend, capacityBytes: hostBytes },
    };
  }

  check(): void {
    assert.deepEqual(this.registry.violations(), []);
    const bytes = this.registry.tiers().at(-1)?.bytes ?? 0;
    assert.ok(bytes <= ROOM * RANK_BYTES);
    assert.ok(this.backend.heldBytes <= bytes, 'every compiled adapter has its bytes counted');
    for (const lease of this.held) this.#checkLease(lease);
    for (const { tier, bytes, capacity } of this.registry.tiers()) assert.ok(bytes <= capacity, tier);
  }

  #checkLease(lease: AdapterLease): void {
    const variant = this.variants.get(lease.digest);
    assert.equal(variant?.name, lease.name);
    assert.equal(this.backend.held.get(lease.handle)?.sha256, variant?.sha256, 'the handle holds what the digest says');
  }

  async #request(name: string, hold: number, abortAfter: number | null): Promise<void> {
    const controller = new AbortController();
    if (abortAfter !== null) void turns(abortAfter).then(() => controller.abort());
    const lease = this.registry.tryAcquire(name) ?? (await this.registry.acquire(name, controller.signal));
    this.granted += 1;
    this.held.add(lease);
    this.#checkLease(lease);
    await turns(hold);
    if (this.held.delete(lease)) lease.release();
  }

  #cut(handle: number): number {
    const cut = [...this.held].filter((lease) => lease.handle === handle);
    for (const lease of cut) {
      this.held.delete(lease);
      lease.release();
    }
    return cut.length;
  }

  async #perform(operation: Operation): Promise<unknown> {
    const { registry } = this;
    switch (operation.do) {
      case 'request':
        return this.#request(operation.name, operation.hold, operation.abortAfter);
      case 'load': {
        const { name, variant, pin, replace } = operation;
        const directory = join(this.root, variant === 0 ? name : `${name}-${variant}`);
        return registry.load({ name, source: { type: 'dir', location: directory }, pin, replace, wait: true });
      }
      case 'unload':
        return registry.unload(operation.name, operation.force ? (handle) => this.#cut(handle) : undefined);
      case 'pin':
        return registry.pin(operation.name, operation.pinned);
      default:
        this.clock.ms += operation.ms;
        return turns(operation.turns);
    }
  }

  async run(operations: readonly Operation[]): Promise<void> {
    for (const operation of operations) {
      const done = this.#perform(operation).then(
        () => undefined,
        (thrown: unknown) => {
          if (!(thrown instanceof LoramuxError) || !EXPECTED.has(thrown.code)) throw thrown;
        },
      );
      this.running.push(done);
      if (operation.do === 'wait') await done;
      this.check();
    }
    await settledWithin(this.running, 10_000);
    this.check();
  }
}

/** Fails when one of the promises never settles. */
async function settledWithin(promises: readonly Promise<void>[], ms: number): Promise<void> {
  let open = promises.length;
  const all = Promise.all(promises.map((promise) => promise.finally(() => (open -= 1))));
  const timer = new AbortController();
  const late = new Promise<never>((_, reject) => {
    const timeout = setTimeout(() => reject(new Error(`${open} calls never settled`)), ms);
    timer.signal.addEventListener('abort', () => clearTimeout(timeout));
  });
  await Promise.race([all, late]).finally(() => timer.abort());
}

test('random traffic: right digests, every call settles, bytes add up and return to baseline', async (t) => {
  const root = await temporaryDirectory(t);
  const variants = await writeVariants(root);
  const delays = fc.array(fc.nat(6), { minLength: 1, maxLength: 7 });
  const failing = fc.array(fc.constantFrom(false, false, false, true), { minLength: 1, maxLength: 5 });
  await fc.assert(
    fc.asyncProperty(
      fc.array(operation, { maxLength: 60 }),
      delays,
      failing,
      fc.nat(8),
      async (operations, delayed, failures, hostRoom) => {
        const traffic = new Traffic(root, variants, delayed, failures, hostRoom);
        await traffic.run(operations);
        assert.equal(traffic.held.size, 0);
        await traffic.registry.close();
        assert.equal(traffic.backend.held.size, 0);
        assert.equal(traffic.backend.images.size, 0);
        for (const { bytes } of traffic.registry.tiers()) assert.equal(bytes, 0);
      },
    ),
    { numRuns: 80 },
  );
});

for (const hostRoom of [0, 5, 8]) {
  test(`600 requests over adapters that do not fit together are all served, with room for ${hostRoom} on the host`, async (t) => {
    const root = await temporaryDirectory(t);
    const variants = await writeVariants(root);
    const traffic = new Traffic(root, variants, [0, 1, 3], [false], hostRoom);
    const operations = Array.from({ length: 600 }, (_, at): Operation => {
      if (at % 10 === 9) return { do: 'wait', turns: 25, ms: 1 };
      return { do: 'request', name: NAMES[(at * 7) % 4] ?? 'a', hold: at % 5, abortAfter: null };
    });
    await traffic.run(operations);
    assert.equal(traffic.granted, 540);
    const { backend } = traffic;
    // What has room for all of them reads no file twice.
    if (hostRoom > 7) assert.equal(backend.compiledPaths.length, NAMES.length);
    await traffic.registry.close();
    assert.deepEqual([backend.held.size, backend.images.size], [0, 0]);
  });
}
