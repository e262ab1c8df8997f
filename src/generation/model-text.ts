import { ChatTemplate } from '../chat/chat-template.js';
import { LoramuxError } from '../core/errors.js';
import type { SpecialTokens } from '../core/tokenizer-config.js';
import type { NativeTokenizer } from '../engine/binding.js';

export type TextCodec = Pick<NativeTokenizer, 'encode' | 'decode' | 'isSpecial'>;

/** How text becomes tokens and tokens text: as the base does, or an adapter that ships files of its own. */
export class ModelText {
  readonly tokenizer: TextCodec;
  readonly #source: string | null;
  readonly #specialTokens: SpecialTokens;
  #template: ChatTemplate | null = null;

  /** `template`: source of the chat template, which is read when it is first needed; null = there is none. */
  constructor(tokenizer: TextCodec, template: string | null, specialTokens: SpecialTokens) {
    this.tokenizer = tokenizer;
    this.#source = template;
    this.#specialTokens = specialTokens;
  }

  /** ERR_TEMPLATE_MISSING without one, ERR_TEMPLATE for one that cannot be read. */
  get template(): ChatTemplate {
    if (this.#source === null) {
      const message =
        'this model has no chat template: send a prompt to /v1/completions, or name an adapter that has one';
      throw new LoramuxError('ERR_TEMPLATE_MISSING', message, { field: 'messages' });
    }
    this.#template ??= new ChatTemplate(this.#source, this.#specialTokens);
    return this.#template;
  }
}
