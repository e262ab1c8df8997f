import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { LoramuxError, toLoramuxError } from '../core/errors.js';
import type { NativeBinding, NativeTokenizer } from '../engine/binding.js';

/** A tokenizer from the text of a `tokenizer.json`, by way of a file that is gone afterwards. ERR_TOKENIZER. */
export async function openTokenizer(
  { Tokenizer }: Pick<NativeBinding, 'Tokenizer'>,
  json: Uint8Array,
): Promise<NativeTokenizer> {
  const directory = await mkdtemp(join(tmpdir(), 'loramux-tokenizer-'));
  const path = join(directory, 'tokenizer.json');
  try {
    await writeFile(path, json);
    return Tokenizer.fromFile(path);
  } catch (thrown) {
    const { code, message } = toLoramuxError(thrown, 'ERR_TOKENIZER');
    throw new LoramuxError(code, message.replace(`${path}: `, ''), undefined, { cause: thrown });
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}
