import assert from 'node:assert/strict';
import { before, test } from 'node:test';
import type { S3Source } from '../../../../src/core/adapter-source.js';
import { type S3Double, startS3 } from '../../../helpers/s3-server.js';
import { coded } from '../support.js';
import { adapterFiles, CONFIG, digestOf, type Files, fetchRig, WEIGHTS } from './support.js';

// The real client signs, with what it finds in the environment.
before(() => {
  Object.assign(process.env, {
    AWS_ACCESS_KEY_ID: 'test-key',
    AWS_SECRET_ACCESS_KEY: 'test-secret',
    AWS_REGION: 'eu-north-1',
    AWS_EC2_METADATA_DISABLED: 'true',
  });
});

function from(path = 'team/sql'): S3Source {
  return { type: 's3', location: `s3://adapters/${path}` };
}

function bucketOf(files: Files, changes: Partial<S3Double> = {}): S3Double {
  const objects = new Map(Object.entries(files).map(([name, bytes]) => [`team/sql/${name}`, bytes]));
  return { bucket: 'adapters', objects, ...changes };
}

test('the objects right below the prefix are fetched, page by page, and nothing else', async (t) => {
  const files = { ...(await adapterFiles(t)), 'tokenizer.json': Buffer.from('{}') };
  const bucket = bucketOf(files, { pageSize: 2 });
  for (const key of ['team/sql/README.md', 'team/sql/old/adapter_config.json', 'team/sql2/adapter_config.json'])
    bucket.objects.set(key, Buffer.from('other'));
  const server = await startS3(t, bucket);
  const rig = await fetchRig(t, { s3Endpoint: server.url });
  await rig.fetch({ source: from() });
  assert.equal(await rig.arrived(), digestOf(files));
  assert.ok(server.requests.every(({ path }) => path.startsWith('/adapters')));
  assert.ok(!server.requests.some(({ path }) => /README|old|sql2/.test(path)));
});

test('a transfer that broke off goes on where it was, from the same object', async (t) => {
  const files = await adapterFiles(t);
  const server = await startS3(t, bucketOf(files, { cuts: new Set([`team/sql/${WEIGHTS}`]) }));
  const rig = await fetchRig(t, { s3Endpoint: server.url });
  await rig.fetch({ source: from() });
  assert.equal(await rig.arrived(), digestOf(files));
  const asked = server.requests.filter(({ path }) => path.includes(WEIGHTS));
  const half = Math.floor((files[WEIGHTS]?.length ?? 0) / 2);
  assert.deepEqual(
    asked.map(({ headers }) => headers.range),
    [undefined, `bytes=${half}-`],
  );
  assert.ok(asked.every(({ headers }) => headers['if-match'] !== undefined));
});

test('a busy service is asked again; one that stays so is a 502', async (t) => {
  const files = await adapterFiles(t);
  const server = await startS3(t, bucketOf(files, { failures: [503, 500] }));
  const rig = await fetchRig(t, { s3Endpoint: server.url });
  await rig.fetch({ source: from() });
  assert.equal(await rig.arrived(), digestOf(files));
  const broken = await startS3(t, bucketOf(files, { failures: Array.from({ length: 9 }, () => 500) }));
  const unlucky = await fetchRig(t, { s3Endpoint: broken.url });
  await assert.rejects(unlucky.fetch({ source: from() }), coded('ERR_ADAPTER_SOURCE', /answered 500/));
  assert.equal(broken.requests.length, 3);
});

test('objects that did not change come from the copy that is here', async (t) => {
  const bucket = bucketOf(await adapterFiles(t));
  const server = await startS3(t, bucket);
  const first = await fetchRig(t, { s3Endpoint: server.url });
  const previous = { directory: first.directory, files: await first.fetch({ source: from() }) };
  const asked = server.requests.length;
  bucket.objects.set(`team/sql/${CONFIG}`, Buffer.from('{"changed":true}'));
  const second = await fetchRig(t, { s3Endpoint: server.url });
  await second.fetch({ source: from(), previous });
  assert.deepEqual(
    server.requests.slice(asked).map(({ path }) => path.split('?')[0]),
    ['/adapters', `/adapters/team/sql/${CONFIG}`].map((path, at) =>
      at === 0 ? server.requests[0]?.path.split('?')[0] : path,
    ),
  );
});

const REFUSALS: readonly (readonly [string, Files, string, ReturnType<typeof coded>])[] = [
  ['another bucket', {}, 's3://other/x', coded('ERR_ADAPTER_NOT_FOUND', /s3:\/\/other\/x/)],
  ['an empty prefix', {}, 's3://adapters/nothing', coded('ERR_ADAPTER_NOT_FOUND', /adapter_config/)],
  [
    'a pickle only',
    { [CONFIG]: Buffer.from('{}'), 'adapter_model.bin': Buffer.from('x') },
    's3://adapters/team/sql',
    coded('ERR_ADAPTER_INVALID', /a pickle.*python -c/),
  ],
  [
    'too large an object',
    { [CONFIG]: Buffer.from('{}'), [WEIGHTS]: Buffer.alloc(2 ** 20 + 1) },
    's3://adapters/team/sql',
    coded('ERR_ADAPTER_TOO_LARGE'),
  ],
];

for (const [what, files, location, expected] of REFUSALS) {
  test(`${what} is refused`, async (t) => {
    const server = await startS3(t, bucketOf(files));
    const rig = await fetchRig(t, { s3Endpoint: server.url });
    await assert.rejects(rig.fetch({ source: { type: 's3', location } }), expected);
  });
}
