import type { FastifyReply } from 'fastify';
import type { EngineClient } from '../../core/engine-client.js';
import { adapterView } from './adapter-view.js';
import type { LoadRequest } from './requests.js';

const STATUS = { created: 201, unchanged: 200, replaced: 200, accepted: 202 } as const;

/** Carries out a load or its dry run, and answers as both `POST /adapters` and uploads do. */
export async function replyWithLoad(
  engine: EngineClient,
  reply: FastifyReply,
  { dryRun, ...load }: LoadRequest,
): Promise<FastifyReply> {
  if (dryRun) {
    const { name, source, replace } = load;
    return reply.send(adapterView(await engine.admin({ op: 'check', name, source, replace })));
  }
  const { outcome, replaced, adapter } = await engine.admin({ op: 'load', ...load });
  return reply.code(STATUS[outcome]).send({ ...adapterView(adapter), ...(replaced === null ? {} : { replaced }) });
}
