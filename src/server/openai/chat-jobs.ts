import type { GenerationSpec } from '../../generation/spec.js';
import type { RequestOrigin } from '../request-origin.js';
import type { ChatCall } from './chat-body.js';
import { commonSpec } from './common-spec.js';
import type { Job } from './runs.js';

/** The generations that a call needs. Greedy answers would all be the same, so one is computed and repeated. */
export function chatJobs(call: ChatCall, origin: RequestOrigin): readonly Job[] {
  const indexes = Array.from({ length: call.n }, (_, index) => index);
  if (call.sampling.greedy) return [jobOf(call, origin, 0, indexes)];
  return indexes.map((index) => jobOf(call, origin, index, [index]));
}

function jobOf(call: ChatCall, origin: RequestOrigin, choice: number, indexes: readonly number[]): Job {
  const paths = { prompt: 'messages', maxTokens: call.maxTokensField, constraint: call.constraint?.path ?? null };
  return { spec: specOf(call, origin, choice), indexes, promptCounted: choice > 0, paths };
}

function specOf(call: ChatCall, origin: RequestOrigin, choice: number): GenerationSpec {
  const common = commonSpec(call, origin, {
    prompt: { chat: call.chat, addSpecialTokens: call.addSpecialTokens ?? false },
    maxNewTokens: call.maxTokens,
    logprobs: call.logprobs === null ? null : { of: 'raw', top: call.logprobs },
    promptLogprobs: null,
  });
  // What opens a call is a special token with some models.
  return { ...common, choice, skipSpecialTokens: common.skipSpecialTokens && call.tools.use.kind !== 'auto' };
}
