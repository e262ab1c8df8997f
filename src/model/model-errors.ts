import { LoramuxError } from '../core/errors.js';

/** A model file that breaks its own format. `problem` says what was expected, what came and what to do. */
export function invalidModel(file: string, problem: string, field?: string): LoramuxError {
  return new LoramuxError('ERR_MODEL_INVALID', `${file}: ${problem}`, field === undefined ? { file } : { file, field });
}

/** A well-formed model that asks for something this project does not build; `field` names it. */
export function unsupportedModel(file: string, field: string, found: string, supported: string): LoramuxError {
  return new LoramuxError(
    'ERR_MODEL_UNSUPPORTED',
    `${file}: ${field} is ${found}, which is not supported; supported: ${supported}`,
    { file, field },
  );
}
