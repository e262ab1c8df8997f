import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { type ChildEnd, runChild } from '../helpers/child.js';

const CHILD = new URL('./children/isa.js', import.meta.url);
const run = (isa: string): Promise<ChildEnd> => runChild(CHILD, { env: { LORAMUX_ISA: isa } });

describe('LORAMUX_ISA', () => {
  for (const isa of ['portable', 'avx2', 'avx2vnni', 'avx512', 'avx512vnni']) {
    test(`${isa} kernels generate what PEFT does`, async (t) => {
      const { code, signal, stdout, stderr } = await run(isa);
      if (isa !== 'portable' && stderr.includes('is not one of this CPU')) {
        t.skip(`this CPU has no ${isa}: ${stderr.trim()}`);
        return;
      }
      assert.deepEqual({ code, signal, stderr }, { code: 0, signal: null, stderr: '' });
      assert.equal(stdout.trim(), `${isa}: 51 cases`);
    });
  }

  test('a name that is none is refused with those there are', async () => {
    const { code, stderr, stdout } = await run('mmx');
    assert.deepEqual({ code, stdout }, { code: 1, stdout: '' });
    assert.match(stderr, /^ERR_NATIVE_LOAD: LORAMUX_ISA=mmx is not one of .*\(.*portable\).*unset it/);
  });
});
