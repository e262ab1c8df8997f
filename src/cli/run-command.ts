import { LoramuxError } from '../core/errors.js';
import { type CliCommand, type CommandContext, commandHelp, EXIT } from './command.js';

/**
 * Carries a command out and returns its exit code. What goes wrong is one line on standard error; only what nobody
 * expected keeps its stack.
 */
export async function runCommand(
  command: CliCommand,
  argv: readonly string[],
  context: CommandContext,
): Promise<number> {
  if (argv.includes('--help') || argv.includes('-h')) {
    context.print(commandHelp(command));
    return EXIT.ok;
  }
  try {
    return await command.prepare(argv, context)();
  } catch (thrown) {
    if (!(thrown instanceof LoramuxError)) throw thrown;
    console.error(`${thrown.code}: ${thrown.message}`);
    // The question could not be put, so it has no answer.
    return EXIT.usage;
  }
}
