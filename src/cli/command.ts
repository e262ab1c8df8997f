import { type CommandLine, configError, type KnownFlags, readCommandLine } from '../config/command-line.js';
import type { Config } from '../config/config.js';
import { FLAGS } from '../config/flags.js';
import { type ConfigFacts, type Environment, flagsOf, parseSettings } from '../config/parse-config.js';

/** What a command is run with. */
export interface CommandContext {
  readonly env: Environment;
  readonly facts: ConfigFacts;
  /** Prints a line of the result. */
  readonly print: (line: string) => void;
}

/** Exit codes of commands: what was asked holds, it does not, the question was malformed. */
export const EXIT = { ok: 0, failed: 1, usage: 2 } as const;

/** A flag that one command has for itself. */
export interface OwnFlag {
  readonly flag: string;
  /** Placeholder of the value; null for a switch. */
  readonly value: string | null;
  readonly help: string;
}

/** A word of the command line beside `serve`. */
export interface CliCommand {
  readonly name: string;
  /** What follows the name, without flags. */
  readonly operands: string;
  readonly summary: string;
  readonly settings: readonly (keyof Config)[];
  readonly flags: readonly OwnFlag[];
  /**
   * Reads the arguments after the name and returns the work, which resolves to the exit code. ERR_CONFIG for a
   * malformed call.
   */
  prepare(argv: readonly string[], context: CommandContext): () => Promise<number>;
}

type Shape = Pick<CliCommand, 'name' | 'operands' | 'flags'>;

export interface Arguments<K extends keyof Config> {
  readonly settings: Readonly<Pick<Config, K>>;
  /** The command's own flags that were given; '' for a switch. */
  readonly own: ReadonlyMap<string, string>;
  readonly operands: readonly string[];
}

/** Arguments of a command. ERR_CONFIG names what is unknown or malformed, or the number of operands expected. */
export function readArguments<K extends keyof Config>(
  { name, operands, flags }: Shape,
  settings: readonly K[],
  argv: readonly string[],
  { env, facts }: CommandContext,
): Arguments<K> {
  const own = new Map(flags.map(({ flag, value, help }) => [flag, { takesValue: value !== null, help }]));
  const known: KnownFlags = new Map([...flagsOf(settings), ...own]);
  const line: CommandLine = readCommandLine(argv, known);
  const wanted = operands === '' ? 0 : operands.split(' ').length;
  if (line.positionals.length !== wanted) {
    const expected = wanted === 0 ? 'flags only' : operands;
    throw configError(`${name} takes ${expected}, got ${line.positionals.join(' ') || 'nothing'}`, name);
  }
  return {
    settings: parseSettings(settings, line.values, env, facts),
    own: new Map([...line.values].filter(([flag]) => own.has(flag))),
    operands: line.positionals,
  };
}

/** The text of `loramux COMMAND --help`. */
export function commandHelp({ name, operands, summary, settings, flags }: CliCommand): string {
  const rows = [
    ...settings.map((key): readonly [string, string] => {
      const { flag, value, help, defaultText } = FLAGS[key];
      return [`--${flag} ${value}`, `${help} [${defaultText}]`];
    }),
    ...flags.map(({ flag, value, help }): readonly [string, string] => [
      value === null ? `--${flag}` : `--${flag} ${value}`,
      help,
    ]),
  ];
  const width = Math.max(...rows.map(([usage]) => usage.length));
  const usage = ['Usage: loramux', name, operands, '[flags]'].filter((word) => word !== '').join(' ');
  return [usage, '', summary, '', ...rows.map(([flag, help]) => `  ${flag.padEnd(width)}  ${help}`)].join('\n');
}
