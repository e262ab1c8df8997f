/**
 * `node with-server.js COMMAND…`: starts the built server on the demo model, runs the command with the server's addresses
 * in its environment (`server.ts`), stops the server, which must end cleanly, and ends with the command's status.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { ServerProcess } from '../helpers/server-process.js';
import { environmentOf, SERVER_FLAGS, targetOf } from './server.js';

const [command, ...args] = process.argv.slice(2);
if (command === undefined) throw new Error('expected a command to run, got none');
const server = await ServerProcess.start(SERVER_FLAGS);
const child = spawn(command, args, { stdio: 'inherit', env: environmentOf(targetOf(server)) });
const [status] = await once(child, 'exit');
await server.stop();
process.exitCode = typeof status === 'number' ? status : 1;
