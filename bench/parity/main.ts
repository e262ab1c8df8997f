/**
 * Writes docs/parity.md: each row of the test matrix in each precision against PEFT.
 *
 *   npm run parity [-- --remake] [-- --out FILE]
 *
 * Reads committed fixtures only. Exits with 1 when something is neither equal to PEFT nor refused.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import type { Precision } from '../../src/core/model-manifest.js';
import { loadBinding, packageRoot } from '../../src/engine/addon.js';
import { SYNTHETIC } from '../../tests/helpers/synthetic.js';
import { runDemoCases } from './demo-cases.js';
import { runRefused } from './refused-adapters.js';
import { allAsPromised, type Findings, renderReport } from './report.js';
import { type CaseResult, runSynthetic } from './synthetic-cases.js';

const PRECISIONS: readonly Precision[] = ['f32', 'w8', 'w4'];

function readJson<T>(...path: string[]): T {
  return JSON.parse(readFileSync(join(...path), 'utf8')) as T;
}

function versions(): Findings['versions'] {
  const own = readJson<{ version: string; dependencies: Record<string, string> }>(packageRoot(), 'package.json');
  const oracle = readJson<{ versions: Record<string, string> }>(SYNTHETIC, 'cases.json').versions;
  return [
    ['loramux', own.version],
    ['onnxruntime-node', own.dependencies['onnxruntime-node'] ?? 'unknown'],
    ['Node', process.versions.node],
    ['CPU', `${cpus()[0]?.model.trim() ?? 'unknown'}, ${loadBinding().instructionSet()} kernels`],
    ...Object.entries(oracle).map(([part, version]) => [`${part} (fixtures)`, version] as const),
  ];
}

async function main(): Promise<void> {
  const { values } = parseArgs({ options: { out: { type: 'string' } } });
  const synthetic = new Map<Precision, readonly CaseResult[]>();
  for (const precision of PRECISIONS) {
    console.log(`${precision}: tiny models`);
    synthetic.set(precision, await runSynthetic(precision));
  }
  console.log('adapters that must be refused');
  const refused = await runRefused();
  console.log(`demo model: ${PRECISIONS.join(', ')}`);
  const findings: Findings = { versions: versions(), synthetic, refused, demo: await runDemoCases(PRECISIONS) };
  const out = values.out ?? join(packageRoot(), 'docs', 'parity.md');
  writeFileSync(out, renderReport(findings));
  const fine = allAsPromised(findings);
  console.log(`${out}: ${fine ? 'everything is equal or refused' : 'something differs: look for ** in the tables'}`);
  if (!fine) process.exitCode = 1;
}

await main();
