/**
 * What a contender is asked and what it answers: one line of JSON each way, over standard input and output. Every
 * contender is a process of its own, so that none shares memory or threads with another; those in other languages
 * (bench/peers/) speak the same lines.
 */
import { BASE_NAME } from '../../src/core/names.js';

/** One timed run. Every row is one sequence; all rows of a run are in flight at once. */
export interface Job {
  readonly phase: 'prefill' | 'decode';
  /** [rows]: names below `--adapters`, or `__base__`. */
  readonly adapters: readonly string[];
  /** [rows][promptTokens]: token ids. */
  readonly prompts: readonly (readonly number[])[];
  /** Timed tokens of each row; 0 of a prefill. One more is generated before the clock starts. */
  readonly steps: number;
  /** Run the graph from which every operator for adapters was taken; only loramux can, only for the base. */
  readonly withoutOperators: boolean;
}

/** What a job took. */
export interface Timing {
  /** Prompt tokens of a prefill, generated ones of a decode. */
  readonly tokens: number;
  readonly seconds: number;
  /** Weights of the base and of all distinct adapters that one step reads, in bytes; null where it is not known. */
  readonly stepBytes: number | null;
  /** [rows]: the greedy token after each prompt, to see that all contenders compute the same. */
  readonly first: readonly number[];
  /** Seconds of a step outside the engine: planning, building, committing; where it is known. */
  readonly hostSeconds?: number;
}

/** A contender's first line: what it is made of. */
export interface Greeting {
  readonly versions: Readonly<Record<string, string>>;
  /** What it was set to, in words. */
  readonly settings: string;
}

/** Its answer to a job. */
export type Answer = Timing | { readonly error: string };

const FIRST_ID = 100;
const IDS = 4000;

/** Plain ids of the vocabulary's beginning, another prompt for every row. */
export function promptOf(row: number, tokens: number): number[] {
  return Array.from({ length: tokens }, (_, at) => FIRST_ID + ((row * 37 + at * 11) % IDS));
}

export function distinctAdapters(adapters: readonly string[]): string[] {
  return [...new Set(adapters)].filter((name) => name !== BASE_NAME);
}
