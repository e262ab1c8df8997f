import {
  type DecoderConfig,
  isQuantised,
  type LoraSite,
  type ModelManifest,
  type Precision,
  type QuantisedFormat,
  type WeightFormat,
  type WeightRef,
} from '../../core/model-manifest.js';
import { invalidModel } from '../model-errors.js';
import type { ModelSource } from '../sources/model-source.js';
import { type FloatType, type Region, WeightLayout } from './weight-layout.js';

/** Elements along the input dimension that share a scale. */
export const QUANT_BLOCK = 32;

/** Rows that are packed together: `native/src/kernels/quantised.rs`, `dense.rs`. */
export const PANEL_ROWS = 16;

/** How float32 matrices lie: in panels for our kernels on CPUs, row by row for a GPU's. */
export type MatrixOrder = 'panels' | 'rows';

/** One module's rows inside a fused matrix. */
export interface LinearPart {
  /** `model.layers.0.self_attn.q_proj` */
  readonly module: string;
  readonly firstRow: number;
  readonly rows: number;
}

/** A (fused) matrix [rows, cols] and where its parts are stored. */
export interface LinearPlan {
  readonly format: WeightFormat;
  readonly rows: number;
  readonly cols: number;
  readonly parts: readonly LinearPart[];
  /** The activations' type [rows, cols] or [panels, cols, 16], or u8 [panels, cols / 32, 64 · bits] or [rows, cols / 32, 4 · bits]. */
  readonly data: Region;
  /** Float16 bits [panels, cols / 32, 16] or [rows, cols / 32]; null where not quantised. */
  readonly scales: Region | null;
  /** As scales; null but for w4 in panels. */
  readonly mins: Region | null;
  /** The activations' type [rows]. */
  readonly bias: Region | null;
}

/** A tensor stored number by number. */
export interface PlainPlan {
  readonly tensor: string;
  readonly region: Region;
}

export interface LayerPlan {
  readonly inputNorm: PlainPlan;
  readonly qkv: LinearPlan;
  readonly output: LinearPlan;
  readonly postNorm: PlainPlan;
  readonly gateUp: LinearPlan;
  readonly down: LinearPlan;
}

/** Everything that `weights.bin` holds and the graph refers to. */
export interface ModelPlan {
  readonly config: DecoderConfig;
  readonly precision: Precision;
  readonly order: MatrixOrder;
  /** Of activations, norms, biases and logits. */
  readonly element: FloatType;
  readonly embedding: PlainPlan;
  readonly layers: readonly LayerPlan[];
  readonly finalNorm: PlainPlan;
  /** Null when the head multiplies by the embedding initializer itself (tied, row by row). */
  readonly head: LinearPlan | null;
  readonly layout: WeightLayout;
}

type BiasRule = 'required' | 'if-present' | 'never';

/** How numbers of each type are stored one by one, row by row. */
const PLAIN = { float32: 'f32', float16: 'f16', bfloat16: 'bf16' } as const;
const EMBEDDING = 'model.embed_tokens';
const HEAD = 'lm_head';

/**
 * Lays out all weights for one precision, checking that every tensor is there in its right shape and that the file
 * holds none that would go unused. Reads no weights. A matrix whose input width is no multiple of 32 is not quantised. In w4 the
 * head takes 8 bits unless the source's 4-bit quants can be kept: fitting it to 4 bits costs more than all layers together.
 * Beside quantised weights activations are float32 on a CPU, and float16 on a GPU, whose fused kernels take no other.
 * ERR_MODEL_INVALID names the tensor.
 */
export function planModel(source: ModelSource, precision: Precision, order: MatrixOrder = 'panels'): ModelPlan {
  return new Planner(source, precision, order).plan();
}

class Planner {
  readonly #source: ModelSource;
  readonly #precision: Precision;
  readonly #order: MatrixOrder;
  readonly #element: FloatType;
  readonly #layout = new WeightLayout();
  readonly #used = new Set<string>();

  constructor(source: ModelSource, precision: Precision, order: MatrixOrder) {
    this.#source = source;
    this.#precision = precision;
    this.#order = order;
    this.#element = elementOf(precision, order);
  }

