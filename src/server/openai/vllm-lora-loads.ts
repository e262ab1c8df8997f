import { describeSource } from '../../core/adapter-source.js';
import type { EngineClient } from '../../core/engine-client.js';
import { LoramuxError } from '../../core/errors.js';
import type { LoraLoad } from './vllm-lora-body.js';

/** Controllers give up after ten seconds or more. */
export const REPLY_WITHIN_MS = 8_000;

/** Loads that vLLM's clients asked for: repeated calls join the one in flight, and a path may change its content. */
export class LoraLoads {
  readonly #engine: EngineClient;
  /** The path that each name was last loaded from, as it was given. */
  readonly #paths = new Map<string, string>();
  readonly #inFlight = new Map<string, { readonly path: string; readonly done: Promise<unknown> }>();

  constructor(engine: EngineClient) {
    this.#engine = engine;
  }

  /** Resolves when the adapter is loaded. Errors: those of the load, which goes on whoever waits for it. */
  load(load: LoraLoad): Promise<unknown> {
    const known = this.#inFlight.get(load.name);
    if (known !== undefined && known.path === load.path) return known.done;
    const done = this.#load(load);
    const entry = { path: load.path, done };
    this.#inFlight.set(load.name, entry);
    const forget = (): void => {
      if (this.#inFlight.get(load.name) === entry) this.#inFlight.delete(load.name);
    };
    done.then(forget, forget);
    return done;
  }

  /** Takes the name out of service; resolves when its last row is done. Errors: as the engine's `unload`. */
  async unload(name: string): Promise<void> {
    this.#paths.delete(name);
    await this.#engine.admin({ op: 'unload', name, force: false });
  }

  async #load({ name, path, source, inPlace }: LoraLoad): Promise<void> {
    // The same place may hold something else by now; another place needs the caller's word for it.
    const replace =
      inPlace || this.#paths.get(name) === path || (await this.#sourceOf(name)) === describeSource(source);
    await this.#engine.admin({ op: 'load', name, source, pin: false, wait: true, replace });
    this.#paths.set(name, path);
  }

  async #sourceOf(name: string): Promise<string | null> {
    try {
      const adapter = await this.#engine.admin({ op: 'get', name });
      return adapter.name === name ? adapter.source : null;
    } catch (thrown) {
      if (thrown instanceof LoramuxError && thrown.code === 'ERR_ADAPTER_NOT_FOUND') return null;
      throw thrown;
    }
  }
}

/** `work`, or null when it takes longer; it goes on then, and its failure stays with those who wait for it. */
export async function within<T>(work: Promise<T>, milliseconds: number): Promise<T | null> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<null>((resolve) => {
    timer = setTimeout(resolve, milliseconds, null);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}
