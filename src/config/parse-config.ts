import { configError, type KnownFlags, readCommandLine } from './command-line.js';
import type { Config, HostFacts } from './config.js';
import { CONFIG_KEYS, type DefaultContext, FLAGS, variableOf } from './flags.js';
import { helpText } from './help.js';

export type Environment = Readonly<Record<string, string | undefined>>;

/** Facts for the defaults: the host's, and where the adapters of the demo model lie. */
export interface ConfigFacts extends HostFacts {
  readonly demoAdapters: string;
}

/** What the command line asks for. */
export type Command =
  | { readonly kind: 'serve'; readonly config: Config }
  | { readonly kind: 'help'; readonly text: string }
  | { readonly kind: 'version' };

/** Read by the native addon itself: forces a kernel set, for tests and fault reports. */
const NATIVE_VARIABLES: readonly string[] = ['LORAMUX_ISA'];

function refuseUnknownVariables(env: Environment): void {
  const known = new Set([...CONFIG_KEYS.map((key) => variableOf(FLAGS[key].flag)), ...NATIVE_VARIABLES]);
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

/** The flags of some settings, as a command line may hold them. */
export function flagsOf(keys: readonly (keyof Config)[]): KnownFlags {
  return new Map(keys.map((key) => [FLAGS[key].flag, { takesValue: true, help: FLAGS[key].help }]));
}

/**
 * Some of the settings, from flags that were given (which win), `LORAMUX_…` variables and defaults. ERR_CONFIG names
 * the flag or variable and what it accepts, for anything malformed and for variables that do not exist.
 */
export function parseSettings<K extends keyof Config>(
  keys: readonly K[],
  values: ReadonlyMap<string, string>,
  env: Environment,
  facts: ConfigFacts,
): Readonly<Pick<Config, K>> {
  refuseUnknownVariables(env);
  const first = { facts, env, demoAdapters: facts.demoAdapters, model: '' };
  const context = { ...first, model: resolve('model', values, first) };
  const entries = keys.map((key) => [key, resolve(key, values, context)] as const);
  return Object.freeze(Object.fromEntries(entries)) as unknown as Readonly<Pick<Config, K>>;
}

/**
 * Builds the configuration of the server. Throws ERR_CONFIG, naming the flag or variable and what it accepts, for
 * anything unknown or malformed.
 */
export function parseConfig(argv: readonly string[], env: Environment, facts: ConfigFacts): Config {
  const { values, positionals } = readCommandLine(argv, flagsOf(CONFIG_KEYS));
  const [command = 'serve', ...rest] = positionals;
  if (command !== 'serve') {
    throw configError(
      `unknown command "${command}": expected serve, inspect, verify, key or doctor as the first word`,
      command,
    );
  }
  if (rest[0] !== undefined) throw configError(`serve takes flags only, got "${rest[0]}"`, rest[0]);
  return parseSettings(CONFIG_KEYS, values, env, facts);
}

/** As parseConfig, with `--help` and `--version`, which win over everything beside them. */
export function parseCommand(argv: readonly string[], env: Environment, facts: ConfigFacts): Command {
  if (argv.includes('--help') || argv.includes('-h')) return { kind: 'help', text: helpText() };
  if (argv.includes('--version')) return { kind: 'version' };
  return { kind: 'serve', config: parseConfig(argv, env, facts) };
}
