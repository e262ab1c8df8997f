import { isQuantised } from '../../core/model-manifest.js';
import { bitsOf, isInPanels, type LayerPlan, type LinearPlan, type ModelPlan, QUANT_BLOCK } from './model-plan.js';
import { type OnnxNode, writeOnnxModel } from './onnx-writer.js';

const CONTRIB = 'com.microsoft';
const OWN = 'loramux';

/**
 * Builds the decoder graph over packed rows. Inputs `input_ids` int64 [T] and `logits_rows` int64 [L]; output `logits`
 * [L, V] of the plan's element type. Every base matmul is followed by `loramux.SegmentedLora` (attribute `site`), then by its bias; the
 * embedding, each norm (attribute `norm`) and the head by operators for adapters that replace their weights; rotary, KV
 * pages and attention are `loramux.PagedAttention`. Only `logits_rows` reach the head.
 * @param weightsFile name of the file beside the model that holds the plan's regions.
 * @returns a serialised ONNX ModelProto.
 */
export function buildGraph(plan: ModelPlan, weightsFile: string): Uint8Array {
  return new GraphBuilder(plan).build(weightsFile);
}

/** Two tensors whose sum is the residual stream; the next norm adds them. */
interface Residual {
  readonly stream: string;
  readonly delta: string;
}

class GraphBuilder {
  readonly #plan: ModelPlan;
  readonly #nodes: OnnxNode[] = [];
  readonly #epsilon: { readonly float: number };
  #nextSite = 0;
  #nextNorm = 0;

  constructor(plan: ModelPlan) {
    this.#plan = plan;
    this.#epsilon = { float: plan.config.rmsNormEps };
  }

  build(weightsFile: string): Uint8Array {
    const { config, element, embedding, layers, finalNorm, layout } = this.#plan;
    const embedded = this.#add('Gather', 'embed', [embedding.region.name, 'input_ids'], { axis: 0 });
    const adapted = this.#own('SegmentedEmbedding', 'embed.adapted', [embedded, 'input_ids']);
    let residual: Residual = { stream: adapted, delta: '' };
    layers.forEach((layer, index) => {
      residual = this.#layer(layer, index, residual);
    });
    const { normed } = this.#norm('final_norm', residual, finalNorm.region.name);
    const selected = this.#add('Gather', 'logits_rows_of_final_norm', [normed, 'logits_rows'], { axis: 0 });
    this.#head(selected);
    return writeOnnxModel({
      name: `${config.architecture}-${this.#plan.precision}`,
      inputs: [
        { name: 'input_ids', type: 'int64', shape: ['T'] },
        { name: 'logits_rows', type: 'int64', shape: ['L'] },
      ],
      outputs: [{ name: 'logits', type: element, shape: ['L', config.vocabSize] }],
      nodes: this.#nodes,
      weights: layout.regions,
      weightsFile,
    });
  }

  #layer(layer: LayerPlan, index: number, residual: Residual): Residual {
    const { heads, kvHeads, headDim, slidingWindow } = this.#plan.config;
    const scope = `layers.${index}`;
    const attentionIn = this.#norm(`${scope}.input_norm`, residual, layer.inputNorm.region.name);
    const attended = this.#own(
      'PagedAttention',
      `${scope}.attention`,
      [this.#linear(`${scope}.qkv`, attentionIn.normed, layer.qkv)],
      {
        layer: index,
        num_heads: heads,
        kv_num_heads: kvHeads,
        head_dim: headDim,
        scale: { float: 1 / Math.sqrt(headDim) },
        local_window: slidingWindow[index] ?? -1,
      },
    );
    const attentionOut = this.#linear(`${scope}.o`, attended, layer.output);
    const mlpIn = this.#norm(
      `${scope}.post_norm`,
      { stream: attentionIn.sum, delta: attentionOut },
      layer.postNorm.region.name,
    );
    const activated = this.#own('GatedSilu', `${scope}.act`, [
      this.#linear(`${scope}.gate_up`, mlpIn.normed, layer.gateUp),
    ]);
    return { stream: mlpIn.sum, delta: this.#linear(`${scope}.down`, activated, layer.down) };
  }

  /** RMS norm of the residual stream, and the stream itself with its pending delta added. */
  #norm(name: string, { stream, delta }: Residual, gamma: string): { normed: string; sum: string } {
    const attributes = { epsilon: this.#epsilon };
    if (delta === '') {
      const normed = this.#add('SimplifiedLayerNormalization', name, [stream, gamma], { axis: -1, ...attributes });
      return { normed: this.#adaptedNorm(normed, stream), sum: stream };
    }
    const sum = `${name}.sum`;
    this.#nodes.push({
      type: 'SkipSimplifiedLayerNormalization',
      domain: CONTRIB,
      name,
      inputs: [stream, delta, gamma],
      // Outputs 1 and 2 (mean, inverse deviation) are not computed; the sum is output 3.
      outputs: [name, '', '', sum],
      attributes,
    });
    return { normed: this.#adaptedNorm(name, sum), sum };
  }

  #adaptedNorm(normed: string, x: string): string {
    const attributes = { norm: this.#nextNorm++, epsilon: this.#epsilon };
    return this.#own('SegmentedNorm', `${normed}.adapted`, [normed, x], attributes);
  }

  #linear(name: string, x: string, linear: LinearPlan): string {
    const product = this.#matmul(name, x, linear);
    const adapted = this.#own('SegmentedLora', `${name}.lora`, [product, x], { site: this.#nextSite++ });
    return linear.bias === null ? adapted : this.#add('Add', `${name}.biased`, [adapted, linear.bias.name]);
  }

  /** `x · Wᵀ`. */
  #matmul(name: string, x: string, { format, rows, cols, data, scales, mins }: LinearPlan): string {
    if (format === 'f32-panels') return this.#own('DenseMatMul', name, [x, data.name], { rows });
    if (!isQuantised(format)) return this.#gemm(name, x, data.name);
    const packed = [data, scales, mins].flatMap((region) => (region === null ? [] : [region.name]));
    const bits = bitsOf(format);
    if (isInPanels(format)) return this.#own('QuantisedMatMul', name, [x, ...packed], { bits, rows });
    // Without zero points they are 128 and 8.
    const attributes = { K: cols, N: rows, bits, block_size: QUANT_BLOCK };
    return this.#add('MatMulNBits', name, [x, ...packed], attributes, CONTRIB);
  }

  #head(x: string): void {
    const { head, embedding } = this.#plan;
    const name = 'lm_head';
    const product = head === null ? this.#gemm(name, x, embedding.region.name) : this.#matmul(name, x, head);
    const attributes = { site: this.#nextSite++, logits_rows: 1 };
    const adapted = this.#own('SegmentedLora', `${name}.lora`, [product, x], attributes);
    this.#own('SegmentedHead', 'logits', [adapted, x]);
  }

  #gemm(name: string, x: string, weight: string): string {
    return this.#add('Gemm', name, [x, weight], { transB: 1 });
  }

  #own(
    type: string,
    name: string,
    inputs: readonly string[],
    attributes: NonNullable<OnnxNode['attributes']> = {},
  ): string {
    return this.#add(type, name, inputs, attributes, OWN);
  }

  #add(
    type: string,
    name: string,
    inputs: readonly string[],
    attributes: NonNullable<OnnxNode['attributes']> = {},
    domain?: string,
  ): string {
    this.#nodes.push({ type, ...(domain === undefined ? {} : { domain }), name, inputs, outputs: [name], attributes });
    return name;
  }
}
