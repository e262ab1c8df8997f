import { invalidModel, unsupportedModel } from '../model-errors.js';
import { ENCODINGS, type Encoding } from './encodings.js';
import { GgufCursor, type GgufValue, NeedMoreBytes } from './gguf-cursor.js';
import { RandomAccessFile } from './random-access-file.js';
import type { TensorLocation } from './tensor.js';

/** One row of the tensor table: row-major shape ([out, in]) and the absolute byte range. */
export interface GgufTensor {
  readonly name: string;
  readonly shape: readonly number[];
  /** Undefined for a ggml type that is not supported; refused only when the tensor is asked for. */
  readonly encoding: Encoding | undefined;
  readonly ggmlType: number;
  readonly offset: number;
}

export interface GgufHeader {
  readonly version: number;
  readonly metadata: ReadonlyMap<string, GgufValue>;
  readonly tensors: ReadonlyMap<string, GgufTensor>;
}

/** An open GGUF file. Owns the file handle until `close`. */
export interface GgufFile extends GgufHeader {
  readonly file: RandomAccessFile;
  locate(name: string): TensorLocation | undefined;
  close(): Promise<void>;
}

const MAGIC = 0x46554747;
const FIRST_WINDOW = 4 * 2 ** 20;
const LARGEST_HEADER = 2 ** 30;
const MOST_KEYS = 2 ** 16;
const MOST_TENSORS = 2 ** 20;
const MOST_DIMENSIONS = 4;
const LARGEST_ALIGNMENT = 2 ** 20;

const BY_GGML_TYPE: ReadonlyMap<number, Encoding> = new Map([
  [0, ENCODINGS.F32],
  [1, ENCODINGS.F16],
  [2, ENCODINGS.Q4_0],
  [3, ENCODINGS.Q4_1],
  [8, ENCODINGS.Q8_0],
  [30, ENCODINGS.BF16],
]);

/** Names of ggml types for messages; the ones we cannot read included. */
const GGML_TYPE_NAMES: Readonly<Record<number, string>> = {
  6: 'Q5_0',
  7: 'Q5_1',
  10: 'Q2_K',
  11: 'Q3_K',
  12: 'Q4_K',
  13: 'Q5_K',
  14: 'Q6_K',
  20: 'IQ4_NL',
  39: 'MXFP4',
};

/** Opens a GGUF file and checks its header. ERR_MODEL_NOT_FOUND, ERR_MODEL_INVALID, ERR_MODEL_UNSUPPORTED. */
export async function openGguf(path: string): Promise<GgufFile> {
  const file = await RandomAccessFile.open(path);
  try {
    const header = await readHeader(file);
    return {
      ...header,
      file,
      close: () => file.close(),
      locate(name) {
        const tensor = header.tensors.get(name);
        if (tensor === undefined) return undefined;
        if (tensor.encoding === undefined) {
          const type = GGML_TYPE_NAMES[tensor.ggmlType] ?? `ggml type ${tensor.ggmlType}`;
          throw unsupportedModel(path, `the type of tensor ${name}`, type, Object.keys(ENCODINGS).join(', '));
        }
        return { name, shape: tensor.shape, encoding: tensor.encoding, offset: tensor.offset, file };
      },
    };
  } catch (error) {
    await file.close();
    throw error;
  }
}

async function readHeader(file: RandomAccessFile): Promise<GgufHeader> {
  for (let window = FIRST_WINDOW; ; window *= 4) {
    const bytes = await file.read(0, Math.min(window, file.size, LARGEST_HEADER), 'the header');
    try {
      return parseGgufHeader(bytes, file.size, file.path);
    } catch (error) {
      if (!(error instanceof NeedMoreBytes)) throw error;
      if (bytes.length === LARGEST_HEADER)
        throw invalidModel(file.path, `expected at most ${LARGEST_HEADER} bytes of metadata, found more`);
    }
  }
}

/**
 * Parses magic, metadata and tensor table out of the first bytes of a file of `fileSize` bytes. Every count and length
 * is checked against `fileSize` before it is used; throws NeedMoreBytes when `bytes` is too short a window.
 */
