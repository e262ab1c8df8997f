import { invalidModel, unsupportedModel } from '../model-errors.js';

/** The numbers that size everything else. */
export interface DecoderShape {
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
}

/** Far above every published decoder; a larger number is a damaged file and must not size an allocation. */
const MOST: DecoderShape = {
  hiddenSize: 2 ** 17,
  intermediateSize: 2 ** 20,
  layers: 1024,
  heads: 4096,
  kvHeads: 4096,
  headDim: 1024,
};

/**
 * Checks sizes and how they divide; nothing may be allocated from them before. ERR_MODEL_INVALID or _UNSUPPORTED.
 * @param fields what the file calls each size, for messages.
 */
export function checkDecoderShape(
  shape: DecoderShape,
  path: string,
  fields: Readonly<Record<keyof DecoderShape, string>>,
): void {
  for (const key of Object.keys(MOST) as (keyof DecoderShape)[]) {
    const value = shape[key];
    if (!Number.isInteger(value) || value < 1 || value > MOST[key])
      throw invalidModel(path, `${fields[key]}: expected an integer of 1 to ${MOST[key]}, found ${value}`, fields[key]);
  }
  if (shape.headDim % 2 !== 0)
    throw unsupportedModel(path, fields.headDim, String(shape.headDim), 'even head sizes (rotary pairs)');
  if (shape.heads % shape.kvHeads !== 0)
    throw invalidModel(
      path,
      `${fields.heads}: expected a multiple of the ${shape.kvHeads} key/value heads, found ${shape.heads}`,
      fields.heads,
    );
}
