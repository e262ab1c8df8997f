import { spawn } from 'node:child_process';

export interface ToolResult {
  /** Null when the program could not be started. */
  readonly exitCode: number | null;
  /** The last 4 KiB that it wrote to either stream. */
  readonly tail: string;
}

const TAIL_CHARACTERS = 4096;

/** Runs a program without a shell and waits for it; never throws for a program that fails or is missing. */
export function runTool(command: string, args: readonly string[]): Promise<ToolResult> {
  return new Promise((resolve) => {
    let tail = '';
    const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    const collect = (chunk: Buffer) => {
      tail = (tail + chunk.toString('utf8')).slice(-TAIL_CHARACTERS);
    };
    child.stdout.on('data', collect);
    child.stderr.on('data', collect);
    child.on('error', () => resolve({ exitCode: null, tail }));
    child.on('close', (code) => resolve({ exitCode: code ?? 1, tail }));
  });
}
