import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync, statSync } from 'node:fs';
import { join, posix } from 'node:path';
import { test } from 'node:test';
import { ROOT } from '../../helpers/paths.js';

const DOCUMENT = readFileSync(join(ROOT, 'docs', 'architecture.md'), 'utf8');
/** Folders whose every tracked file has a line. */
const COVERED = ['src', 'native/src', 'native/tests', 'native/benches', 'native/cuda', 'scripts', 'tests', 'bench'];
const FIXTURES = 'tests/fixtures/';

/** One line of the tables: a path from the root (folders end in `/`) and what is said about it. */
interface Line {
  readonly path: string;
  readonly what: string;
}

/** The headings (folder, colon, text) and the rows of the tables below them. */
function linesOf(document: string): Line[] {
  const lines: Line[] = [];
  let folder: string | null = null;
  for (const text of document.split('\n')) {
    const heading = /^#+ (?:`([^`]+\/)`: (.+))?/.exec(text);
    if (heading !== null) {
      const [, path, what] = heading;
      folder = path === undefined ? null : posix.normalize(path);
      if (folder !== null && what !== undefined) lines.push({ path: folder, what });
    }
    const row = /^\| `([^`]+)` \| (.*) \|$/.exec(text);
    if (row === null || folder === null) continue;
    const [, name = '', what = ''] = row;
    lines.push({ path: posix.join(folder, name), what });
  }
  return lines;
}

function trackedFiles(): string[] {
  const listed = execFileSync('git', ['ls-files', '-z', '--', ...COVERED], { cwd: ROOT, encoding: 'utf8' });
  return listed.split('\0').filter((path) => path !== '' && !path.startsWith(FIXTURES) && existsSync(join(ROOT, path)));
}

const LINES = linesOf(DOCUMENT);

test('every tracked source file, and its folder, has its line', (t) => {
  // A source archive has no list of files to compare with.
  if (!existsSync(join(ROOT, '.git'))) return t.skip('this copy is no git checkout');
  const tracked = trackedFiles();
  assert.ok(tracked.length >= 200, `git lists only ${tracked.length} files`);
  const named = new Set(LINES.map(({ path }) => path));
  const wanted = new Set(tracked.flatMap((path) => [path, `${posix.dirname(path)}/`]));
  const missing = [...wanted].filter((path) => !named.has(path));
  assert.deepEqual(missing, [], 'add a line for each to docs/architecture.md');
});

test('every path of the tables exists, is named once, and something is said about it', () => {
  assert.ok(LINES.length >= 300, `the document names only ${LINES.length} paths`);
  const seen = new Set<string>();
  for (const { path, what } of LINES) {
    const stats = statSync(join(ROOT, path), { throwIfNoEntry: false });
    assert.ok(stats !== undefined, `docs/architecture.md names ${path}, which does not exist`);
    assert.equal(stats.isDirectory(), path.endsWith('/'), `${path}: folders end in a slash, files do not`);
    assert.ok(!seen.has(path), `docs/architecture.md names ${path} twice`);
    assert.ok(what.trim().length >= 5, `docs/architecture.md says nothing about ${path}`);
    seen.add(path);
  }
});

test('every path in the text exists', () => {
  const paths = [...DOCUMENT.matchAll(/`((?:src|native|tests|scripts|bench|examples|docs)\/[\w./-]+)`/g)];
  assert.ok(paths.length >= 50, `only ${paths.length} paths found`);
  for (const [, path = ''] of paths) {
    assert.ok(existsSync(join(ROOT, path)), `docs/architecture.md names ${path}, which does not exist`);
  }
});
