import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PrefixTree } from '../../../src/scheduler/prefix-tree.js';

test('a block is found by its key, below the block it followed, under its salt', () => {
  const tree = new PrefixTree();
  const first = tree.insert(null, null, 'a', 3);
  const second = tree.insert(null, first, 'a', 5);
  const other = tree.insert(null, null, 'b', 7);
  assert.equal(tree.find(null, null, 'a'), first);
  assert.equal(tree.find(null, first, 'a'), second);
  assert.equal(tree.find(null, other, 'a'), null);
  assert.equal(tree.find(null, null, 'c'), null);
  assert.equal(tree.find('salt', null, 'a'), null);
  tree.insert('salt', null, 'a', 9);
  assert.equal(tree.find('salt', null, 'a')?.block, 9);
  assert.equal(tree.find(null, null, 'a')?.block, 3);
});

test('what was removed is not found, also when its block holds something else', () => {
  const tree = new PrefixTree();
  const first = tree.insert('salt', null, 'a', 3);
  const second = tree.insert('salt', first, 'a', 5);
  tree.remove(5);
  assert.deepEqual([first.cached, second.cached], [true, false]);
  assert.equal(tree.find('salt', first, 'a'), null);
  tree.remove(3);
  tree.remove(3);
  assert.equal(tree.find('salt', null, 'a'), null);
  tree.insert('salt', null, 'z', 3);
  assert.equal(tree.find('salt', null, 'a'), null);
});