  plan(): ModelPlan {
    const { config } = this.#source;
    const { hiddenSize, vocabSize } = config;
    const embedding = this.#plain(`${EMBEDDING}.weight`, [vocabSize, hiddenSize]);
    const layers = Array.from({ length: config.layers }, (_, layer) => this.#layer(layer));
    const finalNorm = this.#plain('model.norm.weight', [hiddenSize]);
    const plan: ModelPlan = {
      config,
      precision: this.#precision,
      order: this.#order,
      element: this.#element,
      embedding,
      layers,
      finalNorm,
      head: this.#head(),
      layout: this.#layout,
    };
    if (config.tieWordEmbeddings) this.#used.add(`${HEAD}.weight`);
    this.#refuseUnused();
    return plan;
  }

  #head(): LinearPlan | null {
    const { tieWordEmbeddings, hiddenSize, vocabSize } = this.#source.config;
    const module = tieWordEmbeddings ? EMBEDDING : HEAD;
    const { encoding } = this.#check(`${module}.weight`, [vocabSize, hiddenSize]);
    const isKept = encoding.name === 'Q4_0' || (encoding.name === 'Q4_1' && this.#order === 'panels');
    const format = this.#format(hiddenSize, this.#precision === 'w4' && !isKept ? 'w8' : this.#precision);
    if (tieWordEmbeddings && format === PLAIN[this.#element]) return null;
    return this.#linear(HEAD, hiddenSize, [[module, vocabSize]], 'never', format);
  }

  #layer(layer: number): LayerPlan {
    const { hiddenSize, intermediateSize, heads, kvHeads, headDim } = this.#source.config;
    const { requiredBiases } = this.#source;
    const prefix = `model.layers.${layer}`;
    const attention = `${prefix}.self_attn`;
    const mlp = `${prefix}.mlp`;
    return {
      inputNorm: this.#plain(`${prefix}.input_layernorm.weight`, [hiddenSize]),
      qkv: this.#linear(
        `${attention}.qkv_proj`,
        hiddenSize,
        [
          [`${attention}.q_proj`, heads * headDim],
          [`${attention}.k_proj`, kvHeads * headDim],
          [`${attention}.v_proj`, kvHeads * headDim],
        ],
        biasRule(requiredBiases.qkv),
      ),
      output: this.#linear(
        `${attention}.o_proj`,
        heads * headDim,
        [[`${attention}.o_proj`, hiddenSize]],
        biasRule(requiredBiases.output),
      ),
      postNorm: this.#plain(`${prefix}.post_attention_layernorm.weight`, [hiddenSize]),
      gateUp: this.#linear(
        `${mlp}.gate_up_proj`,
        hiddenSize,
        [
          [`${mlp}.gate_proj`, intermediateSize],
          [`${mlp}.up_proj`, intermediateSize],
        ],
        biasRule(requiredBiases.mlp),
      ),
      down: this.#linear(
        `${mlp}.down_proj`,
        intermediateSize,
        [[`${mlp}.down_proj`, hiddenSize]],
        biasRule(requiredBiases.mlp),
      ),
    };
  }

  #plain(tensor: string, shape: readonly number[]): PlainPlan {
    this.#check(tensor, shape);
    return { tensor, region: this.#layout.add(tensor, this.#element, shape) };
  }

  #linear(
    name: string,
    cols: number,
    modules: readonly (readonly [module: string, rows: number])[],
    bias: BiasRule,
    format = this.#format(cols),
  ): LinearPlan {
    const parts: LinearPart[] = [];
    let rows = 0;
    for (const [module, partRows] of modules) {
      this.#check(`${module}.weight`, [partRows, cols]);
      parts.push({ module, firstRow: rows, rows: partRows });
      rows += partRows;
    }
    const isBiased = ([module]: readonly [string, number]) => this.#source.tensorNames.has(`${module}.bias`);
    const hasBias = bias === 'required' || (bias === 'if-present' && modules.some(isBiased));
    if (hasBias) for (const [module, partRows] of modules) this.#check(`${module}.bias`, [partRows]);
    return { format, rows, cols, parts, ...this.#regions(name, format, rows, cols, hasBias) };
  }

  #regions(name: string, format: WeightFormat, rows: number, cols: number, hasBias: boolean) {
    const bias = hasBias ? this.#layout.add(`${name}.bias`, this.#element, [rows]) : null;
    const weight = `${name}.weight`;
    const count = Math.ceil(rows / PANEL_ROWS);
    if (!isQuantised(format)) {
      const shape = isInPanels(format) ? [count, cols, PANEL_ROWS] : [rows, cols];
      return { data: this.#layout.add(weight, this.#element, shape), scales: null, mins: null, bias };
    }
    const blocks = cols / QUANT_BLOCK;
    if (!isInPanels(format)) {
      const data = this.#layout.add(`${weight}.quants`, 'uint8', [rows, blocks, 4 * bitsOf(format)]);
      return { data, scales: this.#layout.add(`${weight}.scales`, 'float16', [rows, blocks]), mins: null, bias };
    }
    const panels = [count, blocks] as const;
    const blockBytes = 4 * bitsOf(format) * PANEL_ROWS;
    const factors = (what: string) => this.#layout.add(`${weight}.${what}`, 'uint16', [...panels, PANEL_ROWS]);
    return {
      data: this.#layout.add(`${weight}.quants`, 'uint8', [...panels, blockBytes]),
      scales: factors('scales'),
      mins: format === 'w4' ? factors('mins') : null,
      bias,
    };
  }

  #format(cols: number, wanted = this.#precision): WeightFormat {
    if ((wanted === 'w8' || wanted === 'w4') && cols % QUANT_BLOCK === 0)
      return this.#order === 'panels' ? wanted : `${wanted}-rows`;
    const format = PLAIN[this.#element];
    return format === 'f32' && this.#order === 'panels' ? 'f32-panels' : format;
  }

  #check(name: string, shape: readonly number[]) {
    this.#used.add(name);
    return this.#source.tensor(name, shape);
  }

  #refuseUnused(): void {
    const unused = [...this.#source.tensorNames].filter((name) => !this.#used.has(name));
    if (unused.length === 0) return;
    throw invalidModel(
      this.#source.path,
      `${unused.length} tensors have no place in a ${this.#source.config.architecture} decoder, first ${unused.slice(0, 3).join(', ')}: the file is for another architecture, or its configuration is wrong`,
      unused[0],
    );
  }
}

