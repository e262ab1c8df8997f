#!/usr/bin/env node
/**
 * Makes, or finds again, the throw-away Python environment of the client tests, and prints the path of its interpreter:
 *
 *   CLIENTS_URL=http://localhost:8080 $(node scripts/client-env.mjs) tests/clients/python/test_lorax_sync.py
 *
 * It lives in the ignored folder `.venv-clients/` and is made anew when tests/clients/python/requirements.txt changes.
 * PYTHON names another interpreter to start from than `python3`.
 */
import { join } from 'node:path';
import { ensureVenv, printInterpreter, run } from './python-venv.mjs';
import { root } from './steps.mjs';

/** Returns the absolute path of an interpreter that has the official clients; makes it when needed (100 MB on disk). */
export function ensureClientEnvironment() {
  return ensureVenv({
    folder: '.venv-clients',
    requirements: join(root, 'tests', 'clients', 'python', 'requirements.txt'),
    finish: (interpreter) => run(interpreter, ['-c', 'import grpc_reflection, grpc_status, lorax, openai, websockets']),
  });
}

printInterpreter(import.meta.url, ensureClientEnvironment);
