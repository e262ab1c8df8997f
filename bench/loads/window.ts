import { BASE_NAME } from '../../src/core/names.js';
import { type GenerateRequest, GREEDY_SAMPLING, PLAIN_REQUEST } from '../../src/core/request.js';
import type { WorkerEngineClient } from '../../src/engine/worker-client.js';

const REQUESTS = 16;
const PROMPT_TOKENS = 16;
/** Tokens of each request before it is measured: prefill and ramp-up are not what is asked. */
const SKIPPED = 8;

/** What 16 requests saw, each over the same positions of its own. */
export interface Window {
  /** Milliseconds between two tokens of one request. */
  readonly gapsMs: number[];
  /** From all being past ramp-up to the first one's end. */
  readonly seconds: number;
  /** Processor seconds of the whole process in that time. */
  readonly cpuSeconds: number;
}

let nextId = 1;

/**
 * Decodes 16 requests of the base, started together, for `tokens` tokens each after ramp-up. Windows are alike: same
 * prompts, same positions, so a step of one does the work of the same step of another. `onOpen` is told when
 * measuring begins, `onClosed` when it has ended.
 */
export async function measureWindow(
  engine: WorkerEngineClient,
  tokens: number,
  onOpen: () => void,
  onClosed: () => void,
): Promise<Window> {
  const gapsMs: number[] = [];
  let [warm, openedMs, closedMs] = [0, 0, 0];
  let [before, spent] = [process.cpuUsage(), process.cpuUsage()];
  const open = (): void => {
    warm += 1;
    if (warm < REQUESTS) return;
    openedMs = performance.now();
    before = process.cpuUsage();
    onOpen();
  };
  const close = (): void => {
    if (closedMs > 0) return;
    closedMs = performance.now();
    spent = process.cpuUsage(before);
    onClosed();
  };
  const decode = (lane: number): Promise<void> =>
    new Promise((resolve, reject) => {
      let seen = 0;
      let lastMs = 0;
      engine.submit(requestOf(lane, SKIPPED + tokens + 1), (event) => {
        if (event.kind === 'token') {
          const nowMs = performance.now();
          seen += 1;
          if (seen > SKIPPED + 1) gapsMs.push(nowMs - lastMs);
          lastMs = nowMs;
          if (seen === SKIPPED + 1) open();
        } else if (event.kind === 'finish') {
          close();
          resolve();
        } else if (event.kind === 'error') {
          reject(new Error(event.error.message));
        }
      });
    });
  await Promise.all(Array.from({ length: REQUESTS }, (_, lane) => decode(lane)));
  return { gapsMs, seconds: (closedMs - openedMs) / 1_000, cpuSeconds: (spent.user + spent.system) / 1e6 };
}

function requestOf(lane: number, maxNewTokens: number): GenerateRequest {
  return {
    id: nextId++,
    adapter: BASE_NAME,
    promptIds: Uint32Array.from({ length: PROMPT_TOKENS }, (_, i) => 200 + ((lane * 31 + i * 7) % 4000)),
    maxNewTokens,
    stopIds: [],
    sampling: GREEDY_SAMPLING,
    ...PLAIN_REQUEST,
  };
}
