import { LoramuxError } from '../core/errors.js';
import { TemplateBudgetError, withinTime } from './budget.js';
import { MAX_ELEMENTS, TemplateInterpreter } from './interpreter.js';
import { Environment, type Program, parse, tokenize } from './jinja.js';
import { strftime } from './strftime.js';
import { type ToolFormat, toolFormatOf } from './tools/tool-format.js';

/** A message as templates see it: at least a role, and usually content. */
export type TemplateMessage = Readonly<Record<string, unknown>> & { readonly role: string };

/** A conversation to be made into one prompt. */
export interface Chat {
  readonly messages: readonly TemplateMessage[];
  /** Tools as the request gives them; null = none. */
  readonly tools: readonly unknown[] | null;
  /** How calls are found in the answer: a template that neither shows tools nor a known format is refused. Null = they need not be. */
  readonly toolFormat: ToolFormat | 'auto' | null;
  /** End with what opens an answer. */
  readonly addGenerationPrompt: boolean;
  /** Leave the last message open, so that the answer goes on with it. Its content must be text. */
  readonly continueFinalMessage: boolean;
  /** Further variables for the template; they go before everything else of the same name but messages and tools. */
  readonly kwargs: Readonly<Record<string, unknown>>;
}

/** Longest template that is compiled. */
const MAX_SOURCE_LENGTH = 2 ** 20;
/** Marks where the last message ends; that it ends in a space shows whether the template trims. */
const END_MARK = 'LORAMUX_FINAL_MESSAGE_ENDS_HERE ';

/**
 * A chat template as Transformers renders it: Jinja with trimmed blocks, loop controls, `raise_exception`,
 * `strftime_now`, `tojson` without HTML escapes, and the tokenizer's special tokens as variables.
 */
export class ChatTemplate {
  readonly source: string;
  readonly #program: Program;
  readonly #specialTokens: Readonly<Record<string, string>>;
  readonly #now: () => Date;

  /** `specialTokens` by the tokenizer's names for them: `bos_token`, `eos_token`, … ERR_TEMPLATE for a malformed template. */
  constructor(source: string, specialTokens: Readonly<Record<string, string>>, now: () => Date = () => new Date()) {
    if (source.length > MAX_SOURCE_LENGTH) {
      throw refusal(`expected a template of at most ${MAX_SOURCE_LENGTH} characters, got ${source.length}`);
    }
    this.source = source;
    this.#specialTokens = specialTokens;
    this.#now = now;
    try {
      this.#program = withinTime(() =>
        parse(tokenize(withoutMarks(source), { lstrip_blocks: true, trim_blocks: true })),
      );
    } catch (thrown) {
      throw refusal(`the chat template cannot be read: ${reasonOf(thrown)}`, thrown);
    }
  }

  /** The prompt. ERR_TEMPLATE says what the template refuses or why it fails. */
  render(given: Chat): string {
    this.#checkTools(given);
    const chat = this.#knowsDevelopers ? given : { ...given, messages: given.messages.map(asSystem) };
    if (!chat.continueFinalMessage) return this.#run(chat, chat.messages);
    return this.#open(chat);
  }

  /** How the model that this template is for writes calls; null when that cannot be told. */
  get toolFormat(): ToolFormat | null {
    return toolFormatOf(this.source);
  }

  get #knowsDevelopers(): boolean {
    return this.source.includes('developer');
  }

  /** ERR_TEMPLATE for tools that the template would leave out, or whose calls would not be found. */
  #checkTools({ tools, toolFormat }: Chat): void {
    if (tools === null || toolFormat === null) return;
    const reason = /\btools\b/.test(this.source)
      ? toolFormat === 'auto' && this.toolFormat === null
        ? 'shows calls in no format known here: name it with --tool-call-format'
        : null
      : "takes no tools: leave them out, or force a call with 'tool_choice'";
    if (reason === null) return;
    throw new LoramuxError('ERR_TEMPLATE', `the model's chat template ${reason}`, { field: 'tools' });
  }

  #open(chat: Chat): string {
    const last = chat.messages.at(-1);
    if (typeof last?.content !== 'string') throw refusal('the final message has no text that could be continued');
    const marked = [...chat.messages.slice(0, -1), { ...last, content: last.content + END_MARK }];
    const text = this.#run(chat, marked);
    const end = text.lastIndexOf(END_MARK.trim());
    if (end < 0) throw refusal('the chat template leaves the final message out, so that it cannot be continued');
    const kept = text.slice(0, end);
    // Without its space the template trims messages, and would have trimmed what stands before the mark.
    return text.startsWith(END_MARK, end) ? kept : kept.trimEnd();
  }

  #run({ tools, addGenerationPrompt, kwargs }: Chat, messages: readonly TemplateMessage[]): string {
    const variables = {
      ...this.#specialTokens,
      ...kwargs,
      messages,
      tools,
      documents: null,
      add_generation_prompt: addGenerationPrompt,
    };
    try {
      return withinTime(() => {
        const environment = new Environment();
        for (const [name, value] of Object.entries(this.#globals())) environment.set(name, value);
        // A request's variables may hide what templates can call, as in Jinja.
        const scope = new Environment(environment);
        for (const [name, value] of Object.entries(variables)) scope.set(name, value);
        return String(new TemplateInterpreter(scope).run(this.#program).value);
      });
    } catch (thrown) {
      throw refusal(`the chat template refuses or fails: ${reasonOf(thrown)}`, thrown);
    }
  }

  #globals(): Readonly<Record<string, unknown>> {
    return {
      true: true,
      True: true,
      false: false,
      False: false,
      none: null,
      None: null,
      range,
      raise_exception: (message: unknown) => {
        throw new Error(String(message));
      },
      strftime_now: (format: string) => strftime(this.#now(), format),
    };
  }
}

/** Marks of generated text for training say nothing about the prompt; as conditions they keep their white space. */
function withoutMarks(source: string): string {
  return source
    .replace(/\{%([-+]?)\s*generation\s*([-+]?)%\}/g, '{%$1 if true $2%}')
    .replace(/\{%([-+]?)\s*endgeneration\s*([-+]?)%\}/g, '{%$1 endif $2%}');
}

/** A developer's message for templates from before there were any. */
function asSystem(message: TemplateMessage): TemplateMessage {
  return message.role === 'developer' ? { ...message, role: 'system' } : message;
}

/** ERR_TEMPLATE. */
function refusal(message: string, cause?: unknown): LoramuxError {
  return new LoramuxError('ERR_TEMPLATE', message, { field: 'messages' }, { cause });
}

function reasonOf(thrown: unknown): string {
  if (thrown instanceof RangeError) return 'it calls itself too deeply or makes too much text';
  const message = thrown instanceof Error ? thrown.message : String(thrown);
  return message.length <= 500 ? message : `${message.slice(0, 500)}…`;
}

/** Python's `range`, within what a template may hold. */
function range(first: number, second?: number, step = 1): number[] {
  const [start, stop] = second === undefined ? [0, first] : [first, second];
  if (step === 0) throw new Error('range() with a step of zero');
  const length = Math.max(0, Math.ceil((stop - start) / step));
  if (!(length <= MAX_ELEMENTS)) throw new TemplateBudgetError(`range() makes more than ${MAX_ELEMENTS} numbers`);
  return Array.from({ length }, (_, at) => start + at * step);
}
