import { type FileHandle, open } from 'node:fs/promises';
import { isQuantised, type QuantisedFormat } from '../../core/model-manifest.js';
import { bitsOf, isInPanels, type LinearPlan, type ModelPlan, type PlainPlan, rowOffset } from '../graph/model-plan.js';
import type { Region } from '../graph/weight-layout.js';
import type { ModelSource } from '../sources/model-source.js';
import { readFloat32 } from '../sources/tensor.js';
import { FloatPanelPacker } from './float-panel-packer.js';
import { readFloatRows } from './float-rows.js';
import { PanelPacker } from './panel-packer.js';
import { quantiseRows } from './quantise.js';

/** Float32 bytes of one streamed piece: what bounds the memory of a conversion. */
const PIECE_BYTES = 8 * 2 ** 20;

/**
 * Streams every weight of the plan into a new file, tensor by tensor, in pieces of 8 MiB.
 * @param onBytes called with the bytes written so far.
 * ERR_MODEL_INVALID names a tensor that is cut short or not finite.
 */
export async function writeWeights(
  plan: ModelPlan,
  source: ModelSource,
  path: string,
  onBytes: (done: number) => void,
): Promise<void> {
  const handle = await open(path, 'wx');
  try {
    await handle.truncate(plan.layout.totalBytes);
    await new WeightWriter(plan, source, handle, onBytes).writeAll();
    await handle.datasync();
  } finally {
    await handle.close();
  }
}

class WeightWriter {
  #done = 0;

  constructor(
    private readonly plan: ModelPlan,
    private readonly source: ModelSource,
    private readonly handle: FileHandle,
    private readonly onBytes: (done: number) => void,
  ) {}

  async writeAll(): Promise<void> {
    const { plan } = this;
    await this.plain(plan.embedding);
    for (const layer of plan.layers) {
      await this.plain(layer.inputNorm);
      await this.linear(layer.qkv);
      await this.linear(layer.output);
      await this.plain(layer.postNorm);
      await this.linear(layer.gateUp);
      await this.linear(layer.down);
    }
    await this.plain(plan.finalNorm);
    if (plan.head !== null) await this.linear(plan.head);
  }

  private async plain({ tensor, region }: PlainPlan): Promise<void> {
    await this.floats(tensor, region, 0, region.shape);
  }

  private async linear(linear: LinearPlan): Promise<void> {
    const writePart = this.partWriter(linear);
    for (const { module, firstRow, rows } of linear.parts) {
      await writePart(`${module}.weight`, firstRow, rows);
      if (linear.bias !== null) await this.floats(`${module}.bias`, linear.bias, firstRow, [rows]);
    }
  }

  /** Writes the weights of one module after the other, whose first row is `firstRow` of the site. */
  private partWriter(linear: LinearPlan): (weight: string, firstRow: number, rows: number) => Promise<void> {
    const { format, cols } = linear;
    if (format === 'f32-panels') {
      const packer = new FloatPanelPacker(cols);
      return (weight, firstRow, rows) => this.floatPanels(weight, linear, packer, firstRow, rows);
    }
    if (!isQuantised(format))
      return (weight, firstRow, rows) => this.floats(weight, linear.data, firstRow, [rows, cols]);
    if (!isInPanels(format)) return (weight, firstRow, rows) => this.quantRows(weight, linear, format, firstRow, rows);
    const packer = new PanelPacker(format, cols);
    return (weight, firstRow, rows) => this.quantPanels(weight, linear, packer, firstRow, rows);
  }

  private async floats(name: string, region: Region, firstRow: number, shape: readonly number[]): Promise<void> {
    const tensor = this.source.tensor(name, shape);
    for (const { first, count } of pieces(tensor.rows, tensor.cols)) {
      const values = await readFloatRows(tensor, this.plan.element, first, count);
      await this.write(values, rowOffset(region, firstRow + first));
    }
  }

  private async floatPanels(
    name: string,
    linear: LinearPlan,
    packer: FloatPanelPacker,
    firstRow: number,
    rows: number,
  ): Promise<void> {
    const tensor = this.source.tensor(name, [rows, linear.cols]);
    for (const { first, count } of pieces(rows, linear.cols)) {
      const values = await readFloat32(tensor, first, count);
      const { firstPanel, data } = packer.pack(values, firstRow + first, count);
      await this.write(data, rowOffset(linear.data, firstPanel));
    }
  }

  private async quantRows(
    name: string,
    linear: LinearPlan,
    format: QuantisedFormat,
    firstRow: number,
    rows: number,
  ): Promise<void> {
    const tensor = this.source.tensor(name, [rows, linear.cols]);
    for (const { first, count } of pieces(rows, linear.cols)) {
      const { quants, scales } = await quantiseRows(tensor, format, first, count);
      const row = firstRow + first;
      await this.write(bitsOf(format) === 8 ? quants : pairNibbles(quants), rowOffset(linear.data, row));
      if (linear.scales !== null) await this.write(scales, rowOffset(linear.scales, row));
    }
  }

  private async quantPanels(
    name: string,
    linear: LinearPlan,
    packer: PanelPacker,
    firstRow: number,
    rows: number,
  ): Promise<void> {
    const tensor = this.source.tensor(name, [rows, linear.cols]);
    for (const { first, count } of pieces(rows, linear.cols)) {
      const quantised = await quantiseRows(tensor, packer.format, first, count);
      const { firstPanel, data, scales, mins } = packer.pack(quantised, firstRow + first, count);
      await this.write(data, rowOffset(linear.data, firstPanel));
      if (linear.scales !== null) await this.write(scales, rowOffset(linear.scales, firstPanel));
      if (linear.mins !== null) await this.write(mins, rowOffset(linear.mins, firstPanel));
    }
  }

  private async write(values: Float32Array | Uint8Array | Uint16Array, position: number): Promise<void> {
    const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    let written = 0;
    while (written < bytes.length) {
      const result = await this.handle.write(bytes, written, bytes.length - written, position + written);
      written += result.bytesWritten;
    }
    this.#done += bytes.length;
    this.onBytes(this.#done);
  }
}

/** Two quants below 16 in a byte, the first in its low half. */
function pairNibbles(quants: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(quants.length / 2);
  for (let i = 0; i < bytes.length; i++) bytes[i] = (quants[2 * i] as number) | ((quants[2 * i + 1] as number) << 4);
  return bytes;
}

/** Cuts `rows` into runs of about PIECE_BYTES of float32, at least one row each. */
function* pieces(rows: number, cols: number): Generator<{ first: number; count: number }> {
  const step = Math.max(1, Math.floor(PIECE_BYTES / (4 * cols)));
  for (let first = 0; first < rows; first += step) yield { first, count: Math.min(step, rows - first) };
}
