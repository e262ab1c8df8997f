/** loramux as a contender: the engine and the scheduler in one precision, without a server. */
import { totalmem } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import type { Precision } from '../../src/core/model-manifest.js';
import { loadBinding } from '../../src/engine/binding.js';
import { prepareModel } from '../../src/model/prepare-model.js';
import { answerJobs } from './answer-jobs.js';
import { bareModel } from './bare-graph.js';
import { LoramuxSession } from './loramux-session.js';
import type { Job, Timing } from './protocol.js';

const { values } = parseArgs({
  options: {
    precision: { type: 'string', default: 'f32' },
    cache: { type: 'string', default: '.cache' },
    adapters: { type: 'string', default: '' },
    threads: { type: 'string', default: '1' },
  },
});
const threads = Number(values.threads);
const binding = loadBinding();
const model = await prepareModel({
  model: 'demo',
  precision: values.precision as Precision,
  cacheDir: values.cache,
  checksumFile: (path) => binding.crc32File(path),
  onProgress: () => undefined,
  memoryBytes: totalmem(),
});
const session = await LoramuxSession.open(model, values.adapters, threads);
/** Opened by the first job that asks for it. */
let bare: LoramuxSession | undefined;

async function run(job: Job): Promise<Timing> {
  if (!job.withoutOperators) return session.run(job);
  bare ??= await LoramuxSession.open(bareModel(model, join(values.cache, 'bench-models')), values.adapters, threads);
  return bare.run(job);
}

const greeting = {
  versions: { 'kernel set': binding.instructionSet(), node: process.versions.node },
  settings: `base ${values.precision}, ${threads} threads`,
};
await answerJobs(greeting, run);
for (const open of [bare, session]) await open?.close();
