import { join, resolve } from 'node:path';
import { configError } from '../../config/command-line.js';
import { integer } from '../../config/values.js';
import { loadBinding } from '../../engine/addon.js';
import { prepareModel } from '../../model/prepare-model.js';
import { createProgressDisplay } from '../../model/progress.js';
import { type CliCommand, EXIT, readArguments } from '../command.js';
import { hubOptions, MODEL_SETTINGS } from '../model-settings.js';
import { verify } from './verify.js';

const SETTINGS = [
  ...MODEL_SETTINGS,
  'precision',
  'adapters',
  'adapterDtype',
  'kvDtype',
  'threads',
  'maxAdapterBytes',
] as const;
const DEFAULT_ROUNDS = 5;
const MAX_SEED = 2 ** 31;

/** `loramux verify`: exit code 0 when every row equals its solo run, 1 at the first that does not. */
export const VERIFY: CliCommand = {
  name: 'verify',
  operands: '',
  summary:
    'Checks on your own base and adapters that mixing changes nothing: random batches under constant eviction, aborts\n' +
    'and reloads, each row against its solo run. Exit code 1: one differs, and what is needed to repeat it is printed.',
  settings: SETTINGS,
  flags: [
    { flag: 'rounds', value: 'N', help: `rounds of 24 requests [${DEFAULT_ROUNDS}]` },
    { flag: 'seed', value: 'N', help: 'seed of the first round; the next ones count on [random]' },
  ],
  prepare(argv, context) {
    const { settings, own } = readArguments(this, SETTINGS, argv, context);
    const number = (flag: string, least: number, fallback: number): number => {
      const text = own.get(flag);
      return text === undefined ? fallback : integer(least, MAX_SEED)(text, `--${flag}`);
    };
    const rounds = number('rounds', 1, DEFAULT_ROUNDS);
    const seed = number('seed', 0, Math.floor(Math.random() * 1e6));
    const { model, adapters, adapterDtype, precision, threads, maxAdapterBytes } = settings;
    const kvDtype = settings.kvDtype ?? 'f32';
    if (adapters === null)
      throw configError('verify needs --adapters with --model: the folder of the adapters', '--adapters');
    return async () => {
      const binding = loadBinding();
      const progress = createProgressDisplay();
      const prepared = await prepareModel({
        model,
        precision: precision ?? 'f32',
        cacheDir: settings.cacheDir,
        checksumFile: (path) => binding.crc32File(path),
        onProgress: progress.report,
        memoryBytes: context.facts.memoryBytes,
        instructionSet: binding.instructionSet(),
        hub: hubOptions(settings),
      }).finally(() => progress.stop());
      const tokenizer = binding.Tokenizer.fromFile(join(prepared.directory, prepared.manifest.tokenizer.file));
      const isEqual = await verify({
        model: prepared,
        tokenCount: tokenizer.vocabSize(),
        adapters: resolve(adapters),
        threads,
        maxAdapterBytes,
        adapterDtype,
        kvDtype,
        rounds,
        seed,
        print: context.print,
        commandFor: (one) =>
          `loramux verify --model ${model} --adapters ${adapters} --precision ${prepared.manifest.precision} --adapter-dtype ${adapterDtype} --kv-dtype ${kvDtype} --threads ${threads} --rounds 1 --seed ${one}`,
      });
      return isEqual ? EXIT.ok : EXIT.failed;
    };
  },
};
