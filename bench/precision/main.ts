/**
 * Writes docs/precision.md: what each precision of the demo model costs in quality and gives in speed.
 *
 *   npm run precision [-- --rounds 7 --threads 2 --no-speed --out FILE]
 *
 * Quality: perplexity and the greedy choice at every token of `texts/`, against float32; then with each demo adapter,
 * kept as its file has it and rounded; then with keys and values of 16 bits. Speed: base-only decode and prefill, all
 * precisions in turn, and decode behind long prompts, all types of keys and values in turn; quoted are medians, and ratios
 * of medians. `--no-speed` keeps the section on precisions of the page as it is, and leaves the latter out.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import type { KvDtype, Precision } from '../../src/core/model-manifest.js';
import { loadBinding, packageRoot } from '../../src/engine/addon.js';
import { demoModel } from '../../tests/helpers/demo-model.js';
import { DirectEngine } from '../../tests/helpers/direct-engine.js';
import { scoreAdapters } from './adapters.js';
import { LongDecodeProbe } from './long-decode.js';
import { renderPrecision, renderSpeed, speedSection } from './report.js';
import { scoreTexts, type TextScore, WINDOW } from './score.js';
import { SpeedProbe } from './speed.js';

const PRECISIONS: readonly Precision[] = ['f32', 'w8', 'w4'];
const KV_DTYPES: readonly KvDtype[] = ['f32', 'f16', 'bf16'];
const TEXTS = ['story', 'technical'];

const { values: options } = parseArgs({
  options: {
    rounds: { type: 'string', default: '7' },
    threads: { type: 'string', default: '2' },
    'no-speed': { type: 'boolean', default: false },
    out: { type: 'string' },
  },
});

const texts = TEXTS.map((name) =>
  readFileSync(join(packageRoot(), 'bench', 'precision', 'texts', `${name}.txt`), 'utf8'),
);

async function scoreBase(precision: Precision, kvDtype: KvDtype): Promise<readonly TextScore[]> {
  const model = await demoModel(precision);
  const engine = await DirectEngine.open({ model, adapterRoots: [], maxModelLen: WINDOW + 1, kvDtype });
  const scores = await scoreTexts(engine, texts);
  await engine.close();
  return scores;
}

async function quality(): Promise<Map<Precision, readonly TextScore[]>> {
  const scores = new Map<Precision, readonly TextScore[]>();
  for (const precision of PRECISIONS) {
    console.log(`${precision}: ${TEXTS.join(', ')}`);
    scores.set(precision, await scoreBase(precision, 'f32'));
  }
  return scores;
}

/** Of float32 weights. */
async function kvQuality(): Promise<Map<KvDtype, readonly TextScore[]>> {
  const scores = new Map<KvDtype, readonly TextScore[]>();
  for (const kvDtype of KV_DTYPES) {
    console.log(`keys and values ${kvDtype}: ${TEXTS.join(', ')}`);
    scores.set(kvDtype, await scoreBase('f32', kvDtype));
  }
  return scores;
}

async function kvSpeed(): Promise<Map<KvDtype, LongDecodeProbe>> {
  const probes = new Map<KvDtype, LongDecodeProbe>();
  for (const kvDtype of KV_DTYPES) {
    console.log(`keys and values ${kvDtype}: reading long prompts`);
    probes.set(kvDtype, await LongDecodeProbe.open(await demoModel('f32'), Number(options.threads), kvDtype));
  }
  for (let round = 0; round < Number(options.rounds); round++) {
    console.log(`speed behind long prompts, round ${round + 1} of ${options.rounds}`);
    for (const probe of probes.values()) await probe.round();
  }
  for (const probe of probes.values()) await probe.close();
  return probes;
}

async function speed(): Promise<Map<Precision, SpeedProbe>> {
  const probes = new Map<Precision, SpeedProbe>();
  for (const precision of PRECISIONS) {
    probes.set(precision, await SpeedProbe.open(await demoModel(precision), Number(options.threads)));
  }
  for (let round = 0; round < Number(options.rounds); round++) {
    console.log(`speed, round ${round + 1} of ${options.rounds}`);
    for (const probe of probes.values()) await probe.round();
  }
  for (const probe of probes.values()) await probe.close();
  return probes;
}

const page = join(packageRoot(), 'docs', 'precision.md');
const report = renderPrecision({
  machine: `${cpus()[0]?.model.trim() ?? 'unknown'}, ${cpus().length} cores, ${options.threads} threads, \`${loadBinding().instructionSet()}\` kernels`,
  texts: TEXTS,
  scores: await quality(),
  adapters: await scoreAdapters(texts),
  speed: options['no-speed'] ? speedSection(readFileSync(page, 'utf8')) : renderSpeed(await speed()),
  kvScores: await kvQuality(),
  kvSpeeds: options['no-speed'] ? null : await kvSpeed(),
});
const out = options.out ?? page;
writeFileSync(out, report);
console.log(`${out} written`);