/** Of activations, and of whatever is stored number by number. */
function elementOf(precision: Precision, order: MatrixOrder): FloatType {
  if (precision === 'bf16') return 'bfloat16';
  return precision === 'f16' || (precision !== 'f32' && order === 'rows') ? 'float16' : 'float32';
}

/** Of one quantised weight. */
export function bitsOf(format: QuantisedFormat): 8 | 4 {
  return format.startsWith('w8') ? 8 : 4;
}

/** Whether rows lie in panels of 16. */
export function isInPanels(format: WeightFormat): format is 'f32-panels' | 'w8' | 'w4' {
  return format === 'f32-panels' || format === 'w8' || format === 'w4';
}

function biasRule(isRequired: boolean): BiasRule {
  return isRequired ? 'required' : 'if-present';
}

/**
 * The base matmuls that adapters add to, four a layer (qkv, o, gate_up, down) and the head. Ids are dense and in graph
 * order. A tied head is a site of its own: adapters of the head leave the embedding alone.
 */
export function loraSites(plan: ModelPlan): LoraSite[] {
  const linears = plan.layers.flatMap((layer) => [layer.qkv, layer.output, layer.gateUp, layer.down]);
  const sites = linears.map((linear, id) => siteOf(linear, id, linear.parts));
  const { hiddenSize, vocabSize } = plan.config;
  const weight = embeddingRef(plan);
  const module = { name: HEAD, outOffset: 0, outFeatures: vocabSize, weight, biasOffset: null };
  const head: LoraSite =
    plan.head === null
      ? { id: sites.length, inFeatures: hiddenSize, outFeatures: vocabSize, modules: [module] }
      : siteOf(plan.head, sites.length, [{ module: HEAD, firstRow: 0, rows: vocabSize }]);
  return [...sites, head];
}

function siteOf(linear: LinearPlan, id: number, parts: readonly LinearPart[]): LoraSite {
  return {
    id,
    inFeatures: linear.cols,
    outFeatures: linear.rows,
    modules: parts.map((part) => ({
      name: part.module,
      outOffset: part.firstRow,
      outFeatures: part.rows,
      weight: weightRef(linear, part),
      biasOffset: linear.bias === null ? null : rowOffset(linear.bias, part.firstRow),
    })),
  };
}

function weightRef({ format, cols, data, scales, mins }: LinearPlan, { firstRow, rows }: LinearPart): WeightRef {
  const inPanels = isInPanels(format);
  const begin = (region: Region) => (inPanels ? region.offset : rowOffset(region, firstRow));
  return {
    format,
    rows,
    cols,
    firstRow: inPanels ? firstRow : 0,
    dataOffset: begin(data),
    scalesOffset: scales === null ? null : begin(scales),
    minsOffset: mins === null ? null : begin(mins),
  };
}

function embeddingRef({ config, element, embedding }: ModelPlan): WeightRef {
  const { vocabSize: rows, hiddenSize: cols } = config;
  return {
    format: PLAIN[element],
    rows,
    cols,
    firstRow: 0,
    dataOffset: embedding.region.offset,
    scalesOffset: null,
    minsOffset: null,
  };
}

/** Everything that adapters change, in graph order: matmuls, embedding, norms (two a layer, then the last). */
export function adapterPlaces(plan: ModelPlan): Pick<ModelManifest, 'sites' | 'embedding' | 'norms'> {
  const norms = [...plan.layers.flatMap((layer) => [layer.inputNorm, layer.postNorm]), plan.finalNorm];
  return {
    sites: loraSites(plan),
    embedding: { name: EMBEDDING, weight: embeddingRef(plan) },
    norms: norms.map(({ tensor }) => ({ name: tensor.replace(/\.weight$/, '') })),
  };
}

/** Byte offset of one row of a region whose first axis is rows (or panels). */
export function rowOffset(region: Region, row: number): number {
  return region.offset + (region.bytes / (region.shape[0] as number)) * row;
}
