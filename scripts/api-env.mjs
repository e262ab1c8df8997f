#!/usr/bin/env node
/**
 * Makes, or finds again, the throw-away Python environment of schemathesis, and prints the path of its interpreter. It
 * lives in the ignored folder `.venv-api/` and is made anew when tests/api/requirements.txt changes.
 */
import { join } from 'node:path';
import { ensureVenv, printInterpreter, run } from './python-venv.mjs';
import { root } from './steps.mjs';

/** Returns the absolute path of an interpreter that has schemathesis; makes it when needed. */
export function ensureApiEnvironment() {
  return ensureVenv({
    folder: '.venv-api',
    requirements: join(root, 'tests', 'api', 'requirements.txt'),
    finish: (interpreter) => run(interpreter, ['-c', 'import schemathesis']),
  });
}

printInterpreter(import.meta.url, ensureApiEnvironment);
