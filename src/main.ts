#!/usr/bin/env node
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { COMMANDS } from './cli/commands.js';
import { runCommand } from './cli/run-command.js';
import type { Config } from './config/config.js';
import { readHostFacts } from './config/host-facts.js';
import { parseCommand } from './config/parse-config.js';
import { LoramuxError } from './core/errors.js';
import { packageRoot } from './engine/addon.js';
import { type RunningServer, serve } from './serve.js';

function packageVersion(root: string): string {
  return (JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string }).version;
}

/** A failed start is one line; anything unexpected keeps its stack. */
function fail(error: unknown): never {
  if (error instanceof LoramuxError) console.error(`${error.code}: ${error.message}`);
  else console.error(error);
  process.exit(1);
}

/** Two requests to paste, once the demo is served with its own adapters: one adapter, then three and the base in one batch. */
function demoRequests(url: string): string {
  const ask = (text: string): string => `<|im_start|>user\\n${text}<|im_end|>\\n<|im_start|>assistant\\n`;
  const post = (body: string): string => `curl -s ${url}/generate -H 'content-type: application/json' -d '${body}'`;
  const one = `{"inputs":"${ask('What is the average price of orders where city is Oslo?')}","parameters":{"adapter_id":"sql","max_new_tokens":40}}`;
  const inputs = [
    'Order 4521: the kettle arrived broken. Regards, Ana, Lisbon',
    'The film was superb.',
    'What is the capital of France?',
    'What is the capital of France?',
  ].map((text) => `"${ask(text)}"`);
  const names = '["support-json","sentiment","pirate","__base__"]';
  const many = `{"inputs":[${inputs.join(',')}],"parameters":{"adapter_names":${names},"max_new_tokens":48}}`;
  return `try:\n${post(one)}\n${post(many)}`;
}

async function run(config: Config, memoryBytes: number, version: string, demoAdapters: string): Promise<void> {
  let server: RunningServer | null = null;
  let signals = 0;
  const finish = async (): Promise<void> => {
    // Before the server is up there is nothing to drain.
    await server?.stop();
    process.exit(0);
  };
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.on(signal, () => {
      signals += 1;
      if (signals > 1) process.exit(1);
      finish().catch(fail);
    });
  }
  // Without keys SIGHUP keeps its meaning: the terminal is gone.
  if (config.apiKeys !== null) process.on('SIGHUP', () => server?.reloadKeys());
  server = await serve(config, memoryBytes, version);
  console.log(`listening on ${server.url}`);
  console.log(`admin on ${server.adminUrl}`);
  if (server.grpcAddress !== null) console.log(`grpc on ${server.grpcAddress}`);
  if (server.grpcAdminAddress !== null) console.log(`grpc admin on ${server.grpcAdminAddress}`);
  if (config.model === 'demo' && config.adapters === demoAdapters) console.log(demoRequests(server.url));
  await server.drainRequested;
  await finish();
}

try {
  const root = packageRoot();
  const version = packageVersion(root);
  const facts = readHostFacts();
  const demoAdapters = join(root, 'examples', 'adapters');
  const context = { env: process.env, facts: { ...facts, demoAdapters }, print: (line: string) => console.log(line) };
  const [word, ...rest] = process.argv.slice(2);
  const named = COMMANDS.find(({ name }) => name === word);
  if (named !== undefined) process.exit(await runCommand(named, rest, context));
  const command = parseCommand(process.argv.slice(2), context.env, context.facts);
  if (command.kind === 'help') console.log(command.text);
  else if (command.kind === 'version') console.log(version);
  else await run(command.config, facts.memoryBytes, version, demoAdapters);
} catch (error) {
  fail(error);
}
