import { readFile } from 'node:fs/promises';
import type { FastifyInstance } from 'fastify';
import { DOCS_ASSET, DOCS_PAGE } from '../schemas/operations.js';

/** Where the build puts Swagger UI's files. */
const FOLDER = new URL('../../../docs-page/', import.meta.url);

/** Nothing but what this server has: no other site's scripts, fonts or images, no frames, no inline code. */
const POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self' data:",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ');

const HEADERS = {
  'content-security-policy': POLICY,
  'x-content-type-options': 'nosniff',
  'referrer-policy': 'no-referrer',
} as const;

/** Addresses are relative, so that the page works behind a gateway that adds a prefix. */
const PAGE = `<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <title>loramux API</title>
    <link rel="stylesheet" href="docs/swagger-ui.css">
    <link rel="icon" href="data:,">
  </head>
  <body>
    <div id="page"></div>
    <script src="docs/swagger-ui-bundle.js"></script>
    <script src="docs/start.js"></script>
  </body>
</html>
`;

/** The validator is a service of Swagger's, which nobody here may be reported to. */
const START = `SwaggerUIBundle({ url: 'openapi.json', dom_id: '#page', deepLinking: true, validatorUrl: null });
`;

interface Asset {
  readonly type: string;
  content(): Promise<string | Buffer> | string;
}

const SCRIPT = 'text/javascript; charset=utf-8';
const ASSETS: Readonly<Record<string, Asset>> = {
  'start.js': { type: SCRIPT, content: () => START },
  'swagger-ui-bundle.js': { type: SCRIPT, content: () => readFile(new URL('swagger-ui-bundle.js', FOLDER)) },
  'swagger-ui.css': { type: 'text/css; charset=utf-8', content: () => readFile(new URL('swagger-ui.css', FOLDER)) },
};

/** `GET /docs`: the listener's OpenAPI document as a page to try its routes on. */
export function registerDocsPage(app: FastifyInstance): void {
  app.get('/docs', { config: { doc: DOCS_PAGE } }, (_request, reply) =>
    reply.headers(HEADERS).type('text/html; charset=utf-8').send(PAGE),
  );
  app.get<{ Params: { file: string } }>('/docs/:file', { config: { doc: DOCS_ASSET } }, async ({ params }, reply) => {
    const { file } = params;
    // LoRAX has the page here too.
    if (file === '') return reply.redirect('../docs');
    const asset = Object.hasOwn(ASSETS, file) ? ASSETS[file] : undefined;
    if (asset === undefined) return reply.callNotFound();
    return reply
      .headers(HEADERS)
      .header('cache-control', 'max-age=3600')
      .type(asset.type)
      .send(await asset.content());
  });
}
