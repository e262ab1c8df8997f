// Throw-away Python environments with pinned packages, in ignored folders of the checkout.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { root } from './steps.mjs';

/** Runs a tool with its output on our stderr: stdout is for the interpreter's path. */
export function run(command, args) {
  const result = spawnSync(command, args, { stdio: ['ignore', 2, 'inherit'] });
  if (result.status !== 0) throw new Error(`\`${command} ${args.join(' ')}\` failed: see its output above`);
}

/** What a tool prints, without the line's end; null when it fails. */
export function output(command, args) {
  const result = spawnSync(command, args, { encoding: 'utf8' });
  return result.status === 0 ? result.stdout.trim() : null;
}

/** The Python to start from, at least 3.11 and with the venv module. */
function basePython() {
  const python = process.env.PYTHON ?? 'python3';
  const probe = 'import sys, venv, ensurepip; print(sys.version_info >= (3, 11), sys.version.split()[0])';
  const [recentEnough, version] = output(python, ['-c', probe])?.split(' ') ?? [];
  if (version === undefined)
    throw new Error(
      `${python} with venv was not found: install Python 3.11 or newer (Debian: apt-get install python3-venv), or name one in PYTHON`,
    );
  if (recentEnough !== 'True')
    throw new Error(`expected Python 3.11 or newer, ${python} is ${version}: install one and name it in PYTHON`);
  return python;
}

/**
 * Makes the environment `folder` with the packages of the file `requirements`, or finds it again if the file has not
 * changed since. All packages are pinned there: pip resolves nothing. `finish` installs what is left and tries it out.
 * Returns the absolute path of the interpreter; throws an Error that says what to do.
 */
export function ensureVenv({ folder, requirements, finish }) {
  const environment = join(root, folder);
  const stamp = join(environment, 'requirements.sha256');
  const interpreter = join(environment, process.platform === 'win32' ? 'Scripts/python.exe' : 'bin/python');
  const wanted = createHash('sha256').update(readFileSync(requirements)).digest('hex');
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === wanted) return interpreter;
  run(basePython(), ['-m', 'venv', '--clear', environment]);
  try {
    const install = ['install', '--quiet', '--disable-pip-version-check', '--no-deps', '-r', requirements];
    run(interpreter, ['-m', 'pip', ...install]);
  } catch (error) {
    throw new Error(`${error.message}; pip needs a package index, or a folder of wheels named in PIP_FIND_LINKS`);
  }
  finish(interpreter);
  writeFileSync(stamp, wanted);
  return interpreter;
}

/** If the script at `url` was run by itself, prints the interpreter that `ensure` returns, or one line and a failure. */
export function printInterpreter(url, ensure) {
  if (url !== pathToFileURL(process.argv[1] ?? '').href) return;
  try {
    process.stdout.write(`${ensure()}\n`);
  } catch (error) {
    process.stderr.write(`${error.message}\n`);
    process.exitCode = 1;
  }
}
