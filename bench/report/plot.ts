/** A line chart as SVG: text that the same numbers always make the same. */

export interface Line {
  readonly name: string;
  readonly points: readonly (readonly [x: number, y: number])[];
}

export interface Chart {
  readonly title: string;
  readonly xLabel: string;
  readonly yLabel: string;
  readonly lines: readonly Line[];
}

const WIDTH = 720;
const HEIGHT = 400;
const AREA = { left: 64, right: 520, top: 48, bottom: 344 } as const;
const COLOURS = [
  '#0072b2',
  '#d55e00',
  '#009e73',
  '#cc79a7',
  '#e69f00',
  '#56b4e9',
  '#7f7f7f',
  '#000000',
  '#8c564b',
  '#bcbd22',
];
const Y_STEPS = 5;

/** The least number of the form 1, 2 or 5 × 10ⁿ that is not below `value`. */
function roundUp(value: number): number {
  const power = 10 ** Math.floor(Math.log10(value));
  return ([1, 2, 5, 10].find((factor) => factor * power >= value * 0.999_999) ?? 10) * power;
}

function escapeText(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}

/** x values stand at equal distances in their order, as counts that double do; y starts at zero. */
export function drawChart({ title, xLabel, yLabel, lines }: Chart): string {
  const xs = [...new Set(lines.flatMap(({ points }) => points.map(([x]) => x)))].sort((a, b) => a - b);
  const top = Math.max(...lines.flatMap(({ points }) => points.map(([, y]) => y)), 1);
  const step = roundUp(top / Y_STEPS);
  const steps = Math.ceil(top / step - 1e-9);
  const xOf = (x: number): string => {
    const share = xs.length < 2 ? 0.5 : xs.indexOf(x) / (xs.length - 1);
    return (AREA.left + share * (AREA.right - AREA.left)).toFixed(1);
  };
  const yOf = (y: number): string => (AREA.bottom - (y / (step * steps)) * (AREA.bottom - AREA.top)).toFixed(1);
  const parts = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" font-family="sans-serif" font-size="12">`,
    `<rect width="${WIDTH}" height="${HEIGHT}" fill="#ffffff"/>`,
    `<text x="${AREA.left}" y="24" font-size="15" font-weight="bold">${escapeText(title)}</text>`,
  ];
  for (let at = 0; at <= steps; at += 1) {
    const y = yOf(at * step);
    parts.push(`<line x1="${AREA.left}" y1="${y}" x2="${AREA.right}" y2="${y}" stroke="#dddddd"/>`);
    parts.push(`<text x="${AREA.left - 8}" y="${y}" dy="4" text-anchor="end">${Number((at * step).toFixed(2))}</text>`);
  }
  for (const x of xs) parts.push(`<text x="${xOf(x)}" y="${AREA.bottom + 18}" text-anchor="middle">${x}</text>`);
  const middle = (AREA.left + AREA.right) / 2;
  parts.push(`<text x="${middle}" y="${AREA.bottom + 40}" text-anchor="middle">${escapeText(xLabel)}</text>`);
  const side = (AREA.top + AREA.bottom) / 2;
  parts.push(`<text transform="translate(16 ${side}) rotate(-90)" text-anchor="middle">${escapeText(yLabel)}</text>`);
  lines.forEach(({ name, points }, index) => {
    const colour = COLOURS[index % COLOURS.length];
    const path = points.map(([x, y]) => `${xOf(x)},${yOf(y)}`).join(' ');
    parts.push(`<polyline points="${path}" fill="none" stroke="${colour}" stroke-width="2"/>`);
    for (const [x, y] of points) parts.push(`<circle cx="${xOf(x)}" cy="${yOf(y)}" r="3" fill="${colour}"/>`);
    const key = AREA.top + 8 + index * 20;
    parts.push(
      `<line x1="${AREA.right + 20}" y1="${key}" x2="${AREA.right + 44}" y2="${key}" stroke="${colour}" stroke-width="2"/>`,
    );
    parts.push(`<text x="${AREA.right + 52}" y="${key}" dy="4">${escapeText(name)}</text>`);
  });
  return `${parts.join('\n')}\n</svg>\n`;
}
