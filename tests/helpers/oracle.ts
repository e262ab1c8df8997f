import assert from 'node:assert/strict';
import { worstError } from './compare.js';
import type { Outcome } from './direct-engine.js';
import { oracleLogits, SYNTHETIC_TOKENS, type SyntheticCase, titleOf } from './synthetic.js';

/** Logits of the last prompt token: |ours − PEFT's| ≤ ATOL + RTOL · |PEFT's|. */
export const ATOL = 1e-4;
export const RTOL = 1e-4;
/** A step whose two best logits are closer may fall either way within those tolerances: comparing stops there. */
export const TIE = 1e-3;

/** How many of PEFT's tokens can be compared: those before its first near tie. */
export function comparableTokens({ gaps }: SyntheticCase): number {
  const tie = gaps.findIndex((gap) => gap < TIE);
  return tie === -1 ? gaps.length : tie;
}

/** Asserts PEFT's tokens up to its first near tie, and its logits. Returns how many tokens were compared. */
export function assertEqualsOracle(outcome: Outcome, oracle: SyntheticCase): number {
  const count = comparableTokens(oracle);
  assert.equal(outcome.tokens.length, oracle.expected_ids.length);
  assert.deepEqual(outcome.tokens.slice(0, count), oracle.expected_ids.slice(0, count), titleOf(oracle));
  assert.ok(outcome.tokens.every((token) => token < SYNTHETIC_TOKENS));
  const error = worstError(outcome.logits[0] as Float32Array, oracleLogits(oracle), ATOL, RTOL);
  assert.ok(error <= 1, `${titleOf(oracle)}: logits are off by ${error.toFixed(2)} times the tolerance`);
  return count;
}
