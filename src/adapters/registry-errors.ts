import { LoramuxError } from '../core/errors.js';
import type { AdapterRecord } from './adapter-record.js';

/** ERR_ADAPTER_UNLOADED: the name is on its way out. */
export function leavingError(name: string): LoramuxError {
  return new LoramuxError(
    'ERR_ADAPTER_UNLOADED',
    `adapter ${name} is being unloaded: load it again through the admin API`,
  );
}

/** ERR_ADAPTER_NOT_FOUND; `unloaded` when the operator took the name out of service. */
export function notFound(name: string, unloaded: boolean): LoramuxError {
  const message = unloaded
    ? `adapter ${name} was unloaded by the operator: load it again through the admin API`
    : `no adapter is called ${JSON.stringify(name)}: expected a sub-folder of the adapter folder with an adapter_config.json, or one loaded through the admin API`;
  return new LoramuxError('ERR_ADAPTER_NOT_FOUND', message);
}

/** ERR_ABORTED: the caller's signal fired. */
export function abortedError(name: string): LoramuxError {
  return new LoramuxError('ERR_ABORTED', `the request for adapter ${name} was aborted`);
}

/** ERR_ENGINE_CLOSED. */
export function closedError(): LoramuxError {
  return new LoramuxError('ERR_ENGINE_CLOSED', 'the engine is closed: it takes no more requests');
}

/** ERR_VALIDATION: a request says where the adapter lies, and its name means one from elsewhere. */
export function otherSource(name: string): LoramuxError {
  const message = `adapter ${name} is known here from another source: leave \`adapter_source\` out to use that one`;
  return new LoramuxError('ERR_VALIDATION', message, { field: 'adapter_source' });
}

/** ERR_ADAPTER_UNLOADED for an adapter that is on its way out. */
export function requireStaying(record: AdapterRecord): void {
  if (record.drain !== null) throw leavingError(record.name);
}
