import { setTimeout as sleep } from 'node:timers/promises';
import type { RetryPolicy } from '../../core/adapter-fetch.js';
import { AttemptFailure, failureOf } from './fetch-errors.js';

/**
 * Carries out `attempt` until it succeeds, fails for good, or has had its tries; between tries it waits a random half
 * to whole of a delay that doubles. Throws the last AttemptFailure, a LoramuxError at once, or the reason of `signal`.
 */
export async function withRetries<T>(policy: RetryPolicy, signal: AbortSignal, attempt: () => Promise<T>): Promise<T> {
  for (let tries = 1; ; tries += 1) {
    try {
      return await attempt();
    } catch (thrown) {
      signal.throwIfAborted();
      const failure = failureOf(thrown);
      if (!(failure instanceof AttemptFailure) || !failure.mayPass || tries >= policy.attempts) throw failure;
      const delayMs = Math.min(policy.maxDelayMs, policy.firstDelayMs * 2 ** (tries - 1));
      await sleep(delayMs * (0.5 + Math.random() / 2), undefined, { signal }).catch(() => signal.throwIfAborted());
    }
  }
}
