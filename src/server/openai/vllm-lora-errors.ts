import { LoramuxError } from '../../core/errors.js';
import { FieldError } from './errors.js';

/** An error of vLLM's adapter routes. */
export interface VllmError {
  readonly status: number;
  readonly type: string;
  readonly message: string;
  readonly param: string | null;
}

/** Both forms at once: the object that vLLM sends now, and the flat one that older controllers read. */
export function vllmErrorBody({ status, type, message, param }: VllmError): string {
  const error = { message, type, param, code: status };
  return JSON.stringify({ error, object: 'error', ...error });
}

export function cannotBeFound(name: string, status: 400 | 404): VllmError {
  const type = status === 400 ? 'InvalidUserInput' : 'NotFoundError';
  return { status, type, message: `The lora adapter '${name}' cannot be found.`, param: 'lora_name' };
}

/** Controllers retry on these words only. */
export function unavailable(message: string): VllmError {
  return { status: 503, type: 'ServiceUnavailableError', message: `Service Unavailable: ${message}`, param: null };
}

function alreadyLoaded(name: string): VllmError {
  const message = `The lora adapter '${name}' has already been loaded. To move it to other files, set 'load_inplace'.`;
  return { status: 400, type: 'InvalidUserInput', message, param: 'lora_name' };
}

/**
 * Why a load failed, so that controllers retry what may pass and nothing else: faults of the adapter are 400, trouble
 * of its source 503. Rethrows what is no failure of a load.
 */
export function loadFailure(thrown: unknown, name: string, path: string): VllmError {
  if (!(thrown instanceof LoramuxError)) throw thrown;
  if (thrown instanceof FieldError) {
    return { status: 400, type: 'InvalidUserInput', message: thrown.message, param: thrown.param };
  }
  const message = `Loading lora ${name} failed: ${thrown.message}`;
  switch (thrown.code) {
    case 'ERR_ADAPTER_NOT_FOUND':
      return {
        status: 404,
        type: 'NotFoundError',
        message: `Loading lora ${name} failed: No adapter found for ${path}`,
        param: 'lora_path',
      };
    case 'ERR_BAD_REQUEST':
      if (thrown.details?.field === 'replace') return alreadyLoaded(name);
      return { status: 400, type: 'InvalidUserInput', message, param: 'lora_name' };
    case 'ERR_ADAPTER_INVALID':
    case 'ERR_ADAPTER_FORBIDDEN':
    case 'ERR_ADAPTER_TOO_LARGE':
      return { status: 400, type: 'BadRequestError', message, param: 'lora_path' };
    case 'ERR_ADAPTER_SOURCE':
    case 'ERR_ADAPTER_SOURCE_TIMEOUT':
    case 'ERR_ADAPTER_NO_SPACE':
    case 'ERR_ADAPTER_UNLOADED':
      return unavailable(message);
    default:
      throw thrown;
  }
}
