import { parseArgs } from 'node:util';
import { LoramuxError } from '../core/errors.js';

/** What a command line may hold, by flag name without dashes. */
export type KnownFlags = ReadonlyMap<
  string,
  {
    /** False for a switch. */
    readonly takesValue: boolean;
    readonly help: string;
  }
>;

export interface CommandLine {
  /** Of the flags given; '' for a switch. */
  readonly values: ReadonlyMap<string, string>;
  readonly positionals: readonly string[];
}

/** ERR_CONFIG about one flag, variable or word. */
export function configError(message: string, field: string): LoramuxError {
  return new LoramuxError('ERR_CONFIG', message, { field });
}

/**
 * Splits arguments. A flag given twice counts once, with its last value, so that scripts can append. ERR_CONFIG names
 * a flag that is unknown, lacks its value, or has one it does not take.
 */
export function readCommandLine(argv: readonly string[], flags: KnownFlags): CommandLine {
  const options = Object.fromEntries(
    [...flags].map(([name, { takesValue }]) => [
      name,
      { type: takesValue ? ('string' as const) : ('boolean' as const) },
    ]),
  );
  const { tokens } = parseArgs({ args: [...argv], options, strict: false, allowPositionals: true, tokens: true });
  const values = new Map<string, string>();
  const positionals: string[] = [];
  for (const token of tokens) {
    if (token.kind === 'positional') positionals.push(token.value);
    if (token.kind !== 'option') continue;
    const flag = flags.get(token.name);
    if (flag === undefined) {
      throw configError(`unknown flag ${token.rawName}: see loramux --help for the flags there are`, token.rawName);
    }
    if (!flag.takesValue) {
      if (token.value !== undefined) throw configError(`--${token.name} takes no value`, `--${token.name}`);
      values.set(token.name, '');
      continue;
    }
    // The next flag is never taken for a value; a value that starts with a dash is written --flag=-value.
    if (token.value === undefined || (!token.inlineValue && token.value.startsWith('--'))) {
      throw configError(`--${token.name} needs a value: ${flag.help}`, `--${token.name}`);
    }
    values.set(token.name, token.value);
  }
  return { values, positionals };
}
