import type { SpecialTokens } from './tokenizer-config.js';

/** Types of one prepared model on disk: `manifest.json` beside `model.onnx`, `weights.bin` and `tokenizer.json`. */

/** What the base's weights are. `f32` is the reference mode; `f16` and `bf16` are for GPUs. */
export type Precision = 'f32' | 'f16' | 'bf16' | 'w8' | 'w4';

/** Blocks of 32 with scales: in panels for our kernels on CPUs, row by row for `MatMulNBits` on a GPU. */
export type QuantisedFormat = 'w8' | 'w4' | 'w8-rows' | 'w4-rows';

/** How a base weight is stored: see `WeightRef`. */
export type WeightFormat = Precision | 'f32-panels' | QuantisedFormat;

const QUANTISED: ReadonlySet<WeightFormat> = new Set(['w8', 'w4', 'w8-rows', 'w4-rows']);

/** Whether weights are stored in blocks with scales, and not number by number. */
export function isQuantised(format: WeightFormat): format is QuantisedFormat {
  return QUANTISED.has(format);
}

/** Bytes of one activation, and of one number of embedding, norms and biases. */
export function elementBytes({ embedding }: Pick<ModelManifest, 'embedding'>): number {
  return embedding.weight.format === 'f32' ? 4 : 2;
}

/** Numbers of the KV cache on a CPU; on a GPU they are the activations'. */
export type KvDtype = 'f32' | 'f16' | 'bf16';

/** Decoder families whose graph we build. */
export type Architecture = 'llama' | 'mistral' | 'qwen2';

/** The shape of the decoder, normalised from config.json or GGUF metadata. Counts and widths are in elements. */
export interface DecoderConfig {
  readonly architecture: Architecture;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly vocabSize: number;
  /** Longest position the model was made for (after rope scaling). */
  readonly maxPositions: number;
  readonly rmsNormEps: number;
  readonly tieWordEmbeddings: boolean;
  /** Keys visible to a query counting itself, or null for full attention; one entry per layer. */
  readonly slidingWindow: readonly (number | null)[];
  /** Angle per position of rotary pair r (halves layout): [headDim / 2]. */
  readonly ropeInverseFrequencies: readonly number[];
  /** cos and sin are both multiplied by this. */
  readonly ropeScale: number;
}

/**
 * Where a base weight [rows, cols] lies in `weights.bin`; offsets are in bytes. Every matrix begins at a multiple of 4096.
 * - `f32` / `f16` / `bf16`: rows × cols of that type, row-major; further modules of a site follow the first without a gap.
 * - `f32-panels`: float32 in panels of 16 rows of the whole site, [panels, cols, 16].
 * - `w8` / `w4`: blocks of 32 along cols, in panels of 16 rows of the whole site. data u8 [panels, cols/32, 8, 16, 4]: input
 *   4g + k of a row is byte [.., g, row, k]; w4 [panels, cols/32, 4, 16, 4]: group 2g in the low, 2g + 1 in the high nibbles.
 *   scales and mins: float16 [panels, cols/32, 16]. w8: value = (q − 128)·scale, no mins; w4: value = q·scale + min.
 *   Offsets of panels are the site's; the module's rows begin at `firstRow`.
 * - `w8-rows` / `w4-rows`: blocks of 32 along cols, row by row, further modules behind the first: data u8 [rows, cols/32, 32]
 *   or, two inputs a byte, the first in the low nibble, [rows, cols/32, 16]; scales float16 [rows, cols/32], of either sign.
 *   value = (q − 128)·scale or (q − 8)·scale. Activations beside them are float16.
 */
export interface WeightRef {
  readonly format: WeightFormat;
  readonly rows: number;
  readonly cols: number;
  /** Row of the packed matrix that is row 0 of this module; 0 for weights that are not in panels. */
  readonly firstRow: number;
  readonly dataOffset: number;
  readonly scalesOffset: number | null;
  readonly minsOffset: number | null;
}

/** One linear module inside a (possibly fused) projection. */
export interface SiteModule {
  /** Module path as PEFT knows it, without `base_model.model.`: `model.layers.0.self_attn.q_proj`. */
  readonly name: string;
  /** First output column of this module within the fused projection. */
  readonly outOffset: number;
  readonly outFeatures: number;
  readonly weight: WeightRef;
  /** Byte offset of the module's bias [outFeatures] in `weights.bin`, of the activations' type; null where it has none. */
  readonly biasOffset: number | null;
}

/** One place in the graph where `SegmentedLora` adds adapter deltas: a base matmul, maybe of fused modules, or the head. */
export interface LoraSite {
  /** Dense index, the `site` attribute of the node. */
  readonly id: number;
  readonly inFeatures: number;
  readonly outFeatures: number;
  readonly modules: readonly SiteModule[];
}

/** A file of the cache entry: byte size and CRC-32 (hex), checked at every start. */
export interface CacheFile {
  readonly file: string;
  readonly bytes: number;
  readonly crc32: string;
}

/** Sampling defaults that the model ships (generation_config.json); absent ones are null. */
export interface GenerationDefaults {
  readonly temperature: number | null;
  readonly topK: number | null;
  readonly topP: number | null;
  readonly repetitionPenalty: number | null;
}

export interface ModelManifest {
  readonly formatVersion: number;
  /** Hex SHA-256 over the source files, the precision and the format version: the name of the cache entry. */
  readonly digest: string;
  /** What users call the base: hub id where known, else directory or file name. */
  readonly modelId: string;
  readonly precision: Precision;
  readonly config: DecoderConfig;
  readonly sites: readonly LoraSite[];
  /** The token embedding, of the activations' type; a tied head reads the same matrix where heads are row-major, too. */
  readonly embedding: { readonly name: string; readonly weight: WeightRef };
  /** RMS norms [hiddenSize]; index = the `norm` attribute of the node. */
  readonly norms: readonly { readonly name: string }[];
  readonly graph: CacheFile;
  readonly weights: CacheFile;
  readonly tokenizer: CacheFile;
  /** Ids that end a generation; never empty. */
  readonly eosTokenIds: readonly number[];
  readonly bosTokenId: number | null;
  readonly chatTemplate: string | null;
  /** As chat templates name them. */
  readonly specialTokens: SpecialTokens;
  readonly generationDefaults: GenerationDefaults;
}

/** A manifest whose files were found and checked; paths are absolute. */
export interface CachedModel {
  readonly directory: string;
  readonly manifest: ModelManifest;
}

/** A model that is ready to be opened. */
export interface PreparedModel extends CachedModel {
  /** Why it is in this precision, for people. */
  readonly precisionReason: string;
}
