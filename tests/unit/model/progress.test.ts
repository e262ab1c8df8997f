import assert from 'node:assert/strict';
import { Writable } from 'node:stream';
import { test } from 'node:test';
import { createProgressDisplay } from '../../../src/model/progress.js';

/** A stream that keeps what was written; with `isTTY` and the cursor methods that a progress bar calls. */
function screen(isTTY: boolean) {
  let text = '';
  const sink = new Writable({
    write(chunk, _encoding, done) {
      text += String(chunk);
      done();
    },
  });
  const done = () => true;
  const stream = Object.assign(sink, { isTTY, columns: 80, cursorTo: done, moveCursor: done, clearLine: done });
  return { stream: stream as unknown as NodeJS.WriteStream, text: () => text };
}

const convert = (done: number) => ({ phase: 'convert', label: 'tiny to f32', done, total: 3 * 2 ** 20 }) as const;

test('off a terminal each phase is one line', () => {
  const { stream, text } = screen(false);
  const display = createProgressDisplay(stream);
  display.report({ phase: 'download', label: 'tiny', done: 0, total: 0 });
  for (const done of [0, 2 ** 20, 3 * 2 ** 20]) display.report(convert(done));
  display.stop();
  assert.equal(text(), 'downloading tiny\nconverting tiny to f32 (3 MiB)\n');
});

test('on a terminal a bar is drawn and stopped', () => {
  const { stream, text } = screen(true);
  const display = createProgressDisplay(stream);
  display.report({ phase: 'verify', label: 'tiny', done: 0, total: 0 });
  display.report(convert(0));
  display.report(convert(3 * 2 ** 20));
  display.stop();
  display.stop();
  assert.match(text(), /^verifying tiny\n/);
  assert.match(text(), /converting tiny to f32/);
  assert.match(text(), /100% of 3 MiB/);
});
