import { rm } from 'node:fs/promises';
import type { Readable } from 'node:stream';
import { errorCodes, type FastifyInstance, type FastifyRequest } from 'fastify';
import { adapterDigest } from '../../adapters/digest.js';
import type { UploadSource } from '../../core/adapter-source.js';
import type { EngineClient } from '../../core/engine-client.js';
import { LoramuxError } from '../../core/errors.js';
import type { JsonObject } from '../fields.js';
import type { Lifecycle } from '../lifecycle.js';
import { UPLOAD_ADAPTER } from '../schemas/admin.js';
import { carryOutLoad, type LoadReply } from './load-reply.js';
import { readName, readUploadQuery } from './requests.js';
import { UPLOAD_TYPES, UploadBody, type UploadOptions } from './upload-body.js';

export interface UploadRouteDeps {
  readonly engine: EngineClient;
  readonly lifecycle: Lifecycle;
  readonly uploads: UploadOptions;
}

interface Upload {
  Params: { name: string };
  Querystring: JsonObject;
}

/** `PUT /adapters/{name}`: loads the files in the request's body, then answers as `POST /adapters`. */
export function registerUploadRoute(app: FastifyInstance, { engine, lifecycle, uploads }: UploadRouteDeps): void {
  app.addContentTypeParser([...UPLOAD_TYPES], (request, body, done) => {
    // Only this route reads bodies of these types; they are not buffered.
    if (request.method === 'PUT') done(null, body);
    else done(new errorCodes.FST_ERR_CTP_INVALID_MEDIA_TYPE(request.headers['content-type']));
  });

  const load = async (request: FastifyRequest<Upload>): Promise<LoadReply> => {
    const name = readName(request.params.name);
    const flags = readUploadQuery(request.query);
    if (lifecycle.draining) throw new LoramuxError('ERR_DRAINING', 'the server is draining: load on another replica');
    const type = request.headers['content-type']?.split(';')[0]?.trim().toLowerCase() ?? '';
    if (!UPLOAD_TYPES.includes(type)) {
      throw new errorCodes.FST_ERR_CTP_INVALID_MEDIA_TYPE(request.headers['content-type']);
    }
    const upload = new UploadBody(request.headers, uploads);
    const { incoming } = upload;
    try {
      await upload.receive(request.body as Readable);
      const received = { directory: incoming.path, bytes: incoming.files.reduce((sum, { bytes }) => sum + bytes, 0) };
      const source: UploadSource = { type: 'upload', location: adapterDigest(incoming.files), received };
      return await carryOutLoad(engine, { name, source, ...flags });
    } finally {
      await rm(incoming.path, { recursive: true, force: true });
    }
  };

  app.put<Upload>('/adapters/:name', { config: { doc: UPLOAD_ADAPTER } }, async (request, reply) => {
    try {
      const { status, body } = await load(request);
      return reply.code(status).send(body);
    } catch (thrown) {
      // A client hears of the refusal once it has sent all, so the rest of the body is read over.
      request.raw.resume();
      throw thrown;
    }
  });
}
