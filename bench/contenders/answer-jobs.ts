import { createInterface } from 'node:readline';
import type { Greeting, Job, Timing } from './protocol.js';

/** The loop of a contender's process: greets, then answers one line a job until standard input ends. */
export async function answerJobs(greeting: Greeting, run: (job: Job) => Promise<Timing>): Promise<void> {
  const say = (line: object): boolean => process.stdout.write(`${JSON.stringify(line)}\n`);
  say(greeting);
  for await (const line of createInterface({ input: process.stdin })) {
    try {
      say(await run(JSON.parse(line) as Job));
    } catch (error) {
      say({ error: error instanceof Error ? error.message : String(error) });
    }
  }
}
