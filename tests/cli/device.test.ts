import assert from 'node:assert/strict';
import { test } from 'node:test';
import { defaultCudaRuntime } from '../../src/engine/addon.js';
import { probeCuda } from '../../src/engine/cuda-probe.js';
import { runToExit } from '../helpers/server-process.js';

const state = probeCuda(defaultCudaRuntime());
const skip = state.obstacles.length === 0 ? 'this machine can compute on a GPU' : false;

test('a GPU that was asked for and cannot be used keeps the server from starting, with what to do', {
  skip,
}, async () => {
  const { code, stderr } = await runToExit(['--model', 'anything', '--device', 'cuda']);
  assert.equal(code, 1);
  const [obstacle] = state.obstacles;
  assert.ok(stderr.includes('--device cuda:0 cannot compute on a GPU'), stderr);
  assert.ok(stderr.includes(`${obstacle?.found}: ${obstacle?.advice}`), stderr);
  const auto = await runToExit(['--model', 'anything', '--device', 'auto', '--device-fallback', 'refuse']);
  assert.equal(auto.code, 1);
  assert.ok(auto.stderr.includes('--device auto cannot compute on a GPU'), auto.stderr);
});
