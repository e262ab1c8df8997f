import type { AdapterDtype } from '../core/adapter.js';
import type { Constraint } from '../core/constraint.js';
import type { KvDtype } from '../core/model-manifest.js';
import type { StepBatch, StepOutput } from '../core/step.js';

/** Types of the native addon, written by hand beside its exports in native/src/lib.rs. */
export interface NativeBinding {
  /** Opens onnxruntime-node's library; must come before any engine. Idempotent for the same path. */
  initRuntime(libraryPath: string): void;
  /** Kernel set chosen for this CPU: `avx512vnni`, `avx512`, `avx2vnni`, `avx2` or `portable`. */
  instructionSet(): string;
  /** CRC-32 (IEEE, lower-case hex, 8 digits) of a whole file; runs off the event loop. */
  crc32File(path: string): Promise<string>;
  /**
   * For each name the index of the first pattern that matches all of it, or −1. Linear-time engine: patterns with
   * look-around or back-references are refused with ERR_ADAPTER_INVALID naming the pattern. Runs off the event loop.
   */
  firstMatches(patterns: string[], names: string[]): Promise<Int32Array>;
  /**
   * Reads and checks a safetensors file: header bounds, JSON without duplicate keys, ranges that tile the data,
   * byte counts equal to shape × dtype. Runs on the loader's thread. ERR_ADAPTER_INVALID names what is wrong.
   */
  openAdapterFile(path: string, maxBytes: number): Promise<NativeAdapterFile>;
  /**
   * Merges files, tensor by tensor, into one of float32 tensors held in memory. Runs on the loader's thread.
   * ERR_ADAPTER_INVALID names a member's tensor that is missing, of another shape or not finite.
   */
  mergeAdapterFiles(files: NativeAdapterFile[], recipe: NativeMergeRecipe): Promise<NativeAdapterFile>;
  readonly Tokenizer: {
    fromFile(path: string): NativeTokenizer;
    /** From the text of a `tokenizer.json`. Runs off the event loop. */
    fromJson(json: Uint8Array): Promise<NativeTokenizer>;
  };
  readonly Engine: { open(manifestJson: string, options: NativeEngineOptions): Promise<NativeEngine> };
  /**
   * The GPUs that CUDA sees; in an addon that was built for CUDA only. Needs no `initRuntime`. ERR_DEVICE says in CUDA's
   * words why there are none.
   */
  cudaDevices?(): NativeCudaDevice[];
}

/** A GPU, or the CPU that stands in for one in tests. */
export interface NativeCudaDevice {
  readonly name: string;
  readonly totalBytes: number;
  readonly freeBytes: number;
  /** 90 for sm_90. */
  readonly capability: number;
  /** CUDA version of the driver and of the runtime in the addon: 13000 for 13.0. */
  readonly driver: number;
  readonly runtime: number;
  /** Kernels run on the CPU. */
  readonly emulated: boolean;
}

export interface NativeTensorInfo {
  readonly name: string;
  /** As the file spells it: `F32`, `F16`, `BF16`, … */
  readonly dtype: string;
  readonly shape: number[];
}

/** A safetensors file held in memory until it is closed, unchanging once opened. */
export interface NativeAdapterFile {
  readonly sha256: string;
  readonly bytes: number;
  readonly tensors: NativeTensorInfo[];
  /** Frees its memory once no job uses it any more; the file is of no use afterwards. */
  close(): void;
}

/** One merged tensor: what of which members it is made of. */
export interface NativeMergedTensor {
  readonly name: string;
  /** That of every member's tensor. */
  readonly shape: number[];
  /** In the order of the members. */
  readonly terms: { readonly member: number; readonly tensor: string; readonly weight: number }[];
}

