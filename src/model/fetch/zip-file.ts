import { createReadStream } from 'node:fs';
import { Readable } from 'node:stream';
import { createInflateRaw } from 'node:zlib';
import { invalidModel } from '../model-errors.js';
import { RandomAccessFile } from '../sources/random-access-file.js';

/** One file of a zip archive. */
export interface ZipEntry {
  readonly name: string;
  /** Unpacked size in bytes, as the directory states it. */
  readonly bytes: number;
  /** The unpacked bytes; the caller limits how many it takes. */
  open(): Promise<Readable>;
}

const END_SIGNATURE = 0x06054b50;
const ENTRY_SIGNATURE = 0x02014b50;
const LOCAL_SIGNATURE = 0x04034b50;
const END_BYTES = 22;
const ENTRY_BYTES = 46;
const LOCAL_BYTES = 30;
const LONGEST_COMMENT = 0xffff;
const LARGEST_DIRECTORY = 16 * 2 ** 20;
const STORED = 0;
const DEFLATED = 8;

/** Lists a zip archive (no zip64, no encryption) through its central directory. ERR_MODEL_INVALID when damaged. */
export async function readZip(path: string): Promise<ZipEntry[]> {
  const file = await RandomAccessFile.open(path);
  try {
    const { directory, entries } = await readDirectory(file);
    return parseDirectory(directory, entries, path);
  } finally {
    await file.close();
  }
}

async function readDirectory(file: RandomAccessFile): Promise<{ directory: DataView; entries: number }> {
  const tailBytes = Math.min(file.size, END_BYTES + LONGEST_COMMENT);
  const tail = view(await file.read(file.size - tailBytes, tailBytes, 'the end record'));
  let at = tailBytes - END_BYTES;
  while (at >= 0 && tail.getUint32(at, true) !== END_SIGNATURE) at--;
  if (at < 0)
    throw invalidModel(file.path, 'expected a zip archive, found no end record: it was cut short, fetch it again');
  const size = tail.getUint32(at + 12, true);
  if (size > LARGEST_DIRECTORY)
    throw invalidModel(file.path, `expected a zip directory below ${LARGEST_DIRECTORY} bytes, found ${size}`);
  const directory = view(await file.read(tail.getUint32(at + 16, true), size, 'the zip directory'));
  return { directory, entries: tail.getUint16(at + 10, true) };
}

function parseDirectory(directory: DataView, count: number, path: string): ZipEntry[] {
  const entries: ZipEntry[] = [];
  let at = 0;
  for (let i = 0; i < count; i++) {
    if (at + ENTRY_BYTES > directory.byteLength || directory.getUint32(at, true) !== ENTRY_SIGNATURE)
      throw invalidModel(path, `expected zip entry ${i} of ${count}, found other bytes: the archive is damaged`);
    const nameBytes = directory.getUint16(at + 28, true);
    const next = at + ENTRY_BYTES + nameBytes + directory.getUint16(at + 30, true) + directory.getUint16(at + 32, true);
    if (next > directory.byteLength)
      throw invalidModel(path, `zip entry ${i} runs past the directory: the archive is damaged`);
    const name = Buffer.from(directory.buffer, directory.byteOffset + at + ENTRY_BYTES, nameBytes).toString('utf8');
    const method = directory.getUint16(at + 10, true);
    const packed = directory.getUint32(at + 20, true);
    const header = directory.getUint32(at + 42, true);
    entries.push({
      name,
      bytes: directory.getUint32(at + 24, true),
      open: () => openEntry(path, name, method, packed, header),
    });
    at = next;
  }
  return entries;
}

async function openEntry(
  path: string,
  name: string,
  method: number,
  packed: number,
  header: number,
): Promise<Readable> {
  if (method !== STORED && method !== DEFLATED)
    throw invalidModel(path, `zip entry ${name}: expected it stored or deflated, found method ${method}`);
  const start = await dataOffset(path, name, packed, header);
  if (packed === 0) return Readable.from([]);
  // Nothing is awaited from here on: a stream that fails before its reader listens would end the process.
  const stream = createReadStream(path, { start, end: start + packed - 1, highWaterMark: 2 ** 20 });
  if (method === STORED) return stream;
  const inflate = createInflateRaw();
  stream.on('error', (error) => inflate.destroy(error));
  return stream.pipe(inflate);
}

/** Where the bytes of an entry begin, behind its local header. */
async function dataOffset(path: string, name: string, packed: number, header: number): Promise<number> {
  const file = await RandomAccessFile.open(path);
  try {
    const local = view(await file.read(header, LOCAL_BYTES, `zip entry ${name}`));
    if (local.getUint32(0, true) !== LOCAL_SIGNATURE)
      throw invalidModel(path, `zip entry ${name}: no header at ${header}`);
    const start = header + LOCAL_BYTES + local.getUint16(26, true) + local.getUint16(28, true);
    if (start + packed > file.size)
      throw invalidModel(path, `zip entry ${name} runs past the end of the archive: fetch it again`);
    return start;
  } finally {
    await file.close();
  }
}

function view(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
