import { Ajv2020, type ValidateFunction } from 'ajv/dist/2020.js';

/** What tests read of a document. */
export interface OpenApiDocument {
  readonly openapi: string;
  readonly paths: Readonly<Record<string, Readonly<Record<string, OpenApiOperation>>>>;
  readonly components: { readonly schemas: Readonly<Record<string, object>> };
}

type Content = Readonly<Record<string, { readonly schema: object }>>;

export interface OpenApiOperation {
  readonly operationId: string;
  readonly security?: readonly object[];
  readonly requestBody?: { readonly content: Content };
  readonly responses: Readonly<Record<string, { readonly content?: Content }>>;
}

/** A strict validator of `schema`, whose references lead into `document`. */
export function validatorOf(document: OpenApiDocument, schema: object): ValidateFunction {
  const ajv = new Ajv2020({
    strict: true,
    allowUnionTypes: true,
    allErrors: true,
    formats: { binary: true },
    keywords: ['components'],
  });
  return ajv.compile({ ...schema, components: document.components, $id: 'document' });
}
