import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import type { HostTierBackend } from '../../../src/adapters/host-tier.js';
import type { AdapterBackend } from '../../../src/adapters/loader.js';
import type { BaseModel } from '../../../src/adapters/plan.js';
import { type ErrorCode, LoramuxError } from '../../../src/core/errors.js';
import type { LoraSite, WeightRef } from '../../../src/core/model-manifest.js';
import { packageRoot } from '../../../src/engine/addon.js';
import type {
  NativeAdapterFile,
  NativeAdapterPlan,
  NativeCompiledAdapter,
  NativeMergeRecipe,
  NativeTensorInfo,
} from '../../../src/engine/binding.js';

export const DEMO_ADAPTERS = join(packageRoot(), 'examples', 'adapters');

function site(id: number, inFeatures: number, prefix: string, widths: Record<string, number>): LoraSite {
  let outOffset = 0;
  const modules = Object.entries(widths).map(([name, outFeatures]) => {
    const weight: WeightRef = {
      format: 'f32',
      rows: outFeatures,
      cols: inFeatures,
      firstRow: 0,
      dataOffset: 0,
      scalesOffset: null,
      minsOffset: null,
    };
    const module = {
      name: prefix === '' ? name : `${prefix}.${name}`,
      outOffset,
      outFeatures,
      weight,
      biasOffset: null,
    };
    outOffset += outFeatures;
    return module;
  });
  return { id, inFeatures, outFeatures: outOffset, modules };
}

/** Embedding, norms and, behind the others, the head's site of a tied base. */
function places(sites: LoraSite[], layers: number, vocab: number, hidden: number): Omit<BaseModel, 'modelId'> {
  const weight: WeightRef = {
    format: 'f32',
    rows: vocab,
    cols: hidden,
    firstRow: 0,
    dataOffset: 0,
    scalesOffset: null,
    minsOffset: null,
  };
  const head = site(sites.length, hidden, '', { lm_head: vocab });
  const ofLayer = (layer: number): string[] =>
    ['input_layernorm', 'post_attention_layernorm'].map((norm) => `model.layers.${layer}.${norm}`);
  const norms = [...Array.from({ length: layers }, (_, layer) => ofLayer(layer)).flat(), 'model.norm'];
  return {
    sites: [...sites, head],
    embedding: { name: 'model.embed_tokens', weight },
    norms: norms.map((name) => ({ name })),
    config: { architecture: 'llama', tieWordEmbeddings: true },
  };
}

/** The LoRA sites of SmolLM2-135M: 30 layers, hidden 576, intermediate 1536, 9 heads and 3 KV heads of 64. */
export function smolLm2(): BaseModel {
  const sites: LoraSite[] = [];
  for (let layer = 0; layer < 30; layer += 1) {
    const attention = `model.layers.${layer}.self_attn`;
    const mlp = `model.layers.${layer}.mlp`;
    sites.push(site(sites.length, 576, attention, { q_proj: 576, k_proj: 192, v_proj: 192 }));
    sites.push(site(sites.length, 576, attention, { o_proj: 576 }));
    sites.push(site(sites.length, 576, mlp, { gate_proj: 1536, up_proj: 1536 }));
    sites.push(site(sites.length, 1536, mlp, { down_proj: 576 }));
  }
  return { modelId: 'HuggingFaceTB/SmolLM2-135M-Instruct', ...places(sites, 30, 49_152, 576) };
}

/** Two layers of one q and one v projection, 32 → 32, with a tied vocabulary of 40: one rank costs `RANK_BYTES` in each adapter of `writeAdapter`. */
export function tinyBase(): BaseModel {
  const sites = [0, 1].map((layer) => site(layer, 32, `model.layers.${layer}.self_attn`, { q_proj: 32, v_proj: 32 }));
  return { modelId: 'tiny', ...places(sites, 2, 40, 32) };
}

/** Bytes of one rank of one module of `tinyBase` in float32. */
export const RANK_BYTES = (32 + 32) * 4 + 4;

interface HeaderEntry {
  readonly dtype: string;
  readonly shape: number[];
}

