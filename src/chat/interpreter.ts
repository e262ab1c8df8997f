import { TemplateBudgetError } from './budget.js';
import { Environment, Interpreter, type Node, type RuntimeValue, type Scope } from './jinja.js';

/** Longest text that any part of a template may make, in UTF-16 units. */
const MAX_LENGTH = 2 ** 22;
/** Longest list. */
export const MAX_ELEMENTS = 2 ** 16;
/** Parts of a template that may be evaluated, loops counted through. A long conversation takes some ten thousand. */
const MAX_EVALUATIONS = 1_000_000;
/** Statements that print nothing; their null is none of the template's. */
const SILENT: ReadonlySet<string> = new Set(['Set', 'Macro', 'Comment']);
/** What the package throws for `break` and `continue`. */
const LOOP_CONTROLS: readonly string[] = ['Break', 'Continue'];

/**
 * The package's interpreter, nearer to Jinja where templates could tell: booleans and none print as Python spells
 * them, text before a `break` stays, and what a loop's body sets is gone in the next round. Work and lengths are
 * bounded, since templates come with adapters, which are not trusted.
 */
export class TemplateInterpreter extends Interpreter {
  #evaluations = 0;
  readonly #loopBodies = new Set<readonly Node[]>();
  /** Loops that met a `break`, by their scope, with what ends them before the next round. */
  readonly #broken = new WeakMap<Scope, unknown>();
  /** The control statement that was evaluated last. */
  #control: string | null = null;

  override evaluate(part: Node | undefined, scope: Scope): RuntimeValue {
    this.#evaluations += 1;
    if (this.#evaluations > MAX_EVALUATIONS) throw new TemplateBudgetError('the template runs for too long');
    if (part?.type === 'For') this.#loopBodies.add((part as Node & { readonly body: readonly Node[] }).body);
    if (part !== undefined && LOOP_CONTROLS.includes(part.type)) this.#control = part.type;
    const result = super.evaluate(part, scope);
    const { value } = result;
    if (typeof value === 'string' && value.length > MAX_LENGTH) {
      throw new TemplateBudgetError(`the template makes more than ${MAX_LENGTH} characters`);
    }
    if (Array.isArray(value) && value.length > MAX_ELEMENTS) {
      throw new TemplateBudgetError(`the template makes a list of more than ${MAX_ELEMENTS}`);
    }
    return result;
  }

  override evaluateBlock(statements: readonly Node[], scope: Scope): RuntimeValue {
    const isLoop = this.#loopBodies.has(statements);
    const ended = isLoop ? this.#broken.get(scope) : undefined;
    if (ended !== undefined) throw ended;
    const text = new PrintedText();
    const inner = isLoop ? new Environment(scope) : scope;
    for (const statement of statements) {
      try {
        text.print(statement, this.evaluate(statement, inner));
      } catch (thrown) {
        const control = this.#control;
        if (control === null) throw thrown;
        text.addBefore(thrown);
        if (!isLoop) throw thrown;
        this.#control = null;
        if (control === 'Break') this.#broken.set(scope, thrown);
        break;
      }
    }
    return text.toValue();
  }
}

/** Text that blocks left behind when a loop control cut them short, by what was thrown. */
const leftBehind = new WeakMap<object, string>();

class PrintedText {
  #text = '';

  print({ type }: Node, value: RuntimeValue): void {
    if (value.type === 'UndefinedValue' || SILENT.has(type)) return;
    if (value.type === 'NullValue') this.#text += 'None';
    else if (value.type === 'BooleanValue') this.#text += value.value === true ? 'True' : 'False';
    else this.#text += value.toString();
  }

  /** Puts this text before what inner blocks printed until `thrown` ended them. */
  addBefore(thrown: unknown): void {
    if (typeof thrown !== 'object' || thrown === null) return;
    this.#text += leftBehind.get(thrown) ?? '';
    leftBehind.set(thrown, this.#text);
  }

  toValue(): RuntimeValue {
    return new Environment().set('text', this.#text);
  }
}
