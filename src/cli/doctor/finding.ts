/** One line of the report. */
export interface Finding {
  readonly name: string;
  /** `failed`: the server does not start. `missing`: it starts, without what the line is about. */
  readonly status: 'ok' | 'missing' | 'failed';
  /** What is there, or what was looked for. */
  readonly found: string;
  /** What to do about it; null when nothing need be done. */
  readonly advice: string | null;
}

export function ok(name: string, found: string): Finding {
  return { name, status: 'ok', found, advice: null };
}

export function missing(name: string, found: string, advice: string): Finding {
  return { name, status: 'missing', found, advice };
}

export function failed(name: string, found: string, advice: string): Finding {
  return { name, status: 'failed', found, advice };
}

/** The report for people: a line for each finding, and one below it for what to do. */
export function findingLines(findings: readonly Finding[]): string[] {
  const width = Math.max(...findings.map(({ name }) => name.length));
  return findings.flatMap(({ name, status, found, advice }) => {
    const line = `${name.padEnd(width)}  ${status.padEnd(7)}  ${found}`;
    return advice === null ? [line] : [line, `${' '.repeat(width + 11)}→ ${advice}`];
  });
}