/** Tensor infos from the header of a safetensors file that is known to be good. */
export function tensorsOf(file: Uint8Array): NativeTensorInfo[] {
  const length = Number(new DataView(file.buffer, file.byteOffset).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(file.subarray(8, 8 + length))) as Record<string, HeaderEntry>;
  return Object.entries(header)
    .filter(([name]) => name !== '__metadata__')
    .map(([name, { dtype, shape }]) => ({ name, dtype, shape }));
}

/** A directory that goes away with the test. */
export async function temporaryDirectory(t: TestContext): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'loramux-adapters-'));
  t.after(() => rm(directory, { recursive: true, force: true }));
  return directory;
}

/** Writes an adapter of `rank` on layer 0's q_proj of `tinyBase`; `fill` decides its content and so its digest. */
export async function writeAdapter(
  directory: string,
  options: { rank?: number; fill?: number; config?: object } = {},
): Promise<void> {
  const { rank = 1, fill = 0, config = {} } = options;
  const prefix = 'base_model.model.model.layers.0.self_attn.q_proj';
  const size = rank * 32 * 4;
  const header = JSON.stringify({
    [`${prefix}.lora_A.weight`]: { dtype: 'F32', shape: [rank, 32], data_offsets: [0, size] },
    [`${prefix}.lora_B.weight`]: { dtype: 'F32', shape: [32, rank], data_offsets: [size, 2 * size] },
  });
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(header.length));
  await mkdir(directory, { recursive: true });
  await writeFile(
    join(directory, 'adapter_model.safetensors'),
    Buffer.concat([length, Buffer.from(header), Buffer.alloc(2 * size, fill)]),
  );
  const settings = {
    peft_type: 'LORA',
    r: rank,
    lora_alpha: 2 * rank,
    target_modules: ['model.layers.0.self_attn.q_proj'],
    ...config,
  };
  await writeFile(join(directory, 'adapter_config.json'), JSON.stringify(settings));
}

