import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import Fastify from 'fastify';
import { loadBinding } from '../../src/engine/addon.js';
import { registerTokenize } from '../../src/server/lorax/tokenize-route.js';
import { ROOT } from '../helpers/paths.js';

interface Suite {
  /** A tokenizer's file, from the folder of the cases. */
  readonly tokenizer: string;
  readonly cases: readonly { inputs: string; add_special_tokens: boolean; tokens: readonly object[] }[];
}

const FOLDER = join(ROOT, 'tests', 'fixtures', 'tokenize');
const { suites } = JSON.parse(readFileSync(join(FOLDER, 'cases.json'), 'utf8')) as { suites: readonly Suite[] };

for (const { tokenizer: file, cases } of suites) {
  test(`POST /tokenize with ${file} answers what Transformers does`, async (t) => {
    const tokenizer = loadBinding().Tokenizer.fromFile(join(FOLDER, file));
    const app = Fastify();
    registerTokenize(app, tokenizer);
    t.after(() => app.close());
    assert.ok(cases.length > 20);
    for (const { tokens, ...payload } of cases) {
      const reply = await app.inject({ method: 'POST', url: '/tokenize', payload });
      assert.deepEqual(reply.json(), tokens, JSON.stringify(payload));
      const ids = await tokenizer.encode(payload.inputs, payload.add_special_tokens);
      assert.deepEqual(
        reply.json().map(({ id }: { id: number }) => id),
        [...ids],
        'the ids of prompts',
      );
    }
  });
}
