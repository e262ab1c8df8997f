import * as jinja from '@huggingface/jinja';

/** A value while a template runs. */
export interface RuntimeValue {
  readonly type: string;
  readonly value: unknown;
  toString(): string;
}

/** A statement or expression of a template. */
export interface Node {
  readonly type: string;
}

/** A parsed template. */
export type Program = Node & { readonly body: readonly Node[] };

/** Variables, and those of the scope around them. */
export interface Scope {
  /** Converts plain values and functions. Throws for a name that the scope has. */
  set(name: string, value: unknown): RuntimeValue;
}

/** What we use of the package, whose own declarations Node's module resolution does not follow. */
interface Jinja {
  readonly Environment: new (parent?: Scope) => Scope;
  readonly Interpreter: new (
    scope: Scope,
  ) => {
    run(program: Program): RuntimeValue;
    /** Called for every part of the program. */
    evaluate(part: Node | undefined, scope: Scope): RuntimeValue;
    /** The text of what stands one after another; private to the package, hence its exact version in package.json. */
    evaluateBlock(statements: readonly Node[], scope: Scope): RuntimeValue;
  };
  tokenize(source: string, options: { readonly lstrip_blocks: boolean; readonly trim_blocks: boolean }): object[];
  parse(tokens: object[]): Program;
}

export const { Environment, Interpreter, tokenize, parse } = jinja as unknown as Jinja;
