import { resolve } from 'node:path';
import { loadBinding } from '../../engine/addon.js';
import { describeModel } from '../../model/describe-model.js';
import { createProgressDisplay } from '../../model/progress.js';
import { type CliCommand, EXIT, readArguments } from '../command.js';
import { hubOptions, MODEL_SETTINGS } from '../model-settings.js';
import { inspectAdapter } from './inspect-adapter.js';
import { reportLines } from './report.js';

const SETTINGS = [...MODEL_SETTINGS, 'maxAdapterBytes'] as const;

/** `loramux inspect DIR`: exit code 0 when the adapter fits the base, 1 when it does not. */
export const INSPECT: CliCommand = {
  name: 'inspect',
  operands: 'DIR',
  summary:
    'Prints what an adapter is and whether it fits the base, without starting a server. Exit code 1: it does not.',
  settings: SETTINGS,
  flags: [{ flag: 'json', value: null, help: 'print one JSON object' }],
  prepare(argv, context) {
    const { settings, own, operands } = readArguments(this, SETTINGS, argv, context);
    const [directory = ''] = operands;
    return async () => {
      const binding = loadBinding();
      const progress = createProgressDisplay();
      const hub = hubOptions(settings);
      const base = await describeModel({ ...settings, hub, onProgress: progress.report }).finally(() =>
        progress.stop(),
      );
      const maxFileBytes = settings.maxAdapterBytes;
      const report = await inspectAdapter({ directory: resolve(directory), base, binding, maxFileBytes });
      if (own.has('json')) context.print(JSON.stringify(report));
      else for (const line of reportLines(report)) context.print(line);
      return report.fits ? EXIT.ok : EXIT.failed;
    };
  },
};
