import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { BASE_NAME } from '../../src/core/names.js';
import { peftCases } from '../helpers/demo-model.js';
import { ServerProcess } from '../helpers/server-process.js';
import { type Ask, generate, isIdle, stateOf, tryGenerate, untilState } from './client.js';
import { MetricsText } from './metrics-text.js';

/** Environment variable that sets how many short requests are sent; 10000 is the full proof. */
const COUNT_VARIABLE = 'MEMORY_TEST_REQUESTS';
const DEFAULT_COUNT = 1_000;
const CONCURRENCY = 16;
const LIMIT_BYTES = 1.3e9;
const MAX_GROWTH = 0.05;
const SAMPLES = 5;

const count = Number(process.env[COUNT_VARIABLE] ?? DEFAULT_COUNT);
/** Resident memory is read from /proc. */
const onLinux = { skip: process.platform === 'linux' ? false : 'resident memory is read from /proc' };
const names = ['support-json', 'sql', 'sentiment', 'pirate', BASE_NAME];
const asks: readonly Ask[] = names.map((adapter) => ({ adapter, prompt: '-', maxNewTokens: 2, ignoreEos: true }));

let server: ServerProcess;

before(async () => {
  server = await ServerProcess.start();
});
after(() => server.kill());

async function send(requests: number): Promise<void> {
  let sent = 0;
  const client = async (): Promise<void> => {
    while (sent < requests) {
      const ask = asks[sent++ % asks.length] as Ask;
      assert.ok('answer' in (await tryGenerate(server.url, ask)));
    }
  };
  await Promise.all(Array.from({ length: CONCURRENCY }, client));
}

function megabytes(bytes: number | undefined): string {
  return ((bytes ?? 0) / 1e6).toFixed(1);
}

/** Resident memory now, printed with its parts so that growth can be placed. */
async function sample(label: string): Promise<number> {
  const { VmRSS = 0, RssAnon, RssFile } = server.memory();
  const metrics = await MetricsText.read(server.url);
  const parts = ['heap', 'external'].map(
    (kind) => `${kind} ${megabytes(metrics.sum('loramux_process_memory_bytes', { kind }))}`,
  );
  console.log(
    `${label}: resident ${megabytes(VmRSS)} MB (anonymous ${megabytes(RssAnon)}, file ${megabytes(RssFile)}; ${parts.join(', ')})`,
  );
  return VmRSS;
}

test(`the demo in float32 stays under 1.3 GB, and ${count} short requests add less than 5 %`, onLinux, async () => {
  assert.ok(
    Number.isSafeInteger(count) && count >= SAMPLES,
    `${COUNT_VARIABLE} must be a whole number from ${SAMPLES}`,
  );
  await sample('ready');
  // Adapters in memory, a full batch of prompt rows, every connection open.
  const longest = peftCases().reduce((a, b) => (b.prompt_ids.length > a.prompt_ids.length ? b : a));
  await generate(server.url, { adapter: 'pirate', prompt: longest.prompt, maxNewTokens: 4 });
  await send(CONCURRENCY * asks.length);
  const base = await sample('warm');

  const startedMs = performance.now();
  for (let at = 1; at <= SAMPLES; at += 1) {
    await send(Math.round((count * at) / SAMPLES) - Math.round((count * (at - 1)) / SAMPLES));
    await sample(`${Math.round((count * at) / SAMPLES)} requests`);
  }
  const seconds = (performance.now() - startedMs) / 1_000;
  await untilState(server, isIdle);

  const { VmRSS = 0, VmHWM = 0 } = server.memory();
  const growth = VmRSS / base - 1;
  console.log(
    `${count} requests in ${seconds.toFixed(1)} s: ${(100 * growth).toFixed(2)} % growth, at most ${megabytes(VmHWM)} MB`,
  );
  assert.ok(VmHWM < LIMIT_BYTES, `${VmHWM} bytes resident at most, expected under ${LIMIT_BYTES}`);
  assert.ok(growth < MAX_GROWTH, `grew by ${(100 * growth).toFixed(2)} %`);
  assert.ok((await stateOf(server)).steps >= count / CONCURRENCY, 'the requests ran');
});

test('a full KV cache and every adapter keep it under the same limit', onLinux, async () => {
  const { kvBlocks } = await stateOf(server);
  const tokens = 640;
  const sequences = Math.floor((kvBlocks.total * kvBlocks.blockSize) / tokens);
  assert.ok(sequences >= 4, `${kvBlocks.total} KV blocks hold ${sequences} sequences of ${tokens} tokens`);
  const prompt = ' the sea'.repeat(tokens / 2 - 8);
  const answers = await Promise.all(
    Array.from({ length: sequences }, (_, i) =>
      tryGenerate(server.url, { adapter: names[i % names.length] as string, prompt, maxNewTokens: 8, ignoreEos: true }),
    ),
  );
  assert.ok(answers.every((reply) => 'answer' in reply));
  await sample(`${sequences} sequences of ${tokens} tokens`);
  const { VmHWM = 0 } = server.memory();
  assert.ok(VmHWM < LIMIT_BYTES, `${VmHWM} bytes resident at most, expected under ${LIMIT_BYTES}`);
});

test('the server ends cleanly', async () => {
  await server.stop();
});