/** Python-like full matches by JavaScript's engine, with the refusals of the native one. */
export async function firstMatches(patterns: string[], names: string[]): Promise<Int32Array> {
  for (const pattern of patterns) {
    if (/\(\?<?[=!]|\\[1-9]/.test(pattern)) {
      throw Object.assign(new Error(`pattern ${pattern} uses look-around or a back-reference`), {
        code: 'ERR_ADAPTER_INVALID',
      });
    }
  }
  const compiled = patterns.map((pattern) => new RegExp(`^(?:${pattern})$`));
  return Int32Array.from(names, (name) => compiled.findIndex((pattern) => pattern.test(name)));
}

/** A native side that reads real files and counts what it holds. Hooks let tests delay or break each stage. */
export class ScriptedBackend implements AdapterBackend, HostTierBackend {
  /** Content hash and size of each adapter not yet released. */
  readonly held = new Map<number, { sha256: string; bytes: number }>();
  readonly compiledPaths: string[] = [];
  readonly merges: NativeMergeRecipe[] = [];
  opened = 0;
  /** Copies on the host, and how many bytes of them there is memory for. */
  readonly images = new Map<number, { sha256: string; bytes: number }>();
  hostRoom = Number.POSITIVE_INFINITY;
  onKeep: () => Promise<void> = async () => undefined;
  onOpen: (path: string) => Promise<void> = async () => undefined;
  onCompile: (path: string) => Promise<void> = async () => undefined;
  onPlace: (handle: number) => Promise<void> = async () => undefined;
  /** Pages of a device that adapters lie in, by handle. */
  readonly placed = new Map<number, number[]>();
  /** What an adapter of so many bytes needs of them. */
  runsOf: (bytes: number) => number[] = () => [];
  /** Bytes that an adapter takes beyond its plan. */
  overhead = 0;
  readonly #paths = new Map<NativeAdapterFile, string>();
  readonly #compiling = new Set<string>();
  #nextHandle = 1;
  #nextImage = 1;

  readonly firstMatches = firstMatches;

  async openAdapterFile(path: string): Promise<NativeAdapterFile> {
    this.opened += 1;
    await this.onOpen(path);
    const content = await readFile(path);
    const sha256 = createHash('sha256').update(content).digest('hex');
    const file = { sha256, bytes: content.byteLength, tensors: tensorsOf(content), close: () => undefined };
    this.#paths.set(file, path);
    return file;
  }

  async mergeAdapterFiles(files: NativeAdapterFile[], recipe: NativeMergeRecipe): Promise<NativeAdapterFile> {
    this.merges.push(recipe);
    const content = JSON.stringify([files.map(({ sha256 }) => sha256), recipe]);
    const tensors = recipe.tensors.map(({ name, shape }) => ({ name, dtype: 'F32', shape }));
    return {
      sha256: createHash('sha256').update(content).digest('hex'),
      bytes: content.length,
      tensors,
      close: () => undefined,
    };
  }

  async compileAdapter(file: NativeAdapterFile, planJson: string): Promise<NativeCompiledAdapter> {
    const path = this.#paths.get(file) ?? '';
    if (this.#compiling.has(path)) throw new Error(`two loads of ${path} at a time`);
    this.#compiling.add(path);
    try {
      await this.onCompile(path);
    } finally {
      this.#compiling.delete(path);
    }
    this.compiledPaths.push(path);
    const { modules } = JSON.parse(planJson) as NativeAdapterPlan;
    const ranks = modules.reduce((sum, module) => sum + module.rank, 0);
    const bytes = ranks * RANK_BYTES + this.overhead;
    const handle = this.#nextHandle++;
    this.held.set(handle, { sha256: file.sha256, bytes });
    return { handle, bytes, runs: this.runsOf(bytes) };
  }

  async placeAdapter(handle: number, pages: Int32Array): Promise<void> {
    if (!this.held.has(handle)) throw new Error(`handle ${handle} was placed, yet is not held`);
    await this.onPlace(handle);
    this.#lay(handle, pages);
  }

  #lay(handle: number, pages: Int32Array): void {
    for (const page of pages) {
      const other = [...this.placed].find(([, taken]) => taken.includes(page));
      if (other !== undefined) throw new Error(`page ${page} of handle ${other[0]} is given to handle ${handle}`);
    }
    this.placed.set(handle, [...pages]);
  }

  releaseAdapter(handle: number): void {
    if (!this.held.delete(handle)) throw new Error(`handle ${handle} was released twice`);
    this.placed.delete(handle);
  }

  async keepAdapter(handle: number): Promise<{ image: number; bytes: number } | null> {
    const adapter = this.held.get(handle);
    if (adapter === undefined) throw new Error(`handle ${handle} is not held`);
    let used = adapter.bytes;
    for (const { bytes } of this.images.values()) used += bytes;
    if (used > this.hostRoom) return null;
    const image = this.#nextImage++;
    this.images.set(image, adapter);
    await this.onKeep();
    return { image, bytes: adapter.bytes };
  }

  async restoreAdapter(image: number, pages: Int32Array): Promise<{ handle: number; bytes: number }> {
    const adapter = this.images.get(image);
    if (adapter === undefined) throw new Error(`image ${image} was discarded`);
    const handle = this.#nextHandle++;
    await this.onPlace(handle);
    this.#lay(handle, pages);
    this.held.set(handle, adapter);
    return { handle, bytes: adapter.bytes };
  }

  discardImage(image: number): void {
    if (!this.images.delete(image)) throw new Error(`image ${image} was discarded twice`);
  }

  get heldBytes(): number {
    let bytes = 0;
    for (const adapter of this.held.values()) bytes += adapter.bytes;
    return bytes;
  }
}

/** For `assert.rejects` and `assert.throws`: a LoramuxError with this code whose message matches. */
export function coded(code: ErrorCode, message = /./): (thrown: unknown) => boolean {
  return (thrown) => thrown instanceof LoramuxError && thrown.code === code && message.test(thrown.message);
}

/** Lets pending I/O and microtasks run. */
export async function turns(count: number): Promise<void> {
  for (let turn = 0; turn < count; turn += 1) await new Promise((resolve) => setImmediate(resolve));
}

/** Waits until `condition` holds, a bounded while. */
export async function until(condition: () => boolean): Promise<void> {
  const end = performance.now() + 5_000;
  while (!condition()) {
    if (performance.now() > end) throw new Error(`still not so after 5 s: ${condition}`);
    await turns(1);
  }
}
