import { resolve } from 'node:path';
import { defaultCudaRuntime, loadBinding, runtimeVersion } from '../../engine/addon.js';
import { probeCuda } from '../../engine/cuda-probe.js';
import { type CliCommand, EXIT, readArguments } from '../command.js';
import { cudaFindings } from './cuda-checks.js';
import { findingLines } from './finding.js';
import { THIS_HOST } from './host.js';
import { serverFindings } from './server-checks.js';

const SETTINGS = ['cacheDir', 'cudaRuntime'] as const;

/** `loramux doctor`: exit code 1 when a server would not start. */
export const DOCTOR: CliCommand = {
  name: 'doctor',
  operands: '',
  summary:
    'Prints what this machine has of what a server needs, and how to get what is missing. Exit code 1: none would start.',
  settings: SETTINGS,
  flags: [{ flag: 'json', value: null, help: 'print one JSON object' }],
  prepare(argv, context) {
    const { settings, own } = readArguments(this, SETTINGS, argv, context);
    const loadAddon = () => ({ instructionSet: loadBinding().instructionSet(), runtime: runtimeVersion() });
    return async () => {
      const runtime = resolve(settings.cudaRuntime ?? defaultCudaRuntime());
      const facts = { ...context.facts, cacheDir: resolve(settings.cacheDir), loadAddon };
      const findings = [
        ...serverFindings(THIS_HOST, facts),
        ...cudaFindings(THIS_HOST, { runtime, probe: () => probeCuda(runtime) }),
      ];
      const starts = findings.every(({ status }) => status !== 'failed');
      if (own.has('json')) context.print(JSON.stringify({ starts, findings }));
      else for (const line of findingLines(findings)) context.print(line);
      return starts ? EXIT.ok : EXIT.failed;
    };
  },
};
