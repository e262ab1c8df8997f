import { type GenerationSpec, PLAIN_SPEC } from '../../generation/spec.js';
import type { RequestOrigin } from '../request-origin.js';
import type { CommonCall } from './common-fields.js';

/** A generation without what is the route's: prompt, length, and, if it has them, choice and log-probabilities. */
export type CommonSpec = Omit<GenerationSpec, 'prompt' | 'maxNewTokens'>;

/** What the common fields say about a generation. */
export function commonSpec(call: CommonCall, origin: RequestOrigin): CommonSpec {
  const { model, constraint } = call;
  return {
    ...PLAIN_SPEC,
    ...origin,
    adapter: model.adapter,
    ...(model.composition === undefined ? {} : { composition: model.composition }),
    truncate: call.truncate,
    truncateSide: call.truncateSide,
    stop: call.stop,
    includeStop: call.includeStop,
    ignoreEos: call.ignoreEos,
    stopTokenIds: call.stopTokenIds,
    minNewTokens: call.minTokens,
    skipSpecialTokens: call.skipSpecialTokens,
    sampling: call.sampling,
    constraint: constraint?.constraint ?? null,
    cacheSalt: call.cacheSalt,
  };
}
