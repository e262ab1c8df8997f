import type { TestContext } from 'node:test';
import type { FastifyInstance } from 'fastify';
import { pino } from 'pino';
import { type AppDeps, type AppObserver, buildApp } from '../../src/app.js';
import type { GenerationSummary } from '../../src/generation/observer.js';
import { Lifecycle } from '../../src/server/lifecycle.js';
import type { RequestEnd } from '../../src/server/plugins/request-end.js';
import { ByteTokenizer } from './byte-tokenizer.js';
import { ScriptedEngine } from './scripted-engine.js';

/** Remembers everything it is told. */
export class RecordingObserver implements AppObserver {
  readonly requests: RequestEnd[] = [];
  readonly generations: GenerationSummary[] = [];
  readonly rejections: string[] = [];
  interToken(): void {}
  rejected(code: string): void {
    this.rejections.push(code);
  }
  ended(summary: GenerationSummary): void {
    this.generations.push(summary);
  }
  requestEnded(end: RequestEnd): void {
    this.requests.push(end);
  }
}

export interface TestApp {
  readonly app: FastifyInstance;
  readonly engine: ScriptedEngine;
  readonly observer: RecordingObserver;
  readonly lifecycle: Lifecycle;
  /** Lines of the log. */
  readonly lines: string[];
}

/** The real public app over a scripted engine and a byte tokenizer; closed when the test ends. */
export function startApp(test: TestContext, overrides: Partial<AppDeps> & { engine?: ScriptedEngine } = {}): TestApp {
  const engine = overrides.engine ?? new ScriptedEngine();
  const observer = new RecordingObserver();
  const lifecycle = new Lifecycle();
  lifecycle.markReady();
  const lines: string[] = [];
  const logger = pino({ level: 'debug' }, { write: (line: string) => lines.push(line) });
  const tokenizer = new ByteTokenizer();
  const app = buildApp({ tokenizer, lifecycle, observer, logger, version: '0.0.0', ...overrides, engine });
  test.after(() => app.close());
  return { app, engine, observer, lifecycle, lines };
}

/** Resolves once `condition` holds; fails after two seconds. */
export async function eventually(condition: () => boolean, what: string): Promise<void> {
  for (let tries = 0; tries < 200; tries += 1) {
    if (condition()) return;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  throw new Error(`never happened: ${what}`);
}
