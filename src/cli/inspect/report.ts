import type { AdapterTextInfo } from '../../core/adapter-text.js';
import type { InspectReport, ModuleGroup } from './inspect-adapter.js';

/** `0-3, 7` for 0, 1, 2, 3, 7. */
export function ranges(ascending: readonly number[]): string {
  const runs: [first: number, last: number][] = [];
  for (const value of ascending) {
    const run = runs.at(-1);
    if (run !== undefined && run[1] === value - 1) run[1] = value;
    else runs.push([value, value]);
  }
  return runs.map(([first, last]) => (first === last ? `${first}` : `${first}-${last}`)).join(', ');
}

function groupLine({ type, layers, ranks }: ModuleGroup, width: number): string {
  const where = layers.length === 0 ? 'outside of the layers' : `layers ${ranges(layers)}`;
  const rank = ranks.length === 0 ? '' : `, rank ${ranges(ranks)}`;
  return `            ${type.padEnd(width)}  ${where}${rank}`;
}

function textLine({ tokenizer, template }: AdapterTextInfo): string {
  const whose = (what: 'base' | 'own'): string => (what === 'own' ? 'its own' : "the base's");
  return `${whose(tokenizer)} tokenizer, ${whose(template)} chat template`;
}

/** The report for people, line by line. */
export function reportLines(report: InspectReport): string[] {
  const { moduleCounts, ranks, bytes, fits, base, offenders } = report;
  const line = (label: string, text: string): string => `${label.padEnd(10)}  ${text}`;
  const unknown = 'unknown, see below';
  const width = Math.max(0, ...report.modules.map(({ type }) => type.length));
  const counts =
    moduleCounts === null ? unknown : `${moduleCounts.inFile} in the file, ${moduleCounts.applied} applied`;
  return [
    line('directory', report.directory),
    line('digest', report.digest ?? unknown),
    line('trained on', report.baseModel ?? 'not said'),
    line('variant', report.variant?.join(' + ') ?? unknown),
    line('ranks', ranks === null ? unknown : ranks.min === ranks.max ? `${ranks.min}` : `${ranks.min} to ${ranks.max}`),
    line('dtypes', report.dtypes.join(', ') || unknown),
    line('modules', counts),
    ...report.modules.map((group) => groupLine(group, width)),
    line('memory', bytes === null ? unknown : `${bytes} bytes while resident`),
    line('text', report.text === null ? unknown : textLine(report.text)),
    ...report.warnings.map((warning) => line('warning', warning)),
    line('base', fits ? `fits ${base}` : `does not fit ${base}:`),
    ...offenders.map(
      ({ tensor, key, expected, found }) => `  ${tensor ?? key ?? 'file'}: expected ${expected}, found ${found}`,
    ),
  ];
}
