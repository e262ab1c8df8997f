import type { CliCommand } from './command.js';
import { DOCTOR } from './doctor/command.js';
import { INSPECT } from './inspect/command.js';
import { KEY } from './key/command.js';
import { VERIFY } from './verify/command.js';

/** Everything beside `serve` that the first word of the command line may be. */
export const COMMANDS: readonly CliCommand[] = [INSPECT, VERIFY, KEY, DOCTOR];
