import type { PreparedModel } from '../../src/core/model-manifest.js';
import type { BenchRecord } from '../report/records.js';

/** What every scenario of the server is given. */
export interface ServingRun {
  readonly model: PreparedModel;
  readonly cacheDir: string;
  /** Adapters of the throughput scenarios. */
  readonly adapterRoot: string;
  readonly threads: number;
  readonly rounds: number;
  readonly quick: boolean;
  readonly record: (record: BenchRecord) => void;
  readonly progress: (text: string) => void;
}

/** What requests call the base of a server that is measured. */
export const BASE_MODEL = 'base';

/**
 * Flags of every server that is measured; everything else is at its default. Speculation is off: random adapters repeat
 * themselves more than trained ones, which it would gain from.
 */
export function serverFlags(
  { cacheDir, threads }: ServingRun,
  adapters: string,
  speculation: 'on' | 'off' = 'off',
): string[] {
  const common = ['--cache-dir', cacheDir, '--threads', String(threads), '--log-level', 'error'];
  return [...common, '--speculation', speculation, '--served-model-name', BASE_MODEL, '--adapters', adapters];
}
