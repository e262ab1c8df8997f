import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { renderPage } from '../../../bench/report/page.js';
import { drawChart } from '../../../bench/report/plot.js';
import { type BenchRecord, readRecords } from '../../../bench/report/records.js';
import { Results } from '../../../bench/report/results.js';
import { median, quantile } from '../../../bench/report/statistics.js';
import { table } from '../../../bench/report/tables.js';
import { FIXTURES, ROOT } from '../../helpers/paths.js';

const SAMPLE = readRecords(join(FIXTURES, 'bench', 'sample.jsonl'));
const results = new Results(SAMPLE);
const f32 = (cell: string) => ({ contender: 'loramux f32', cell });

test('a bar inside a cell does not end it', () => {
  assert.equal(table(['a', 'b'], [['x | y', 'z']])[2], '| x \\| y | z |');
});

test('medians and quantiles', () => {
  assert.equal(median([3, 1, 2]), 2);
  assert.equal(median([4, 1, 2, 3]), 2.5);
  assert.ok(Number.isNaN(median([])));
  assert.equal(quantile([5, 1, 4, 2, 3], 0.99), 5);
  assert.equal(quantile([5, 1, 4, 2, 3], 0.5), 3);
});

describe('the sample’s results', () => {
  test('rates are medians over rounds and repeats', () => {
    assert.deepEqual(results.rate(f32('decode/16/base/16')), { value: 400, low: 320, high: 400, count: 3 });
    assert.equal(results.rate(f32('decode/8/base/16')), null);
  });

  test('ratios are taken within a round and repeat: a slow round does not tilt them', () => {
    const ratio = results.ratio(f32('decode/16/distinct/16'), f32('decode/16/base/16'));
    assert.deepEqual(ratio, { value: 0.9, low: 0.9, high: 0.95, count: 3 });
  });

  test('contenders with other numbers of repeats are compared round by round', () => {
    const peer = { contender: 'PEFT float32', cell: 'decode/16/distinct/16' };
    const ratio = results.ratio(f32('decode/16/distinct/16'), peer);
    // Round 0: the median of 360 and 380 over 20; round 1: 288 over 32.
    assert.deepEqual(ratio, { value: 13.75, low: 9, high: 18.5, count: 2 });
  });

  test('rounds of several runs are not mixed: each run numbers its own', () => {
    const run = SAMPLE.find(({ kind }) => kind === 'run') as BenchRecord;
    const window = (variant: string, firstTokenP50Ms: number): BenchRecord => {
      return { kind: 'serving', scenario: 'arrivals', variant, round: 0, values: { firstTokenP50Ms } };
    };
    const runs = [run, window('few', 100), window('many', 110), run, window('few', 200), window('many', 200)];
    const ratio = new Results(runs.map((record) => ({ ...record }))).servingRatio(
      'arrivals',
      'many',
      'few',
      'firstTokenP50Ms',
    );
    assert.deepEqual([ratio?.low, ratio?.high, ratio?.count], [1, 1.1, 2]);
  });

  test('first tokens are compared row by row', () => {
    assert.deepEqual(results.agreement('PEFT float32', 'loramux f32'), { same: 3, rows: 4 });
  });
});

describe('the page', () => {
  const page = renderPage(SAMPLE);
  const text = page.get('benchmarks.md') ?? '';
  const busy = SAMPLE.map((record) => (record.kind === 'run' ? { ...record, loadAverage: [7, 6, 5] } : record));

  test('is the same each time, links its charts, and keeps what could not be measured', () => {
    assert.deepEqual(renderPage(SAMPLE), page);
    assert.deepEqual([...page.keys()], ['benchmarks.md', 'benchmarks-distinct.svg', 'benchmarks-batch.svg']);
    for (const name of page.keys()) if (name.endsWith('.svg')) assert.ok(text.includes(`(${name})`), name);
    assert.match(text, /The machine was quiet: load average 0\.1 on 2 cores/);
    assert.match(text, /- llama\.cpp Q4_1 did not start: spawn ENOENT\n/);
  });

  test('says of each target whether it was reached, by how much it was missed, and what was not measured', () => {
    assert.match(text, /\| 16 distinct rank-16 adapters.*\| ≥ 0\.9× \| 0\.9× \(0\.9–0\.95\) \| reached \|/);
    assert.match(text, /\| one rank-8 adapter.*\| ≥ 0\.92× \| not measured \|/);
    assert.match(text, /\| start of the process.*\| ≤ 2 s \| 2\.5 s \| missed by 25 % \|/);
    assert.match(text, /^- \*\*start of the process[^*]*\*\*: missed by 25 %\. \S/m);
  });

  test('judges nothing where the machine was busy', () => {
    const noisy = renderPage(busy).get('benchmarks.md') ?? '';
    assert.match(noisy, /\*\*Noisy\*\*.*load average 7 /);
    assert.match(noisy, /\| 2\.5 s \| not judged: noisy \|/);
    assert.doesNotMatch(noisy, /\| reached \|/);
  });

  test('every table has as many cells in each row as in its head', () => {
    for (const block of text
      .trimEnd()
      .split('\n\n')
      .filter((part) => part.startsWith('|'))) {
      const widths = block.split('\n').map((line) => line.split('|').length);
      assert.equal(new Set(widths).size, 1, block);
    }
  });
});

test('docs/benchmarks.md is what its records say', () => {
  const page = renderPage(readRecords(join(ROOT, 'docs', 'benchmarks.jsonl')));
  for (const [name, text] of page) {
    assert.equal(
      readFileSync(join(ROOT, 'docs', name), 'utf8'),
      text,
      `run npm run bench:page: docs/${name} is not current`,
    );
  }
});

test('a chart holds every point, and escapes its names', () => {
  const lines = [
    {
      name: 'a < b',
      points: [
        [1, 10],
        [4, 20],
      ] as const,
    },
  ];
  const svg = drawChart({ title: 'T', xLabel: 'x', yLabel: 'y', lines });
  assert.match(svg, /^<svg [^>]*>[\s\S]*<\/svg>\n$/);
  assert.equal(svg.match(/<circle/g)?.length, 2);
  assert.ok(svg.includes('a &lt; b'));
});
