import type { ToolFormat } from '../../chat/tools/tool-format.js';
import type { EngineClient } from '../../core/engine-client.js';
import type { GenerationService } from '../../generation/service.js';
import type { RequestSource } from '../lorax/adapter-origin.js';
import type { BaseNames } from './model-name.js';
import type { RequestIds } from './request-ids.js';
import type { SeedSource } from './sampling.js';

/** What the operator decides about OpenAI's routes. */
export interface OpenAiSettings {
  /** Further names of the base model; the first is what replies say. Empty = its own name only. */
  readonly servedNames: readonly string[];
  /** Largest `n`. */
  readonly maxChoices: number;
  /** Largest `best_of`. */
  readonly maxBestOf: number;
  /** How calls of tools are found in answers: `auto` = as the chat template shows them, `none` = not at all. */
  readonly toolCallFormat: ToolFormat | 'auto' | 'none';
  /** Whether vLLM's routes for adapters are there, for everyone or for callers on this machine. */
  readonly vllmLoraApi: 'off' | 'on' | 'loopback';
  /** Status of an unload, by those routes, of an adapter that is not there. */
  readonly vllmUnloadMissing: 200 | 400 | 404;
}

/** What OpenAI's routes work with. */
export interface OpenAiDeps extends Omit<OpenAiSettings, 'servedNames'> {
  readonly engine: EngineClient;
  readonly generation: GenerationService;
  readonly drawSeed: SeedSource;
  readonly version: string;
  readonly base: BaseNames;
  readonly requestIds: RequestIds;
  /** Where requests may have adapters loaded from. */
  readonly requestSources: readonly RequestSource[];
}
