import type { DecoderConfig, GenerationDefaults } from '../../core/model-manifest.js';
import type { SpecialTokens } from '../../core/tokenizer-config.js';
import type { TensorRows } from './tensor.js';

/** Which linears carry a bias because the configuration says so; a bias found in the file counts as well. */
export interface RequiredBiases {
  readonly qkv: boolean;
  readonly output: boolean;
  readonly mlp: boolean;
}

/** What a model says about text: ids, template, sampling defaults. */
export interface TextMetadata {
  /** Ascending, never empty. */
  readonly eosTokenIds: readonly number[];
  readonly bosTokenId: number | null;
  readonly chatTemplate: string | null;
  readonly specialTokens: SpecialTokens;
  readonly generationDefaults: GenerationDefaults;
}

/**
 * A model opened for conversion. Tensors go by their Hugging Face names whatever the file calls them, in the Hugging
 * Face layout ([out, in], rotary halves). Owns open files until `close`.
 */
export interface ModelSource {
  /** File or directory, for messages. */
  readonly path: string;
  readonly config: DecoderConfig;
  readonly requiredBiases: RequiredBiases;
  /** Hugging Face names of all tensors that are part of the network. */
  readonly tensorNames: ReadonlySet<string>;
  /** ERR_MODEL_INVALID when the tensor is missing or its shape differs. */
  tensor(name: string, shape: readonly number[]): TensorRows;
  /** A complete `tokenizer.json`. */
  tokenizerJson(): Promise<Uint8Array>;
  textMetadata(): Promise<TextMetadata>;
  close(): Promise<void>;
}
