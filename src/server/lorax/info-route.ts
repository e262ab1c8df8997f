import type { FastifyInstance } from 'fastify';
import type { EngineClient, EngineLimits } from '../../core/engine-client.js';
import { INFO } from '../schemas/lorax.js';
import { MAX_STOP_SEQUENCES } from './parameters.js';

/** What the weights are called in LoRAX's reply. */
const DTYPES: Readonly<Record<string, string>> = {
  f32: 'torch.float32',
  f16: 'torch.float16',
  bf16: 'torch.bfloat16',
  w8: 'int8',
  w4: 'int4',
};

/** The kind of device, without what the engine says about it: `cpu (avx2)` is `cpu`. */
export function deviceType({ device }: EngineLimits): string {
  return device.split(' ', 1)[0] ?? device;
}

/** `GET /info`, LoRAX's fields in LoRAX's order, what has no counterpart here null or neutral; then our own. */
export function registerInfo(app: FastifyInstance, engine: EngineClient, version: string, maxBestOf: number): void {
  const { limits } = engine;
  app.get('/info', { config: { doc: INFO } }, () => ({
    model_id: limits.modelId,
    model_sha: null,
    model_dtype: DTYPES[limits.precision] ?? limits.precision,
    model_device_type: deviceType(limits),
    model_pipeline_tag: 'text-generation',
    max_concurrent_requests: limits.maxQueue + limits.maxSequences,
    max_best_of: maxBestOf,
    max_stop_sequences: MAX_STOP_SEQUENCES,
    max_input_length: limits.maxModelLen - 1,
    max_total_tokens: limits.maxModelLen,
    waiting_served_ratio: 0,
    max_batch_total_tokens: engine.state().kvBlocks.total * engine.state().kvBlocks.blockSize,
    max_waiting_tokens: 0,
    validation_workers: 1,
    eager_prefill: true,
    version,
    sha: null,
    docker_label: null,
    request_logger_url: null,
    precision: limits.precision,
    precision_reason: limits.precisionReason,
  }));
}
