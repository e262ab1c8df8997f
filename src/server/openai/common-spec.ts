import type { GenerationSpec } from '../../generation/spec.js';
import type { RequestOrigin } from '../request-origin.js';
import type { CommonCall } from './common-fields.js';

/** What the route itself knows of a generation. */
export type OwnSpec = Pick<GenerationSpec, 'prompt' | 'maxNewTokens' | 'logprobs' | 'promptLogprobs'>;

/**
 * The first of the generations that a call needs. Every field is named, and none added by a copy: of such an object the
 * other generations' copies take 20 ns each, else fifty times that, and a call may need 2,048.
 */
export function commonSpec(call: CommonCall, { route, caller }: RequestOrigin, own: OwnSpec): GenerationSpec {
  const { model, constraint } = call;
  const spec: GenerationSpec = {
    route,
    caller,
    adapter: model.adapter,
    prompt: own.prompt,
    truncate: call.truncate,
    truncateSide: call.truncateSide,
    maxNewTokens: own.maxNewTokens,
    stop: call.stop,
    includeStop: call.includeStop,
    ignoreEos: call.ignoreEos,
    stopTokenIds: call.stopTokenIds,
    minNewTokens: call.minTokens,
    skipSpecialTokens: call.skipSpecialTokens,
    sampling: call.sampling,
    choice: 0,
    constraint: constraint?.constraint ?? null,
    logprobs: own.logprobs,
    promptLogprobs: own.promptLogprobs,
    cacheSalt: call.cacheSalt,
  };
  const { composition, adapterSources } = model;
  return {
    ...spec,
    ...(composition === undefined ? {} : { composition }),
    ...(adapterSources === undefined ? {} : { adapterSources }),
  };
}
