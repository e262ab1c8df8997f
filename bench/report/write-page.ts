import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { packageRoot } from '../../src/engine/addon.js';
import { renderPage } from './page.js';
import { readRecords } from './records.js';

export const DOCS = join(packageRoot(), 'docs');
/** The records that the page is made of. */
export const RESULTS_FILE = join(DOCS, 'benchmarks.jsonl');

/** Keeps the records of `files`, one after another, in docs/, and renders the page from them. */
export function writePage(files: readonly string[]): void {
  const lines = files.map((file) => readFileSync(file, 'utf8'));
  writeFileSync(RESULTS_FILE, lines.join(''));
  for (const [name, text] of renderPage(readRecords(RESULTS_FILE))) writeFileSync(join(DOCS, name), text);
}
