import assert from 'node:assert/strict';
import { mkdir, readdir, rm, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { type ManifestDraft, ModelCache } from '../../../../src/model/cache/model-cache.js';
import { checksumFile, loramuxError, temporaryDirectory } from '../helpers/temporary.js';

const DIGEST = 'ab12';

const DRAFT: ManifestDraft = {
  modelId: 'org/name',
  precision: 'f32',
  config: {
    architecture: 'llama',
    hiddenSize: 2,
    intermediateSize: 2,
    layers: 1,
    heads: 1,
    kvHeads: 1,
    headDim: 2,
    vocabSize: 2,
    maxPositions: 2,
    rmsNormEps: 1e-5,
    tieWordEmbeddings: true,
    slidingWindow: [null],
    ropeInverseFrequencies: [1],
    ropeScale: 1,
  },
  sites: [],
  embedding: {
    name: 'model.embed_tokens',
    weight: { format: 'f32', rows: 1, cols: 1, firstRow: 0, dataOffset: 0, scalesOffset: null, minsOffset: null },
  },
  norms: [],
  eosTokenIds: [1],
  bosTokenId: null,
  chatTemplate: null,
  specialTokens: {},
  generationDefaults: { temperature: null, topK: null, topP: null, repetitionPenalty: null },
};

function filler(weights = 'weights'): (directory: string) => Promise<ManifestDraft> {
  return async (directory) => {
    await writeFile(join(directory, 'model.onnx'), 'graph');
    await writeFile(join(directory, 'weights.bin'), weights);
    await writeFile(join(directory, 'tokenizer.json'), '{}');
    return DRAFT;
  };
}

describe('the model cache', () => {
  test('an entry opens as it was created', async (t) => {
    const cache = new ModelCache(await temporaryDirectory(t), checksumFile);
    assert.equal(await cache.open(DIGEST), undefined);
    const created = await cache.create(DIGEST, filler());
    assert.deepEqual(await cache.open(DIGEST), created);
    assert.deepEqual([created.manifest.digest, created.manifest.weights.bytes], [DIGEST, 7]);
  });

  test('a failed conversion leaves nothing behind', async (t) => {
    const root = await temporaryDirectory(t);
    const cache = new ModelCache(root, checksumFile);
    const failing = async (directory: string): Promise<ManifestDraft> => {
      await filler()(directory);
      throw new Error('disk full');
    };
    await assert.rejects(cache.create(DIGEST, failing), /disk full/);
    assert.deepEqual(await readdir(join(root, 'models')), []);
    assert.equal(await cache.open(DIGEST), undefined);
  });

  test('of concurrent writers one wins and all use its entry', async (t) => {
    const root = await temporaryDirectory(t);
    const caches = Array.from({ length: 8 }, () => new ModelCache(root, checksumFile));
    const made = await Promise.all(caches.map((cache, i) => cache.create(DIGEST, filler(`weights of ${i}`))));
    assert.equal(new Set(made.map(({ manifest }) => manifest.weights.crc32)).size, 1);
    assert.deepEqual(await readdir(join(root, 'models')), [DIGEST]);
  });

  test('leftovers of killed conversions go after a day', async (t) => {
    const root = await temporaryDirectory(t);
    const stale = join(root, 'models', '.old.tmp');
    const fresh = join(root, 'models', '.new.tmp');
    for (const path of [stale, fresh]) await mkdir(path, { recursive: true });
    const past = new Date(Date.now() - 25 * 3600 * 1000);
    await utimes(stale, past, past);
    await new ModelCache(root, checksumFile).create(DIGEST, filler());
    assert.deepEqual((await readdir(join(root, 'models'))).sort(), ['.new.tmp', DIGEST]);
  });

  const damages: [string, (directory: string) => Promise<void>, string[]][] = [
    ['changed weights', (directory) => writeFile(join(directory, 'weights.bin'), 'weighty'), ['weights.bin', 'CRC-32']],
    [
      'cut weights',
      (directory) => writeFile(join(directory, 'weights.bin'), 'w'),
      ['weights.bin of 7 bytes', '1 bytes'],
    ],
    ['a missing tokenizer', (directory) => rm(join(directory, 'tokenizer.json')), ['tokenizer.json', 'no such file']],
    [
      'a changed manifest',
      (directory) => writeFile(join(directory, 'manifest.json'), '{}'),
      ['manifest.json', 'CRC-32'],
    ],
    ['a missing manifest', (directory) => rm(join(directory, 'manifest.json')), ['manifest.json', 'ENOENT']],
  ];
  for (const [what, damage, parts] of damages) {
    test(`${what}: named, with what to delete, and left in place`, async (t) => {
      const cache = new ModelCache(await temporaryDirectory(t), checksumFile);
      const { directory } = await cache.create(DIGEST, filler());
      await damage(directory);
      const refused = loramuxError('ERR_CACHE_CORRUPT', directory, 'delete that directory', ...parts);
      await assert.rejects(cache.open(DIGEST), refused);
      await assert.rejects(cache.open(DIGEST), refused);
    });
  }
});
