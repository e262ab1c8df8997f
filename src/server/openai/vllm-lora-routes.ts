import { isIP } from 'node:net';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { LoramuxError } from '../../core/errors.js';
import type { RouteDoc } from '../schemas/route-doc.js';
import { LOAD_LORA_ADAPTER, UNLOAD_LORA_ADAPTER } from '../schemas/vllm.js';
import type { OpenAiDeps } from './deps.js';
import { FieldError } from './errors.js';
import { requireBody } from './fields.js';
import { readLoraLoad, readLoraUnload } from './vllm-lora-body.js';
import { cannotBeFound, loadFailure, unavailable, type VllmError, vllmErrorBody } from './vllm-lora-errors.js';
import { LoraLoads, REPLY_WITHIN_MS, within } from './vllm-lora-loads.js';

export interface VllmLoraDeps extends Pick<OpenAiDeps, 'engine' | 'base' | 'vllmLoraApi' | 'vllmUnloadMissing'> {
  /** How long a caller waits for a load or unload that goes on after the reply. */
  readonly replyWithinMs?: number;
}

/** vLLM's routes that load and unload adapters while traffic runs, as its controllers expect them to answer. */
export function registerVllmLora(app: FastifyInstance, deps: VllmLoraDeps): void {
  const { engine, base, vllmLoraApi, vllmUnloadMissing, replyWithinMs = REPLY_WITHIN_MS } = deps;
  const loads = new LoraLoads(engine);

  async function checkPeer({ ip }: FastifyRequest): Promise<void> {
    if (vllmLoraApi === 'on' || isLoopback(ip)) return;
    throw new LoramuxError('ERR_FORBIDDEN', 'adapters are loaded by callers on this machine only');
  }

  const optionsOf = (doc: RouteDoc) => ({ config: { access: 'admin:write' as const, doc }, onRequest: checkPeer });

  app.post('/load_lora_adapter', optionsOf(LOAD_LORA_ADAPTER), async (request, reply) => {
    requireBody(request.body);
    let name = '';
    let path = '';
    try {
      const load = readLoraLoad(request.body, base);
      ({ name, path } = load);
      const done = loads.load(load).then(() => true);
      if ((await within(done, replyWithinMs)) !== null) {
        return reply.type('text/plain').send(`Success: LoRA adapter '${name}' added successfully.`);
      }
      return refuse(reply.header('retry-after', '2'), unavailable(`adapter '${name}' is still loading`));
    } catch (thrown) {
      return refuse(reply, loadFailure(thrown, name, path));
    }
  });

  app.post('/unload_lora_adapter', optionsOf(UNLOAD_LORA_ADAPTER), async (request, reply) => {
    requireBody(request.body);
    let name = '';
    try {
      name = readLoraUnload(request.body);
      // Requests for it are refused from now on; a long answer of its rows does not hold the reply up.
      await within(loads.unload(name), replyWithinMs);
    } catch (thrown) {
      if (thrown instanceof FieldError) return refuse(reply, loadFailure(thrown, name, ''));
      const isMissing = thrown instanceof LoramuxError && thrown.code === 'ERR_ADAPTER_NOT_FOUND';
      if (!isMissing) throw thrown;
      if (vllmUnloadMissing !== 200) return refuse(reply, cannotBeFound(name, vllmUnloadMissing));
    }
    return reply.type('text/plain').send(`Success: LoRA adapter '${name}' removed successfully.`);
  });
}

function refuse(reply: FastifyReply, error: VllmError): FastifyReply {
  return reply.code(error.status).type('application/json').send(vllmErrorBody(error));
}

function isLoopback(address: string): boolean {
  const plain = address.replace(/^::ffff:/i, '');
  return plain === '::1' || (isIP(plain) === 4 && plain.startsWith('127.'));
}
