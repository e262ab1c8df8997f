import { isQuantised } from '../../core/model-manifest.js';
import { bitsOf, isInPanels, type LayerPlan, type LinearPlan, type ModelPlan, QUANT_BLOCK } from './model-plan.js';
import { type OnnxNode, writeOnnxModel } from './onnx-writer.js';

const CONTRIB = 'com.microsoft';
const OWN = 'loramux';

/**
 * Builds the decoder graph over packed rows. Inputs `input_ids` int64 [T] and `logits_rows` int64 [L]; output `logits`
 * [L, V] of the plan's element type. What adapters change lies in the operators of the base where these are ours (matmuls of
 * packed weights, attribute `site`; norms beside them, attribute `norm`); a GPU's graph has the runtime's matmuls and norms, each
 * followed by an operator for adapters. The base's bias is added behind the adapter's part. Rotary, KV pages and attention
 * are `loramux.PagedAttention`. Only `logits_rows` reach the head.
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
  #norm(name: string, residual: Residual, gamma: string): { normed: string; sum: string } {
    const attributes = { norm: this.#nextNorm++, epsilon: this.#epsilon };
    if (this.#plan.order === 'rows') return this.#runtimeNorm(name, residual, gamma, attributes);
    const { stream, delta } = residual;
    if (delta === '') return { normed: this.#own('ResidualNorm', name, [stream, gamma], attributes), sum: stream };
    const sum = `${name}.sum`;
    const inputs = [stream, gamma, delta];
    this.#nodes.push({ type: 'ResidualNorm', domain: OWN, name, inputs, outputs: [name, sum], attributes });
    return { normed: name, sum };
  }

  #runtimeNorm(
    name: string,
    { stream, delta }: Residual,
    gamma: string,
    attributes: NonNullable<OnnxNode['attributes']>,
  ): { normed: string; sum: string } {
    const sum = delta === '' ? stream : `${name}.sum`;
    const epsilon = this.#epsilon;
    if (delta === '') {
      this.#add('SimplifiedLayerNormalization', name, [stream, gamma], { axis: -1, epsilon });
    } else {
      this.#nodes.push({
        type: 'SkipSimplifiedLayerNormalization',
        domain: CONTRIB,
        name,
        inputs: [stream, delta, gamma],
        // Outputs 1 and 2 (mean, inverse deviation) are not computed; the sum is output 3.
        outputs: [name, '', '', sum],
        attributes: { epsilon },
      });
    }
    return { normed: this.#own('SegmentedNorm', `${name}.adapted`, [name, sum], attributes), sum };
  }

  #linear(name: string, x: string, linear: LinearPlan): string {
    const adapted = this.#product(name, x, linear);
    return linear.bias === null ? adapted : this.#add('Add', `${name}.biased`, [adapted, linear.bias.name]);
  }

  /** `x · Wᵀ` of a layer's matrix, and what adapters add. */
  #product(name: string, x: string, linear: LinearPlan): string {
    const attributes = { site: this.#nextSite++ };
    if (isInPanels(linear.format)) return this.#adaptedProduct(name, x, linear, attributes);
    return this.#own('SegmentedLora', `${name}.lora`, [this.#plainProduct(name, x, linear), x], attributes);
  }

  /** `x · Wᵀ` with W in panels, adapted in the same operator. */
  #adaptedProduct(name: string, x: string, linear: LinearPlan, adapted: Readonly<Record<string, number>>): string {
    const { format, rows, data } = linear;
    if (!isQuantised(format)) return this.#own('DenseMatMul', name, [x, data.name], { rows, ...adapted });
    return this.#own('QuantisedMatMul', name, [x, ...packed(linear)], { bits: bitsOf(format), rows, ...adapted });
  }

  /** `x · Wᵀ` with W row by row. */
  #plainProduct(name: string, x: string, linear: LinearPlan): string {
    const { format, rows, cols, data } = linear;
    if (!isQuantised(format)) return this.#gemm(name, x, data.name);
    // Without zero points they are 128 and 8.
    const attributes = { K: cols, N: rows, bits: bitsOf(format), block_size: QUANT_BLOCK };
    return this.#add('MatMulNBits', name, [x, ...packed(linear)], attributes, CONTRIB);
  }

  #head(x: string): void {
    const { head, embedding } = this.#plan;
    const site = this.#nextSite++;
    if (head !== null && isInPanels(head.format)) {
      this.#adaptedProduct('logits', x, head, { site, head: 1 });
      return;
    }
    const name = 'lm_head';
    const product = head === null ? this.#gemm(name, x, embedding.region.name) : this.#plainProduct(name, x, head);
    const adapted = this.#own('SegmentedLora', 'lm_head.lora', [product, x], { site, logits_rows: 1 });
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

/** Names of what a quantised matrix is stored as. */
function packed({ data, scales, mins }: LinearPlan): string[] {
  return [data, scales, mins].flatMap((region) => (region === null ? [] : [region.name]));
}
