import { parseArgs } from 'node:util';
import { LoramuxError } from '../core/errors.js';
import type { Config, HostFacts } from './config.js';
import { CONFIG_KEYS, type DefaultContext, FLAGS, variableOf } from './flags.js';
import { helpText } from './help.js';

type Environment = Readonly<Record<string, string | undefined>>;

/** Facts for the defaults: the host's, and where the adapters of the demo model lie. */
export interface ConfigFacts extends HostFacts {
  readonly demoAdapters: string;
}

/** What the command line asks for. */
export type Command =
  | { readonly kind: 'serve'; readonly config: Config }
  | { readonly kind: 'help'; readonly text: string }
  | { readonly kind: 'version' };

interface CommandLine {
  readonly values: ReadonlyMap<string, string>;
  readonly positionals: readonly string[];
}

function configError(message: string, field: string): LoramuxError {
  return new LoramuxError('ERR_CONFIG', message, { field });
}

const FLAG_NAMES = CONFIG_KEYS.map((key) => FLAGS[key].flag);

/** Splits the arguments. A flag given twice counts once, with its last value, so that scripts can append. */
function readCommandLine(argv: readonly string[]): CommandLine {
  const options = Object.fromEntries(FLAG_NAMES.map((name) => [name, { type: 'string' as const }]));
  const { tokens } = parseArgs({ args: [...argv], options, strict: false, allowPositionals: true, tokens: true });
  const values = new Map<string, string>();
  const positionals: string[] = [];
  for (const token of tokens) {
    if (token.kind === 'positional') positionals.push(token.value);
    if (token.kind !== 'option') continue;
    if (!FLAG_NAMES.includes(token.name)) {
      throw configError(`unknown flag ${token.rawName}: see loramux --help for the flags there are`, token.rawName);
    }
    // The next flag is never taken for a value; a value that starts with a dash is written --flag=-value.
    if (token.value === undefined || (!token.inlineValue && token.value.startsWith('--'))) {
      throw configError(`--${token.name} needs a value: ${FLAGS[keyOf(token.name)].help}`, `--${token.name}`);
    }
    values.set(token.name, token.value);
  }
  return { values, positionals };
}

function keyOf(flag: string): keyof Config {
  const key = CONFIG_KEYS.find((candidate) => FLAGS[candidate].flag === flag);
  if (key === undefined) throw configError(`unknown flag --${flag}`, `--${flag}`);
  return key;
}

/** Read by the native addon itself: forces a kernel set, for tests and fault reports. */
const NATIVE_VARIABLES: readonly string[] = ['LORAMUX_ISA'];

function refuseUnknownVariables(env: Environment): void {
  const known = new Set([...FLAG_NAMES.map(variableOf), ...NATIVE_VARIABLES]);
  for (const name of Object.keys(env)) {
    if (name.startsWith('LORAMUX_') && !known.has(name)) {
      throw configError(`unknown variable ${name}: expected one of ${[...known].join(', ')}`, name);
    }
  }
}

function resolve<K extends keyof Config>(
  key: K,
  values: ReadonlyMap<string, string>,
  context: DefaultContext,
): Config[K] {
  const { flag, parse, fallback } = FLAGS[key];
  const given = values.get(flag);
  if (given !== undefined) return parse(given, `--${flag}`);
  const variable = variableOf(flag);
  const inherited = context.env[variable];
  if (inherited !== undefined) return parse(inherited, variable);
  return fallback(context);
}

/**
 * Builds the configuration from flags (which win), `LORAMUX_…` variables and defaults. Throws ERR_CONFIG, naming the
 * flag or variable and what it accepts, for anything unknown or malformed.
 */
export function parseConfig(argv: readonly string[], env: Environment, facts: ConfigFacts): Config {
  const { values, positionals } = readCommandLine(argv);
  const [command = 'serve', ...rest] = positionals;
  if (command !== 'serve') throw configError(`unknown command "${command}": the command is serve`, command);
  if (rest[0] !== undefined) throw configError(`serve takes flags only, got "${rest[0]}"`, rest[0]);
  refuseUnknownVariables(env);
  const first = { facts, env, demoAdapters: facts.demoAdapters, model: '' };
  const context = { ...first, model: resolve('model', values, first) };
  const entries = CONFIG_KEYS.map((key) => [key, resolve(key, values, context)] as const);
  return Object.freeze(Object.fromEntries(entries)) as unknown as Config;
}

/** As parseConfig, with `--help` and `--version`, which win over everything beside them. */
export function parseCommand(argv: readonly string[], env: Environment, facts: ConfigFacts): Command {
  if (argv.includes('--help') || argv.includes('-h')) return { kind: 'help', text: helpText() };
  if (argv.includes('--version')) return { kind: 'version' };
  return { kind: 'serve', config: parseConfig(argv, env, facts) };
}
