import { copyFile, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { PreparedModel, WeightRef } from '../../src/core/model-manifest.js';
import { halfTable } from '../../src/model/sources/float16.js';

const BLOCK = 32;
const LANES = 16;

/**
 * A float32 model for the CPU, in `directory`, with the numbers that `quantised` (a GPU's: row by row) holds; `float` is the
 * same model in float32 panels.
 */
export async function dequantised(
  float: PreparedModel,
  quantised: PreparedModel,
  directory: string,
): Promise<PreparedModel> {
  const from = await readFile(join(quantised.directory, quantised.manifest.weights.file));
  const to = await readFile(join(float.directory, float.manifest.weights.file));
  const embedding = [quantised.manifest.embedding.weight, float.manifest.embedding.weight] as const;
  const modules = quantised.manifest.sites.flatMap((site, s) =>
    site.modules.map((module, m) => [module.weight, float.manifest.sites[s]?.modules[m]?.weight as WeightRef] as const),
  );
  for (const [held, wanted] of [embedding, ...modules]) {
    for (let row = 0; row < held.rows; row++) {
      for (let column = 0; column < held.cols; column++)
        to.writeFloatLE(valueAt(from, held, row, column), placeOf(wanted, row, column));
    }
  }
  const { graph, weights, tokenizer } = float.manifest;
  await writeFile(join(directory, weights.file), to);
  for (const { file } of [graph, tokenizer]) await copyFile(join(float.directory, file), join(directory, file));
  return { ...float, directory };
}

function valueAt(bytes: Buffer, weight: WeightRef, row: number, column: number): number {
  const { format, cols, dataOffset, scalesOffset } = weight;
  const half = (offset: number, index: number) => halfTable()[bytes.readUInt16LE(offset + 2 * index)] as number;
  const at = row * cols + column;
  if (format === 'f16') return half(dataOffset, at);
  const scale = half(scalesOffset as number, Math.floor(at / BLOCK));
  if (format === 'w8-rows') return (bytes.readUInt8(dataOffset + at) - 128) * scale;
  if (format !== 'w4-rows') throw new RangeError(`expected a GPU's format of 16 bits or fewer, got ${format}`);
  const pair = bytes.readUInt8(dataOffset + Math.floor(at / 2));
  return ((at % 2 === 0 ? pair & 15 : pair >> 4) - 8) * scale;
}

function placeOf({ format, cols, dataOffset, firstRow }: WeightRef, row: number, column: number): number {
  if (format === 'f32') return dataOffset + 4 * (row * cols + column);
  const panel = Math.floor((firstRow + row) / LANES);
  return dataOffset + 4 * ((panel * cols + column) * LANES + ((firstRow + row) % LANES));
}
