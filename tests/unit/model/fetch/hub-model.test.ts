import assert from 'node:assert/strict';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { fetchHubModel, parseHubId } from '../../../../src/model/fetch/hub-model.js';
import { startHub } from '../helpers/hub-server.js';
import { loramuxError, temporaryDirectory } from '../helpers/temporary.js';
import { TINY_CONFIG, TINY_TOKENIZER, tinyWeights, writeSafetensors } from '../helpers/tiny-directory.js';

const COMMIT = '0123456789abcdef0123456789abcdef01234567';
const REPO = 'org/tiny';
const MAIN = { repo: REPO, revision: 'main' };
const silent = () => {};

const json = (value: unknown) => Buffer.from(JSON.stringify(value));
const WHOLE = {
  'README.md': Buffer.from('# tiny'),
  'config.json': json(TINY_CONFIG),
  'tokenizer.json': json(TINY_TOKENIZER),
  'model.safetensors': writeSafetensors(tinyWeights()),
  'pytorch_model.bin': Buffer.from('pickle'),
};

describe('hub ids', () => {
  test('are org/name with an optional revision', () => {
    assert.deepEqual(parseHubId('org/name'), { repo: 'org/name', revision: 'main' });
    assert.deepEqual(parseHubId('org/name@refs/pr/1'), { repo: 'org/name', revision: 'refs/pr/1' });
    for (const text of ['name', './org/name', 'a/b/c', 'org/..', 'org/name@', '/org/name', 'org/na me'])
      assert.equal(parseHubId(text), undefined, text);
  });
});

describe('a hub model', () => {
  test('is downloaded once: what a conversion needs, and nothing else', async (t) => {
    const hub = await startHub(t, { repo: REPO, commit: COMMIT, files: WHOLE, token: 'hf_secret' });
    const cache = await temporaryDirectory(t);
    const seen: number[] = [];
    const options = { endpoint: `${hub.endpoint}/`, token: 'hf_secret' };
    const directory = await fetchHubModel(MAIN, cache, ({ done }) => seen.push(done), options);
    assert.equal(directory, join(cache, 'hub', 'models--org--tiny', 'snapshots', COMMIT));
    assert.deepEqual((await readdir(directory)).sort(), ['config.json', 'model.safetensors', 'tokenizer.json']);
    assert.deepEqual(await readFile(join(directory, 'model.safetensors')), WHOLE['model.safetensors']);
    assert.ok(seen.length > 0 && seen.every((done, i) => done >= (seen[i - 1] ?? 0)));

    const asked = hub.requests.length;
    assert.equal(await fetchHubModel(MAIN, cache, silent, { offline: true }), directory);
    assert.equal(await fetchHubModel({ repo: REPO, revision: COMMIT }, cache, silent, options), directory);
    assert.equal(hub.requests.length, asked);
  });

  test('shards are those that the index names', async (t) => {
    const files = {
      'config.json': WHOLE['config.json'],
      'tokenizer.json': WHOLE['tokenizer.json'],
      'model.safetensors.index.json': json({ weight_map: { a: 'model-1.safetensors', b: 'model-2.safetensors' } }),
      'model-1.safetensors': Buffer.from('1'),
      'model-2.safetensors': Buffer.from('22'),
      'other.safetensors': Buffer.from('333'),
    };
    const hub = await startHub(t, { repo: REPO, commit: COMMIT, files });
    const directory = await fetchHubModel(MAIN, await temporaryDirectory(t), silent, hub);
    const names = await readdir(directory);
    assert.ok(names.includes('model-2.safetensors') && !names.includes('other.safetensors'));
  });

  test('bytes that do not match the hash are refused; a later try resumes', async (t) => {
    const other = Buffer.from(WHOLE['model.safetensors']);
    other.writeUInt32LE(1, other.length - 4);
    const cache = await temporaryDirectory(t);
    const bad = await startHub(t, { repo: REPO, commit: COMMIT, files: WHOLE, tamper: { 'model.safetensors': other } });
    await assert.rejects(
      fetchHubModel(MAIN, cache, silent, bad),
      loramuxError('ERR_MODEL_INVALID', 'org/tiny@main/model.safetensors', 'SHA-256'),
    );
    const good = await startHub(t, { repo: REPO, commit: COMMIT, files: WHOLE });
    await fetchHubModel(MAIN, cache, silent, good);
    assert.deepEqual(
      good.requests.filter((path) => path.includes('config.json')),
      [],
    );
  });

  const refusals: [string, Record<string, Buffer>, string | undefined, string[]][] = [
    ['a missing token', WHOLE, 'hf_secret', ['org/tiny@main', 'token']],
    [
      'a repository without safetensors',
      { 'config.json': WHOLE['config.json'], 'm.gguf': Buffer.from('x') },
      undefined,
      ['m.gguf', 'model.safetensors'],
    ],
    [
      'a missing tokenizer',
      { 'config.json': WHOLE['config.json'], 'model.safetensors': WHOLE['model.safetensors'] },
      undefined,
      ['tokenizer.json'],
    ],
  ];
  for (const [what, files, token, parts] of refusals) {
    test(`${what} says what to do`, async (t) => {
      const hub = await startHub(t, { repo: REPO, commit: COMMIT, files, ...(token === undefined ? {} : { token }) });
      await assert.rejects(
        fetchHubModel(MAIN, await temporaryDirectory(t), silent, { endpoint: hub.endpoint }),
        loramuxError('ERR_MODEL_NOT_FOUND', ...parts),
      );
    });
  }

  test('offline or unreachable without a copy says so', async (t) => {
    const cache = await temporaryDirectory(t);
    await assert.rejects(
      fetchHubModel(MAIN, cache, silent, { offline: true }),
      loramuxError('ERR_MODEL_NOT_FOUND', 'switched off'),
    );
    await assert.rejects(
      fetchHubModel(MAIN, cache, silent, { endpoint: 'http://127.0.0.1:9' }),
      loramuxError('ERR_MODEL_NOT_FOUND', 'org/tiny@main', 'check the network'),
    );
  });
});
