import assert from 'node:assert/strict';
import { availableParallelism, totalmem } from 'node:os';
import { test } from 'node:test';
import { cgroupCpus, cgroupMemory, readHostFacts } from '../../../src/config/host-facts.js';

const files = (contents: Record<string, string>) => (path: string) => contents[path] ?? null;

test('the smallest limit from the own cgroup up to the root binds', () => {
  const read = files({
    '/proc/self/cgroup': '1:name=x:/y\n0::/a/b\n',
    '/sys/fs/cgroup/a/b/cpu.max': 'max 100000\n',
    '/sys/fs/cgroup/a/cpu.max': '250000 100000\n',
    '/sys/fs/cgroup/a/b/memory.max': '2000000\n',
    '/sys/fs/cgroup/a/memory.max': '1000000\n',
    '/sys/fs/cgroup/memory.max': 'max\n',
  });
  assert.equal(cgroupCpus(read), 2.5);
  assert.equal(cgroupMemory(read), 1_000_000);
});

test('no cgroup, no limit', () => {
  assert.equal(cgroupCpus(files({})), Number.POSITIVE_INFINITY);
  assert.equal(cgroupMemory(files({})), Number.POSITIVE_INFINITY);
  const facts = readHostFacts(files({}));
  assert.deepEqual(facts, { cpus: availableParallelism(), memoryBytes: totalmem() });
});

test('a share of a CPU is one thread', () => {
  assert.equal(readHostFacts(files({ '/sys/fs/cgroup/cpu.max': '10000 100000' })).cpus, 1);
});
