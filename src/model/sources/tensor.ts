import { invalidModel } from '../model-errors.js';
import type { Encoding } from './encodings.js';
import type { RandomAccessFile } from './random-access-file.js';

/** Where a tensor's bytes lie; the range was checked against the file when the table was read. */
export interface TensorLocation {
  /** Name inside the file. */
  readonly name: string;
  readonly shape: readonly number[];
  readonly encoding: Encoding;
  readonly offset: number;
  readonly file: RandomAccessFile;
}

/** A stored matrix [rows, cols], read by rows so that memory stays bounded. A vector [n] is the matrix [n, 1]. */
export interface TensorRows {
  readonly name: string;
  readonly file: string;
  readonly encoding: Encoding;
  readonly rows: number;
  readonly cols: number;
  /** Encoded bytes of rows first … first + count, in the order of the Hugging Face layout. */
  readRows(first: number, count: number): Promise<Uint8Array<ArrayBuffer>>;
}

/** Opens a vector or matrix for reading by rows; `shape` is what the decoder's configuration asks for. */
export function tensorRows(at: TensorLocation, shape: readonly number[], displayName = at.name): TensorRows {
  if (at.shape.length !== shape.length || at.shape.some((size, axis) => size !== shape[axis])) {
    throw invalidModel(
      at.file.path,
      `tensor ${at.name}: expected shape [${shape}] from the configuration, found [${at.shape}]`,
      at.name,
    );
  }
  const [rows = 1, cols = 1] = shape;
  if (cols % at.encoding.blockElements !== 0) {
    throw invalidModel(
      at.file.path,
      `tensor ${at.name}: ${at.encoding.name} needs rows of a multiple of ${at.encoding.blockElements} elements, found ${cols}`,
      at.name,
    );
  }
  const rowBytes = (cols / at.encoding.blockElements) * at.encoding.blockBytes;
  return {
    name: displayName,
    file: at.file.path,
    encoding: at.encoding,
    rows,
    cols,
    readRows: (first, count) => at.file.read(at.offset + first * rowBytes, count * rowBytes, `tensor ${at.name}`),
  };
}

/** Decodes rows to float32 [count, cols]; a NaN or infinity is ERR_MODEL_INVALID naming tensor, row and column. */
export async function readFloat32(
  tensor: TensorRows,
  first: number,
  count: number,
): Promise<Float32Array<ArrayBuffer>> {
  const bytes = await tensor.readRows(first, count);
  const out = new Float32Array(count * tensor.cols);
  tensor.encoding.decode(bytes, out);
  for (let i = 0; i < out.length; i++) {
    const value = out[i] as number;
    // NOTE: x − x is 0 for every finite x and NaN for the rest; faster than Number.isFinite over 10^8 weights.
    if (value - value !== 0) {
      const found = `found ${value} ${placeOf(tensor, first, i)}: the file is damaged or was badly converted`;
      throw invalidModel(tensor.file, `tensor ${tensor.name}: expected finite weights, ${found}`, tensor.name);
    }
  }
  return out;
}

/** Element `index` of the rows from `first` on, for messages. */
export function placeOf({ cols }: TensorRows, first: number, index: number): string {
  return `at row ${first + Math.floor(index / cols)}, column ${index % cols}`;
}
