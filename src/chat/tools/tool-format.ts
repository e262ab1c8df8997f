/** How a model writes calls of functions into its answer. */
export type ToolFormat = 'hermes' | 'llama3' | 'mistral';

export const TOOL_FORMATS: readonly ToolFormat[] = ['hermes', 'llama3', 'mistral'];

/** The texts by which a template betrays the format that it shows the model, the most telling first. */
const SIGNS: readonly (readonly [sign: string, format: ToolFormat])[] = [
  ['[TOOL_CALLS]', 'mistral'],
  ['<tool_call>', 'hermes'],
  ['<|python_tag|>', 'llama3'],
  ['"parameters": ', 'llama3'],
];

/** The format of the calls in a chat template; null when it shows none of those known here. */
export function toolFormatOf(template: string): ToolFormat | null {
  return SIGNS.find(([sign]) => template.includes(sign))?.[1] ?? null;
}
