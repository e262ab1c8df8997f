import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { ROOT } from '../helpers/paths.js';
import { ServerProcess } from '../helpers/server-process.js';
import { SYNTHETIC } from '../helpers/synthetic.js';

const BASE = 'llama-gqa-tied';
const SERVER = [
  ...['--model', join(SYNTHETIC, 'models', BASE), '--adapters', join(SYNTHETIC, 'adapters', BASE)],
  ...['--max-model-len', '64', '--vllm-lora-api', 'on', '--hub-offline', 'on', '--log-level', 'error'],
];
/** What the documents promise of every reply. Rules between fields are not in the schemas, so neither are refusals. */
const CHECKS = 'not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance';
/** Requests made up for each listener, in seconds. */
const SECONDS = 25;

/** Ends the server. */
const EXCLUDED = ['--exclude-path', '/drain'];

function schemathesis(): string {
  const script = join(ROOT, 'scripts', 'api-env.mjs');
  const python = process.env.API_PYTHON ?? execFileSync(process.execPath, [script], { encoding: 'utf8' }).trim();
  return join(dirname(python), 'schemathesis');
}

test('whatever is sent, every reply is one that the documents describe', async (t) => {
  const command = schemathesis();
  const cwd = mkdtempSync(join(tmpdir(), 'loramux-api-'));
  t.after(() => rmSync(cwd, { recursive: true, force: true }));
  const server = await ServerProcess.start(SERVER);
  t.after(() => server.kill());
  for (const [listener, url] of [
    ['public', server.url],
    ['admin', server.adminUrl],
  ] as const) {
    await t.test(`${listener} listener`, async () => {
      const args = ['run', `${url}/openapi.json`, '--seed', '1', '--max-examples', '15', '--max-time', String(SECONDS)];
      const how = [
        '--phases',
        'coverage,fuzzing',
        '--checks',
        CHECKS,
        '--suppress-health-check',
        'all',
        '--warnings',
        'off',
      ];
      const child = spawn(command, [...args, ...how, ...(listener === 'admin' ? EXCLUDED : [])], {
        cwd,
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      let report = '';
      child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
        report += chunk;
      });
      const [status] = await once(child, 'close');
      assert.equal(status, 0, report);
      const [, cases] = /^ {2}(\d+) generated, \1 passed/m.exec(report) ?? [];
      assert.ok(Number(cases) > 300, report);
      console.log(`${listener}: ${cases} requests`);
    });
  }
});
