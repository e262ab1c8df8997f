import type { AdapterText } from '../core/adapter-text.js';
import { requireUse } from '../core/caller.js';
import { LoramuxError, toLoramuxError } from '../core/errors.js';
import { BASE_NAME } from '../core/names.js';
import { Generation, type GenerationDeps } from './generation.js';
import { ModelText, type TextCodec } from './model-text.js';
import { ModelTexts } from './model-texts.js';
import { inquiry, type PreparedRequest, prepare } from './prepare.js';
import type { GeneratedToken, GenerationEvent, GenerationResult, GenerationSpec, PromptToken } from './spec.js';

export interface ServiceDeps extends GenerationDeps {
  /** The base's. */
  readonly tokenizer: TextCodec;
  /** A tokenizer from the text of a `tokenizer.json`. */
  readonly openTokenizer: (json: Uint8Array) => Promise<TextCodec>;
}

type PrepareAgain = (text: AdapterText | null) => Promise<PreparedRequest>;

/** Turns a validated spec into a running generation. The same for every surface. */
export class GenerationService {
  readonly #deps: ServiceDeps;
  readonly #texts: ModelTexts;
  #nextId = 1;

  constructor(deps: ServiceDeps) {
    this.#deps = deps;
    const { chatTemplate: template, specialTokens, eosTokenIds } = deps.engine.limits;
    const source = { template, specialTokens, eosTokenIds };
    const base = new ModelText(deps.tokenizer, { digest: null, sharesVocabulary: true, ...source });
    this.#texts = new ModelTexts({ base, openTokenizer: deps.openTokenizer });
  }

  /**
   * Tokenizes off the event loop, checks the prompt against the model length and submits. An abort of `signal` ends
   * the generation at any later time, with the signal's reason if that is a LoramuxError. Rejects with ERR_FORBIDDEN,
   * ERR_TOKENIZER, ERR_VALIDATION, ERR_TEMPLATE, ERR_TEMPLATE_MISSING, ERR_PROMPT_TOO_LONG, ERR_ABORTED or what the
   * engine refuses at once; everything later comes out of the iteration: with an adapter also what is wrong with the
   * prompt, because only the engine knows for certain how the adapter handles text.
   */
  async start(spec: GenerationSpec, signal: AbortSignal): Promise<Generation> {
    try {
      const receivedMs = this.#deps.now();
      requireUse(spec.caller, spec.composition?.members.map(({ name }) => name) ?? [spec.adapter]);
      checkConstraint(spec);
      const id = this.#nextId++;
      const { prepared, again } = await this.#prepare(id, spec);
      if (signal.aborted) {
        throw reasonOf(signal) ?? new LoramuxError('ERR_ABORTED', 'the client left before the prompt was submitted');
      }
      const generation = new Generation(this.#deps, spec, prepared, receivedMs, again);
      generation.submit();
      signal.addEventListener('abort', () => generation.abort(reasonOf(signal)), { once: true });
      return generation;
    } catch (thrown) {
      const error = toLoramuxError(thrown);
      this.#deps.observer.rejected(error.code);
      throw error;
    }
  }

  /** The request as the adapter most likely wants it, and how to make it anew if that was wrong. */
  async #prepare(
    id: number,
    spec: GenerationSpec,
  ): Promise<{ readonly prepared: PreparedRequest; readonly again: PrepareAgain }> {
    const { limits } = this.#deps.engine;
    const guess = await this.#texts.guess(spec.adapter);
    let failure: unknown = null;
    let prepared: PreparedRequest;
    try {
      prepared = await prepare(id, spec, guess, limits);
    } catch (thrown) {
      if (spec.adapter === BASE_NAME) throw thrown;
      failure = thrown;
      prepared = inquiry(id, spec, guess);
    }
    const again: PrepareAgain = async (found) => {
      const text = await this.#texts.of(spec.adapter, found);
      if (failure !== null && text.digest === guess.digest) throw failure;
      return prepare(id, spec, text, limits);
    };
    return { prepared, again };
  }
}

/** Why a signal was aborted, if it was for more than that the client left. */
function reasonOf({ reason }: AbortSignal): LoramuxError | undefined {
  return reason instanceof LoramuxError ? reason : undefined;
}

/** A constraint says where the text ends, so the end token must be free to come. */
function checkConstraint({ constraint, ignoreEos }: GenerationSpec): void {
  if (constraint === null || !ignoreEos) return;
  const message = 'expected the end token to count with a constraint, got both: leave ignoring it off';
  throw new LoramuxError('ERR_VALIDATION', message, { field: 'constraint' });
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
