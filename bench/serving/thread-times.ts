import { readdirSync, readFileSync } from 'node:fs';

/** Processor time of a server since it started, by what its threads do, in microseconds. */
export interface ThreadTimes {
  /** HTTP, text, metrics. */
  readonly main: number;
  /** Steps of the engine: `loramux-step`, and ONNX Runtime's pool, which takes its name. */
  readonly engine: number;
  /** The engine's worker with the scheduler, and the helpers of V8 and libuv. */
  readonly others: number;
}

/** Null where the kernel does not tell (any but Linux). */
export function threadTimes(pid: number): ThreadTimes | null {
  const times = { main: 0, engine: 0, others: 0 };
  try {
    for (const thread of readdirSync(`/proc/${pid}/task`)) {
      const read = (file: string): string => readFileSync(`/proc/${pid}/task/${thread}/${file}`, 'utf8').trim();
      const [nanoseconds] = read('schedstat').split(' ');
      const kind = thread === String(pid) ? 'main' : read('comm') === 'loramux-step' ? 'engine' : 'others';
      times[kind] += Number(nanoseconds) / 1_000;
    }
  } catch {
    return null;
  }
  return times;
}
