/** loramux as a contender: the engine and the scheduler in one precision, without a server. */
import { totalmem } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import type { AdapterDtype } from '../../src/core/adapter.js';
import type { Precision } from '../../src/core/model-manifest.js';
import { loadBinding } from '../../src/engine/addon.js';
import { prepareModel } from '../../src/model/prepare-model.js';
import { answerJobs } from './answer-jobs.js';
import { bareModel } from './bare-graph.js';
import { LoramuxSession } from './loramux-session.js';
import type { Job, Timing } from './protocol.js';

const { values } = parseArgs({
  options: {
    precision: { type: 'string', default: 'f32' },
    'adapter-dtype': { type: 'string', default: 'file' },
    cache: { type: 'string', default: '.cache' },
    adapters: { type: 'string', default: '' },
    threads: { type: 'string', default: '1' },
  },
});
const threads = Number(values.threads);
const adapterDtype = values['adapter-dtype'] as AdapterDtype;
const binding = loadBinding();
const model = await prepareModel({
  model: 'demo',
  precision: values.precision as Precision,
  cacheDir: values.cache,
  checksumFile: (path) => binding.crc32File(path),
  onProgress: () => undefined,
  memoryBytes: totalmem(),
});
const session = await LoramuxSession.open(model, values.adapters, threads, adapterDtype);
/** Opened by the first job that asks for it. */
let bare: LoramuxSession | undefined;

async function run(job: Job): Promise<Timing> {
  if (!job.withoutOperators) return session.run(job);
  if (bare === undefined) {
    const without = bareModel(model, join(values.cache, 'bench-models'));
    bare = await LoramuxSession.open(without, values.adapters, threads, adapterDtype);
  }
  return bare.run(job);
}

const greeting = {
  versions: { 'kernel set': binding.instructionSet(), node: process.versions.node },
  settings: `base ${values.precision}, adapters ${adapterDtype === 'file' ? 'float16' : adapterDtype}, ${threads} threads`,
};
await answerJobs(greeting, run);
for (const open of [bare, session]) await open?.close();