/** Prune each member's tensor, elect a sign for each entry, weight, sum. */
export interface NativeMergeRecipe {
  /** Seeds the masks of `random` pruning, with the tensor's name and the member's index. */
  readonly digest: string;
  /** `magnitude` keeps the largest share of `density`, `random` each entry with that probability. */
  readonly prune: 'none' | 'magnitude' | 'random';
  /** Divide what random pruning keeps by the density. */
  readonly rescale: boolean;
  /** At least 0; from 1 on everything is kept. */
  readonly density: number;
  /** Keep entries of the majority's sign only, and average them. */
  readonly elect?: 'total' | 'frequency';
  readonly tensors: NativeMergedTensor[];
}

/** One linear module of an adapter, as `Engine.compileAdapter` wants it. Tensor names are those of the file. */
export interface NativeModulePlan {
  readonly site: number;
  /** Index into the site's `modules`. */
  readonly module: number;
  readonly a: string;
  readonly b: string;
  /** A, or B, is stored as the blocks of its diagonal, one below the other: this many; dense when absent. */
  readonly aBlocks?: number;
  readonly bBlocks?: number;
  /** DoRA magnitude, or undefined for plain LoRA. */
  readonly magnitude?: string;
  /** Bias of B, [outFeatures]; scaled like the factors. */
  readonly loraBias?: string;
  readonly rank: number;
  readonly scaling: number;
}

/** A bias of the file in the place of the base's, for rows of the adapter. */
export interface NativeBiasPlan {
  readonly site: number;
  readonly module: number;
  /** [outFeatures]. */
  readonly tensor: string;
}

/** Everything that one adapter brings. Tensor names are those of the file. */
export interface NativeAdapterPlan extends NativeAdapterExtras {
  readonly modules: readonly NativeModulePlan[];
}

/** What an adapter brings beside the factors of linear modules. */
export interface NativeAdapterExtras {
  readonly biases: readonly NativeBiasPlan[];
  readonly copies: readonly NativeCopyPlan[];
  /** At most one of `embedding` and `embeddingRows`. */
  readonly embedding?: NativeEmbeddingPlan;
  readonly embeddingRows?: NativeRowsPlan;
  readonly headRows?: NativeRowsPlan;
  readonly norms: readonly NativeNormPlan[];
}

/** A copy of a base weight that must equal it: of the module of site `site`, or of the embedding. */
export interface NativeCopyPlan {
  readonly tensor: string;
  readonly site?: number;
}

/** LoRA on the token embedding: A [rank, vocab], B [hidden, rank]. */
export interface NativeEmbeddingPlan {
  readonly a: string;
  readonly b: string;
  /** DoRA magnitude [hidden]. */
  readonly magnitude?: string;
  readonly rank: number;
  readonly scaling: number;
}

/** Rows of embedding or head in the place of the base's: of `tokens`, one a row of the tensor, or all [vocab, hidden]. */
export interface NativeRowsPlan {
  readonly tensor: string;
  readonly tokens?: number[];
}

/** A norm's weight [hidden] in the place of the base's. */
export interface NativeNormPlan {
  /** Index into the manifest's norms. */
  readonly norm: number;
  readonly tensor: string;
}

export interface NativeEngineOptions {
  /** Directory of the prepared model. */
  readonly directory: string;
  readonly threads: number;
  readonly maxModelLen: number;
  readonly maxSequences: number;
  readonly maxBatchTokens: number;
  /** On a GPU: pages, in each of which a KV block may lie or adapters. */
  readonly kvBlocks: number;
  /** Ids at or above this are never sampled. */
  readonly tokenCount: number;
  /** `file` when absent. */
  readonly adapterDtype?: AdapterDtype;
  /** Of keys and values on a CPU, `f32` when absent; refused with `cuda`. */
  readonly kvDtype?: KvDtype;
  /** The GPU that computes, by its place in `cudaDevices()`; the CPU when absent. */
  readonly cuda?: {
    readonly device: number;
    /** Decode steps are captured as CUDA graphs; true when absent. */
    readonly graphs?: boolean;
    /** Pinned host memory for copies of adapters; none are kept when absent or 0. */
    readonly hostBytes?: number;
  };
}

