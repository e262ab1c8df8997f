import { LoramuxError, toLoramuxError } from '../core/errors.js';
import type { NativeTokenizer } from '../engine/binding.js';
import { fitPrompt } from './fit-prompt.js';
import { Generation, type GenerationDeps } from './generation.js';
import type { GeneratedToken, GenerationResult, GenerationSpec } from './spec.js';

export interface ServiceDeps extends GenerationDeps {
  readonly tokenizer: Pick<NativeTokenizer, 'encode' | 'decode' | 'isSpecial'>;
}

/** Turns a validated spec into a running generation. The same for every surface. */
export class GenerationService {
  readonly #deps: ServiceDeps;
  #nextId = 1;

  constructor(deps: ServiceDeps) {
    this.#deps = deps;
  }

  /**
   * Tokenizes off the event loop, checks the prompt against the model length and submits. An abort of `signal` ends
   * the generation at any later time. Rejects with ERR_TOKENIZER, ERR_VALIDATION, ERR_PROMPT_TOO_LONG, ERR_ABORTED
   * or what the engine refuses at once; everything later comes out of the iteration.
   */
  async start(spec: GenerationSpec, signal: AbortSignal): Promise<Generation> {
    try {
      const receivedMs = this.#deps.now();
      const ids = await this.#encode(spec);
      if (signal.aborted) throw new LoramuxError('ERR_ABORTED', 'the client left before the prompt was submitted');
      return this.#submit(spec, ids, receivedMs, signal);
    } catch (thrown) {
      const error = toLoramuxError(thrown);
      this.#deps.observer.rejected(error.code);
      throw error;
    }
  }

  async #encode(spec: GenerationSpec): Promise<Uint32Array> {
    try {
      return await this.#deps.tokenizer.encode(spec.prompt, spec.addSpecialTokens);
    } catch (thrown) {
      throw toLoramuxError(thrown, 'ERR_TOKENIZER');
    }
  }

  #submit(spec: GenerationSpec, ids: Uint32Array, receivedMs: number, signal: AbortSignal): Generation {
    const { limits } = this.#deps.engine;
    const { promptIds, maxNewTokens } = fitPrompt(spec, ids, limits);
    const request = {
      id: this.#nextId++,
      adapter: spec.adapter,
      ...(spec.composition === undefined ? {} : { composition: spec.composition }),
      promptIds,
      maxNewTokens,
      stopIds: spec.ignoreEos ? [] : limits.eosTokenIds,
      sampling: spec.sampling,
      logprobs: spec.logprobs,
    };
    const generation = new Generation(this.#deps, spec, request, receivedMs);
    generation.submit();
    signal.addEventListener('abort', () => generation.abort(), { once: true });
    return generation;
  }
}

/** A whole answer. */
export interface Completion {
  readonly result: GenerationResult;
  readonly tokens: readonly GeneratedToken[];
}

/** Reads a generation to its end. Throws the error that ended it. */
export async function collect(generation: Generation): Promise<Completion> {
  const tokens: GeneratedToken[] = [];
  let result: GenerationResult | null = null;
  for await (const event of generation) {
    if (event.kind === 'admitted') continue;
    tokens.push(event.token);
    if (event.kind === 'finish') result = event.result;
  }
  if (result === null) throw new LoramuxError('ERR_STEP_FAILED', 'the generation ended without a result: report this');
  return { result, tokens };
}
