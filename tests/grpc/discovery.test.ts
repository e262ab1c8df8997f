import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import type { ClientDuplexStream, ClientReadableStream } from '@grpc/grpc-js';
import { loadFileDescriptorSetFromObject, loadSync, type ServiceDefinition } from '@grpc/proto-loader';
import type { Type } from 'protobufjs';
import descriptor from 'protobufjs/ext/descriptor/index.js';
import { type CallableClient, connect, PROTOS, type Reply, startGrpcApp, unary } from '../helpers/grpc-app.js';

const require = createRequire(import.meta.url);
const { FileDescriptorProto } = descriptor as unknown as { readonly FileDescriptorProto: Type };
const OPTIONS = { longs: String, enums: String, defaults: true, oneofs: true, arrays: true };

function standardService(path: string, name: string): ServiceDefinition {
  return loadSync(path, OPTIONS)[name] as ServiceDefinition;
}

const HEALTH = standardService(
  join(dirname(require.resolve('grpc-health-check/package.json')), 'proto', 'health', 'v1', 'health.proto'),
  'grpc.health.v1.Health',
);
const REFLECTION_ROOT = join(
  dirname(require.resolve('@grpc/reflection/package.json')),
  'build',
  'proto',
  'grpc',
  'reflection',
);

/** Asks one question of the reflection service. */
async function ask(client: CallableClient, question: object): Promise<Reply> {
  const stream = client.serverReflectionInfo?.() as ClientDuplexStream<object, Reply>;
  stream.write(question);
  const [answer] = (await once(stream, 'data')) as [Reply];
  stream.end();
  return answer;
}

for (const version of ['v1', 'v1alpha']) {
  test(`a client that knows nothing but reflection ${version} finds the services and calls one`, async (t) => {
    const app = await startGrpcApp(t);
    const path = join(REFLECTION_ROOT, version, 'reflection.proto');
    const service = standardService(path, `grpc.reflection.${version}.ServerReflection`);
    const reflection = app.client(service, app.address);
    const { listServicesResponse } = await ask(reflection, { listServices: '' });
    const names = listServicesResponse.service.map(({ name }: Reply) => name);
    assert.ok(names.includes('loramux.v1.Generation'), names.join(', '));
    assert.ok(!names.includes('loramux.v1.AdapterAdmin'), 'the admin service is on its own address only');

    const { fileDescriptorResponse } = await ask(reflection, { fileContainingSymbol: 'loramux.v1.Generation' });
    const file = fileDescriptorResponse.fileDescriptorProto.map((bytes: Buffer) => FileDescriptorProto.decode(bytes));
    const set = loadFileDescriptorSetFromObject({ file: file.map((each: Reply) => each.toJSON()) }, OPTIONS);
    const found = connect(set['loramux.v1.Generation'] as ServiceDefinition, app.address);
    t.after(() => found.close());
    const reply = await unary(found, 'tokenize', { text: 'hi', add_special_tokens: false });
    assert.deepEqual(reply.token_ids, [104, 105]);
  });
}

test('what reflection tells is what the compiler of .proto files would', async (t) => {
  const app = await startGrpcApp(t);
  const path = join(REFLECTION_ROOT, 'v1', 'reflection.proto');
  const service = standardService(path, 'grpc.reflection.v1.ServerReflection');
  for (const [address, name, file, imported] of [
    [app.address, 'Generation', 'generation.proto', 'duration.proto'],
    [app.adminAddress, 'AdapterAdmin', 'adapter_admin.proto', 'timestamp.proto'],
  ] as const) {
    const reflection = app.client(service, address);
    const { listServicesResponse } = await ask(reflection, { listServices: '' });
    const services = listServicesResponse.service.map((each: Reply) => each.name);
    assert.deepEqual(services.sort(), ['grpc.health.v1.Health', `loramux.v1.${name}`]);
    // By its symbol and by the name that imports would have.
    for (const question of [{ fileContainingSymbol: `loramux.v1.${name}` }, { fileByFilename: `loramux/v1/${file}` }]) {
      const { fileDescriptorResponse } = await ask(reflection, question);
      const files = fileDescriptorResponse.fileDescriptorProto.map((bytes: Buffer) =>
        FileDescriptorProto.decode(bytes),
      );
      assert.deepEqual(
        files.map((each: Reply) => [each.name, each.dependency]),
        [
          [`loramux/v1/${file}`, [`google/protobuf/${imported}`]],
          [`google/protobuf/${imported}`, []],
        ],
      );
      const fields = files[0].messageType.flatMap(({ field }: Reply) => field.map((each: Reply) => each.name));
      assert.ok(fields.some((each: string) => each.includes('_')));
      assert.ok(!fields.some((each: string) => /[A-Z]/.test(each)), fields.join(', '));
    }
  }
});

test('health follows the server’s life, for its service and as a whole', async (t) => {
  const app = await startGrpcApp(t);
  const health = app.client(HEALTH, app.address);
  const of = async (service: string): Promise<string> => (await unary(health, 'check', { service })).status;
  assert.deepEqual([await of(''), await of('loramux.v1.Generation')], ['SERVING', 'SERVING']);
  await assert.rejects(of('loramux.v1.AdapterAdmin'), { code: 5 });
  const watch = health.watch?.({ service: '' }) as ClientReadableStream<Reply>;
  watch.on('error', () => undefined);
  assert.equal(((await once(watch, 'data')) as [Reply])[0].status, 'SERVING');
  const next = once(watch, 'data') as Promise<[Reply]>;
  app.lifecycle.beginDrain();
  assert.equal((await next)[0].status, 'NOT_SERVING');
  watch.cancel();
});

test('the admin address serves AdapterAdmin and nothing of Generation', async (t) => {
  const app = await startGrpcApp(t);
  const client = app.client(PROTOS.generation, app.adminAddress);
  await assert.rejects(unary(client, 'tokenize', { text: 'hi' }), { code: 12 });
});