export interface NativeCompiledAdapter {
  readonly handle: number;
  readonly bytes: number;
  /** On a GPU: in how many runs of neighbouring pages it has to be placed, and how long each must be, the longest first. */
  readonly runs: readonly number[];
}

export interface NativeEngine {
  /** Tokens per KV block. */
  readonly blockSize: number;
  /**
   * One forward pass on the engine's own thread. Two may be in flight: they run and settle in the order of the calls, and
   * the second may stand on tokens of the first by their slots, but share no matcher with it. A third call is refused. The
   * batch is copied: its arrays may be used again.
   */
  step(batch: StepBatch): Promise<StepOutput>;
  /**
   * Converts a checked file to a resident adapter; scans for NaN/Inf; folds DoRA. Runs on the loader's thread.
   * `planJson` is a NativeAdapterPlan as JSON: hundreds of objects cross the border faster as one text.
   * On a GPU it is in memory of the host then, and steps may name it once it has been placed.
   */
  compileAdapter(file: NativeAdapterFile, planJson: string): Promise<NativeCompiledAdapter>;
  /**
   * Brings a compiled adapter to pages of the GPU's memory, KV blocks by another name: as many as its runs add up to, those
   * of each run neighbours in ascending order. Runs on the loader's thread. ERR_NATIVE names a page that is not there or
   * another adapter's. No step in flight may use them for keys and values.
   */
  placeAdapter(handle: number, pages: Int32Array): Promise<void>;
  /**
   * Copies a resident adapter to pinned host memory, of an engine that was opened with `hostBytes`: the image's number
   * and bytes, or null when there is no room. Runs off both threads.
   */
  keepAdapter(handle: number): Promise<{ image: number; bytes: number } | null>;
  /**
   * Makes the adapter of an image resident under a handle of its own, by copies alone, in pages as of `placeAdapter` for the
   * runs that it was compiled to. Runs off both threads.
   */
  restoreAdapter(image: number, pages: Int32Array): Promise<{ handle: number; bytes: number }>;
  /** Forgets an image; its memory goes when the last load that uses it ends. */
  discardImage(image: number): void;
  /** Forgets an adapter; its memory goes when the last step that uses it ends. */
  releaseAdapter(handle: number): void;
  /**
   * Compiles a constraint, or recalls it, and opens a matcher for one sequence: its handle, for `RowSampling.constraint`.
   * Runs off both threads. ERR_VALIDATION says why nothing can match, what is not supported or which limit is exceeded;
   * ERR_TOKENIZER that the tokenizer's tokens do not stand for bytes.
   */
  openConstraint(constraint: Constraint): Promise<number>;
  /** Forgets a matcher. Not while a step's batch names it. */
  releaseConstraint(handle: number): void;
  /** Matchers that are open. */
  constraintCount(): number;
  /** Bytes of all adapters not yet freed, and how many. */
  adapterMemory(): { bytes: number; count: number };
  close(): Promise<void>;
}

/** The tokens of a text. */
export interface NativeTokenSpans {
  readonly ids: Uint32Array;
  /** The tokens as the vocabulary spells them, one after the other: one string crosses faster than many. */
  readonly tokens: string;
  /** Where each of them ends in `tokens`. */
  readonly ends: Uint32Array;
  /** Start and stop of each token in turn, in Unicode scalar values; 0 and 0 of what the tokenizer added. */
  readonly offsets: Uint32Array;
}

export interface NativeTokenizer {
  /** Runs off the event loop. */
  encode(text: string, addSpecialTokens: boolean): Promise<Uint32Array>;
  /** As `encode`, with the place of every token in the text. Runs off the event loop. */
  encodeSpans(text: string, addSpecialTokens: boolean): Promise<NativeTokenSpans>;
  decode(ids: Uint32Array, skipSpecialTokens: boolean): string;
  isSpecial(id: number): boolean;
  /** Entries including added tokens: ids are below this. */
  vocabSize(): number;
}
