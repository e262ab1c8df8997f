type Labels = Readonly<Record<string, string>>;

/** One sample of a Prometheus text. */
interface Sample {
  readonly name: string;
  readonly labels: Labels;
  readonly value: number;
}

const SAMPLE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/;
const LABEL = /(\w+)="([^"]*)"/g;

/** What `/metrics` said at one time. */
export class MetricsText {
  readonly #samples: readonly Sample[];

  constructor(text: string) {
    this.#samples = text.split('\n').flatMap((line) => {
      const [, name, labels = '', value] = SAMPLE.exec(line) ?? [];
      if (name === undefined) return [];
      const pairs = [...labels.matchAll(LABEL)].map(([, key, content]) => [key, content]);
      return [{ name, labels: Object.fromEntries(pairs) as Labels, value: Number(value) }];
    });
  }

  /** Reads `/metrics`, older than nothing: the server renders at most ten times a second. */
  static async read(url: string): Promise<MetricsText> {
    await new Promise((resolve) => setTimeout(resolve, 150));
    return new MetricsText(await (await fetch(`${url}/metrics`)).text());
  }

  /** Sum of the samples of `name` whose labels include `labels`. */
  sum(name: string, labels: Labels = {}): number {
    const wanted = Object.entries(labels);
    return this.#samples
      .filter((sample) => sample.name === name && wanted.every(([key, value]) => sample.labels[key] === value))
      .reduce((total, { value }) => total + value, 0);
  }

  /** Observations of a histogram in the bucket that ends at `upper`, given the bound below it. */
  bucket(name: string, lower: number, upper: number): number {
    const upTo = (bound: number): number => this.sum(`${name}_bucket`, { le: String(bound) });
    return upTo(upper) - upTo(lower);
  }
}