export function parseGgufHeader(bytes: Uint8Array, fileSize: number, path: string): GgufHeader {
  const cursor = new GgufCursor(bytes, fileSize, path);
  const magic = cursor.u32('the magic');
  if (magic !== MAGIC) throw invalidModel(path, 'expected a GGUF file, but it does not begin with "GGUF"');
  const version = cursor.u32('the version');
  if (version !== 2 && version !== 3)
    throw unsupportedModel(path, 'the GGUF version', String(version), '2 and 3 (little-endian)');
  const tensorCount = cursor.count('the tensor count', MOST_TENSORS);
  const keyCount = cursor.count('the key count', MOST_KEYS);

  const metadata = new Map<string, GgufValue>();
  for (let i = 0; i < keyCount; i++) {
    const key = cursor.string(`key ${i}`);
    if (metadata.has(key)) throw invalidModel(path, `key ${key} appears twice`, key);
    metadata.set(key, cursor.value(`key ${key}`));
  }
  const rows: { name: string; shape: number[]; type: number; offset: number }[] = [];
  for (let i = 0; i < tensorCount; i++) {
    const name = cursor.string(`the name of tensor ${i}`);
    const dimensions = cursor.u32(`tensor ${name}`);
    if (dimensions < 1 || dimensions > MOST_DIMENSIONS)
      throw invalidModel(
        path,
        `tensor ${name}: expected 1 to ${MOST_DIMENSIONS} dimensions, found ${dimensions}`,
        name,
      );
    const shape: number[] = [];
    for (let axis = 0; axis < dimensions; axis++) shape.unshift(cursor.count(`tensor ${name}, dimension ${axis}`));
    const type = cursor.u32(`tensor ${name}, type`);
    rows.push({ name, shape, type, offset: cursor.count(`tensor ${name}, offset`) });
  }

  const alignment = readAlignment(metadata, path);
  const dataStart = Math.ceil(cursor.position / alignment) * alignment;
  const tensors = new Map<string, GgufTensor>();
  for (const { name, shape, type, offset } of rows) {
    if (tensors.has(name)) throw invalidModel(path, `tensor ${name} appears twice`, name);
    if (offset % alignment !== 0)
      throw invalidModel(
        path,
        `tensor ${name}: expected an offset of a multiple of ${alignment}, found ${offset}`,
        name,
      );
    const encoding = BY_GGML_TYPE.get(type);
    const start = dataStart + offset;
    const end = start + (encoding === undefined ? 0 : byteLength(shape, encoding, name, path));
    if (!Number.isSafeInteger(end) || end > fileSize) {
      throw invalidModel(
        path,
        `tensor ${name}: its data lies at bytes ${start} to ${end}, but the file ends at ${fileSize}: it was cut short or is damaged, fetch it again`,
        name,
      );
    }
    tensors.set(name, { name, shape, encoding, ggmlType: type, offset: start });
  }
  return { version, metadata, tensors };
}

function byteLength(shape: readonly number[], encoding: Encoding, name: string, path: string): number {
  const elements = shape.reduce((product, size) => product * size, 1);
  const rowElements = shape.at(-1) ?? 1;
  if (!Number.isSafeInteger(elements) || rowElements % encoding.blockElements !== 0) {
    throw invalidModel(
      path,
      `tensor ${name}: shape [${shape}] does not fit ${encoding.name}, whose rows are whole blocks of ${encoding.blockElements}`,
      name,
    );
  }
  return (elements / encoding.blockElements) * encoding.blockBytes;
}

function readAlignment(metadata: ReadonlyMap<string, GgufValue>, path: string): number {
  const alignment = metadata.get('general.alignment') ?? 32;
  if (typeof alignment !== 'number' || !Number.isInteger(alignment) || alignment < 1 || alignment > LARGEST_ALIGNMENT)
    throw invalidModel(
      path,
      `general.alignment: expected 1 to ${LARGEST_ALIGNMENT}, found ${alignment}`,
      'general.alignment',
    );
  return alignment;
}
