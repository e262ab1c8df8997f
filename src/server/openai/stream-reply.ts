import type { FastifyReply, FastifyRequest } from 'fastify';
import { LoramuxError } from '../../core/errors.js';
import type { GenerationEvent, GenerationResult } from '../../generation/spec.js';
import type { Headers } from '../lorax/headers.js';
import { SseStream } from '../sse.js';
import type { StreamOptions } from './common-fields.js';
import type { Envelope } from './envelope.js';
import { errorBody, toOpenAiError } from './errors.js';
import { processingHeader } from './reply-headers.js';
import type { Run } from './runs.js';
import { type Usage, usageOf } from './usage.js';

/** A request that waits for longer than this for its first token gets its headers, and comments from then on. */
const PATIENCE_MS = 10_000;

/** The route's own part of a stream. */
export interface ChunkSource {
  /** What each chunk begins with. */
  envelope(): Envelope;
  readonly options: StreamOptions;
  /** Known once the first token is. */
  headers(): Headers;
  /** `choices` lists of the chunks that come before all others. */
  opening(): readonly (readonly object[])[];
  /** `choices` lists of the chunks that one event becomes. */
  chunksOf(run: Run, event: GenerationEvent): readonly (readonly object[])[];
  /** Fields of a last chunk without choices; null when there is nothing more to say. */
  closing(results: readonly GenerationResult[]): object | null;
}

/** A run that is being streamed. */
interface Progress {
  readonly run: Run;
  readonly iterator: AsyncIterator<GenerationEvent>;
  /** The first event that is more than an admission. */
  readonly first: Promise<GenerationEvent | null>;
  generatedTokens: number;
  result: GenerationResult | null;
}

/**
 * Answers with chunks of all runs as they come, then `[DONE]`. Whatever goes wrong before the first token gets its real
 * status; later it is one error event.
 */
export async function replyWithStream(
  request: FastifyRequest,
  reply: FastifyReply,
  runs: readonly Run[],
  source: ChunkSource,
  controller: AbortController,
): Promise<FastifyReply> {
  const all = runs.map(begin);
  try {
    await firstSign(all);
  } catch (thrown) {
    controller.abort();
    throw thrown;
  }
  reply.headers({ ...source.headers(), ...processingHeader(request.facts) });
  reply.header('content-type', 'text/event-stream; charset=utf-8');
  reply.hijack();
  await writeStream(request, new SseStream(reply.raw, reply.getHeaders()), all, source, controller);
  return reply;
}

function begin(run: Run): Progress {
  const iterator = run.events[Symbol.asyncIterator]();
  return { run, iterator, first: nextEvent(iterator), generatedTokens: 0, result: null };
}

async function nextEvent(iterator: AsyncIterator<GenerationEvent>): Promise<GenerationEvent | null> {
  for (;;) {
    const { value, done } = await iterator.next();
    if (done === true) return null;
    if (value.kind !== 'admitted') return value;
  }
}

/** Resolves with the first event of any run, or when waiting for it takes too long. */
async function firstSign(all: readonly Progress[]): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const patience = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, PATIENCE_MS);
  });
  try {
    await Promise.race([patience, ...all.map(({ first }) => first)]);
  } finally {
    clearTimeout(timer);
  }
}

async function writeStream(
  request: FastifyRequest,
  stream: SseStream,
  all: readonly Progress[],
  source: ChunkSource,
  controller: AbortController,
): Promise<void> {
  const { includeUsage, continuousUsage } = source.options;
  const opened = memberWriter();
  const send = (choices: readonly object[], rest: object = {}): Promise<void> | null => {
    const usage = continuousUsage ? { usage: usageSoFar(all) } : includeUsage ? { usage: null } : {};
    const tail = JSON.stringify({ choices, ...usage, ...rest });
    return stream.send(`{${opened(source.envelope())},${tail.slice(1)}`);
  };
  const pump = async (progress: Progress): Promise<void> => {
    let event = await progress.first;
    while (event !== null) {
      note(progress, event);
      for (const choices of source.chunksOf(progress.run, event)) {
        const full = send(choices);
        if (full !== null) await full;
      }
      const { value, done } = await progress.iterator.next();
      event = done === true ? null : value;
    }
  };
  let pumps: readonly Promise<void>[] = [];
  try {
    for (const choices of source.opening()) await send(choices);
    pumps = all.map(pump);
    await Promise.all(pumps);
    const results = all.flatMap(({ result }) => (result === null ? [] : [result]));
    request.facts.results = results;
    const closing = source.closing(results);
    if (includeUsage) await send([], { ...closing, usage: usageSoFar(all) });
    else if (closing !== null) await send([], closing);
    stream.sendLast('[DONE]');
  } catch (thrown) {
    controller.abort();
    // A pump that still has an event in hand may not write behind the end.
    await Promise.allSettled(pumps);
    writeFailure(request, stream, thrown);
  } finally {
    stream.end();
  }
}

function writeFailure(request: FastifyRequest, stream: SseStream, thrown: unknown): void {
  const failure = toOpenAiError(thrown);
  request.facts.code = thrown instanceof LoramuxError ? thrown.code : null;
  if (failure.status === 500) request.log.error({ err: thrown }, 'stream failed');
  stream.sendLast(errorBody(failure));
  stream.sendLast('[DONE]');
}

/** Writes the members of an object without its braces; those of the object that it wrote last are remembered. */
function memberWriter(): (object: object) => string {
  let last: object | null = null;
  let members = '';
  return (object) => {
    if (object !== last) members = JSON.stringify(object).slice(1, -1);
    last = object;
    return members;
  };
}

function note(progress: Progress, event: GenerationEvent): void {
  if ('token' in event && event.token !== null) progress.generatedTokens += 1;
  if (event.kind === 'finish') progress.result = event.result;
}

function usageSoFar(all: readonly Progress[]): Usage {
  return usageOf(
    all.map(({ run, generatedTokens, result }) => ({
      promptTokens: run.generation.request.promptIds.length,
      cachedTokens: result?.cachedTokens ?? 0,
      generatedTokens,
      copies: run.job.indexes.length,
      promptCounted: run.job.promptCounted,
    })),
  );
}
