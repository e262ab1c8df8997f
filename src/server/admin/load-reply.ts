import type { EngineClient } from '../../core/engine-client.js';
import { adapterView } from './adapter-view.js';
import type { LoadRequest } from './requests.js';

const STATUS = { created: 201, unchanged: 200, replaced: 200, accepted: 202 } as const;

export interface LoadReply {
  readonly status: number;
  readonly body: Readonly<Record<string, unknown>>;
}

/** Carries out a load or its dry run; the answer is that of `POST /adapters` and of uploads. Errors: as the engine's. */
export async function carryOutLoad(engine: EngineClient, { dryRun, ...load }: LoadRequest): Promise<LoadReply> {
  if (dryRun) {
    const { name, source, replace } = load;
    return { status: 200, body: adapterView(await engine.admin({ op: 'check', name, source, replace })) };
  }
  const { outcome, replaced, adapter } = await engine.admin({ op: 'load', ...load });
  const view = adapterView(adapter);
  return { status: STATUS[outcome], body: replaced === null ? view : { ...view, replaced } };
}
