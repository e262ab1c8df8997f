import { invalidModel, unsupportedModel } from '../model-errors.js';
import { ENCODINGS, type Encoding } from './encodings.js';
import { isRecord } from './json-file.js';
import { RandomAccessFile } from './random-access-file.js';
import type { TensorLocation } from './tensor.js';

/** One entry of a safetensors header; offsets are absolute. */
export interface SafetensorsEntry {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly begin: number;
  readonly end: number;
}

/** An open safetensors file. Owns the file handle until `close`. */
export interface SafetensorsFile {
  readonly names: ReadonlySet<string>;
  /** ERR_MODEL_UNSUPPORTED for a dtype that is not read. */
  locate(name: string): TensorLocation | undefined;
  close(): Promise<void>;
}

const LENGTH_BYTES = 8;
/** The reference implementation's own limit. */
const LARGEST_HEADER = 100_000_000;

/** Bytes per element of every dtype that the format knows, so that unused tensors are checked too. */
const ELEMENT_BYTES: Readonly<Record<string, number>> = {
  BOOL: 1,
  U8: 1,
  I8: 1,
  F8_E4M3: 1,
  F8_E5M2: 1,
  U16: 2,
  I16: 2,
  F16: 2,
  BF16: 2,
  U32: 4,
  I32: 4,
  F32: 4,
  U64: 8,
  I64: 8,
  F64: 8,
};
const READABLE: Readonly<Record<string, Encoding>> = { F32: ENCODINGS.F32, F16: ENCODINGS.F16, BF16: ENCODINGS.BF16 };

/** Opens a safetensors file and checks its header; tensor data is not read. ERR_MODEL_NOT_FOUND, ERR_MODEL_INVALID. */
export async function openSafetensors(path: string): Promise<SafetensorsFile> {
  const file = await RandomAccessFile.open(path);
  try {
    const entries = await readEntries(file);
    return {
      names: new Set(entries.keys()),
      close: () => file.close(),
      locate(name) {
        const entry = entries.get(name);
        if (entry === undefined) return undefined;
        const encoding = READABLE[entry.dtype];
        if (encoding === undefined)
          throw unsupportedModel(path, `the dtype of tensor ${name}`, entry.dtype, Object.keys(READABLE).join(', '));
        return { name, shape: entry.shape, encoding, offset: entry.begin, file };
      },
    };
  } catch (error) {
    await file.close();
    throw error;
  }
}

async function readEntries(file: RandomAccessFile): Promise<Map<string, SafetensorsEntry>> {
  const prefix = await file.read(0, LENGTH_BYTES, 'the header length');
  const length = Number(new DataView(prefix.buffer).getBigUint64(0, true));
  if (length > LARGEST_HEADER)
    throw invalidModel(
      file.path,
      `header length: expected at most ${LARGEST_HEADER} bytes, found ${length}: not a safetensors file, or damaged`,
    );
  const header = await file.read(LENGTH_BYTES, length, 'the header');
  return parseSafetensorsHeader(header, LENGTH_BYTES + length, file.size, file.path);
}

/**
 * Parses and checks a header: shapes, byte counts equal to shape × dtype, and ranges that tile the data without gap or
 * overlap up to the end of the file.
 * @param dataStart absolute offset of the first tensor byte.
 */
export function parseSafetensorsHeader(
  header: Uint8Array,
  dataStart: number,
  fileSize: number,
  path: string,
): Map<string, SafetensorsEntry> {
  let parsed: unknown;
  try {
    parsed = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(header));
  } catch {
    throw invalidModel(path, 'expected a JSON header, found other bytes: the file is damaged');
  }
  if (!isRecord(parsed)) throw invalidModel(path, 'expected the header to be a JSON object');
  const entries = new Map<string, SafetensorsEntry>();
  for (const [name, value] of Object.entries(parsed)) {
    if (name !== '__metadata__') entries.set(name, parseEntry(name, value, dataStart, path));
  }
  let end = dataStart;
  for (const [name, entry] of [...entries].sort(([, a], [, b]) => a.begin - b.begin || a.end - b.end)) {
    if (entry.begin !== end)
      throw invalidModel(path, `tensor ${name}: expected its data to begin at byte ${end}, found ${entry.begin}`, name);
    end = entry.end;
    if (end > fileSize)
      throw invalidModel(
        path,
        `tensor ${name}: its data ends at byte ${end}, but the file at ${fileSize}: it was cut short, fetch it again`,
        name,
      );
  }
  if (end !== fileSize)
    throw invalidModel(path, `expected the file to end with the last tensor at byte ${end}, found ${fileSize} bytes`);
  return entries;
}

function parseEntry(name: string, value: unknown, dataStart: number, path: string): SafetensorsEntry {
  const { dtype, shape, data_offsets: offsets } = isRecord(value) ? value : {};
  const elementBytes =
    typeof dtype === 'string' && Object.hasOwn(ELEMENT_BYTES, dtype) ? ELEMENT_BYTES[dtype] : undefined;
  if (typeof dtype !== 'string' || elementBytes === undefined)
    throw invalidModel(
      path,
      `tensor ${name}: expected a dtype of ${Object.keys(ELEMENT_BYTES).join(', ')}, found ${JSON.stringify(dtype)}`,
      name,
    );
  if (!isCounts(shape) || !isCounts(offsets) || offsets.length !== 2)
    throw invalidModel(path, `tensor ${name}: expected a shape and two data_offsets, all integers from 0`, name);
  const [begin = 0, end = 0] = offsets;
  const bytes = shape.reduce((product, size) => product * size, elementBytes);
  if (end - begin !== bytes)
    throw invalidModel(
      path,
      `tensor ${name}: expected ${bytes} bytes for ${dtype} [${shape}], found a range of ${end - begin}`,
      name,
    );
  return { dtype, shape, begin: dataStart + begin, end: dataStart + end };
}

function isCounts(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((entry) => Number.isSafeInteger(entry) && entry >= 0);
}
