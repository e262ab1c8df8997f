import { ANYONE } from '../../../src/core/caller.js';
import type { EngineLimits } from '../../../src/core/engine-client.js';
import { BASE_NAME } from '../../../src/core/names.js';
import { GREEDY_SAMPLING } from '../../../src/core/request.js';
import type { GenerationObserver, GenerationSummary } from '../../../src/generation/observer.js';
import { GenerationService } from '../../../src/generation/service.js';
import { type GenerationSpec, PLAIN_SPEC } from '../../../src/generation/spec.js';
import { ByteTokenizer, openByteTokenizer } from '../../helpers/byte-tokenizer.js';
import { ScriptedEngine } from '../../helpers/scripted-engine.js';

export const SPEC: GenerationSpec = {
  route: 'test',
  adapter: BASE_NAME,
  ...PLAIN_SPEC,
  caller: ANYONE,
  prompt: { text: 'hi', addSpecialTokens: false },
  maxNewTokens: null,
  sampling: GREEDY_SAMPLING,
  logprobs: { of: 'processed', top: 0 },
};

export interface Bench {
  readonly engine: ScriptedEngine;
  readonly service: GenerationService;
  readonly summaries: GenerationSummary[];
  readonly rejected: string[];
  readonly gaps: number[];
  /** The clock, in milliseconds. */
  readonly clock: { atMs: number };
}

/** A generation service over a scripted engine that waits to be played. */
export function bench(maxBufferedBytes = 2 ** 20, limits: Partial<EngineLimits> = {}): Bench {
  const engine = new ScriptedEngine(limits);
  engine.onSubmit = null;
  const summaries: GenerationSummary[] = [];
  const rejected: string[] = [];
  const gaps: number[] = [];
  const clock = { atMs: performance.timeOrigin + performance.now() };
  const observer: GenerationObserver = {
    interToken: (seconds) => gaps.push(seconds),
    rejected: (code) => rejected.push(code),
    ended: (summary) => summaries.push(summary),
  };
  const deps = {
    engine,
    tokenizer: new ByteTokenizer(),
    openTokenizer: openByteTokenizer,
    observer,
    now: () => clock.atMs,
    maxBufferedBytes,
  };
  return { engine, service: new GenerationService(deps), summaries, rejected, gaps, clock };
}

/** A signal that never aborts. */
export function noSignal(): AbortSignal {
  return new AbortController().signal;
}
