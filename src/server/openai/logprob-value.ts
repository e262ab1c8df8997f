import { shortestFloat32 } from '../float32.js';

/** Stands for a probability of zero: JSON has no infinity. */
const IMPOSSIBLE = -9999;

/** A log-probability as replies show it. */
export function logprobValue(logprob: number): number {
  return logprob === Number.NEGATIVE_INFINITY ? IMPOSSIBLE : shortestFloat32(logprob);
}

/** A token's text, or its id where the caller wants ids. */
export function tokenText({ id, text }: { readonly id: number; readonly text: string }, asIds: boolean): string {
  return asIds ? `token_id:${id}` : text;
}
