/** The base model's name in every request, plan and metric, as PEFT spells it. Never a valid adapter name. */
export const BASE_NAME = '__base__';

/** LoRAX's spelling of the base model; accepted at the HTTP edge only and translated there. */
export const LORAX_BASE_NAME = '__base_model__';

const PART = '[A-Za-z0-9][A-Za-z0-9._-]{0,127}';
const ADAPTER_NAME = new RegExp(`^${PART}(?:/${PART})?$`);

/** True when `name` may name an adapter: one part, or two joined by `/` as hub ids are. */
export function isAdapterName(name: string): boolean {
  return ADAPTER_NAME.test(name);
}
