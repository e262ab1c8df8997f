import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import type { FastifyInstance } from 'fastify';
import { pino } from 'pino';
import { DEFAULT_RETRY } from '../../src/adapters/sources/fetch-limits.js';
import { type AppDeps, buildAdminApp, buildApp, createGeneration, monotonicNow } from '../../src/app.js';
import type { GenerationSummary } from '../../src/generation/observer.js';
import { Metrics } from '../../src/metrics/metrics.js';
import { Lifecycle } from '../../src/server/lifecycle.js';
import { type AccessRules, NO_KEYS } from '../../src/server/plugins/access.js';
import type { RequestEnd } from '../../src/server/plugins/request-end.js';
import { ByteTokenizer, openByteTokenizer } from './byte-tokenizer.js';
import { ScriptedEngine } from './scripted-engine.js';

/** The real metrics, which also remember what they were told. */
export class RecordingMetrics extends Metrics {
  readonly requests: RequestEnd[] = [];
  readonly generations: GenerationSummary[] = [];

  override ended(summary: GenerationSummary): void {
    this.generations.push(summary);
    super.ended(summary);
  }

  override requestEnded(end: RequestEnd): void {
    this.requests.push(end);
    super.requestEnded(end);
  }
}

export interface TestApp {
  readonly app: FastifyInstance;
  readonly admin: FastifyInstance;
  readonly engine: ScriptedEngine;
  readonly metrics: RecordingMetrics;
  readonly lifecycle: Lifecycle;
  /** Lines of the log. */
  readonly lines: string[];
  /** Directory of the disk tier. */
  readonly uploads: string;
}

export type Overrides = Partial<
  Pick<AppDeps, 'now' | 'drawSeed' | 'maxBestOf' | 'requestSources' | 'corsOrigins' | 'streamOrigins' | 'streamLimits'>
> & {
  maxBufferedBytes?: number;
  openai?: Partial<AppDeps['openai']>;
  engine?: ScriptedEngine;
  access?: AccessRules;
};

/** Both real apps over a scripted engine and a byte tokenizer; closed when the test ends. */
export function startApp(
  test: TestContext,
  { engine = new ScriptedEngine(), access = NO_KEYS, openai = {}, maxBufferedBytes, ...overrides }: Overrides = {},
): TestApp {
  const lifecycle = new Lifecycle();
  lifecycle.markReady();
  let atMs = 0;
  const metrics = new RecordingMetrics({
    engine,
    version: '0.0.0',
    // Every scrape is a second later: nothing is served from the last one.
    now: () => {
      atMs += 1_000;
      return atMs;
    },
    isReady: () => lifecycle.ready,
    isDraining: () => lifecycle.draining,
  });
  const lines: string[] = [];
  const logger = pino({ level: 'debug' }, { write: (line: string) => lines.push(line) });
  const shared = { engine, lifecycle, metrics, logger, version: '0.0.0', now: overrides.now ?? monotonicNow, access };
  const tokenizer = new ByteTokenizer();
  const app = buildApp({
    ...shared,
    generation: createGeneration({
      ...shared,
      tokenizer,
      openTokenizer: openByteTokenizer,
      ...(maxBufferedBytes === undefined ? {} : { maxBufferedBytes }),
    }),
    tokenizer,
    maxBestOf: 4,
    requestSources: ['hub', 's3'],
    openai: {
      servedNames: [],
      maxChoices: 16,
      maxBestOf: 2,
      toolCallFormat: 'auto',
      vllmLoraApi: 'off',
      vllmUnloadMissing: 404,
      ...openai,
    },
    corsOrigins: [],
    streamOrigins: [],
    ...overrides,
  });
  const directory = mkdtempSync(join(tmpdir(), 'loramux-uploads-'));
  const limits = { maxBytes: 2 ** 20, maxFiles: 20, totalMs: 10_000, stallMs: 1_000, retry: DEFAULT_RETRY };
  const admin = buildAdminApp({ ...shared, boundTo: '127.0.0.1', uploads: { directory, limits } });
  test.after(async () => {
    await app.close();
    await admin.close();
    metrics.close();
    rmSync(directory, { recursive: true, force: true });
  });
  return { app, admin, engine, metrics, lifecycle, lines, uploads: directory };
}

/** Resolves once `condition` holds; fails after two seconds. */
export async function eventually(condition: () => boolean, what: string): Promise<void> {
  for (let tries = 0; tries < 200; tries += 1) {
    if (condition()) return;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  throw new Error(`never happened: ${what}`);
}
