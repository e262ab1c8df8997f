import type { JsonValue } from './strict-json.js';

const MAX_BLOCKS = 256;
const MAX_NAMES = 1_000;
const KEYS: ReadonlySet<string> = new Set(['target_modules_bd_a', 'target_modules_bd_b', 'nblocks', 'match_strict']);

/** Block-diagonal LoRA: one factor of a module is stored as the blocks of its diagonal, zeros left out. */
export interface BlockDiagonal {
  /** Of each such factor. */
  readonly blocks: number;
  /** Parts of module names whose A, or B, is stored so. */
  readonly a: readonly string[];
  readonly b: readonly string[];
  /** Every targeted module must be of one of the two kinds. */
  readonly strict: boolean;
}

/** How many blocks the factors of one module have; 1 = dense. */
export interface FactorBlocks {
  readonly a: number;
  readonly b: number;
}

const DENSE: FactorBlocks = { a: 1, b: 1 };

/** Reads the object of `use_bdlora`, or says what is expected instead. Source: PEFT 0.21 `BdLoraConfig`. */
export function readBlockDiagonal(value: JsonValue): BlockDiagonal | string {
  if (!(value instanceof Map)) return `an object of ${[...KEYS].join(', ')}, or null`;
  const unknown = [...value.keys()].find((key) => !KEYS.has(key));
  if (unknown !== undefined) return `no key ${JSON.stringify(unknown)}: its meaning is unknown here`;
  const blocks = value.get('nblocks') ?? 1;
  if (typeof blocks !== 'number' || !Number.isInteger(blocks) || blocks < 1 || blocks > MAX_BLOCKS) {
    return `nblocks to be a whole number of 1–${MAX_BLOCKS}`;
  }
  const strict = value.get('match_strict') ?? true;
  if (typeof strict !== 'boolean') return 'match_strict to be true or false';
  const a = readNames(value.get('target_modules_bd_a') ?? []);
  const b = readNames(value.get('target_modules_bd_b') ?? []);
  if (a === null || b === null) return `target_modules_bd_a and target_modules_bd_b to be lists of names, or null`;
  return { blocks, a, b, strict };
}

function readNames(value: JsonValue): readonly string[] | null {
  const isList = Array.isArray(value) && value.length <= MAX_NAMES && value.every((name) => typeof name === 'string');
  return isList ? value : null;
}

/**
 * The blocks of one module's factors, or what is wrong with the configuration there. PEFT looks for the names anywhere
 * in the last part of the module's name.
 */
export function blocksOf(module: string, config: BlockDiagonal | null): FactorBlocks | string {
  if (config === null) return DENSE;
  const own = module.slice(module.lastIndexOf('.') + 1);
  const isNamed = (names: readonly string[]): boolean => names.some((name) => own.includes(name));
  const [a, b] = [isNamed(config.a), isNamed(config.b)];
  if (a && b) return `${own} in one of target_modules_bd_a and target_modules_bd_b, not in both`;
  if (config.strict && !a && !b) return `${own} in target_modules_bd_a or target_modules_bd_b, or match_strict: false`;
  return { a: a ? config.blocks : 1, b: b ? config.blocks : 1 };
}
