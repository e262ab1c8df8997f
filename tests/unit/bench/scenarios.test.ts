import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { adaptersOf, drawZipf, parseAdapterName } from '../../../bench/scenarios/adapter-mix.js';
import { drawGamma, randomNumbers } from '../../../bench/scenarios/random.js';
import { CELLS, GROUPS } from '../../../bench/scenarios/throughput.js';
import { makeTrace } from '../../../bench/serving/trace.js';

const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;

describe('adapter mixes', () => {
  test('have as many adapters as they say', () => {
    assert.deepEqual(adaptersOf('base', 16, 2), ['__base__', '__base__']);
    assert.deepEqual(adaptersOf('identical', 16, 2), ['strong16-0', 'strong16-0']);
    assert.deepEqual(adaptersOf('distinct', 8, 3), ['strong8-0', 'strong8-1', 'strong8-2']);
    assert.deepEqual(adaptersOf('distinct:2', 64, 4), ['strong64-0', 'strong64-1', 'strong64-0', 'strong64-1']);
    assert.deepEqual(adaptersOf('distinct', 'mixed', 4), ['strong8-0', 'strong16-1', 'strong64-2', 'strong8-3']);
  });

  test('drawn ones are the same each time, and Zipf prefers the first', () => {
    assert.deepEqual(adaptersOf('zipf:1.5', 16, 16), adaptersOf('zipf:1.5', 16, 16));
    const first = (mix: 'uniform' | 'zipf:1.5'): number =>
      adaptersOf(mix, 16, 1_000).filter((name) => parseAdapterName(name).index === 0).length;
    assert.ok(first('uniform') < 20);
    assert.ok(first('zipf:1.5') > 300);
  });

  test('Zipf draws an index of its range for any number', () => {
    const numbers = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true });
    fc.assert(
      fc.property(numbers, fc.integer({ min: 0, max: 3 }), fc.integer({ min: 1, max: 50 }), (u, exponent, count) => {
        const index = drawZipf(u, exponent, count);
        return Number.isInteger(index) && index >= 0 && index < count;
      }),
    );
  });
});

describe('traces', () => {
  const options = { rate: 20, cv: 1, seconds: 500, adapters: 40, alpha: 1, shortest: 8, longest: 64, seed: 3 };

  for (const cv of [0.5, 1, 2]) {
    test(`keep their rate and their coefficient of variation: ${cv}`, () => {
      const at = makeTrace({ ...options, cv }).map((arrival) => arrival.at);
      assert.ok(Math.abs(at.length / 500 / 20 - 1) < 0.1, `${at.length} arrivals`);
      const gaps = at.slice(1).map((time, i) => time - (at[i] as number));
      const deviation = Math.sqrt(mean(gaps.map((gap) => (gap - mean(gaps)) ** 2)));
      assert.ok(Math.abs(deviation / mean(gaps) / cv - 1) < 0.1, `${deviation / mean(gaps)}`);
    });
  }

  test('stay within lengths and adapters, and repeat by their seed', () => {
    const trace = makeTrace(options);
    assert.deepEqual(trace, makeTrace(options));
    assert.notDeepEqual(trace, makeTrace({ ...options, seed: 4 }));
    for (const { adapter, promptTokens, newTokens } of trace) {
      assert.ok(adapter >= 0 && adapter < 40);
      for (const length of [promptTokens, newTokens]) assert.ok(length >= 8 && length <= 64);
    }
    assert.equal(new Set(trace.map(({ adapter }) => adapter)).size, 40);
  });

  test('a small alpha prefers adapters of small numbers', () => {
    const share = (alpha: number): number =>
      mean(makeTrace({ ...options, alpha }).map(({ adapter }) => +(adapter < 4)));
    assert.ok(Math.abs(share(1) - 0.1) < 0.02);
    // 0.1 to the power 0.2
    assert.ok(Math.abs(share(0.2) - 0.631) < 0.03);
  });

  test('gamma draws have their mean for shapes on both sides of 1', () => {
    const random = randomNumbers(5);
    for (const shape of [0.25, 1, 4]) {
      const draws = Array.from({ length: 20_000 }, () => drawGamma(random, shape, 2));
      assert.ok(Math.abs(mean(draws) / (2 * shape) - 1) < 0.05, `${mean(draws)}`);
    }
  });
});

test('every cell has an id of its own, and every group a base to compare with or a name that says why not', () => {
  assert.equal(new Set(CELLS.map(({ id }) => id)).size, CELLS.length);
  assert.ok(CELLS.length >= 30);
  for (const { name, cells } of GROUPS) {
    assert.ok(name === 'mixes' || cells.some(({ mix }) => mix === 'base'), name);
  }
});
