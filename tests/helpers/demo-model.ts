import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Precision, PreparedModel } from '../../src/core/model-manifest.js';
import { loadBinding } from '../../src/engine/addon.js';
import { prepareModel } from '../../src/model/prepare-model.js';
import { FIXTURES, TEST_CACHE } from './paths.js';

/** One case of the PEFT oracle over the demo model. */
export interface PeftCase {
  readonly adapter: string;
  readonly prompt: string;
  readonly max_new_tokens: number;
  readonly prompt_ids: readonly number[];
  readonly expected_ids: readonly number[];
  /** Per step, the best logit minus the second best. */
  readonly gaps: readonly number[];
  readonly text: string;
}

export function peftCases(): readonly PeftCase[] {
  const fixture = JSON.parse(readFileSync(join(FIXTURES, 'peft-smollm2.json'), 'utf8')) as { cases: PeftCase[] };
  return fixture.cases;
}

/** Tokens of a case that both sides must agree on: up to the first step whose two best logits nearly tie. */
export function comparableTokens(peft: PeftCase, tie = 0.02): number {
  const first = peft.gaps.findIndex((gap) => gap < tie);
  return first === -1 ? peft.expected_ids.length : first;
}

/** The demo model in the given precision, fetched and converted on first use. */
export function demoModel(precision: Precision = 'f32'): Promise<PreparedModel> {
  return prepareModel({
    model: 'demo',
    precision,
    cacheDir: TEST_CACHE,
    checksumFile: (path) => loadBinding().crc32File(path),
    onProgress: () => undefined,
    memoryBytes: 8 * 1024 ** 3,
  });
}
