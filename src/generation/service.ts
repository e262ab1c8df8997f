import { requireUse } from '../core/caller.js';
import { LoramuxError, toLoramuxError } from '../core/errors.js';
import { fitPrompt } from './fit-prompt.js';
import { Generation, type GenerationDeps } from './generation.js';
import { ModelText, type TextCodec } from './model-text.js';
import type { GeneratedToken, GenerationEvent, GenerationResult, GenerationSpec, PromptToken } from './spec.js';

export interface ServiceDeps extends GenerationDeps {
  readonly tokenizer: TextCodec;
}

/** Turns a validated spec into a running generation. The same for every surface. */
export class GenerationService {
  readonly #deps: ServiceDeps;
  readonly #baseText: ModelText;
  #nextId = 1;

  constructor(deps: ServiceDeps) {
    this.#deps = deps;
    const { chatTemplate, specialTokens } = deps.engine.limits;
    this.#baseText = new ModelText(deps.tokenizer, chatTemplate, specialTokens);
  }

  /**
   * Tokenizes off the event loop, checks the prompt against the model length and submits. An abort of `signal` ends
   * the generation at any later time, with the signal's reason if that is a LoramuxError. Rejects with ERR_FORBIDDEN, ERR_TOKENIZER, ERR_VALIDATION, ERR_TEMPLATE,
   * ERR_TEMPLATE_MISSING, ERR_PROMPT_TOO_LONG, ERR_ABORTED or what the engine refuses at once; everything later comes out of the iteration.
   */
  async start(spec: GenerationSpec, signal: AbortSignal): Promise<Generation> {
    try {
      const receivedMs = this.#deps.now();
      requireUse(spec.caller, spec.composition?.members.map(({ name }) => name) ?? [spec.adapter]);
      checkConstraint(spec);
      const ids = await this.#encode(spec);
      if (signal.aborted) {
        throw reasonOf(signal) ?? new LoramuxError('ERR_ABORTED', 'the client left before the prompt was submitted');
      }
      return this.#submit(spec, ids, receivedMs, signal);
    } catch (thrown) {
      const error = toLoramuxError(thrown);
      this.#deps.observer.rejected(error.code);
      throw error;
    }
  }

  async #encode({ prompt }: GenerationSpec): Promise<Uint32Array> {
    if ('ids' in prompt) return checkIds(prompt.ids, this.#deps.engine.limits.vocabSize);
    const { tokenizer } = this.#baseText;
    const text = 'chat' in prompt ? this.#baseText.template.render(prompt.chat) : prompt.text;
    try {
      return await tokenizer.encode(text, prompt.addSpecialTokens);
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
      ...(spec.caller.adapters === null ? {} : { allowed: spec.caller.adapters }),
      ...(spec.composition === undefined ? {} : { composition: spec.composition }),
      ...(spec.adapterSources === undefined ? {} : { adapterSources: spec.adapterSources }),
      promptIds,
      maxNewTokens,
      minNewTokens: spec.minNewTokens,
      stopIds: [...(spec.ignoreEos ? [] : limits.eosTokenIds), ...spec.stopTokenIds],
      sampling: spec.sampling,
      choice: spec.choice,
      constraint: spec.constraint,
      logprobs: spec.logprobs,
      promptLogprobs: spec.promptLogprobs,
      cacheSalt: saltOf(spec),
    };
    const generation = new Generation(
      this.#deps,
      spec,
      request,
      receivedMs,
      'chat' in spec.prompt ? this.#baseText.template : null,
    );
    generation.submit();
    signal.addEventListener('abort', () => generation.abort(reasonOf(signal)), { once: true });
    return generation;
  }
}

/** Why a signal was aborted, if it was for more than that the client left. */
function reasonOf({ reason }: AbortSignal): LoramuxError | undefined {
  return reason instanceof LoramuxError ? reason : undefined;
}

/** Keys share no cached prompts: how soon an answer begins would tell one what another has asked. */
function saltOf({ caller, cacheSalt }: GenerationSpec): string | null {
  return caller.name === null ? cacheSalt : JSON.stringify([caller.name, cacheSalt]);
}

/** A constraint says where the text ends, so the end token must be free to come. */
function checkConstraint({ constraint, ignoreEos }: GenerationSpec): void {
  if (constraint === null || !ignoreEos) return;
  const message = 'expected the end token to count with a constraint, got both: leave ignoring it off';
  throw new LoramuxError('ERR_VALIDATION', message, { field: 'constraint' });
}

function checkIds(ids: Uint32Array, vocabSize: number): Uint32Array {
  const wrong = ids.find((id) => id >= vocabSize);
  if (wrong === undefined) return ids;
  throw new LoramuxError('ERR_VALIDATION', `expected token ids below ${vocabSize} in the prompt, got ${wrong}`, {
    field: 'prompt',
  });
}

/** A whole answer. */
export interface Completion {
  readonly result: GenerationResult;
  /** Empty unless the spec asks for `promptLogprobs`. */
  readonly prompt: readonly PromptToken[];
  readonly tokens: readonly GeneratedToken[];
}

/** Reads a generation to its end. Throws the error that ended it. */
export async function collect(generation: AsyncIterable<GenerationEvent>): Promise<Completion> {
  const tokens: GeneratedToken[] = [];
  let prompt: readonly PromptToken[] = [];
  let result: GenerationResult | null = null;
  for await (const event of generation) {
    if (event.kind === 'admitted') continue;
    if (event.kind === 'prompt') {
      prompt = event.tokens;
      continue;
    }
    if (event.token !== null) tokens.push(event.token);
    if (event.kind === 'finish') result = event.result;
  }
  if (result === null) throw new LoramuxError('ERR_STEP_FAILED', 'the generation ended without a result: report this');
  return { result, prompt, tokens };
}
