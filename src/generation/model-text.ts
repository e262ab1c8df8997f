import { ChatTemplate } from '../chat/chat-template.js';
import type { AdapterText } from '../core/adapter-text.js';
import { LoramuxError } from '../core/errors.js';
import type { NativeTokenizer } from '../engine/binding.js';

export type TextCodec = Pick<NativeTokenizer, 'encode' | 'decode' | 'isSpecial'>;

/** How text becomes tokens and tokens text: as the base does, or an adapter that ships files of its own. */
export class ModelText {
  /** As in AdapterText; null = the base's. */
  readonly digest: string | null;
  readonly tokenizer: TextCodec;
  readonly eosTokenIds: readonly number[];
  /** As in AdapterText. */
  readonly sharesVocabulary: boolean;
  readonly #source: Pick<AdapterText, 'template' | 'specialTokens'>;
  #template: ChatTemplate | null = null;

  /** The chat template is read when it is first needed. */
  constructor(
    tokenizer: TextCodec,
    {
      digest,
      eosTokenIds,
      sharesVocabulary,
      ...source
    }: Omit<AdapterText, 'digest' | 'tokenizer' | 'ownTemplate'> & { readonly digest: string | null },
  ) {
    this.digest = digest;
    this.tokenizer = tokenizer;
    this.eosTokenIds = eosTokenIds;
    this.sharesVocabulary = sharesVocabulary;
    this.#source = source;
  }

  /** ERR_TEMPLATE_MISSING without one, ERR_TEMPLATE for one that cannot be read. */
  get template(): ChatTemplate {
    const { template, specialTokens } = this.#source;
    if (template === null) {
      const message =
        'this model has no chat template: send a prompt to /v1/completions, or name an adapter that has one';
      throw new LoramuxError('ERR_TEMPLATE_MISSING', message, { field: 'messages' });
    }
    this.#template ??= new ChatTemplate(template, specialTokens);
    return this.#template;
  }
}
