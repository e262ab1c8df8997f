/**
 * Writes docs/precision.md: what each precision of the demo model costs in quality and gives in speed.
 *
 *   npm run precision [-- --rounds 7 --threads 2 --no-speed --out FILE]
 *
 * Quality: perplexity and the greedy choice at every token of `texts/`, against float32; then with each demo adapter,
 * kept as its file has it and rounded. Speed: base-only decode and
 * prefill, all precisions in turn; quoted are medians, and ratios of medians. `--no-speed` keeps those of the page as it is.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import type { Precision } from '../../src/core/model-manifest.js';
import { loadBinding, packageRoot } from '../../src/engine/addon.js';
import { demoModel } from '../../tests/helpers/demo-model.js';
import { DirectEngine } from '../../tests/helpers/direct-engine.js';
import { scoreAdapters } from './adapters.js';
import { renderPrecision, renderSpeed, speedSection } from './report.js';
import { scoreTexts, type TextScore, WINDOW } from './score.js';
import { SpeedProbe } from './speed.js';

const PRECISIONS: readonly Precision[] = ['f32', 'w8', 'w4'];
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

async function quality(): Promise<Map<Precision, readonly TextScore[]>> {
  const scores = new Map<Precision, readonly TextScore[]>();
  for (const precision of PRECISIONS) {
    console.log(`${precision}: ${TEXTS.join(', ')}`);
    const engine = await DirectEngine.open({
      model: await demoModel(precision),
      adapterRoots: [],
      maxModelLen: WINDOW + 1,
    });
    scores.set(precision, await scoreTexts(engine, texts));
    await engine.close();
  }
  return scores;
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
});
const out = options.out ?? page;
writeFileSync(out, report);
console.log(`${out} written`);
