import type { FastifyRequest } from 'fastify';
import { LoramuxError } from '../../core/errors.js';
import type { GenerationEvent } from '../../generation/spec.js';
import type { RequestFacts } from '../request-facts.js';
import type { SseStream } from '../sse.js';
import { errorBody, toLoraxError } from './errors.js';
import { finalEvent, type ReplyOptions, tokenEvent } from './replies.js';

/** An event with text. */
export type TextEvent = Extract<GenerationEvent, { delta: string }>;

/** The next event with text; notes on the way which adapter answers. */
export async function nextText(events: AsyncIterator<GenerationEvent>, facts: RequestFacts): Promise<TextEvent> {
  for (;;) {
    const { value, done } = await events.next();
    if (done === true) throw new LoramuxError('ERR_STEP_FAILED', 'the generation ended without a result: report this');
    if ('delta' in value) return value;
    if (value.kind === 'admitted') facts.servedBy = value.servedBy;
  }
}

/** What a stream's events show beside its tokens. */
export interface StreamShape {
  readonly reply: ReplyOptions;
  readonly seed: bigint | null;
}

/** Writes the stream to its end: token events, then the final event or one error event. */
export async function writeStream(
  request: FastifyRequest,
  stream: SseStream,
  { reply, seed }: StreamShape,
  first: TextEvent,
  events: AsyncIterator<GenerationEvent>,
): Promise<void> {
  try {
    let event = first;
    while (event.kind === 'token') {
      await stream.send(tokenEvent(event.token, reply));
      event = await nextText(events, request.facts);
    }
    request.facts.results = [event.result];
    if (event.token !== null) await stream.send(finalEvent(event.token, event.result, seed, reply));
  } catch (thrown) {
    const failure = toLoraxError(thrown);
    request.facts.code = thrown instanceof LoramuxError ? thrown.code : null;
    if (failure.status === 500) request.log.error({ err: thrown }, 'stream failed');
    stream.sendLast(errorBody(failure));
  } finally {
    stream.end();
    await events.return?.();
  }
}
