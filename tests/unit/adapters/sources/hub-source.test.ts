import assert from 'node:assert/strict';
import { readdir } from 'node:fs/promises';
import { test } from 'node:test';
import type { HubSource } from '../../../../src/core/adapter-source.js';
import { startHub } from '../../model/helpers/hub-server.js';
import { coded } from '../support.js';
import { adapterFiles, CONFIG, digestOf, type Files, fetchRig, WEIGHTS } from './support.js';

const COMMIT = '0123456789abcdef0123456789abcdef01234567';
const REPO = 'org/sql';

function from(changes: Partial<HubSource> = {}): HubSource {
  return { type: 'hub', location: REPO, revision: 'main', token: null, ...changes };
}

test('an adapter comes from the commit that its revision stands for, and nothing else of the repository', async (t) => {
  const files = { ...(await adapterFiles(t)), 'tokenizer_config.json': Buffer.from('{}') };
  const more = { 'README.md': Buffer.from('#'), 'adapter_model.bin': Buffer.from('pickle') };
  const hub = await startHub(t, { repo: REPO, commit: COMMIT, files: { ...files, ...more }, token: 'hf_own' });
  const rig = await fetchRig(t, { hub: { endpoint: `${hub.endpoint}/`, token: 'hf_server' } });
  // The token of the request wins over the server's.
  await rig.fetch({ source: from({ token: 'hf_own' }) });
  assert.equal(await rig.arrived(), digestOf(files));
  assert.equal(hub.requests[0], `/api/models/${REPO}/revision/main`);
  assert.ok(hub.requests.slice(1).every((path) => path.includes(COMMIT) && !/README|\.bin/.test(path)));
});

test('a transfer that broke off goes on where it was', async (t) => {
  const files = await adapterFiles(t);
  const hub = await startHub(t, { repo: REPO, commit: COMMIT, files, cut: [WEIGHTS] });
  const rig = await fetchRig(t, { hub: { endpoint: hub.endpoint, token: null } });
  await rig.fetch({ source: from() });
  assert.equal(await rig.arrived(), digestOf(files));
  assert.deepEqual(hub.parts, [Math.floor((files[WEIGHTS]?.length ?? 0) / 2)]);
});

test('a hub that answers a part with the whole is refused', async (t) => {
  const files = await adapterFiles(t);
  const hub = await startHub(t, { repo: REPO, commit: COMMIT, files, cut: [WEIGHTS], ranges: false });
  const rig = await fetchRig(t, { hub: { endpoint: hub.endpoint, token: null } });
  await assert.rejects(rig.fetch({ source: from() }), coded('ERR_ADAPTER_SOURCE', /whole files/));
});

test('files whose object is the same come from the copy that is here', async (t) => {
  const files = await adapterFiles(t);
  const hub = await startHub(t, { repo: REPO, commit: COMMIT, files });
  const first = await fetchRig(t, { hub: { endpoint: hub.endpoint, token: null } });
  const previous = { directory: first.directory, files: await first.fetch({ source: from() }) };
  const asked = hub.requests.length;
  const second = await fetchRig(t, { hub: { endpoint: hub.endpoint, token: null } });
  await second.fetch({ source: from(), previous });
  assert.equal(await second.arrived(), digestOf(files));
  assert.equal(hub.requests.slice(asked).filter((path) => path.includes('/resolve/')).length, 0);
});

const CONFIG_ONLY: Files = { [CONFIG]: Buffer.from('{}') };
const REFUSALS: readonly (readonly [string, Files, Partial<HubSource>, ReturnType<typeof coded>])[] = [
  ['no such repository', {}, { location: 'org/other' }, coded('ERR_ADAPTER_NOT_FOUND', /hub:org\/other@main/)],
  ['no configuration', { 'README.md': Buffer.from('#') }, {}, coded('ERR_ADAPTER_NOT_FOUND', /adapter_config/)],
  ['no weights', CONFIG_ONLY, {}, coded('ERR_ADAPTER_NOT_FOUND', /adapter_model\.safetensors/)],
  [
    'a pickle only',
    { ...CONFIG_ONLY, 'adapter_model.bin': Buffer.from('x') },
    {},
    coded('ERR_ADAPTER_INVALID', /a pickle.*python -c/),
  ],
  [
    'too large a file',
    { ...CONFIG_ONLY, [WEIGHTS]: Buffer.alloc(2 ** 20 + 1) },
    {},
    coded('ERR_ADAPTER_TOO_LARGE', /--max-adapter-size/),
  ],
];

for (const [what, files, changes, expected] of REFUSALS) {
  test(`${what} is refused`, async (t) => {
    const hub = await startHub(t, { repo: REPO, commit: COMMIT, files });
    const rig = await fetchRig(t, { hub: { endpoint: hub.endpoint, token: null } });
    await assert.rejects(rig.fetch({ source: from(changes) }), expected);
    assert.ok(!(await readdir(rig.directory)).includes(WEIGHTS));
  });
}

test('a missing token, an unreachable hub and wrong bytes are failures of the source', async (t) => {
  const files = await adapterFiles(t);
  const closed = await startHub(t, { repo: REPO, commit: COMMIT, files, token: 'hf_secret' });
  const tampered = Buffer.from(files[WEIGHTS] ?? []);
  tampered.writeUInt8(9, tampered.length - 1);
  const lying = await startHub(t, { repo: REPO, commit: COMMIT, files, tamper: { [WEIGHTS]: tampered } });
  const cases = [
    [closed.endpoint, /answered 401: give a token/],
    [lying.endpoint, /SHA-256/],
    ['http://127.0.0.1:10', /ECONNREFUSED/],
  ] as const;
  for (const [endpoint, message] of cases) {
    const rig = await fetchRig(t, { hub: { endpoint, token: null } });
    await assert.rejects(rig.fetch({ source: from({ token: 'hf_wrong' }) }), (thrown) => {
      assert.ok(coded('ERR_ADAPTER_SOURCE', message)(thrown), String(thrown));
      assert.doesNotMatch(String(thrown), /hf_wrong/);
      return true;
    });
  }
});
