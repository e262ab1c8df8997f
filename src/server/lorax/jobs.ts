import { type GenerationSpec, PLAIN_SPEC } from '../../generation/spec.js';
import type { RequestOrigin } from '../request-origin.js';
import { sourcesOf } from './adapter-origin.js';
import type { GenerateCall, Prompt } from './generate-body.js';
import type { GenerateParameters } from './parameters.js';
import type { ReplyOptions } from './replies.js';
import { type SeedSource, samplingOf } from './sampling.js';

/** A prompt of a call, ready to start: its generations (one, or as many as `best_of` asks for) and its reply's shape. */
export interface Job {
  readonly specs: readonly GenerationSpec[];
  readonly reply: ReplyOptions;
}

/** The seed to show for a generation: null when it is greedy. */
export function seedOf({ sampling }: GenerationSpec): bigint | null {
  return sampling.greedy ? null : sampling.seed;
}

/** The job of one prompt. Each of several generations gets a seed of its own: a reply's seed alone repeats it. */
export function jobOf(
  origin: RequestOrigin,
  { text, adapter, composition }: Prompt,
  { parameters, streaming, origin: adapterOrigin }: GenerateCall,
  drawSeed: SeedSource,
): Job {
  const runs = Math.max(parameters.bestOf ?? 1, 1);
  const details = parameters.details || parameters.decoderInputDetails;
  const alternatives = (details || streaming) && parameters.alternatives !== null;
  const sources = sourcesOf(composition?.members.map(({ name }) => name) ?? [adapter], adapterOrigin);
  const common = {
    ...PLAIN_SPEC,
    ...origin,
    adapter,
    ...(composition === undefined ? {} : { composition }),
    ...(sources === undefined ? {} : { adapterSources: sources }),
    prompt: { text, addSpecialTokens: true },
    ...limitsOf(parameters),
    constraint: parameters.constraint,
    // Every token of a stream carries its log-probability, and the best of several runs is chosen by it.
    logprobs:
      details || streaming || runs > 1
        ? ({ of: 'processed', top: alternatives ? (parameters.alternatives ?? 0) : 0 } as const)
        : null,
    promptLogprobs: parameters.decoderInputDetails ? { top: 0 } : null,
  };
  const specs = Array.from({ length: runs }, () => ({ ...common, sampling: samplingOf(parameters, drawSeed) }));
  const { returnFullText } = parameters;
  return { specs, reply: { prompt: text, details, alternatives, returnFullText, manyRuns: runs > 1 } };
}

function limitsOf({ maxNewTokens, stop, truncate, ignoreEosToken }: GenerateParameters) {
  return { truncate, maxNewTokens, stop, ignoreEos: ignoreEosToken };
}
