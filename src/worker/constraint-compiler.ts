import type { Constraint } from '../core/constraint.js';
import { LoramuxError, toLoramuxError } from '../core/errors.js';
import type { NativeEngine } from '../engine/binding.js';

/** Compiles at one time: they share libuv's pool with tokenizers and adapter loads. */
const MAX_COMPILES = 2;

type Backend = Pick<NativeEngine, 'openConstraint' | 'releaseConstraint'>;

/** A matcher, open until it is released. */
export interface HeldConstraint {
  readonly handle: number;
  release(): void;
}

/** Opens matchers off the step path, few at a time, in order of arrival. */
export class ConstraintCompiler {
  readonly #backend: Backend;
  readonly #queue: (() => void)[] = [];
  #running = 0;

  constructor(backend: Backend) {
    this.#backend = backend;
  }

  /** Requests whose constraint is not compiled yet. */
  get waiting(): number {
    return this.#queue.length + this.#running;
  }

  /**
   * A matcher for one sequence. Errors: ERR_VALIDATION with the field `constraint`; ERR_TOKENIZER; ERR_ENGINE_CLOSED;
   * ERR_ABORTED once `signal` is aborted, nothing is held then.
   */
  async open(constraint: Constraint, signal: AbortSignal): Promise<HeldConstraint> {
    if (this.#running < MAX_COMPILES) this.#running += 1;
    // Whoever ends hands its place over.
    else await new Promise<void>((resolve) => this.#queue.push(resolve));
    try {
      return await this.#compile(constraint, signal);
    } finally {
      const next = this.#queue.shift();
      if (next === undefined) this.#running -= 1;
      else next();
    }
  }

  async #compile(constraint: Constraint, signal: AbortSignal): Promise<HeldConstraint> {
    const handle = signal.aborted ? null : await this.#backend.openConstraint(constraint).catch(refused);
    if (handle !== null && !signal.aborted) return { handle, release: () => this.#backend.releaseConstraint(handle) };
    if (handle !== null) this.#backend.releaseConstraint(handle);
    throw new LoramuxError('ERR_ABORTED', 'the request ended before its constraint was compiled');
  }
}

function refused(thrown: unknown): never {
  const error = toLoramuxError(thrown);
  if (error.code !== 'ERR_VALIDATION') throw error;
  throw new LoramuxError(error.code, error.message, { field: 'constraint' });
}
