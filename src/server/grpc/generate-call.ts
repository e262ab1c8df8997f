import { once, setMaxListeners } from 'node:events';
import type { ServerWritableStream } from '@grpc/grpc-js';
import { LoramuxError } from '../../core/errors.js';
import type { GenerationResult } from '../../generation/spec.js';
import type { OpenAiDeps } from '../openai/deps.js';
import { noteCall, type Run, startAll } from '../openai/runs.js';
import { doneMessage, EventWriter } from './generate-events.js';
import type { GenerateRequestMessage } from './messages.js';
import { readGenerate } from './read-generate.js';
import type { CallScope } from './scope.js';

export type GenerateStream = ServerWritableStream<GenerateRequestMessage, object>;

/** What the calls of the service Generation work with. */
export type GenerateDeps = Pick<OpenAiDeps, 'engine' | 'generation' | 'drawSeed' | 'base' | 'maxChoices' | 'maxBestOf'>;

/**
 * Answers one Generate call with its events. A call that is cancelled or runs out of time ends its generations in the
 * scheduler; a client that does not read ends them too, once its unread output passes the bound of all streams.
 */
export async function generate(call: GenerateStream, deps: GenerateDeps, scope: CallScope): Promise<void> {
  const controller = new AbortController();
  call.once('cancelled', () => controller.abort());
  // Messages have no field for other sources.
  const context = { ...deps, limits: deps.engine.limits, requestSources: [] };
  const request = readGenerate(call.request, context, scope);
  setMaxListeners(request.jobs.length, controller.signal);
  const { facts } = scope;
  noteCall(facts, request.call, request.call.n);
  facts.stream = true;
  const runs = await startAll(deps.generation, request.jobs, request.call.model, facts, controller);
  const writer = new EventWriter(request, scope.requestId);
  try {
    const finished = await Promise.all(runs.map((run) => pump(call, run, writer, controller.signal)));
    facts.results = finished.map(({ result }) => result);
    await write(call, doneMessage(finished), controller.signal);
  } catch (thrown) {
    controller.abort();
    throw thrown;
  }
}

/** Writes one run to its end. */
async function pump(
  call: GenerateStream,
  run: Run,
  writer: EventWriter,
  signal: AbortSignal,
): Promise<{ readonly run: Run; readonly result: GenerationResult }> {
  for await (const event of run.events) {
    for (const message of writer.messagesOf(run, event)) await write(call, message, signal);
    if (event.kind === 'finish') return { run, result: event.result };
  }
  throw new LoramuxError('ERR_STEP_FAILED', 'the generation ended without a result: report this');
}

/** Waits for the client where the stream is full; the generation goes on meanwhile, into its own bounded buffer. */
async function write(call: GenerateStream, message: object, signal: AbortSignal): Promise<void> {
  if (signal.aborted) throw new LoramuxError('ERR_ABORTED', 'the client left');
  if (call.write(message)) return;
  try {
    await once(call, 'drain', { signal });
  } catch (cause) {
    throw new LoramuxError('ERR_ABORTED', 'the client left before its stream was read', undefined, { cause });
  }
}
