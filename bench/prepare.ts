import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import type { PreparedModel } from '../src/core/model-manifest.js';
import { BASE_NAME } from '../src/core/names.js';
import { writeGgufAdapter } from './contenders/gguf-adapter.js';
import { writeRandomAdapter } from './random-adapter.js';
import { adaptersOf, parseAdapterName } from './scenarios/adapter-mix.js';
import type { Cell } from './scenarios/throughput.js';

/** The demo model's GGUF file among the downloads. */
export function findGguf(cacheDir: string): string {
  const downloads = join(cacheDir, 'downloads');
  const name = readdirSync(downloads, { recursive: true, encoding: 'utf8' }).find((file) => file.endsWith('.gguf'));
  if (name === undefined) throw new Error(`expected the demo's .gguf below ${downloads}: start the demo once`);
  return join(downloads, name);
}

/** Strong enough to change what is said: that contenders agree then shows that all of them apply the adapters. */
const STRENGTH = 0.08;

/** Writes every adapter that the cells name, as PEFT's files and, if `gguf`, as llama.cpp's. */
export function writeAdapters(root: string, cells: readonly Cell[], model: PreparedModel, gguf: boolean): void {
  const { sites, config } = model.manifest;
  const named = (cell: Cell): string[] => adaptersOf(cell.mix, cell.rank, cell.batch);
  const peersUse = new Set(cells.filter(({ by }) => by === 'all').flatMap(named));
  for (const name of new Set(cells.flatMap(named))) {
    if (name === BASE_NAME) continue;
    const { rank, index } = parseAdapterName(name);
    writeRandomAdapter(root, { name, rank, seed: index + 1, strength: STRENGTH }, sites);
    if (gguf && peersUse.has(name)) writeGgufAdapter(join(root, name), config.headDim);
  }
}
