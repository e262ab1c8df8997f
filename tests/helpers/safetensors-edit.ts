import { readFileSync, writeFileSync } from 'node:fs';

interface Entry {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly data_offsets: readonly [begin: number, end: number];
}

/** Header and data of a small safetensors file that is known to be good. */
function read(path: string): { header: Record<string, Entry>; data: Buffer } {
  const file = readFileSync(path);
  const length = Number(file.readBigUInt64LE());
  const header = JSON.parse(file.toString('utf8', 8, 8 + length)) as Record<string, Entry>;
  return { header, data: file.subarray(8 + length) };
}

function write(path: string, header: Record<string, Entry>, data: Buffer): void {
  const text = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  writeFileSync(path, Buffer.concat([length, text, data]));
}

/** Writes `pattern` over and over into every tensor whose name `selects`. */
export function fillTensors(path: string, selects: RegExp, pattern: Buffer): void {
  const { header, data } = read(path);
  for (const [name, { data_offsets: offsets }] of Object.entries(header)) {
    if (name !== '__metadata__' && selects.test(name)) data.fill(pattern, ...offsets);
  }
  write(path, header, data);
}

/** Adds a float32 tensor of zeros at the end of the file. */
export function addTensor(path: string, name: string, shape: readonly number[]): void {
  const { header, data } = read(path);
  const bytes = shape.reduce((product, size) => product * size, 4);
  const entry: Entry = { dtype: 'F32', shape, data_offsets: [data.length, data.length + bytes] };
  write(path, { ...header, [name]: entry }, Buffer.concat([data, Buffer.alloc(bytes)]));
}
