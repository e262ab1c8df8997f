import { randomBytes } from 'node:crypto';
import { type AnswerPart, ToolCallParser } from '../../chat/tools/tool-call-parser.js';
import type { Completion } from '../../generation/service.js';
import type { GeneratedToken, GenerationEvent, GenerationResult } from '../../generation/spec.js';
import type { ChatCall } from './chat-body.js';
import { type ChatLogprobs, chatLogprobs } from './chat-logprobs.js';
import { finishReason } from './envelope.js';
import type { Run } from './runs.js';

/** A choice of a chunk. */
interface ChunkChoice {
  readonly index: number;
  readonly delta: object;
  readonly logprobs: ChatLogprobs | null;
  readonly finish_reason: string | null;
  readonly [more: string]: unknown;
}

/** Takes one answer apart, into text and calls. */
interface AnswerParser {
  push(delta: string): readonly AnswerPart[];
  end(): readonly AnswerPart[];
  readonly calls: number;
}

/** Makes the choices of one run: all at once, or chunk by chunk from its events. */
export class ChatWriter {
  readonly #call: ChatCall;
  readonly #run: Run;
  /** Known with the first event: only then is it certain which template was used. */
  #parser: AnswerParser | null = null;
  #opened = false;

  constructor(call: ChatCall, run: Run) {
    this.#call = call;
    this.#run = run;
  }

  /** Whole choices, without their order in the reply. */
  whole({ result, tokens }: Completion): readonly object[] {
    const parser = this.#parserOf();
    const parts = [...parser.push(result.text), ...parser.end()];
    return this.#run.job.indexes.map((index) => ({
      index,
      message: this.#message(parts),
      logprobs: this.#logprobs(tokens),
      finish_reason: this.#finishReason(result),
      stop_reason: result.stop,
      ...this.#tokenIds(tokens, true),
    }));
  }

  /** `choices` of the chunks that an event becomes. */
  chunks(event: GenerationEvent): readonly (readonly ChunkChoice[])[] {
    switch (event.kind) {
      case 'admitted':
      case 'prompt':
        return [];
      case 'token':
        return this.#chunks(this.#parserOf().push(event.delta), [event.token]);
      case 'finish': {
        const parser = this.#parserOf();
        const parts = [...parser.push(event.delta), ...parser.end()];
        const last = this.#run.job.indexes.map((index) => [
          {
            index,
            delta: {},
            logprobs: null,
            finish_reason: this.#finishReason(event.result),
            stop_reason: event.result.stop,
          },
        ]);
        return [...this.#chunks(parts, event.token === null ? [] : [event.token]), ...last];
      }
    }
  }

  /** One chunk a part for each choice; the tokens go with the first. */
  #chunks(parts: readonly AnswerPart[], tokens: readonly GeneratedToken[]): readonly (readonly ChunkChoice[])[] {
    const { logprobs, returnTokenIds } = this.#call;
    const isSilent = parts.length === 0 && ((logprobs === null && !returnTokenIds) || tokens.length === 0);
    if (isSilent) return [];
    const isFirst = !this.#opened;
    this.#opened = true;
    return this.#run.job.indexes.flatMap((index) => {
      const deltas =
        parts.length === 0 ? [{}] : parts.map((part) => deltaOf(part, part.kind === 'call' ? this.#newId() : ''));
      return deltas.map((delta, at) => [
        {
          index,
          delta,
          logprobs: at === 0 ? this.#logprobs(tokens) : null,
          finish_reason: null,
          ...(at === 0 ? this.#tokenIds(tokens, isFirst) : {}),
        },
      ]);
    });
  }

  #message(parts: readonly AnswerPart[]): object {
    const text = parts.map((part) => (part.kind === 'text' ? part.text : '')).join('');
    const calls = parts.filter((part) => part.kind === 'call');
    if (calls.length === 0) return { role: 'assistant', content: text, refusal: null };
    const tool_calls = calls.map((call) => {
      const pieces = parts.filter((part) => part.kind === 'arguments' && part.index === call.index);
      const text = pieces.map((part) => ('text' in part ? part.text : '')).join('');
      return { id: this.#newId(), type: 'function', function: { name: call.name, arguments: text } };
    });
    return { role: 'assistant', content: text === '' ? null : text, refusal: null, tool_calls };
  }

  #logprobs(tokens: readonly GeneratedToken[]): ChatLogprobs | null {
    const { logprobs, tokensAsIds } = this.#call;
    return logprobs === null ? null : chatLogprobs(tokens, tokensAsIds);
  }

  #tokenIds(tokens: readonly GeneratedToken[], withPrompt: boolean): object {
    if (!this.#call.returnTokenIds) return {};
    const prompt = withPrompt ? { prompt_token_ids: [...this.#run.generation.request.promptIds] } : {};
    return { ...prompt, token_ids: tokens.map(({ id }) => id) };
  }

  /** A forced call of one function ends as text does, with OpenAI too. */
  #finishReason({ reason }: GenerationResult): string {
    const plain = finishReason(reason);
    const called = this.#parserOf().calls > 0 && this.#call.tools.use.kind !== 'named';
    return plain === 'stop' && called ? 'tool_calls' : plain;
  }

  /** Mistral's templates take ids of nine letters and digits only. */
  #newId(): string {
    const { use } = this.#call.tools;
    const format =
      use.kind === 'auto' && use.format !== 'auto' ? use.format : this.#run.generation.template?.toolFormat;
    return format === 'mistral'
      ? randomBytes(6).toString('hex').slice(0, 9)
      : `call_${randomBytes(12).toString('hex')}`;
  }

  #parserOf(): AnswerParser {
    this.#parser ??= this.#newParser();
    return this.#parser;
  }

  #newParser(): AnswerParser {
    const { use, names, maxCalls } = this.#call.tools;
    switch (use.kind) {
      case 'none':
        return PLAIN_TEXT;
      case 'named':
        return new ArgumentsParser(use.name);
      case 'required':
        return new ToolCallParser('list', names, maxCalls);
      case 'auto': {
        const format = use.format === 'auto' ? this.#run.generation.template?.toolFormat : use.format;
        return format === null || format === undefined ? PLAIN_TEXT : new ToolCallParser(format, names, maxCalls);
      }
    }
  }
}

/** Answers without tools. */
const PLAIN_TEXT: AnswerParser = {
  push: (text) => (text === '' ? [] : [{ kind: 'text', text }]),
  end: () => [],
  calls: 0,
};

/** An answer that is nothing but the arguments of one call. */
class ArgumentsParser implements AnswerParser {
  readonly #name: string;
  calls = 0;

  constructor(name: string) {
    this.#name = name;
  }

  push(text: string): readonly AnswerPart[] {
    if (text === '') return [];
    const begin: readonly AnswerPart[] = this.calls === 0 ? [{ kind: 'call', index: 0, name: this.#name }] : [];
    this.calls = 1;
    return [...begin, { kind: 'arguments', index: 0, text }];
  }

  end(): readonly AnswerPart[] {
    return [];
  }
}

/** The first delta of a call says everything but its arguments, which both official clients need. */
function deltaOf(part: AnswerPart, id: string): object {
  switch (part.kind) {
    case 'text':
      return { content: part.text };
    case 'call':
      return {
        tool_calls: [{ index: part.index, id, type: 'function', function: { name: part.name, arguments: '' } }],
      };
    case 'arguments':
      return { tool_calls: [{ index: part.index, function: { arguments: part.text } }] };
  }
}
