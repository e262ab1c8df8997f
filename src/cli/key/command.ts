import { resolve } from 'node:path';
import { addKey, removeKey } from '../../auth/edit-key-file.js';
import { isKeyName, parseTime } from '../../auth/key-file.js';
import { isScope, SCOPE_FORMS } from '../../auth/scopes.js';
import { hashOf, newToken } from '../../auth/tokens.js';
import { configError } from '../../config/command-line.js';
import { type CliCommand, EXIT, readArguments } from '../command.js';

const SETTINGS = ['apiKeys'] as const;
const DAY_MS = 86_400_000;

/** `loramux key add NAME` and `loramux key remove NAME`. */
export const KEY: CliCommand = {
  name: 'key',
  operands: 'add|remove NAME',
  summary:
    'Adds a key to the file of API keys and prints it, this once: the file keeps its hash. Or removes one. A running server notices.',
  settings: SETTINGS,
  flags: [
    { flag: 'scope', value: 'SCOPES', help: `what the key is for, separated by commas: ${SCOPE_FORMS}` },
    { flag: 'expires', value: 'TIME', help: 'when it ends: 90d from now, 2027-01-31 or 2027-01-31T12:00:00Z (UTC)' },
  ],
  prepare(argv, context) {
    const { settings, own, operands } = readArguments(this, SETTINGS, argv, context);
    const [action = '', name = ''] = operands;
    if (settings.apiKeys === null) throw configError('key needs the file of API keys: --api-keys FILE', '--api-keys');
    const file = resolve(settings.apiKeys);
    if (!isKeyName(name)) {
      throw configError('NAME accepts up to 64 letters, digits, ".", "_" and "-"', 'NAME');
    }
    if (action === 'remove') {
      const [given] = own.keys();
      if (given !== undefined) throw configError(`key remove takes no --${given}`, `--${given}`);
      return async () => {
        removeKey(file, name);
        return EXIT.ok;
      };
    }
    if (action !== 'add') throw configError(`key accepts add or remove, got "${action}"`, action);
    const scopes = readScopes(own.get('scope'));
    const expiresMs = readExpiry(own.get('expires'), Date.now());
    return async () => {
      const token = newToken();
      addKey(file, { name, hash: hashOf(token)?.toString('hex') ?? '', scopes, expiresMs });
      context.print(token);
      return EXIT.ok;
    };
  },
};

function readScopes(text: string | undefined): readonly string[] {
  const scopes = text?.split(',').map((scope) => scope.trim()) ?? [];
  const wrong = scopes.find((scope) => !isScope(scope));
  if (scopes.length > 0 && wrong === undefined) return scopes;
  throw configError(`--scope accepts ${SCOPE_FORMS}, separated by commas, got ${wrong ?? 'nothing'}`, '--scope');
}

function readExpiry(text: string | undefined, nowMs: number): number | null {
  if (text === undefined) return null;
  const days = /^(\d{1,5})d$/.exec(text)?.[1];
  const expiresMs = days === undefined ? parseTime(text) : nowMs + Number(days) * DAY_MS;
  if (expiresMs !== null && expiresMs > nowMs) return expiresMs;
  throw configError(
    `--expires accepts a time to come: 90d, 2027-01-31 or 2027-01-31T12:00:00Z, got "${text}"`,
    '--expires',
  );
}
