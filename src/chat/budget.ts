import vm from 'node:vm';

/** What neither counts nor lengths see, such as printing a list of lists of the same list, ends here. */
const MAX_MS = 500;

/** A template that asked for more than rendering a conversation takes. */
export class TemplateBudgetError extends Error {}

/** `vm` is no fence here; it is what can interrupt synchronous code. */
const clock = vm.createContext({ work: null });
const script = new vm.Script('work()');

/** The result of `work`, which is interrupted after half a second. TemplateBudgetError then; else what `work` throws. */
export function withinTime<T>(work: () => T): T {
  clock.work = work;
  try {
    return script.runInContext(clock, { timeout: MAX_MS }) as T;
  } catch (thrown) {
    if ((thrown as { code?: unknown }).code !== 'ERR_SCRIPT_EXECUTION_TIMEOUT') throw thrown;
    throw new TemplateBudgetError(`the template takes more than ${MAX_MS} ms`);
  } finally {
    clock.work = null;
  }
}
