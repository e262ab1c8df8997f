import type { FastifyInstance, LightMyRequestResponse as Response } from 'fastify';
import { ScriptedEngine } from '../../helpers/scripted-engine.js';
import { eventsOf, post } from './support.js';

/** Shows roles, tools, and calls of earlier answers. */
export const TEMPLATE =
  '{% if tools %}T{{ tools | length }} {% endif %}' +
  '{% for m in messages %}{{ m.role }}:{{ m.content }}{{ m.tool_calls | tojson if m.tool_calls }};{% endfor %}' +
  '{% if add_generation_prompt %}A:{% endif %}{# <tool_call> developer #}';

/** An engine whose base has a template and a long context. */
export function chatEngine(template: string | null = TEMPLATE): ScriptedEngine {
  return new ScriptedEngine({ chatTemplate: template, maxModelLen: 2_048 });
}

export function chat(app: FastifyInstance, fields: object, headers: object = {}): Promise<Response> {
  const body = { model: 'tiny', messages: [{ role: 'user', content: 'hi' }], ...fields };
  return post(app, '/v1/chat/completions', body, headers);
}

/** The prompt that the engine got, as text. */
export function promptOf(engine: ScriptedEngine, at = engine.calls.length - 1): string {
  return Buffer.from(engine.calls[at]?.request.promptIds ?? []).toString('utf8');
}

export interface ChatChunk {
  readonly id: string;
  readonly object: string;
  readonly choices: readonly {
    readonly index: number;
    readonly delta: {
      readonly role?: string;
      readonly content?: string;
      readonly tool_calls?: readonly {
        readonly index: number;
        readonly id?: string;
        readonly type?: string;
        readonly function: { readonly name?: string; readonly arguments: string };
      }[];
    };
    readonly logprobs: { readonly content: readonly { readonly token: string }[] } | null;
    readonly finish_reason: string | null;
    readonly stop_reason?: string | number | null;
  }[];
  readonly usage?: { readonly prompt_tokens: number; readonly completion_tokens: number } | null;
}

export function chatChunks(reply: Response): readonly ChatChunk[] {
  return eventsOf(reply).chunks as unknown as readonly ChatChunk[];
}

export const ADD = {
  type: 'function',
  function: { name: 'add', description: 'Adds', parameters: { type: 'object', properties: { a: { type: 'number' } } } },
} as const;
export const NOW = { type: 'function', function: { name: 'now' } } as const;
