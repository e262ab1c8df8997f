/** The lines of a result file: one JSON object each, told apart by `kind`. Everything that a page says comes from them. */
import { readFileSync } from 'node:fs';

/** The first line: where and what was measured. */
export interface RunRecord {
  readonly kind: 'run';
  /** ISO 8601. */
  readonly date: string;
  readonly commit: string;
  readonly command: string;
  readonly cpu: string;
  /** Features of the instruction set that kernels choose by. */
  readonly cpuFlags: readonly string[];
  readonly cores: number;
  readonly memoryGiB: number;
  readonly kernel: string;
  readonly threads: number;
  /** Load averages of 1, 5 and 15 minutes when the run began: what else the machine did. */
  readonly loadAverage: readonly number[];
  /** Bytes per second that one thread, and all threads together, compared in memory. */
  readonly readBandwidth: { readonly one: number; readonly all: number };
  readonly versions: Readonly<Record<string, string>>;
}

/** One that took part. */
export interface ContenderRecord {
  readonly kind: 'contender';
  readonly contender: string;
  readonly peer: boolean;
  readonly versions: Readonly<Record<string, string>>;
  readonly settings: string;
}

/** One that could not, and why. */
export interface AbsentRecord {
  readonly kind: 'absent';
  readonly contender: string;
  readonly reason: string;
}

/** One timed run of one cell (bench/scenarios/throughput.ts). */
export interface ThroughputRecord {
  readonly kind: 'throughput';
  readonly contender: string;
  /** Id of the cell. */
  readonly cell: string;
  readonly phase: 'prefill' | 'decode';
  readonly batch: number;
  readonly mix: string;
  readonly rank: number | 'mixed';
  readonly promptTokens: number;
  readonly distinct: number;
  /** Runs of one round and repeat lie close in time: ratios are taken within. */
  readonly round: number;
  readonly repeat: number;
  readonly tokens: number;
  readonly seconds: number;
  readonly stepBytes: number | null;
  /** [rows]: the greedy token after each prompt. */
  readonly first: readonly number[];
}

/** A contender that refused a cell or broke at it. */
export interface FailureRecord {
  readonly kind: 'failure';
  readonly contender: string;
  readonly cell: string;
  readonly reason: string;
}

/** One window of a scenario of the server (bench/serving/); `values` are in the units that their names say. */
export interface ServingRecord {
  readonly kind: 'serving';
  readonly scenario: string;
  readonly variant: string;
  readonly round: number;
  readonly values: Readonly<Record<string, number>>;
}

export type BenchRecord = RunRecord | ContenderRecord | AbsentRecord | ThroughputRecord | FailureRecord | ServingRecord;

/** All records of a file. Errors: what is wrong with which line. */
export function readRecords(file: string): BenchRecord[] {
  const lines = readFileSync(file, 'utf8').split('\n');
  return lines.flatMap((line, at) => {
    if (line.trim() === '') return [];
    try {
      return [JSON.parse(line) as BenchRecord];
    } catch {
      throw new Error(`${file}, line ${at + 1}: expected a JSON object`);
    }
  });
}
