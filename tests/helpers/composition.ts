import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { MergeMethod } from '../../src/core/composition.js';
import { SYNTHETIC, type SyntheticCase } from './synthetic.js';

interface Member {
  readonly id: string;
  readonly weight: number;
}

/** What PEFT computed for combined adapters; `merge` is absent for a weighted sum of deltas. */
export interface CombinationCase extends SyntheticCase {
  readonly members: readonly Member[];
  readonly merge?: {
    readonly formula: MergeMethod['formula'];
    readonly strategy: MergeMethod['strategy'];
    readonly density: number;
    readonly majority_sign: MergeMethod['majoritySign'];
  };
  /** Of the recipe, where there is one. */
  readonly digest?: string;
}

/** What PEFT computed for an activated adapter whose invocation starts at `start` of the prompt, null = nowhere. */
export interface ActivatedCase extends SyntheticCase {
  readonly start: number | null;
}

interface Fixture {
  readonly model: string;
  readonly combinations: readonly CombinationCase[];
  readonly activated: readonly ActivatedCase[];
}

export const COMPOSITION = join(SYNTHETIC, 'composition');
export const FIXTURE = JSON.parse(readFileSync(join(COMPOSITION, 'cases.json'), 'utf8')) as Fixture;
