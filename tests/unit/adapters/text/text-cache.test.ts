import assert from 'node:assert/strict';
import { test } from 'node:test';
import { commonText } from '../../../../src/adapters/text/common-text.js';
import { TextCache } from '../../../../src/adapters/text/text-cache.js';
import type { TextFile } from '../../../../src/core/adapter-text.js';
import { adapterText } from '../../../helpers/adapter-text.js';
import { coded } from '../support.js';

function file(sha256: string): TextFile {
  return { path: 'chat_template.jinja', bytes: 1, sha256, content: new Uint8Array(1) };
}

test('equal files are read once and share what they come to; failures are not remembered', async () => {
  const read: string[] = [];
  const cache = new TextCache({
    read: async (place, [first]) => {
      read.push(place);
      if (place === 'bad') throw new Error('bad');
      return { text: first?.sha256 === 'base' ? null : adapterText({ digest: place }), warnings: [place] };
    },
    close: async () => undefined,
  });
  const [a, b] = await Promise.all([cache.read('a', [file('1')]), cache.read('b', [file('1')])]);
  assert.equal(a.text, b.text);
  assert.equal((await cache.read('c', [file('1')])).text, a.text);
  assert.notEqual((await cache.read('d', [file('2')])).text, a.text);
  assert.equal((await cache.read('e', [file('base')])).text, null);
  assert.deepEqual(await cache.read('f', [file('base')]), { text: null, warnings: ['e'] });
  await assert.rejects(cache.read('bad', [file('3')]));
  assert.equal((await cache.read('g', [file('3')])).text?.digest, 'g');
  assert.deepEqual(read, ['a', 'd', 'e', 'bad', 'g']);
});

test('several adapters get the text that all have, else the base, unless their ids mean different things', () => {
  const own = adapterText({ digest: 'a' });
  const foreign = adapterText({ digest: 'b', sharesVocabulary: false });
  const of = (...texts: (typeof own | null)[]) =>
    commonText(
      texts.map((text, at) => ({ name: `m${at}`, text })),
      '`adapters`',
    );
  assert.equal(of(null, null), null);
  assert.equal(of(own, { ...own }), own);
  assert.equal(of(own, null), null);
  assert.equal(of(foreign, foreign), foreign);
  assert.throws(() => of(null, foreign), coded('ERR_ADAPTER_INVALID'));
  assert.throws(() => of(own, foreign), /m1 ships a tokenizer with another/);
});
