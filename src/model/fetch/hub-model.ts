import { mkdir, readFile, rename, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { LoramuxError } from '../../core/errors.js';
import type { ProgressReport } from '../progress.js';
import { CONFIG_FILE, readShardNames, SIDE_FILES, WEIGHTS_FILE, WEIGHTS_INDEX_FILE } from '../sources/hf-files.js';
import { type HubId, type HubOptions, HubRepository } from './hub-repository.js';

const HUB_ID = /^([A-Za-z0-9][\w.-]*\/[A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?$/;
const COMMIT = /^[0-9a-f]{40}$/;

/** Parses a hub id; undefined when `text` cannot be one. */
export function parseHubId(text: string): HubId | undefined {
  const [, repo, revision = 'main'] = HUB_ID.exec(text) ?? [];
  return repo === undefined || repo.includes('..') ? undefined : { repo, revision };
}

/**
 * Directory `<cacheDir>/hub/models--org--name/snapshots/<commit>` with the files that a conversion needs, downloaded on
 * first use. A revision is resolved to a commit once and then stays: replicas that restart keep serving the same
 * weights, with or without a network. To move on, name another revision or delete the folder.
 *
 * ERR_MODEL_NOT_FOUND when the hub cannot be reached, refuses, or lacks a file; ERR_MODEL_INVALID when bytes do not
 * match the hub's hash.
 */
export async function fetchHubModel(
  id: HubId,
  cacheDir: string,
  onProgress: ProgressReport,
  options: HubOptions,
): Promise<string> {
  const folder = join(cacheDir, 'hub', `models--${id.repo.replace('/', '--')}`);
  const known = await knownSnapshot(folder, id.revision);
  if (known !== undefined) return known;
  if (options.offline === true)
    throw new LoramuxError(
      'ERR_MODEL_NOT_FOUND',
      `${id.repo}@${id.revision} was not downloaded before and the hub is switched off: go online once, or pass --model a directory`,
    );

  const repository = await HubRepository.open(id, options);
  const snapshot = join(folder, 'snapshots', repository.commit);
  if (!(await isDirectory(snapshot))) await download(repository, folder, snapshot, onProgress);
  if (!COMMIT.test(id.revision)) {
    await mkdir(join(folder, 'refs'), { recursive: true });
    await writeFile(refPath(folder, id.revision), repository.commit);
  }
  return snapshot;
}

function refPath(folder: string, revision: string): string {
  return join(folder, 'refs', encodeURIComponent(revision));
}

async function knownSnapshot(folder: string, revision: string): Promise<string | undefined> {
  const commit = COMMIT.test(revision)
    ? revision
    : await readFile(refPath(folder, revision), 'utf8').then(
        (text) => text.trim(),
        () => undefined,
      );
  if (commit === undefined || !COMMIT.test(commit)) return undefined;
  const snapshot = join(folder, 'snapshots', commit);
  return (await isDirectory(snapshot)) ? snapshot : undefined;
}

/** Files arrive in a sibling directory that takes the snapshot's name when complete; finished ones survive a retry. */
async function download(
  repository: HubRepository,
  folder: string,
  snapshot: string,
  onProgress: ProgressReport,
): Promise<void> {
  const partial = join(folder, 'snapshots', `.${repository.commit}.partial`);
  await mkdir(partial, { recursive: true });
  const fetchAll = async (names: readonly string[]) => {
    const files = names.map((name) => repository.file(name));
    const total = files.reduce((sum, file) => sum + file.bytes, 0);
    let before = 0;
    for (const file of files) {
      if (!(await hasSize(join(partial, file.name), file.bytes)))
        await repository.download(file, partial, (done) =>
          onProgress({ phase: 'download', label: repository.label, done: before + done, total }),
        );
      before += file.bytes;
    }
  };
  const side = SIDE_FILES.filter(({ name, required }) => required || repository.has(name)).map(({ name }) => name);
  if (repository.has(WEIGHTS_FILE)) {
    await fetchAll([...side, WEIGHTS_FILE]);
  } else if (repository.has(WEIGHTS_INDEX_FILE)) {
    await fetchAll([...side, WEIGHTS_INDEX_FILE]);
    await fetchAll(await readShardNames(join(partial, WEIGHTS_INDEX_FILE)));
  } else {
    throw new LoramuxError(
      'ERR_MODEL_NOT_FOUND',
      `${repository.label}: expected ${CONFIG_FILE} and ${WEIGHTS_FILE} or ${WEIGHTS_INDEX_FILE}, found ${repository.names.slice(0, 8).join(', ')}: only safetensors repositories can be named by id; download a .gguf file and pass its path`,
    );
  }
  try {
    await rename(partial, snapshot);
  } catch (error) {
    // Another process may have finished the same snapshot first.
    if (!(await isDirectory(snapshot))) throw error;
  }
}

async function hasSize(path: string, bytes: number): Promise<boolean> {
  return stat(path).then(
    (stats) => stats.size === bytes,
    () => false,
  );
}

async function isDirectory(path: string): Promise<boolean> {
  return stat(path).then(
    (stats) => stats.isDirectory(),
    () => false,
  );
}
