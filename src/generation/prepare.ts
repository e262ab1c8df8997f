import type { EngineLimits } from '../core/engine-client.js';
import { LoramuxError, toLoramuxError } from '../core/errors.js';
import { type GenerateRequest, GREEDY_SAMPLING, PLAIN_REQUEST } from '../core/request.js';
import { fitPrompt } from './fit-prompt.js';
import type { ModelText } from './model-text.js';
import type { GenerationSpec } from './spec.js';

/** A spec as the engine takes it, made with one text handling. */
export interface PreparedRequest {
  readonly text: ModelText;
  readonly request: GenerateRequest;
}

/**
 * Renders, encodes and fits a spec's prompt with `text`. Encoding leaves the event loop. Errors: ERR_TOKENIZER,
 * ERR_TEMPLATE, ERR_TEMPLATE_MISSING, ERR_PROMPT_TOO_LONG, ERR_VALIDATION.
 */
export async function prepare(
  id: number,
  spec: GenerationSpec,
  text: ModelText,
  limits: EngineLimits,
): Promise<PreparedRequest> {
  checkVocabulary(spec, text);
  const { promptIds, maxNewTokens } = fitPrompt(spec, await encode(spec, text, limits), limits);
  const request: GenerateRequest = {
    id,
    ...adaptersOf(spec),
    textDigest: text.digest,
    promptIds,
    maxNewTokens,
    minNewTokens: spec.minNewTokens,
    stopIds: [...(spec.ignoreEos ? [] : text.eosTokenIds), ...spec.stopTokenIds],
    sampling: spec.sampling,
    choice: spec.choice,
    constraint: spec.constraint,
    logprobs: spec.logprobs,
    promptLogprobs: spec.promptLogprobs,
    cacheSalt: saltOf(spec),
  };
  return { text, request };
}

/** Digest of no text: the engine answers it with the one that the adapter has. */
const NO_TEXT = '';

/** A request that asks how an adapter handles text, for a spec whose prompt cannot be made with `guess`. */
export function inquiry(id: number, spec: GenerationSpec, guess: ModelText): PreparedRequest {
  const request: GenerateRequest = {
    ...PLAIN_REQUEST,
    ...adaptersOf(spec),
    id,
    textDigest: NO_TEXT,
    promptIds: Uint32Array.of(0),
    maxNewTokens: 1,
    stopIds: [],
    sampling: GREEDY_SAMPLING,
  };
  return { text: guess, request };
}

function adaptersOf({ adapter, caller, composition, adapterSources }: GenerationSpec) {
  return {
    adapter,
    ...(caller.adapters === null ? {} : { allowed: caller.adapters }),
    ...(composition === undefined ? {} : { composition }),
    ...(adapterSources === undefined ? {} : { adapterSources }),
  };
}

/** Keys share no cached prompts: how soon an answer begins would tell one what another has asked. */
function saltOf({ caller, cacheSalt }: GenerationSpec): string | null {
  return caller.name === null ? cacheSalt : JSON.stringify([caller.name, cacheSalt]);
}

/** Constraints are compiled for the base's vocabulary. */
function checkVocabulary({ constraint, adapter }: GenerationSpec, text: ModelText): void {
  if (constraint === null || text.sharesVocabulary) return;
  const message = `expected no constraint with ${adapter}, whose tokenizer has another vocabulary than the base's: leave it out, or use an adapter with the base's`;
  throw new LoramuxError('ERR_VALIDATION', message, { field: 'constraint' });
}

async function encode({ prompt }: GenerationSpec, text: ModelText, { vocabSize }: EngineLimits): Promise<Uint32Array> {
  if ('ids' in prompt) return checkIds(prompt.ids, vocabSize);
  const words = 'chat' in prompt ? text.template.render(prompt.chat) : prompt.text;
  let ids: Uint32Array;
  try {
    ids = await text.tokenizer.encode(words, prompt.addSpecialTokens);
  } catch (thrown) {
    throw toLoramuxError(thrown, 'ERR_TOKENIZER');
  }
  // What an adapter ships is not believed.
  return text.digest === null ? ids : checkIds(ids, vocabSize);
}

function checkIds(ids: Uint32Array, vocabSize: number): Uint32Array {
  const wrong = ids.find((id) => id >= vocabSize);
  if (wrong === undefined) return ids;
  throw new LoramuxError('ERR_VALIDATION', `expected token ids below ${vocabSize} in the prompt, got ${wrong}`, {
    field: 'prompt',
  });
}
