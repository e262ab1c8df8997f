import { CONFIG_KEYS, FLAGS, variableOf } from './flags.js';

/** The text of `loramux --help`, made from the table of flags. Ends with a newline. */
export function helpText(): string {
  const rows = CONFIG_KEYS.map((key): readonly [string, string] => {
    const { flag, value, help, defaultText } = FLAGS[key];
    return [`--${flag} ${value}`, `${help} [${defaultText}]`];
  });
  rows.push(['--version', 'print the version and stop'], ['--help', 'print this text and stop']);
  const width = Math.max(...rows.map(([usage]) => usage.length));
  return [
    'Usage: loramux [serve] [flags]',
    '       loramux inspect DIR [flags]   what an adapter is, and whether it fits the base',
    '       loramux verify [flags]        check that mixing adapters changes no answer',
    '       loramux key add NAME [flags]  make an API key; key remove NAME ends it',
    '       loramux doctor [flags]        what this machine has of what a server needs',
    '',
    'Serves one base language model with any number of LoRA adapters mixed in one batch.',
    '',
    ...rows.map(([usage, help]) => `  ${usage.padEnd(width)}  ${help}`),
    '',
    `Every flag has a variable, and the flag wins: --max-queue is ${variableOf('max-queue')}.`,
    '',
  ].join('\n');
}
